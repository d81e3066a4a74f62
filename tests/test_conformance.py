"""The vector runner: our own program passes, and programs that are wrong are found out."""

import sys
import textwrap

import pytest

from multiscale.conformance import answer, expected_answer, load_vectors, request, run_vectors

US = f"{sys.executable} -m multiscale conformance --serve"
VECTORS = load_vectors()


def verdicts(tmp_path, code, vectors):
    """Run a small Python program against vectors; ``code`` makes ``reply`` from ``words``."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfor line in sys.stdin:\n    words = line.split()\n"
        + textwrap.indent(textwrap.dedent(code), "    ")
        + "\n    print(reply, flush=True)\n"
    )
    return list(run_vectors(f"{sys.executable} {program}", vectors))


def test_our_own_program_passes_every_vector():
    bad = [f"{v.vector.id}: {v.status} {v.message}" for v in run_vectors(US, VECTORS) if v.status != "passed"]
    assert bad == []


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_our_answer_names_the_reason_of_a_refusal(vector):
    if vector.data["result"] == "invalid":
        assert answer(request(vector)) == f"{vector.id} refuse {vector.data['reason']}"
    else:
        assert answer(request(vector)) == f"{vector.id} {expected_answer(vector)}"


def test_a_program_that_accepts_everything_fails_every_reject_vector(tmp_path):
    rejects = [v for v in VECTORS if v.folder == "reject"][:20]
    found = verdicts(tmp_path, "reply = words[1] + ' ok 00'", rejects)
    assert [v.status for v in found] == ["failed"] * len(rejects)


def test_a_program_that_refuses_everything_fails_the_required_vectors(tmp_path):
    required = [v for v in VECTORS if v.folder == "required"][:20]
    found = verdicts(tmp_path, "reply = words[1] + ' refuse crc'", required)
    assert [v.status for v in found] == ["failed"] * len(required)


def test_one_wrong_bit_is_found(tmp_path):
    [vector] = [v for v in VECTORS if v.folder == "required" and v.operation == "decode"][:1]
    right = expected_answer(vector)
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    [verdict] = verdicts(tmp_path, f"reply = words[1] + ' {wrong}'", [vector])
    assert verdict.status == "failed"
    assert "at character" in verdict.message


def test_a_program_that_dies_is_started_again_for_the_next_vector(tmp_path):
    vectors = [v for v in VECTORS if v.folder == "reject"][:3]
    code = f"""
        if words[1] == {vectors[0].id!r}:
            sys.exit(3)
        reply = words[1] + ' refuse x'
    """
    assert [v.status for v in verdicts(tmp_path, code, vectors)] == ["failed", "passed", "passed"]


def test_what_a_program_does_not_do_is_not_held_against_it(tmp_path):
    [verdict] = verdicts(tmp_path, "reply = words[1] + ' unsupported'", VECTORS[:1])
    assert verdict.status == "unsupported"
