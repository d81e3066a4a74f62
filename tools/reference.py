"""Write docs/reference from the code: API, commands, errors, schema, settings. `--check`: is it current?"""

import ast
import inspect
import io
import json
import os
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import multiscale
from multiscale import errors
from multiscale.cli.app import app
from multiscale.schema import load_schema, schema_names, spec_folder
from reference_pipeline import cli as pipeline_cli
from reference_pipeline import config
from reference_pipeline import errors as pipeline_errors

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Made by `make docs`; change the code, not this page. -->\n\n"


def api() -> str:
    """Return the page of public names, with their docstrings."""
    parts = [NOTE, "# Python API\n\n`import multiscale as ms`\n"]
    for name in multiscale.__all__:
        item = getattr(multiscale, name)
        if inspect.isclass(item) and issubclass(item, Exception):
            continue  # errors.md
        if not (inspect.isclass(item) or inspect.isfunction(item)):
            shown = ", ".join(item) if isinstance(item, dict) else repr(item)
            parts.append(f"\n## `{name}`\n\n{shown}\n")
            continue
        parts.append(f"\n## `{name}{_signature(item)}`\n\n{_doc(item)}\n")
        if inspect.isclass(item):
            for attribute, member in list(vars(item).items()):  # pydantic adds some on the way
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if attribute.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                    continue
                shown = "" if isinstance(member, property) else _signature(function)
                parts.append(f"\n### `{name}.{attribute}{shown}`\n\n{_doc(function)}\n")
    return "".join(parts)


def _signature(item: object) -> str:
    if inspect.isclass(item) and hasattr(item, "model_fields"):
        return ""
    try:
        return str(inspect.signature(item)).replace("'", "")  # type: ignore[arg-type]
    except ValueError:
        return ""


def _doc(item: object) -> str:
    return (inspect.getdoc(item) or "").replace("``", "`")


def command() -> str:
    """Return the page of `--help` texts."""
    names = [[]] + [[c.name] for c in app.registered_commands]
    names += [["schema"]] + [["schema", c] for c in ("list", "show", "embed", "check")]
    parts = [NOTE, "# The command\n"]
    for words in names:
        title = " ".join(["multiscale", *map(str, words)])
        parts.append(_help(title, ["-m", "multiscale", *map(str, words)]))
    return "".join(parts)


def pipeline_command() -> str:
    """Return the page of the pipeline's `--help` texts."""
    parts = [NOTE, "# The command of the reference pipeline\n"]
    for name in [
        None,
        *(c.name or c.callback.__name__.replace("_", "-") for c in pipeline_cli.app.registered_commands),
    ]:
        words = [] if name is None else [name]
        start = (
            "import sys; sys.argv[0] = 'reference-pipeline'; from reference_pipeline.cli import main; main()"
        )
        parts.append(_help(" ".join(["reference-pipeline", *words]), ["-c", start, *words]))
    return "".join(parts)


def _help(title: str, arguments: list[str]) -> str:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    text = subprocess.run(
        [sys.executable, *arguments, "--help"],
        capture_output=True, text=True, check=True, env=environment, cwd=ROOT,
    ).stdout  # fmt: skip
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"\n## `{title}`\n\n```text\n{lines}\n```\n"


def error_page() -> str:
    """Return the page of error classes and reason words."""
    parts = [NOTE, "# Errors\n\n```text\n", inspect.getdoc(errors) or "", "\n```\n\n"]
    parts.append("| reason | clause of the specification |\n|---|---|\n")
    for word, clause in {**errors.REASONS, **errors.MORE_REASONS}.items():
        parts.append(f"| {word} | {clause or '(not of the format)'} |\n")
    return "".join(parts)


def pipeline_error_page() -> str:
    """Return the page of the pipeline's error classes and reasons. Exits where one has no explanation."""
    raised, rejected = _raised_reasons()
    known = [*pipeline_errors.REASONS, *pipeline_errors.REJECTIONS]
    odd = {*raised, *rejected} ^ set(known)
    if odd:
        sys.exit(
            f"REASONS and REJECTIONS of reference_pipeline/errors.py are not those raised: {sorted(odd)}"
        )
    parts = [NOTE, "# Errors of the reference pipeline\n\n```text\n"]
    parts.append(inspect.getdoc(pipeline_errors) or "")
    parts.append("\n```\n\nBackquoted names are [settings](pipeline-configuration.md).\n\n")
    parts.append("| reason | stage | class | what it means |\n|---|---|---|---|\n")
    for word, meaning in pipeline_errors.REASONS.items():
        stages, classes = (", ".join(sorted(set(names))) for names in zip(*raised[word]))
        parts.append(f"| {word} | {stages} | {classes} | {meaning} |\n")
    parts.append(
        "\nIn reports there are four more: `catalogue` (a CatalogueError while a frame was reduced), "
        "`store` (the database does not take an exposure's values), "
        "`killed` (the system ended the process, most often for want of memory), and, at stage `software`, "
        "the name of a Python exception: a defect of the pipeline, whose trace the report holds.\n\n"
        "## Calibration frames that no master is made of\n\nReasons of the files above, and:\n\n"
        "| reason | what it means |\n|---|---|\n"
    )
    parts += [f"| {word} | {meaning} |\n" for word, meaning in pipeline_errors.REJECTIONS.items()]
    return "".join(parts)


def _raised_reasons() -> tuple[dict[str, set[tuple[str, str]]], set[str]]:
    """The reasons in the pipeline's code: of errors, with (stage, class); and of rejected frames."""
    frame_errors = {
        name for name, item in vars(pipeline_errors).items()
        if inspect.isclass(item) and issubclass(item, pipeline_errors.FrameError)
    }  # fmt: skip
    raised: dict[str, set[tuple[str, str]]] = defaultdict(set)
    rejected: set[str] = set()
    for path in sorted((ROOT / "reference_pipeline").rglob("*.py")):
        tree = ast.parse(path.read_text())
        words = defaultdict(set)  # that a variable of this module may be
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                words[node.targets[0].id] |= set(_strings(node.value))
            elif isinstance(node, ast.ImportFrom) and any(name.name == "STAGE" for name in node.names):
                source = ast.parse(path.with_name(f"{node.module}.py").read_text())
                words["STAGE"] |= {
                    word for n in source.body if isinstance(n, ast.Assign)
                    and getattr(n.targets[0], "id", "") == "STAGE" for word in _strings(n.value)
                }  # fmt: skip
        for node in ast.walk(tree):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if called in frame_errors and len(node.args) == 4:
                stages, reasons = (
                    set(_strings(argument)) or words[getattr(argument, "id", "")]
                    for argument in node.args[1:3]
                )
                for reason in reasons:
                    raised[reason] |= {(stage, called) for stage in stages}
            elif called == "Rejection" and len(node.args) == 3 and isinstance(node.args[1], ast.Constant):
                rejected |= set(_strings(node.args[1]))
            elif path.name == "masters.py" and isinstance(node, ast.Return) and _is_verdict(node.value):
                rejected.add(node.value.elts[0].value)
    return raised, rejected - set(raised)


def _strings(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _is_verdict(node: ast.AST | None) -> bool:
    """Whether it is ("word", f"message")."""
    return (
        isinstance(node, ast.Tuple)
        and [type(part) for part in node.elts] == [ast.Constant, ast.JoinedStr]
        and isinstance(node.elts[0].value, str)
    )


def pipeline_configuration() -> str:
    """Return the page of the pipeline's settings: every model of config.py, its fields and their comments."""
    source = inspect.getsource(config)
    comments = {
        token.start[0]: token.string.lstrip("#: ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    parts = [NOTE, "# Configuration of the reference pipeline\n\n", _doc(config).split("\n\n", 1)[0], "\n\n"]
    parts.append(
        "Each heading below is a table of the TOML file; every field has a default but those of the camera. "
        '`camera` may also be a name: of a shipped camera (`camera = "ast3"`), or of a file of its own, seen '
        'from where the command runs (`camera = "mine.toml"`), in which the same tables are `[keywords]` and '
        "`[site]`. Names that are not here are refused.\n"
    )
    fields = config.PipelineConfig.model_fields
    models = [
        node for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name not in ("Config", "PipelineConfig")
    ]  # fmt: skip
    tables = {"Camera": "[camera]", "Keywords": "[camera.keywords]", "Site": "[camera.site]"}
    tables |= {field.annotation.__name__: f"[{name}]" for name, field in fields.items()}
    for node in sorted(models, key=lambda node: list(tables).index(node.name)):
        model, table = getattr(config, node.name), tables[node.name]
        parts.append(f"\n## `{table}`\n\n{_doc(model)}\n\n")
        parts.append("| name | type | default | meaning |\n|---|---|---|---|\n")
        for item in node.body:
            if isinstance(item, ast.AnnAssign):
                lines = range(item.lineno, (item.end_lineno or item.lineno) + 1)
                comment = "; ".join(comments[line] for line in lines if line in comments)
                kind = ast.unparse(item.annotation).replace("|", "\\|")
                field = model.model_fields[item.target.id]
                row = (f"`{item.target.id}`", f"`{kind}`", _default(field), _bounds(field, comment))
                parts.append(f"| {' | '.join(row)} |\n")
    return "".join(parts)


def _default(field: object) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, config.Config):
        return "as in its table"
    return "none" if field.default is None else f"`{json.dumps(field.default)}`"


def _bounds(field: object, comment: str) -> str:
    """The comment, and which values are allowed."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    return "; ".join(filter(None, [comment.replace("|", "\\|"), ", ".join(limits)]))


def schema() -> str:
    """Return the page of records and their fields."""
    load_schema("multiscale.Alert")  # complains when a type is missing
    parts = [NOTE, "# Schema\n"]
    for name in schema_names():
        record = json.loads((spec_folder() / "v1" / "schema" / f"{name}.avsc").read_text())
        parts.append(f"\n## `{name}`\n\n{record.get('doc', '')}\n\n")
        if record["type"] == "enum":
            parts.append(f"{', '.join(record['symbols'])}; default {record['default']}\n")
            continue
        parts.append("| field | type | default | meaning |\n|---|---|---|---|\n")
        for field in record["fields"]:
            default = json.dumps(field["default"]) if "default" in field else ""
            parts.append(f"| {field['name']} | {_type(field['type'])} | {default} | {field['doc']} |\n")
    return "".join(parts)


def _type(kind: object) -> str:
    if isinstance(kind, list):
        return ", ".join(map(_type, kind))
    if isinstance(kind, dict):
        inner = kind.get("items") or kind.get("values")
        return f"{kind['type']} of {_type(inner)}"
    return str(kind).removeprefix("multiscale.")


def main() -> None:
    """Write the pages, or with --check compare them with those that are there."""
    pages = {
        "api": api(),
        "command": command(),
        "errors": error_page(),
        "schema": schema(),
        "pipeline-command": pipeline_command(),
        "pipeline-configuration": pipeline_configuration(),
        "pipeline-errors": pipeline_error_page(),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = [
        n for n, text in pages.items() if not (p := FOLDER / f"{n}.md").exists() or p.read_text() != text
    ]
    if "--check" in sys.argv:
        sys.exit(f"docs/reference is not current: {', '.join(stale)}; run make docs" if stale else 0)
    for name, text in pages.items():
        (FOLDER / f"{name}.md").write_text(text)
    print(f"docs/reference: {', '.join(pages)}")


if __name__ == "__main__":
    main()
