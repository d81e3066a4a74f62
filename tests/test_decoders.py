"""The C, JavaScript, Rust and Java decoders of spec/v1/decoders against the published vectors."""

import json
import random
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.compilers

SPEC = Path(__file__).resolve().parent.parent / "spec" / "v1"
DECODERS = SPEC / "decoders"
SANITIZED = "c-sanitized"
C_FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SOURCES = {  # the file of each, and what its compiler is called
    "c": ("c/multiscale_decode.c", "cc"),
    SANITIZED: ("c/multiscale_decode.c", "cc"),
    "javascript": ("javascript/multiscale_decode.mjs", "node"),
    "rust": ("rust/multiscale_decode.rs", "rustc"),
    "java": ("java/MultiscaleDecode.java", "javac"),
}
MAX_LINE = 2**20  # the longest line that the decoders read


def build(language: str, source: Path, folder: Path) -> list[str]:
    """Compile ``source`` into ``folder`` and return the command that runs it."""
    program = str(folder / "program")
    steps = {
        "c": ["cc", "-O2", *C_FLAGS, "-o", program, str(source)],
        SANITIZED: ["cc", *SANITIZE, *C_FLAGS, "-o", program, str(source)],
        "rust": ["rustc", "-O", "-D", "warnings", "-o", program, str(source)],
        "java": ["javac", "-Xlint:all", "-Werror", "-cp", str(folder), "-d", str(folder), str(source)],
    }
    if language in steps:
        done = subprocess.run(steps[language], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    if language == "java":
        return ["java", "-XX:TieredStopAtLevel=1", "-cp", str(folder), source.stem]  # starts sooner
    return ["node", str(source)] if language == "javascript" else [program]


def can_sanitize(folder: Path) -> bool:
    """Tell whether a program that is compiled with the sanitizers links and starts here."""
    source = folder / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    compiled = subprocess.run(
        ["cc", *SANITIZE, "-o", str(folder / "empty"), str(source)], capture_output=True
    )
    return compiled.returncode == 0 and subprocess.run([str(folder / "empty")]).returncode == 0


@pytest.fixture(scope="session", params=SOURCES)
def language(request):
    """Each language whose compiler is here."""
    compiler = SOURCES[request.param][1]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}: the {request.param} decoder is not tested")
    return request.param


@pytest.fixture(scope="session")
def command(language, tmp_path_factory):
    """The command that runs the decoder, built once."""
    folder = tmp_path_factory.mktemp(language)
    if language == SANITIZED and not can_sanitize(folder):
        pytest.skip("cc has no AddressSanitizer and UndefinedBehaviorSanitizer here")
    return build(language, DECODERS / SOURCES[language][0], folder)


def converse(command: list[str], lines: list[bytes]) -> list[str]:
    """Return the answers of one run of the program to ``lines``."""
    done = subprocess.run(
        command, input=b"".join(line + b"\n" for line in lines), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stderr == b""
    answers = done.stdout.decode("latin-1").split("\n")
    assert answers.pop() == ""
    assert len(answers) == len(lines)
    return answers


def load_vectors() -> list[dict]:
    """Return the vectors that give a payload to decode."""
    return [
        vector
        for folder in ("required", "optional", "reject")
        for path in sorted((SPEC / "vectors" / folder).glob("*.json"))
        for vector in json.loads(path.read_text())["vectors"]
        if vector["level"] == "payload" and vector["operation"] == "decode"
    ]


def field_of_bytes(text: str | None) -> str:
    """Return the hexadecimal of a vector as the protocol writes it."""
    return "-" if text is None else text or "."


def request_line(vector: dict, payload: str | None = None) -> bytes:
    """Return the line that asks for ``vector``, or for it with another payload."""
    names = [
        "id",
        "kind",
        "encoding",
        "size",
        "n_levels",
        "shared_center",
        "step_exponent",
        "offset",
        "crc32",
    ]
    values = [int(vector[name]) if name == "shared_center" else vector[name] for name in names]
    data = (
        field_of_bytes(vector["invalid"]),
        field_of_bytes(vector["payload"] if payload is None else payload),
    )
    return " ".join(["decode", *map(str, values), *data]).encode()


def test_every_decoding_vector_gives_its_levels_or_is_refused(language, command):
    vectors = load_vectors()
    assert vectors, "no vectors"
    wrong, other_words = [], Counter()
    for vector, answer in zip(vectors, converse(command, [request_line(v) for v in vectors]), strict=True):
        if vector["result"] == "valid":
            if answer != f"{vector['id']} ok {vector['levels']}":
                wrong.append((vector["id"], answer[:80]))
        elif not answer.startswith(f"{vector['id']} refuse "):
            wrong.append((vector["id"], answer[:80]))
        elif (word := answer.split()[2]) != vector["reason"]:
            other_words[f"{vector['reason']} -> {word}"] += 1
    counts = Counter(vector["result"] for vector in vectors)
    print(f"{language}: {dict(counts)}; refusals by another word: {dict(other_words)}")
    assert wrong == []


def damaged_lines() -> list[bytes]:
    """Return every vector with a bit of its payload flipped, with its last byte gone, and with one more."""
    lines = []
    for vector in load_vectors():
        payload = bytearray.fromhex(vector["payload"])
        lines.append(request_line(vector, payload.hex() + "80"))
        if payload:
            lines.append(request_line(vector, payload[:-1].hex()))
            bit = random.Random(vector["id"]).randrange(8 * len(payload))
            payload[bit // 8] ^= 0x80 >> bit % 8
            lines.append(request_line(vector, payload.hex()))
    return lines


@pytest.fixture(scope="session")
def answers_of_c(tmp_path_factory):
    """What the C decoder says of the damaged vectors."""
    if shutil.which("cc") is None:
        pytest.skip("no cc: there is no C decoder to compare with")
    program = build("c", DECODERS / SOURCES["c"][0], tmp_path_factory.mktemp("c-to-compare"))
    return converse(program, damaged_lines())


def test_all_languages_say_the_same_of_damaged_vectors(command, answers_of_c):
    lines = damaged_lines()
    answers = zip(lines, converse(command, lines), answers_of_c, strict=True)
    assert [(line[:60], ours[:60], c[:60]) for line, ours, c in answers if ours != c] == []


ZEROS = b"decode zeros SCIENCE RAW 4 1 1 0 0 1972200246 - " + b"00" * 64  # sixteen pixels of 0
ZEROS_ANSWER = "zeros ok " + "00" * 64


def changed(index: int, field: bytes) -> bytes:
    """Return the request for zeros with another field."""
    fields = ZEROS.split(b" ")
    fields[index] = field
    return b" ".join(fields)


MALFORMED = {
    b"": "- refuse protocol",
    b" ": "- unsupported",
    b"decode": "- refuse protocol",
    b"decode ": "- refuse protocol",
    b"decode a": "a refuse protocol",
    b"decode a SCIENCE RAW": "a refuse protocol",
    changed(1, b""): "- refuse protocol",
    ZEROS + b" 00": "zeros refuse protocol",
    ZEROS + b" ": "zeros refuse protocol",
    ZEROS + b" " * 1000: "zeros refuse protocol",
    ZEROS + b"\r": "zeros refuse protocol",
    ZEROS.replace(b" RAW ", b"  RAW "): "zeros refuse protocol",
    ZEROS.replace(b" RAW ", b"\tRAW "): "zeros refuse protocol",
    changed(2, b"UNKNOWN"): "zeros refuse unknown-symbol",
    changed(2, b"\xff\xfe"): "zeros refuse unknown-symbol",
    changed(2, b""): "zeros refuse unknown-symbol",
    changed(3, b"raw"): "zeros refuse unknown-symbol",
    changed(4, b""): "zeros refuse protocol",
    changed(4, b"-"): "zeros refuse protocol",
    changed(4, b"4.0"): "zeros refuse protocol",
    changed(4, b"4e0"): "zeros refuse protocol",
    changed(4, b"0x4"): "zeros refuse protocol",
    changed(4, b"+4"): "zeros refuse protocol",
    changed(4, b"--4"): "zeros refuse protocol",
    changed(4, b"\xd9\xa4"): "zeros refuse protocol",  # a digit of Unicode, not of ASCII
    changed(4, b"999999999999999"): "zeros refuse geometry",
    changed(4, b"9" * 16): "zeros refuse protocol",
    changed(4, b"9" * 400): "zeros refuse protocol",
    changed(5, b"-999999999999999"): "zeros refuse geometry",
    changed(6, b"2"): "zeros refuse protocol",
    changed(6, b"true"): "zeros refuse protocol",
    changed(7, b"4294967296"): "zeros refuse step-exponent",  # 0 in 32 bits
    changed(8, b"4294967296"): "zeros refuse offset",
    changed(9, b"-"): "zeros refuse protocol",
    changed(9, b"-2322767050"): "zeros refuse crc",  # the right one in 32 bits
    changed(10, b"."): "zeros refuse bitmap",
    changed(10, b""): "zeros refuse protocol",
    changed(10, b"0"): "zeros refuse protocol",
    changed(11, b"-"): "zeros refuse protocol",
    changed(11, b""): "zeros refuse protocol",
    changed(11, b"."): "zeros refuse payload-size",
    changed(11, b"0" * 127): "zeros refuse protocol",
    changed(11, b"0" * 127 + b"g"): "zeros refuse protocol",
    changed(11, b"0" * 126 + b"AA"): "zeros refuse protocol",
    changed(11, b"0" * 126 + b"\x00\x00"): "zeros refuse protocol",
    changed(11, b"0" * 126 + b"\xc3\xa9"): "zeros refuse protocol",
    ZEROS + b"0" * (MAX_LINE - len(ZEROS)): "zeros refuse payload-size",
    ZEROS + b"0" * (MAX_LINE + 2 - len(ZEROS)): "zeros refuse protocol",
    ZEROS + b"0" * (3 * MAX_LINE): "zeros refuse protocol",
    b"encode e SCIENCE RAW 4 1 0 0 1 1 0 0 - 00000000": "e unsupported",
    b"encode e " + b"0" * (2 * MAX_LINE): "e unsupported",
    b"packet p 00": "p unsupported",
    b"file f container multiscale.Cutout 00": "f unsupported",
}


def test_a_malformed_line_is_refused_and_the_next_is_answered(command):
    lines = [line for malformed in MALFORMED for line in (malformed, ZEROS)]
    answers = converse(command, lines)
    assert dict(zip(MALFORMED, answers[::2], strict=True)) == MALFORMED
    assert set(answers[1::2]) == {ZEROS_ANSWER}


def test_bytes_that_are_no_text_do_not_stop_the_program(command):
    source = random.Random(0)
    noise = [source.randbytes(source.randrange(200)).replace(b"\n", b" ") for _ in range(200)]
    assert converse(command, [*noise, ZEROS])[-1] == ZEROS_ANSWER


def test_the_last_line_may_lack_its_end(command):
    done = subprocess.run(command, input=ZEROS, capture_output=True, timeout=60)
    assert done.stdout.decode() == ZEROS_ANSWER + "\n"


def test_an_answer_comes_before_the_next_request(command):
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        for _ in range(3):
            program.stdin.write(ZEROS + b"\n")
            program.stdin.flush()
            assert program.stdout.readline().decode() == ZEROS_ANSWER + "\n"


def test_the_example_of_the_readme_runs(language, command, tmp_path):
    if language == SANITIZED:
        pytest.skip("the same example as c")
    [example] = re.findall(rf"```{language}\n(.*?)```", (DECODERS / "README.md").read_text(), re.DOTALL)
    source = DECODERS / SOURCES[language][0]
    shutil.copy(source, tmp_path)
    if language == "java":
        build(language, source, tmp_path)
    file = tmp_path / ("Example" + source.suffix)
    file.write_text(example)
    done = subprocess.run(build(language, file, tmp_path), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("64 bytes\n", "")
