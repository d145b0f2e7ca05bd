"""8-bit integers in an ONNX graph, by onnxruntime.

A network of convolutions is quantised statically: weights by output channel, activations by the range that each has on
training photographs. The first convolutions stay in float32: they have few channels, far from alike, and all else sees
their error. Weights take 7 of the 8 bits, since processors without VNNI add products of 8 bits in 16 and saturate.
docs/results.md has what each of these is worth.

A network of matrix products, such as a ViT, is quantised dynamically: its activations have no fixed range.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.records import Record
from inference.predictor import Predictor, variants_of
from utils.errors import ConfigError

logger = logging.getLogger(__name__)

MOST_FLOAT_CONVOLUTIONS = 8
"""So many of the first convolutions stay in float32, of a small network half of them."""

CALIBRATION_IMAGES = 128
BATCH_SIZE = 16


def quantise(file: Path, predictor: Predictor, calibration: Sequence[Record]) -> None:
    """Replaces a float32 graph by one of 8-bit integers.

    calibration: training photographs; those of a larger number are taken evenly

    Raises ConfigError where a network of convolutions gets none; DataError for one that cannot be read."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    operations = [node.op_type for node in onnx.load(file).graph.node]
    if operations.count("Conv") <= operations.count("MatMul"):
        quantize_dynamic(file, file, weight_type=QuantType.QUInt8)
        return
    if not calibration:
        raise ConfigError("--int8: needs training photographs to calibrate on; put the run's data where it was")
    chosen = calibration[:: -(-len(calibration) // CALIBRATION_IMAGES)]
    logger.info("8-bit integers: calibrated on %d training images", len(chosen))
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "model.onnx"
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            _Calibration(predictor, chosen),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_first_nodes(onnx.load(prepared).graph),
        )


class _Calibration:
    """Gives onnxruntime the images, in batches."""

    def __init__(self, predictor: Predictor, records: Sequence[Record]) -> None:
        self._batches: Iterator[list[list[Any]]] = variants_of(
            [predictor], records, BATCH_SIZE, None, "calibrating", verbosity=0
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """A batch; None after the last."""
        batches = next(self._batches, None)
        return None if batches is None else {"images": batches[0][0].contiguous().numpy()}


def _first_nodes(graph: Any) -> list[str]:
    """The names of the nodes up to the last convolution that stays in float32, in the order of computation."""
    places = [number for number, node in enumerate(graph.node) if node.op_type == "Conv"]
    number = min(MOST_FLOAT_CONVOLUTIONS, len(places) // 2)
    return [node.name for node in graph.node[: places[number]]] if number else []


def integer_coverage(file: Path) -> str:
    """How much of a graph is computed with 8-bit integers."""
    import onnx

    nodes = onnx.load(file).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    counts = {"convolutions": [0, 0], "matrix products": [0, 0]}
    kinds = {"Conv": "convolutions", "MatMul": "matrix products", "Gemm": "matrix products"}
    for node in nodes:
        if (kind := kinds.get(node.op_type.removesuffix("Integer"))) is not None:
            of_integers = all(made_by.get(each) == "DequantizeLinear" for each in node.input[:2])
            counts[kind][0] += of_integers or node.op_type.endswith("Integer")
            counts[kind][1] += 1
    return " and ".join(f"{quantised} of {whole} {kind}" for kind, (quantised, whole) in counts.items())
