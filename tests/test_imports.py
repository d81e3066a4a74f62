"""What `import multiscale` loads, and which way imports point (STYLE.md, Layout)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["multiscale", "reference_pipeline", "benchmarks"]  # each may import those before it
HEAVY = ["torch", "cupy", "matplotlib", "scipy", "astropy", "array_api_compat", "confluent_kafka"]


def modules_after(statement):
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.split()
    )


@pytest.fixture(scope="module")
def modules_of_multiscale():
    return modules_after("import multiscale")


@pytest.mark.parametrize("name", HEAVY)
def test_import_multiscale_does_not_load(name, modules_of_multiscale):
    assert "multiscale" in modules_of_multiscale
    assert name not in modules_of_multiscale


def test_a_module_that_is_loaded_would_be_seen():
    assert "json" in modules_after("import json")


def imported_packages(path):
    """The first part of every absolute import of a file, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


FILES = [(package, path) for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize(
    ("package", "path"), FILES, ids=[path.relative_to(ROOT).as_posix() for _, path in FILES]
)
def test_imports_point_one_way(package, path):
    later = ORDER[ORDER.index(package) + 1 :]
    assert not set(imported_packages(path)) & {*later, "tests"}


def test_every_import_statement_is_seen(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import x.y as z, w\ndef f():\n    from benchmarks.speed import g\nfrom . import own\n")
    assert set(imported_packages(path)) == {"x", "w", "benchmarks"}
