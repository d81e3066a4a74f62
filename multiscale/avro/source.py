"""A binary source read in order and in bounded memory."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Self

from ..errors import WireError

Source = str | Path | bytes | BinaryIO
_CHUNK = 1 << 20  # bytes asked for at once, so that a false length costs no memory


class Input:
    """A binary source read in order, which never takes more memory than the bytes that are there."""

    def __init__(self, source: Source) -> None:
        self._is_own = not hasattr(source, "read")
        if isinstance(source, str | Path):
            self._file: BinaryIO = Path(source).open("rb")  # noqa: SIM115 - closed by `close`
        else:
            self._file = BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
        self._ahead = b""
        self.offset = 0  # of the next byte that `take` gives

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._is_own:
            self._file.close()

    def peek(self, n: int) -> bytes:
        """Return the next ``n`` bytes, fewer at the end, and leave them there."""
        while len(self._ahead) < n and (more := self._file.read(n - len(self._ahead))):
            self._ahead += more
        return self._ahead[:n]

    def at_end(self) -> bool:
        return not self.peek(1)

    def take(self, n: int, what: str, limit: int = sys.maxsize) -> bytes:
        """Return exactly ``n`` bytes. Raises WireError where there are fewer, or ``n`` is not sensible."""
        if not 0 <= n <= limit:
            raise WireError("avro", f"{n} bytes for {what}", f"0 to {limit}", f"byte {self.offset}")
        chunks = [self._ahead[:n]]
        self._ahead = self._ahead[n:]
        missing = n - len(chunks[0])
        while missing and (chunk := self._file.read(min(missing, _CHUNK))):
            chunks.append(chunk)
            missing -= len(chunk)
        if missing:
            found = f"the end, {missing} bytes before that of {what}"
            raise WireError("avro", found, "a whole file", f"byte {self.offset}")
        self.offset += n
        return b"".join(chunks)

    def long(self, what: str) -> int:
        """Return a number in Avro's variable-length, zigzag coding."""
        value = 0
        for shift in range(0, 70, 7):
            [byte] = self.take(1, what)
            value |= (byte & 127) << shift
            if byte < 128:
                return (value >> 1) ^ -(value & 1)
        raise WireError("avro", f"a number of more than 10 bytes for {what}", "fewer", f"byte {self.offset}")

    def rest(self, limit: int) -> bytes:
        """Return all that is left. Raises WireError for more than ``limit`` bytes."""
        chunks, size = [self._ahead], len(self._ahead)
        while size <= limit and (chunk := self._file.read(_CHUNK)):
            chunks.append(chunk)
            size += len(chunk)
        if size > limit:
            raise WireError("limit", f"more than {limit} bytes", "one message")
        return b"".join(chunks)
