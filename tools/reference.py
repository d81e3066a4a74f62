"""Write docs/reference from the code: API, command, errors, schema. `--check`: is it current?"""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import multiscale
from multiscale import errors
from multiscale.cli.app import app
from multiscale.schema import load_schema, schema_names, spec_folder

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
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    parts = [NOTE, "# The command\n"]
    for words in names:
        text = subprocess.run(
            [sys.executable, "-m", "multiscale", *map(str, words), "--help"],
            capture_output=True, text=True, check=True, env=environment,
        ).stdout  # fmt: skip
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        title = " ".join(["multiscale", *map(str, words)])
        parts.append(f"\n## `{title}`\n\n```text\n{lines}\n```\n")
    return "".join(parts)


def error_page() -> str:
    """Return the page of error classes and reason words."""
    parts = [NOTE, "# Errors\n\n```text\n", inspect.getdoc(errors) or "", "\n```\n\n"]
    parts.append("| reason | clause of the specification |\n|---|---|\n")
    for word, clause in {**errors.REASONS, **errors.MORE_REASONS}.items():
        parts.append(f"| {word} | {clause or '(not of the format)'} |\n")
    return "".join(parts)


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
    pages = {"api": api(), "command": command(), "errors": error_page(), "schema": schema()}
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
