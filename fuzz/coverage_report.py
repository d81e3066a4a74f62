"""Branch coverage of the Python decoder alone: of a coverage data file, without the functions that encode.

python fuzz/coverage_report.py DATA_FILE [--missing]
"""

import json
import sys
import tempfile
from pathlib import Path

import coverage

DECODER = (  # from bytes to checked levels
    "avro/body.py", "avro/container.py", "avro/messages.py", "avro/source.py", "batch.py", "cutout.py",
    "encoding.py", "packet.py", "packing.py", "pyramid.py", "record.py", "rice.py", "rules.py",
)  # fmt: skip
NOT_DECODING = (  # what these modules hold for encoders, for streams of other kinds, and for people
    "encode", "_encode", "write", "pack", "_write", "_best_parameters", "_split", "build_levels",
    "_build", "cut", "mosaic", "canonical", "check_kind", "centers_nest", "from_images", "from_levels",
    "canonical_stack", "to_record", "__eq__", "model_copy", "psf_image", "wire_fields", "alert_title",
    "read_messages", "MessageReader", "_quantis", "_blame", "_fits", "_raw_fields", "_raw_plane",
    "compress", "as_pixels", "unpack", "_native", "plane",
)  # fmt: skip


def is_decoding(name: str) -> bool:
    """True for a function (Class.method) that a decoder runs."""
    words = name.split(".")
    return not any(
        word == n or (n.startswith(("encode", "_encode", "write", "_write")) and word.startswith(n))
        for word in words
        for n in NOT_DECODING
    )


def main() -> None:
    """Print covered and all branches of each module, and of the decoder."""
    data = coverage.Coverage(data_file=sys.argv[1], branch=True)
    data.load()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "coverage.json"
        data.json_report(outfile=str(out), include=["*/multiscale/*"])
        files = json.loads(out.read_text())["files"]
    covered = total = 0
    for path, file in sorted(files.items()):
        name = path.rpartition("multiscale/")[2]
        if name not in DECODER:
            continue
        functions = {f: s for f, s in file["functions"].items() if f and is_decoding(f)}
        here = sum(s["summary"]["covered_branches"] for s in functions.values())
        of = sum(s["summary"]["num_branches"] for s in functions.values())
        covered, total = covered + here, total + of
        print(f"  {name:22} {here:4} of {of:4} branches")
        if "--missing" in sys.argv:
            for function, s in functions.items():
                if s["missing_branches"]:
                    print(f"      {function}: {s['missing_branches']}")
    print(f"fuzz: packet decoder branch coverage {100 * covered / max(total, 1):.2f}% ({covered} of {total})")


if __name__ == "__main__":
    main()
