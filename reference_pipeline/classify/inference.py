"""What trained models say of packets: onnxruntime and numpy, no torch.

The network's logits (members, stamps, classes) come from the ONNX file; all that follows is here, by the
card's numbers. With logits z of member m, temperature T and class rates q of the training:

    p_m = softmax(z_m / T)        probabilities of a member
    p   = mean of p_m             of the ensemble, calibrated where the class rates are q
    p'  ∝ p · r / q               where they are r instead
    spread = std over members of p_m of the class with the largest p
    energy = mean over members of −T log Σ exp(z_m / T)      (Liu+ 2020, NeurIPS 33, 21464)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from multiscale import StampError, decode_batch
from multiscale.batch import Group
from multiscale.errors import GeometryError, RecordError
from multiscale.packet import Classification, ClassProbability, cutout_record
from multiscale.tensors import Normalization, tensors_of

from ..errors import ConfigError
from .card import ModelCard, digest_of, read_card, shipped_cards, weights_folder

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Record = Mapping[str, Any]

#: A model is trusted at pixel scales outside its training's by this fraction.
SCALE_MARGIN = 0.15

#: Taxonomy of what is said of the classifier's own answer: three classes, one of which has all.
CONFIDENCE = ("confident", "unsure", "out-of-distribution")
CONFIDENCE_TAXONOMY = "confidence"

_AT_ONCE = 2048  # records decoded together
_INPUT = 1 << 21  # numbers in one run of the network: its own layers take some hundred times that in bytes
_BATCH = 512  # stamps in one run, at most


@dataclass(frozen=True)
class Verdicts:
    """What one model says of records; row i is of record i, NaN and False where it is not classified."""

    card: ModelCard
    probabilities: Floats  # (n, K), in the order of card.classes
    spread: Floats  # (n,): between members, of the top class's probability; 0 where there is one member
    energy: Floats  # (n,)
    is_unsure: Bools  # (n,): by the card's limits; priors do not matter
    is_out_of_distribution: Bools  # (n,): as little is like the training, or the pixel scale is not
    refused: Mapping[int, StampError]  # record -> why nothing is said of it
    empty: tuple[int, ...]  # records without a cutout

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def is_classified(self) -> Bools:
        """(n,): whether anything is said."""
        return np.isfinite(self.probabilities[:, 0])

    def probability_of(self, name: str) -> Floats:
        """(n,): the probability of a class."""
        return self.probabilities[:, self.card.classes.index(name)]

    def top(self) -> list[str | None]:
        """The likeliest class of each record, None where nothing is said."""
        best = np.where(self.is_classified, np.nan_to_num(self.probabilities).argmax(axis=1), -1)
        return [self.card.classes[i] if i >= 0 else None for i in best]

    def confidence(self, i: int) -> str:
        """Which of CONFIDENCE holds of record ``i``."""
        return CONFIDENCE[2 if self.is_out_of_distribution[i] else 1 if self.is_unsure[i] else 0]

    def classifications(self, i: int) -> tuple[Classification, ...]:
        """What goes into the packet of record ``i`` (specification 6.6); nothing where nothing is said.

        Two records: the classes, and under NAME-confidence whether the classifier stands behind them. The
        first is marked calibrated only where the calibration is of the real sky.
        """
        if not self.is_classified[i]:
            return ()
        card = self.card
        return classifications(
            name=card.name, version=card.version, taxonomy=card.taxonomy, classes=card.classes,
            probabilities=self.probabilities[i].tolist(), confidence=self.confidence(i),
            is_calibrated=not card.is_simulated,
        )  # fmt: skip


def classifications(
    *, name: str, version: str, taxonomy: str, classes: Sequence[str], probabilities: Sequence[float],
    confidence: str, is_calibrated: bool,
) -> tuple[Classification, ...]:  # fmt: skip
    """Return what a packet carries of a model's answer: its classes, and whether it stands behind them."""
    of_classes = zip(classes, probabilities, strict=True)
    return (
        Classification(
            classifier=name, version=version, taxonomy=taxonomy, is_calibrated=is_calibrated,
            classes=tuple(ClassProbability(name=c, probability=round(p, 6)) for c, p in of_classes),
        ),
        Classification(
            classifier=f"{name}-confidence", version=version, taxonomy=CONFIDENCE_TAXONOMY,
            classes=tuple(ClassProbability(name=c, probability=float(c == confidence)) for c in CONFIDENCE),
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """What a model says of inputs that are there; arrays of n rows as in Verdicts."""

    probabilities: Floats
    spread: Floats
    energy: Floats
    is_unsure: Bools
    is_out_of_distribution: Bools


class Classifier:
    """A model ready to run; made by :func:`load_classifier`."""

    def __init__(self, card: ModelCard, session: Any) -> None:
        self.card, self._session = card, session

    def logits(self, stamps: Floats, position: Floats | None = None) -> Floats:
        """Return (M, n, K) of ``stamps`` (n, C, L, S, S) and, where the model takes it, ``position`` (n, 3).

        Memory does not grow with n. Raises ValueError for another shape.
        """
        card = self.card
        if stamps.shape[1:] != card.shape:
            raise ValueError(f"stamps of shape {stamps.shape[1:]}, expected {card.shape}")
        if card.uses_position and (position is None or position.shape != (len(stamps), 3)):
            raise ValueError(f"{card.name} takes a position (n, 3) with each stamp")
        found = np.empty((card.n_members, len(stamps), len(card.classes)), np.float32)
        step = min(_BATCH, max(1, _INPUT // int(np.prod(card.shape))))
        for start in range(0, len(stamps), step):
            part = np.s_[start : start + step]
            given = {"stamps": np.ascontiguousarray(stamps[part], np.float32)}
            if card.uses_position and position is not None:
                given["position"] = np.ascontiguousarray(position[part], np.float32)
            found[:, part] = self._session.run(["logits"], given)[0]
        return found

    def answer(
        self, stamps: Floats, position: Floats | None = None, *, priors: Sequence[float] | None = None
    ) -> Answers:
        """Return what the model says of inputs, ``priors`` the class rates to say it for."""
        return answers_of(self.logits(stamps, position), self.card, priors=priors)

    def classify(
        self,
        records: Sequence[Record],
        *,
        ra: Sequence[float] | None = None,
        dec: Sequence[float] | None = None,
        priors: Sequence[float] | None = None,
    ) -> Verdicts:
        """Return what the model says of Avro records as readers give them: alerts, ours or with an embedded
        cutout, or bare cutouts.

        ``ra``, ``dec`` (degrees, ICRS) are the records' places, where those do not say them. ``priors`` are
        the class rates that the probabilities are for; none: those of the training. A record that does not
        fit the model is refused, the others are classified. Raises ConfigError for priors that do not fit.
        """
        n, k = len(records), len(self.card.classes)
        _rates(self.card, priors)
        nothing = np.full(n, np.nan, np.float32)
        made = Verdicts(
            self.card, np.full((n, k), np.nan, np.float32), nothing, nothing.copy(),
            np.zeros(n, bool), np.zeros(n, bool), {}, (),
        )  # fmt: skip
        refused: dict[int, StampError] = {}
        empty: list[int] = []
        for start in range(0, n, _AT_ONCE):
            batch = decode_batch(records[start : start + _AT_ONCE], strict=False)
            refused |= {start + i: error for i, error in batch.refused.items()}
            empty += [start + i for i in batch.empty]
            for group in batch:
                rows = group.indices + start
                places = _places(records, rows, ra, dec) if self.card.uses_position else None
                refused |= self._take(made, group, rows, places, priors)
        return Verdicts(
            made.card, made.probabilities, made.spread, made.energy, made.is_unsure,
            made.is_out_of_distribution, dict(sorted(refused.items())), tuple(empty),
        )  # fmt: skip

    def _take(
        self, made: Verdicts, group: Group, rows: NDArray[np.int64], places: Floats | None,
        priors: Sequence[float] | None,
    ) -> dict[int, StampError]:  # fmt: skip
        """Fill in the rows of a decoded group; those refused come back."""
        card = self.card
        try:
            _check_geometry(card, group)
            normalization = cast(Normalization, card.normalization)
            stamps = tensors_of(group, card.planes, normalization=normalization).channels()
        except StampError as error:
            return dict.fromkeys(rows.tolist(), error)
        is_known = np.ones(len(rows), bool) if places is None else np.isfinite(places).all(axis=1)
        answers = self.answer(stamps[is_known], None if places is None else places[is_known], priors=priors)
        is_finite = np.isfinite(answers.probabilities).all(axis=1)
        to = rows[is_known][is_finite]
        for name in vars(answers):
            getattr(made, name)[to] = getattr(answers, name)[is_finite]
        made.is_out_of_distribution[to] |= not is_in_scale(card, group.geometry.pixel_scale)
        unplaced = RecordError("record", "no position", "right ascension and declination", "ra")
        wrong = RecordError("record", "logits that are not finite", "numbers")
        return {
            **dict.fromkeys(rows[~is_known].tolist(), unplaced),
            **dict.fromkeys(rows[is_known][~is_finite].tolist(), wrong),
        }


def answers_of(logits: Floats, card: ModelCard, *, priors: Sequence[float] | None = None) -> Answers:
    """Return what ``logits`` (M, n, K) mean by the card's temperature, limits and class rates.

    The flags are of the probabilities at the training's class rates, which the limits were set for. Raises
    ConfigError for ``priors`` that do not fit.
    """
    rates = _rates(card, priors)
    z = logits.astype(np.float64) / card.temperature
    highest = z.max(axis=2, keepdims=True)
    powers = np.exp(z - highest)
    total = powers.sum(axis=2, keepdims=True)
    of_members = powers / total
    p = of_members.mean(axis=0)
    best = p.argmax(axis=1)
    rows = np.arange(len(p))
    spread = of_members[:, rows, best].std(axis=0)
    energy = -card.temperature * (highest + np.log(total))[:, :, 0].mean(axis=0)
    is_unsure = p[rows, best] < card.min_confidence
    if card.max_disagreement is not None:
        is_unsure |= spread > card.max_disagreement
    is_far = np.zeros(len(p), bool) if card.max_energy is None else energy > card.max_energy
    p = p * rates
    p /= p.sum(axis=1, keepdims=True)
    return Answers(
        p.astype(np.float32), spread.astype(np.float32), energy.astype(np.float32), is_unsure, is_far
    )


def _rates(card: ModelCard, priors: Sequence[float] | None) -> NDArray[np.float64]:
    """What the probabilities are multiplied by; ones without other priors."""
    if priors is None:
        return np.ones(len(card.classes))
    new, old = np.array(priors, np.float64), np.array(card.priors, np.float64)
    if new.shape != (len(card.classes),) or not (new >= 0).all() or not new.sum() > 0:
        raise ConfigError(
            f"{card.name}: priors {list(priors)}: expected {len(card.classes)} rates, none below 0"
        )
    return new / new.sum() / old


def _check_geometry(card: ModelCard, group: Group) -> None:
    geometry = group.geometry
    if (geometry.size, geometry.n_levels) != (card.size, card.n_levels):
        raise GeometryError(
            "geometry", f"{geometry.n_levels} levels of {geometry.size} pixels",
            f"{card.n_levels} of {card.size}: {card.name} takes no other",
        )  # fmt: skip


def is_in_scale(card: ModelCard, pixel_scale: float) -> bool:
    """Whether a model knows stamps of this pixel scale (arcsec)."""
    least, largest = card.pixel_scale
    return least / (1 + SCALE_MARGIN) <= pixel_scale <= largest * (1 + SCALE_MARGIN)


def _places(
    records: Sequence[Record],
    rows: NDArray[np.int64],
    ra: Sequence[float] | None,
    dec: Sequence[float] | None,
) -> Floats:
    """Unit vectors (n, 3) of the records' places, NaN where a record does not say."""
    given = ra is not None and dec is not None
    degrees = [(ra[i], dec[i]) if given else place_of(records[i]) for i in rows]  # type: ignore[index]
    a, d = np.radians(np.array(degrees, np.float64).reshape(-1, 2)).T  # None becomes NaN
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1).astype(np.float32)


def place_of(record: Record) -> tuple[float | None, float | None]:
    """Return (RA, Dec) of what a record is about, in degrees; (None, None) where it does not say.

    The detection's; what the record itself says; that of the candidate (ZTF) or diaSource (LSST); the
    cutout's own.
    """
    parts = [record.get("detection"), record, record.get("candidate"), record.get("diaSource")]
    with suppress(StampError):  # decoding names it
        parts.append((cutout_record(record) or {}).get("sky"))
    for part in parts:
        if isinstance(part, Mapping):
            ra, dec = part.get("ra"), part.get("dec")
            if isinstance(ra, int | float) and isinstance(dec, int | float):
                return float(ra), float(dec)
    return None, None


def load_classifier(model: str | Path, *, n_threads: int = 0) -> Classifier:
    """Return the model ``model``: a shipped one's name, or the path of a card (.json).

    ``n_threads`` of onnxruntime, 0: one for each core. Files that have not changed give the same object.
    Raises ConfigError where the model is not there, its ONNX file is not the one that the card is of, or does
    not take and give what the card says.
    """
    path = card_path(model)
    card = read_card(path)
    network = path.with_suffix(".onnx")
    try:
        found = digest_of(network)
    except OSError as error:
        raise ConfigError(f"{network}: {error.strerror}: the model of {path.name}") from error
    if found != card.sha256.get("onnx"):
        raise ConfigError(
            f"{network}: SHA-256 is {found}, its card says {card.sha256.get('onnx', 'nothing')}"
        )
    return _ready(network, card.model_dump_json(), n_threads)


@lru_cache(maxsize=8)
def _ready(network: Path, card_json: str, n_threads: int) -> Classifier:
    """The classifier of a card, whose text has the digest of its network: both files are known by it."""
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    card = ModelCard.model_validate_json(card_json)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.log_severity_level = 3  # errors alone
    try:
        session = ort.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    except (states.Fail, states.InvalidProtobuf, states.InvalidGraph, states.InvalidArgument,
            states.NotImplemented, states.RuntimeException) as error:  # fmt: skip
        raise ConfigError(f"{network}: onnxruntime cannot use it: {error}") from error
    _check_signature(network, card, session)
    return Classifier(card, session)


def card_path(model: str | Path) -> Path:
    """Return where a model's card lies. Raises ConfigError for a name that is not shipped; it lists those."""
    if Path(model).suffix == ".json":
        return Path(model)
    shipped = shipped_cards()
    if str(model) not in shipped:
        names = ", ".join(shipped) or "none"
        raise ConfigError(f"model {str(model)!r} is not known; shipped: {names}; or name a card (.json)")
    return weights_folder() / f"{model}.json"


def _check_signature(network: Path, card: ModelCard, session: Any) -> None:
    """Raise ConfigError where inputs and outputs are not what the card says."""
    given = {one.name: list(one.shape) for one in session.get_inputs()}
    expected = {"stamps": list(card.shape), **({"position": [3]} if card.uses_position else {})}
    alike = given.keys() == expected.keys() and all(
        len(shape) == len(expected[name]) + 1 and _may_be(shape[1:], expected[name])
        for name, shape in given.items()
    )
    if not alike:
        raise ConfigError(f"{network}: takes {given}, its card says {expected} of each stamp")
    outputs = {one.name: list(one.shape) for one in session.get_outputs()}
    members = [card.n_members, len(card.classes)]
    logits = outputs.get("logits", [])
    if len(logits) != 3 or not _may_be([logits[0], logits[2]], members):
        raise ConfigError(f"{network}: gives {outputs}, expected logits of {members} (members, classes)")


def _may_be(shape: Sequence[object], expected: Sequence[int]) -> bool:
    """Whether a shape, in which a name stands for any number, is the one expected."""
    return all(not isinstance(a, int) or a == b for a, b in zip(shape, expected, strict=True))
