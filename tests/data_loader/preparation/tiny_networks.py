"""Networks of a few weights as ONNX files, whose results a test can compute in its head."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np


def red_mask_network(height: int, width: int, masks: int = 1) -> bytes:
    """Each of its outputs is the first channel of its input (1, 3, height, width)."""
    weights = np.zeros((1, 3, 1, 1), np.float32)
    weights[0, 0] = 1
    outputs = {f"mask{number}": [1, 1, height, width] for number in range(masks)}
    nodes = [_node("Conv", ["input", "weights"], [name]) for name in outputs]
    return _model(nodes, {"weights": weights}, [1, 3, height, width], outputs)


def bytes_network(height: int, width: int) -> bytes:
    """Its only output is its input, whose values are whole numbers of 8 bits, not float32."""
    return _model(
        [_node("Identity", ["input"], ["mask"])], {}, [1, 3, height, width], {"mask": [1, 3, height, width]}, 2
    )


LANDMARKS = np.array([[0.25, 0.125], [0.75, 0.125], [0.5, 0.5], [0.25, 0.875], [0.75, 0.875]], np.float32)
"""Of the faces of `yunet_of_red_blocks`, in shares of the block."""


def yunet_of_red_blocks(height: int, width: int, landmarks: np.ndarray = LANDMARKS) -> bytes:
    """As YuNet: a face of 48 x 64 pixels, and its landmarks, around the middle of each block of 32 x 32 pixels that is
    as red as can be. Its input is BGR of 0 to 255."""
    nodes: list[bytes] = []
    tensors: dict[str, np.ndarray] = {}
    outputs: dict[str, list[int]] = {}
    # In blocks from the block's corner: middle of the box, logarithm of its size.
    boxes = np.array([0.5, 0.5, np.log(1.5), np.log(2)], np.float32)
    biases = {"cls": np.zeros(1, np.float32), "obj": np.ones(1, np.float32), "bbox": boxes, "kps": landmarks.ravel()}
    for stride in (8, 16, 32):
        for name, bias in biases.items():
            output, channels = f"{name}_{stride}", len(bias)
            weights = np.zeros((channels, 3, stride, stride), np.float32)
            if output == "cls_32":
                weights[0, 2] = 1 / (255 * stride * stride)
            tensors[f"{output}_w"], tensors[f"{output}_b"] = weights, bias
            tensors[f"{output}_shape"] = np.array([1, -1, channels], np.int64)
            nodes += [
                _node("Conv", ["input", f"{output}_w", f"{output}_b"], [f"{output}_map"], strides=[stride, stride]),
                _node("Transpose", [f"{output}_map"], [f"{output}_last"], perm=[0, 2, 3, 1]),
                _node("Reshape", [f"{output}_last", f"{output}_shape"], [output]),
            ]
            outputs[output] = [1, (height // stride) * (width // stride), channels]
    return _model(nodes, tensors, [1, 3, height, width], outputs)


def _model(
    nodes: Sequence[bytes],
    tensors: dict[str, np.ndarray],
    input_shape: list[int],
    outputs: dict[str, list[int]],
    kind: int = 1,
) -> bytes:
    """kind: of the inputs' and outputs' values, 1 for float32, 2 for uint8"""
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"tiny")
    graph += b"".join(_field(5, _tensor(name, each)) for name, each in tensors.items())
    graph += _field(11, _value("input", input_shape, kind))
    graph += b"".join(_field(12, _value(name, shape, kind)) for name, shape in outputs.items())
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **integers: list[int]) -> bytes:
    node = b"".join(_field(1, name.encode()) for name in inputs) + b"".join(
        _field(2, each.encode()) for each in outputs
    )
    node += _field(4, kind.encode())
    for name, values in integers.items():
        node += _field(5, _field(1, name.encode()) + b"".join(_field(8, each) for each in values) + _field(20, 7))
    return node


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[str(values.dtype)]
    dimensions = b"".join(_field(1, side) for side in values.shape)
    return dimensions + _field(2, kind) + _field(8, name.encode()) + _field(9, values.tobytes())


def _value(name: str, shape: Sequence[int], kind: int) -> bytes:
    dimensions = b"".join(_field(1, _field(1, side)) for side in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, kind) + _field(2, dimensions)))


def _field(number: int, value: Any) -> bytes:
    """A field of protobuf's wire format: a whole number or bytes."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return struct.pack(f"{len(groups) + 1}B", *groups, value)
