"""A short run of both fuzzers from the vectors, and every seed once; `make fuzz` runs them for longer."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "fuzz"
SECONDS = 10
pytestmark = pytest.mark.fuzz


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    subprocess.run([sys.executable, str(FUZZ / "seeds.py"), str(folder)], check=True, capture_output=True)
    return folder


def test_every_seed_decodes_or_is_refused(corpus):
    command = [sys.executable, str(FUZZ / "packet_decoder.py"), "--corpus", str(corpus / "packet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_packet_decoder_raises_nothing_but_stamp_errors(corpus, tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("no atheris here (extra fuzz)")
    done = fuzz([sys.executable, str(FUZZ / "packet_decoder.py")], corpus / "packet", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_c_decoder_stays_within_its_buffers(corpus, tmp_path):
    clang = shutil.which("clang") or shutil.which("clang-14")
    if clang is None:
        pytest.skip("no clang here (Debian: clang-14 libclang-rt-14-dev)")
    program = tmp_path / "c_decoder"
    flags = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]
    built = subprocess.run(
        [clang, *flags, str(FUZZ / "c_decoder.c"), "-o", str(program)], capture_output=True, text=True
    )
    if built.returncode and "libclang_rt.fuzzer" in built.stderr:
        pytest.skip("clang has no libFuzzer here (Debian: libclang-rt-14-dev)")
    assert built.returncode == 0, built.stderr[-3000:]
    done = fuzz([str(program)], corpus / "c", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def fuzz(program: list[str], corpus: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a fuzzer for a bounded time and memory; a finding goes to ``folder``.

    Through a shell, which starts it as a child of its own: a child of this process would inherit its peak
    memory, by which libFuzzer goes.
    """
    options = [
        f"-max_total_time={SECONDS}",
        "-rss_limit_mb=2048",
        "-timeout=10",
        "-max_len=20000",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
    ]
    command = ["sh", "-c", '"$@"; exit $?', "sh", *program, *options, str(corpus)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 12)
