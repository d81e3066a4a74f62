"""Files of packets classified: what is said of each, as CSV, or written into the packets."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

from multiscale import Geometry, decode_batch
from multiscale.avro import read_messages, write_container
from multiscale.errors import StampError
from multiscale.files import check_readable
from multiscale.keys import PlaneKey
from multiscale.packet import EMBEDDED_FIELD, Classification
from multiscale.schema import full_name, load_schema

from ..errors import ConfigError
from ..taxonomy import REAL_BOGUS, STAMP_CLASSES
from .card import Task
from .choose import AUTO, NONE, choose, describe, shipped_of, stamps_in
from .inference import Classifier, Verdicts

FIELD = "classifications"  # of an alert: of ours (6.6), and the one that a survey's gets
_CUTOUT, _CLASSIFICATION = "multiscale.Cutout", "multiscale.Classification"
_AT_ONCE = 2048  # packets in memory
Trouble = Callable[[str], None]
_Kind = tuple[Geometry, tuple[PlaneKey, ...]]


@dataclass(frozen=True)
class Said:
    """One packet and what models say of it."""

    path: Path
    number: int  # in its file, from 0
    record: dict[str, Any]
    schema: Mapping[str, Any]  # the writer's
    verdicts: dict[Task, tuple[Verdicts, int]] = field(default_factory=dict)  # and which row

    def classifications(self) -> list[Classification]:
        """For the packet."""
        return [one for verdicts, i in self.verdicts.values() for one in verdicts.classifications(i)]


def classified(
    paths: Iterable[Path], *, real_bogus: str = AUTO, stamps: str = AUTO,
    priors: Literal["training", "stream"] = "training", n_threads: int = 0,
    trouble: Trouble = lambda line: None,
) -> Iterator[Said]:  # fmt: skip
    """Yield every packet of Avro files with what models say of it; one line to ``trouble`` for what is wrong.

    A model is a shipped one's name, a card, "auto" (chosen for each packet by survey, geometry and planes) or
    "none". ``priors``: the class rates that probabilities are given for, those of the training or of the
    survey's stream. A packet that nothing is said of is yielded too. Raises ConfigError for a model that is
    no use, one that does not know its stream, and where no shipped one fits the first packets.
    """
    wished: dict[Task, str] = {"real-bogus": real_bogus, "stamps": stamps}
    asked = {task: model for task, model in wished.items() if model != NONE}
    if not asked:
        raise ConfigError("no model: neither real/bogus nor stamps is asked for")
    models = _Models(asked, priors, n_threads, trouble)
    for chunk in _chunks(paths, trouble):
        models.speak_of(chunk)
        if not models.is_used and models.misfits:
            shipped = "; ".join(f"{task}: {shipped_of(task)}" for task in asked)
            raise ConfigError(f"{models.misfits[0]}. Shipped for {shipped}. Or name a card (.json)")
        yield from chunk


def _chunks(paths: Iterable[Path], trouble: Trouble) -> Iterator[list[Said]]:
    """Yield the packets of files, some at a time; a file that ends in trouble gives those before it."""
    for path in paths:
        chunk: list[Said] = []
        try:
            with read_messages(path) as reader:
                check_readable(reader.schema)
                for number, record in enumerate(reader):
                    chunk.append(Said(path, number, record, reader.schema))
                    if len(chunk) == _AT_ONCE:
                        yield chunk
                        chunk = []
        except (StampError, OSError) as error:
            trouble(f"{path}: {error}")
        if chunk:
            yield chunk


class _Models:
    """The models asked for; with "auto" one for each kind of stamps that comes along."""

    def __init__(
        self, asked: Mapping[Task, str], priors: Literal["training", "stream"], n_threads: int,
        trouble: Trouble,
    ) -> None:  # fmt: skip
        self.asked, self.priors, self.n_threads, self.trouble = asked, priors, n_threads, trouble
        self.is_used = False  # one of them has been run
        self.misfits: list[str] = []  # what has been said of kinds of stamps that nothing shipped fits
        self._found: dict[tuple[Task, str, _Kind], Classifier | None] = {}

    def speak_of(self, chunk: Sequence[Said]) -> None:
        """Fill in the verdicts of packets, and say of which there are none, and why."""
        kinds: dict[tuple[str, _Kind], list[Said]] = {}
        for one in chunk:
            stamps = stamps_in(one.record)
            if stamps is None:
                self.trouble(f"{one.path}: packet {one.number}: {_why_none(one.record)}")
            else:
                kinds.setdefault((str(one.record.get("survey", "")), stamps), []).append(one)
        for task in self.asked:
            of_model: dict[Classifier, list[Said]] = {}
            for (survey, kind), alike in kinds.items():
                classifier = self._of(task, survey, kind)
                if classifier is not None:
                    of_model.setdefault(classifier, []).extend(alike)
            for classifier, some in of_model.items():
                self._run(task, classifier, some)

    def _of(self, task: Task, survey: str, kind: _Kind) -> Classifier | None:
        key = (task, survey, kind)
        if key not in self._found:
            geometry, planes = kind
            self._found[key] = choose(
                self.asked[task], task, camera=survey, geometry=geometry, planes=planes,
                n_threads=self.n_threads,
            )  # fmt: skip
            if self._found[key] is None:
                self.misfits.append(f"no shipped {task} model for {describe(geometry, planes)}")
                self.trouble(self.misfits[-1])
        return self._found[key]

    def _run(self, task: Task, classifier: Classifier, alike: Sequence[Said]) -> None:
        self.is_used = True
        verdicts = classifier.classify(
            [one.record for one in alike], priors=classifier.card.priors_of(self.priors)
        )
        for i, one in enumerate(alike):
            if i in verdicts.refused:
                self.trouble(f"{one.path}: packet {one.number}: {verdicts.refused[i]}")
            else:
                one.verdicts[task] = (verdicts, i)


def _why_none(record: Mapping[str, Any]) -> str:
    """Why no stamps can be seen in a record."""
    refused = decode_batch([record], strict=False).refused
    return str(refused[0]) if refused else "no cutout"


def write_classified(path: Path, said: Iterable[Said]) -> int:
    """Write packets with what is said of them to an Avro file, and return how many.

    Our alerts take it in ``classifications``; other surveys' get a field of that name, before the cutout.
    What the same version of a classifier said before is replaced; a packet that nothing is said of is
    written as it was. Raises ConfigError for packets of several schemas, and for bare cutouts.
    """
    packets = iter(said)
    first = next(packets, None)
    if first is None:
        raise ConfigError(f"{path}: no packets to write")
    schema = schema_with_classifications(first.schema)

    def records() -> Iterator[dict[str, Any]]:
        for one in chain([first], packets):
            if one.schema != first.schema:
                raise ConfigError(f"{one.path}: its schema is not that of {first.path}: classify it apart")
            yield _with_classifications(one)

    return write_container(path, schema, records())


def _with_classifications(one: Said) -> dict[str, Any]:
    new = [classification.to_record() for classification in one.classifications()]
    names = {(c["classifier"], c["version"]) for c in new}
    before = [c for c in one.record.get(FIELD, ()) if (c["classifier"], c["version"]) not in names]
    return {**one.record, FIELD: before + new}


def schema_with_classifications(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a writer's schema with room for classifications. Raises ConfigError where there is none."""
    name = full_name(schema)
    if name == _CUTOUT:
        raise ConfigError("bare cutouts have no room for classifications; write a CSV")
    fields = list(schema["fields"])
    names = [one["name"] for one in fields]
    if FIELD in names:
        kind = fields[names.index(FIELD)]["type"]
        items = kind.get("items") if isinstance(kind, dict) else None
        found = full_name(items) if isinstance(items, dict) else items
        if found != _CLASSIFICATION:
            raise ConfigError(f"{name}: its field {FIELD} is not of {_CLASSIFICATION}; write a CSV")
        return dict(schema)
    room = {
        "name": FIELD, "doc": "What classifiers say of the cutout (multiscale, specification 6.6).",
        "type": {"type": "array", "items": load_schema(_CLASSIFICATION)}, "default": [],
    }  # fmt: skip
    fields.insert(names.index(EMBEDDED_FIELD) if EMBEDDED_FIELD in names else len(fields), room)
    return {**schema, "fields": fields}


_COLUMNS = ("file", "packet", "id", REAL_BOGUS[1], *STAMP_CLASSES, "class", "confidence", "spread", "models")


def write_csv(stream: TextIO, said: Iterable[Said]) -> int:
    """Write a line for each packet, and return how many: the score, six probabilities, and how sure.

    ``class``, ``confidence`` and ``spread`` are of the stamp classifier. What is not said is empty. Raises
    ConfigError for a model of other classes.
    """
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(_COLUMNS)
    n = 0
    for one in said:
        lines.writerow(_line(one))
        n += 1
    return n


def _line(one: Said) -> list[object]:
    values: dict[str, object] = {"file": one.path, "packet": one.number, "id": _name_of(one.record)}
    for verdicts, i in one.verdicts.values():
        unknown = set(verdicts.card.classes) - set(_COLUMNS) - set(REAL_BOGUS)
        if unknown:
            raise ConfigError(
                f"{verdicts.card.name}: classes {', '.join(sorted(unknown))}: write Avro instead"
            )
        shown = zip(verdicts.card.classes, verdicts.probabilities[i], strict=True)
        if verdicts.card.task == "real-bogus":
            values |= {name: f"{p:.6f}" for name, p in shown if name == REAL_BOGUS[1]}
        else:
            values |= {name: f"{p:.6f}" for name, p in shown}
            values |= {"class": verdicts.top()[i], "confidence": verdicts.confidence(i),
                       "spread": f"{verdicts.spread[i]:.4f}"}  # fmt: skip
    values["models"] = " ".join(
        f"{verdicts.card.name}:{verdicts.card.version}" for verdicts, _ in one.verdicts.values()
    )
    return [values.get(name, "") for name in _COLUMNS]


def _name_of(record: Mapping[str, Any]) -> object:
    """What a packet calls itself."""
    names = ("stamp_id", "candid", "diaSourceId", "alertId", "number")
    return next((record[name] for name in names if record.get(name) is not None), "")
