"""Fuzz the packet decoder with atheris: any bytes decode or raise StampError, in bounded memory.

Input: one byte of form, then the message (fuzz/seeds.py writes the vectors so). `--corpus FOLDER` runs every
input of a folder once, for measuring coverage without the fuzzer.
"""

import resource
import sys
from itertools import islice
from pathlib import Path

MEMORY = 2 << 30  # bytes of address space beyond what the interpreter holds at the start


def load() -> None:
    """Import what is fuzzed; under atheris this happens with its instrumentation on."""
    global ms, wire, convert, schema, StampError
    import multiscale as ms
    from multiscale import avro as wire
    from multiscale import convert, schema
    from multiscale.errors import StampError


def one_input(data: bytes) -> None:
    """Decode one message in every way that a reader may."""
    if not data:
        return
    form, message = data[0] % 6, data[1:]
    cutout_schema = schema.parsed_schema("multiscale.Cutout")
    try:
        if form == 0:
            decode_record(wire.decode_body(schema.parsed_schema("multiscale.Cutout"), message))
        elif form == 1:
            for record in wire.read_container(message, reader_schema=cutout_schema):
                decode_record(record)
        elif form == 2:
            decode_record(
                wire.decode_single(message, [cutout_schema, schema.parsed_schema("multiscale.Alert")])
            )
        elif form == 3:
            decode_record(wire.decode_confluent(message, {1: cutout_schema}))
        elif form == 4:
            for alert in ms.read_alerts(message):
                decode_cutout(alert.cutout)
        else:  # records as the writer meant them, of whatever schema that was
            ms.decode_batch(list(islice(wire.read_container(message), 50)), strict=False)
    except StampError:
        pass


def decode_record(record: object) -> None:
    """Decode a record one by one and as a batch; both must agree."""
    if not isinstance(record, dict):
        return
    batch = ms.decode_batch([record], strict=False)
    try:
        if "planes" in record:
            decode_cutout(ms.Cutout.from_record(record))
        else:
            decode_cutout(ms.Alert.from_record(record).cutout)
    except StampError:
        is_seen = batch.refused or batch.later or "planes" not in record
        assert is_seen, "one by one refuses what the batch accepts"
    else:
        assert not batch.refused, f"the batch refuses what one by one accepts: {batch.refused[0]}"


def decode_cutout(cutout: "ms.Cutout | None") -> None:
    """Decode every plane."""
    for plane in cutout.planes if cutout is not None else ():
        cutout.levels(plane.kind, plane.of)


def run_corpus(folder: Path) -> None:
    """Run every input of a folder once."""
    load()
    inputs = sorted(folder.iterdir())
    for path in inputs:
        one_input(path.read_bytes())
    print(f"{len(inputs)} inputs: nothing but StampError")


def main() -> None:
    """Run a corpus, or fuzz with the arguments of libFuzzer."""
    if sys.argv[1:2] == ["--corpus"]:
        run_corpus(Path(sys.argv[2]))
        return
    import atheris

    with atheris.instrument_imports(include=["multiscale"]):
        load()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
