"""A piper voice's weights, out of its exported graph, under the names of ``vits.Vits``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from triforce.flows.examples.piper.vits import HOP_LENGTH, Decoder


def read_weights(model: Path) -> dict[str, np.ndarray]:
    """Return the weights of an ONNX file, float32, by the names of ``vits.Vits``.

    Raises ValueError for a voice of another shape: several speakers, or another quality than "medium".
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(model)).graph
    stored = {each.name: each for each in graph.initializer}
    weights = {
        name: numpy_helper.to_array(each)
        for name, each in stored.items()
        if name.split(".")[0] in ("enc_p", "dp", "flow", "dec")
    }
    for node in graph.node:
        if node.op_type == "Gather" and node.name == "/enc_p/emb/Gather":  # the export gives its table another name
            weights["enc_p.emb.weight"] = numpy_helper.to_array(stored[node.input[0]])
        elif node.op_type == "Conv" and node.input[1].startswith("onnx::"):  # weight norm, folded: named by its bias
            weights[node.input[2].removesuffix("bias") + "weight"] = numpy_helper.to_array(stored[node.input[1]])
    weights["dp.flows.0.scale"] = numpy_helper.to_array(stored["/dp/flows.0/Exp_output_0"])
    _check_decoder(graph, model)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}


def _check_decoder(graph: object, model: Path) -> None:
    """Raise ValueError where strides or dilations, which weights do not show, are not those of ``vits.Decoder``."""
    strides, dilations = [], []
    for node in graph.node:  # type: ignore[attr-defined]
        settings = {each.name: tuple(each.ints) for each in node.attribute}
        if node.op_type == "ConvTranspose":
            strides += settings["strides"]
        elif node.op_type == "Conv" and "/dec/resblocks" in node.name:
            dilations += settings["dilations"]
    wanted = [each for _, pair in Decoder.BLOCKS for each in pair] * len(Decoder.STRIDES)
    if tuple(strides) != Decoder.STRIDES or dilations != wanted or np.prod(strides) != HOP_LENGTH:
        raise ValueError(
            f"{model}: strides {strides}, dilations {dilations}; a voice of quality medium has {Decoder.STRIDES} "
            f"and {wanted}: choose another voice"
        )
