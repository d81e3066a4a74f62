"""The classes that stamps are told apart by, and the causes of bogus ones."""

from __future__ import annotations

from typing import Literal, get_args

#: The six classes of Reyes-Jainaga+ 2023 (section 2.1), in the order that networks give them.
StampClass = Literal["AGN", "asteroid", "bogus", "satellite", "SN", "VS"]
STAMP_CLASSES: tuple[str, ...] = get_args(StampClass)

#: Two classes of a difference (Sun+ 2022, section 4); the second is the one whose probability is the score.
REAL_BOGUS: tuple[str, ...] = ("bogus", "real")

#: Two classes of a frame (Sun+ 2022, section 2.4).
CLOUDS: tuple[str, ...] = ("clear", "cloudy")

#: What made a bogus detection, the surest first; "other" is what the truth does not explain.
BogusCause = Literal[
    "readout", "bad_pixel", "cosmic_ray", "trail", "bleed", "saturated", "spike", "ghost", "edge", "residual",
    "noise", "other",
]  # fmt: skip
BOGUS_CAUSES: tuple[str, ...] = get_args(BogusCause)

#: Names of the taxonomies, as packets carry them.
STAMP_TAXONOMY = "stamps-6"
REAL_BOGUS_TAXONOMY = "real-bogus"
CLOUD_TAXONOMY = "clouds"
