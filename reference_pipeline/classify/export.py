"""From trained networks to the three files of a model: ONNX, safetensors and the card."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multiscale.atomic import replacing

from ..errors import ConfigError
from .card import ModelCard, digest_of, read_card, write_card
from .inference import load_classifier

TOLERANCE = 1e-5  # of ONNX against torch: of a logit, or of its size where that is above 1

_N_CHECKED = 33  # stamps that both are asked about; not the number that the graph was traced with


class Ensemble(nn.Module):
    """Networks side by side: logits (M, n, K)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, stamps: Tensor, position: Tensor | None = None) -> Tensor:
        """Return what each network says of ``stamps``."""
        return torch.stack([member(stamps, position) for member in self.members])


def export_model(networks: Sequence[nn.Module], card: ModelCard, folder: Path) -> ModelCard:
    """Write NAME.onnx, NAME.safetensors and NAME.json to ``folder``; return the card with their digests.

    The ONNX model is run and compared with torch. Raises ConfigError where they differ by more than
    TOLERANCE: nothing that an installation of torch or onnxruntime gets wrong is shipped.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.name}.onnx"
    ensemble = Ensemble(networks).eval()
    with replacing(path) as partial:
        _write_onnx(ensemble, card, partial)
    weights = path.with_suffix(".safetensors")
    tensors = {
        f"member{i}.{name}": tensor.contiguous()
        for i, network in enumerate(networks)
        for name, tensor in network.state_dict().items()
    }
    with replacing(weights) as partial:
        save_file(tensors, partial)
    card = card.model_copy(update={"sha256": {"onnx": digest_of(path), "safetensors": digest_of(weights)}})
    write_card(path.with_suffix(".json"), card)
    _check(ensemble, path.with_suffix(".json"))
    return card


def load_networks(card_path: Path, networks: Sequence[nn.Module]) -> None:
    """Give ``networks``, fresh ones of the card's recipe, the weights of its members.

    Raises ConfigError where the file is not the card's, or of another network.
    """
    from safetensors.torch import load_file

    path, card = card_path.with_suffix(".safetensors"), read_card(card_path)
    if not path.is_file() or digest_of(path) != card.sha256.get("safetensors"):
        raise ConfigError(f"{path}: not there, or not the weights that {card_path.name} is of")
    tensors = load_file(path)
    for i, network in enumerate(networks):
        prefix = f"member{i}."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        try:
            network.load_state_dict(own)
        except RuntimeError as error:
            raise ConfigError(f"{path}: not of this network: {error}") from error


def _write_onnx(ensemble: nn.Module, card: ModelCard, path: Path) -> None:
    import onnx

    inputs, shapes, names = [torch.zeros(2, *card.shape)], {"stamps": {0: torch.export.Dim("n")}}, ["stamps"]
    if card.uses_position:
        inputs.append(torch.zeros(2, 3))
        shapes["position"] = shapes["stamps"]
        names.append("position")
    else:
        shapes["position"] = None  # type: ignore[assignment]
    with _quiet():
        program = torch.onnx.export(
            ensemble, tuple(inputs) if card.uses_position else (inputs[0], None), dynamo=True,
            input_names=names, output_names=["logits"], dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Remove where each node comes from: source lines and paths of the machine it was exported on."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.value_info,
        *graph.input,
        *graph.output,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check(ensemble: nn.Module, card_path: Path) -> None:
    """Raise ConfigError where the model on disk says other than ``ensemble``."""
    card = read_card(card_path)
    rng = np.random.default_rng(0)
    stamps = rng.normal(0, 2, (_N_CHECKED, *card.shape)).astype(np.float32)
    n_planes = card.shape[0] // 2
    stamps[:, n_planes:] = rng.random(stamps[:, n_planes:].shape) > 0.1
    stamps[:, :n_planes] *= stamps[:, n_planes:]
    position = rng.normal(size=(_N_CHECKED, 3)).astype(np.float32) if card.uses_position else None
    found = load_classifier(card_path).logits(stamps, position)
    with torch.inference_mode():
        given = None if position is None else torch.from_numpy(position)
        expected = ensemble(torch.from_numpy(stamps), given).numpy()
    apart = float((np.abs(found - expected) / np.maximum(np.abs(expected), 1)).max())
    if not apart <= TOLERANCE:
        raise ConfigError(f"{card_path}: ONNX and torch differ by {apart:.2g}, more than {TOLERANCE:g}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
