"""The code in README and docs runs as it stands, page by page, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from multiscale.samples import ZTF_SCHEMA

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOT_HERE = ("make ", "pip install", "python -m benchmarks")  # they are what runs these tests, or take minutes


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, code) of each block of a page, in order."""
    return BLOCK.findall((ROOT / page).read_text())


PIPELINE = ("scipy", "sep", "astroscrappy", "astropy_healpix", "psutil", "pyarrow", "tomli_w")


def cases():
    """Yield a page and its code. Pages that reduce frames are slow; of README only the lines that do."""
    for page in PAGES:
        found = blocks(page)
        reducing = [block for block in found if "reference-pipeline" in block[1]]
        if page == "README.md":
            found = [block for block in found if block not in reducing]
            yield pytest.param(page, reducing, id=f"{page}: frames", marks=pytest.mark.slow)
        if found:
            marks = pytest.mark.slow if page != "README.md" and reducing else ()
            yield pytest.param(page, found, id=page, marks=marks)


@pytest.mark.parametrize(("page", "code_blocks"), list(cases()))
def test_the_code_of_a_page_runs_in_order(page, code_blocks, tmp_path):
    pytest.importorskip("matplotlib", reason="the pages draw pictures (extra plot)")
    pytest.importorskip("astropy", reason="the pages write FITS (extra fits)")
    if any("reference-pipeline" in code or "reference_pipeline" in code for _, code in code_blocks):
        for name in PIPELINE:
            pytest.importorskip(name, reason="the page reduces frames (extra pipeline)")
    if any("import torch" in code or "multiscale.torch" in code for _, code in code_blocks):
        pytest.importorskip("torch", reason="the page trains a network (extra torch)")
    (tmp_path / "your_alert.avsc").write_text(json.dumps(ZTF_SCHEMA))  # what a survey engineer has
    if page.endswith("decode-in-a-broker.md"):
        prepare = "multiscale sample -o alerts.avro && multiscale convert alerts.avro -o ztf.avro"
        run("bash", prepare, tmp_path)
    for language, code in code_blocks:
        run(language, code, tmp_path)


def run(language: str, code: str, folder: Path) -> None:
    if language == "bash":
        lines = [line for line in code.splitlines() if not line.startswith(NOT_HERE)]
        command = ["bash", "-euc", "\n".join(lines)]
    else:
        command = [sys.executable, "-W", "error", "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_pages_link_to_files_that_exist():
    for page in [*PAGES, "spec/v1/specification.md", "spec/v1/rationale.md"]:
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_the_reference_is_that_of_the_code():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "reference.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
