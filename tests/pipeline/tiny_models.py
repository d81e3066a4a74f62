"""Models for the tests of what runs them: the mean of each channel times weights. They know nothing."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from reference_pipeline.classify.card import ModelCard, digest_of, write_card
from reference_pipeline.taxonomy import REAL_BOGUS, REAL_BOGUS_TAXONOMY, STAMP_CLASSES, STAMP_TAXONOMY

PLANES = ("science", "template", "difference")


def card_of(name="tiny", **changes):
    """The card of a model; everything that ``changes`` does not say fits small ZTF stamps."""
    classes = changes.get("classes", STAMP_CLASSES)
    values = {
        "name": name, "version": "1", "task": "stamps", "taxonomy": STAMP_TAXONOMY, "classes": classes,
        "surveys": ("ztf",), "size": 8, "n_levels": 4, "pixel_scale": (1.0, 1.0), "planes": PLANES,
        "normalization": "noise", "uses_position": False, "n_members": 2, "n_parameters": 0,
        "priors": (1 / len(classes),) * len(classes),
    }  # fmt: skip
    return ModelCard(**(values | changes))


def real_bogus(name="tiny-rb", **changes):
    """A card of a real/bogus model."""
    values = {"task": "real-bogus", "taxonomy": REAL_BOGUS_TAXONOMY, "classes": REAL_BOGUS}
    return card_of(name, **(values | changes))


def weights_of(card, seed=1):
    """Weights (M, C, K) of the mean of each channel, and (M, 3, K) of the position."""
    rng = np.random.default_rng(seed)
    shape = (card.n_members, 2 * len(card.planes), len(card.classes))
    weights = rng.normal(0, 3, shape).astype(np.float32)
    return weights, rng.normal(0, 3, (card.n_members, 3, len(card.classes))).astype(np.float32)


def write_model(folder, card, *, seed=1, weights=None):
    """Write a model to ``folder``; returns the path of its card."""
    channels, place = weights_of(card, seed)
    channels = channels if weights is None else np.asarray(weights, np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["stamps"], ["means"], axes=[2, 3, 4], keepdims=0),
        helper.make_node("MatMul", ["means", "channels"], ["seen"]),
    ]
    inputs = [helper.make_tensor_value_info("stamps", TensorProto.FLOAT, ["n", *card.shape])]
    kept = [numpy_helper.from_array(channels, "channels")]
    if card.uses_position:
        inputs.append(helper.make_tensor_value_info("position", TensorProto.FLOAT, ["n", 3]))
        kept.append(numpy_helper.from_array(place, "place"))
        nodes += [
            helper.make_node("MatMul", ["position", "place"], ["where"]),
            helper.make_node("Add", ["seen", "where"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["seen"], ["logits"]))
    gives = [helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, [card.n_members, "n", len(card.classes)]
    )]  # fmt: skip
    graph = helper.make_graph(nodes, "tiny", inputs, gives, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path = folder / f"{card.name}.json"
    onnx.save(model, path.with_suffix(".onnx"))
    write_card(path, card.model_copy(update={"sha256": {"onnx": digest_of(path.with_suffix(".onnx"))}}))
    return path
