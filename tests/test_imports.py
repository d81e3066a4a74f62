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


STAGES = ["simulate", "reduce"]  # in the order that data flows; neither needs the other


def folders_imported(path):
    """The folders of reference_pipeline that a file of one of them imports from."""
    package = path.parent.relative_to(ROOT / "reference_pipeline").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) + 1 - node.level]
            parts = (*base, *(node.module or "").split("."))
            names = [parts[0]] if parts[0] else [alias.name for alias in node.names]
            yield from (name for name in names if name in STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_simulation_and_reduction_do_not_know_each_other(stage):
    files = sorted((ROOT / "reference_pipeline" / stage).rglob("*.py"))
    assert files
    for path in files:
        assert set(folders_imported(path)) <= {stage}, path.name


def test_what_stages_share_imports_none_of_them():
    shared = [*(ROOT / "reference_pipeline" / "catalogues").glob("*.py")]
    shared += [
        ROOT / "reference_pipeline" / f"{name}.py" for name in ("frame", "config", "errors", "raw", "psf")
    ]
    for path in shared:
        assert not set(folders_imported(path)), path.name


def test_an_import_of_another_stage_would_be_seen():
    assert set(folders_imported(ROOT / "reference_pipeline" / "run.py")) == {"reduce"}
