"""Write the conformance vectors; `--check` compares them with the committed ones instead.

Needs Python's standard library alone. reference.py is the codec that every vector is made and proved with.
"""
# ruff: noqa: E402  (nothing may be built inside spec/: the wheel takes all of it)

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.dont_write_bytecode = True

import decoding
import encoding
import examples
import packets
import refusals
import wire

FOLDER = Path(__file__).resolve().parent
TOPICS = (examples, decoding, encoding, refusals, packets, wire)


def text_of(vectors):
    """Return the vectors as JSON, one a line."""
    return '{"vectors": [\n' + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]}\n"


def make():
    """Return the text of each file by its path in this folder."""
    files = {path: vectors for topic in TOPICS for path, vectors in topic.files().items()}
    ids = Counter(vector["id"] for vectors in files.values() for vector in vectors)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise AssertionError(f"identifiers that are not unique: {twice}")
    return {path: text_of(vectors) for path, vectors in files.items()}


def differences(texts):
    """Return the paths whose committed file is missing, superfluous or different."""
    committed = {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.json")}
    different = {
        path
        for path in committed & texts.keys()
        if (FOLDER / path).read_text(encoding="utf-8") != texts[path]
    }
    return sorted(different | (committed ^ texts.keys()))


def write(texts):
    """Write each file, and say how many vectors it holds."""
    for path, text in texts.items():
        (FOLDER / path).parent.mkdir(exist_ok=True)
        (FOLDER / path).write_text(text, encoding="utf-8", newline="\n")
        print(f"{path}: {text.count(chr(10)) - 2} vectors, {len(text):,} bytes")


def main():
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 where a committed file differs")
    arguments = parser.parse_args()
    texts = make()
    if not arguments.check:
        write(texts)
    different = differences(texts)
    for path in different:
        print(f"{path}: not what make_vectors.py makes")
    drifted = examples.missing()
    for passage in drifted:
        print(f"specification.md lacks this example (examples.py prints all of them):\n  {passage}")
    return 1 if different or drifted else 0


if __name__ == "__main__":
    sys.exit(main())
