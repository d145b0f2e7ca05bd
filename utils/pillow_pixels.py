"""The pixels of an RGB image of Pillow's as an array, without the detours of `numpy.array(image)`.

Pillow keeps RGB as four bytes a pixel; it would pack them into pieces, join these and copy the whole once more, 7 to
24 % of the time of reading a photograph. Its Arrow interface tells where the pixels lie (since Pillow 11.3, of
images of up to 16 MB); where it does not, numpy's way is taken. The layout is that of the Arrow C data interface
(https://arrow.apache.org/docs/format/CDataInterface.html): a list of fixed size whose child holds the bytes."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image


class _ArrowArray(ctypes.Structure):
    pass


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

_capsule_pointer: Any = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


@lru_cache
def _bytes_type(length: int) -> Any:
    """Each is a class, which only the garbage collection would take away again."""
    return ctypes.c_uint8 * length


def rgb_array(image: Image.Image) -> np.ndarray:
    """What `numpy.array(image)` gives of an image of mode RGB: (H, W, 3) uint8, writable, its own memory."""
    assert image.mode == "RGB", image.mode
    width, height = image.size
    try:
        schema, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):  # an earlier Pillow; an image in several pieces
        return np.array(image)
    outer = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    if outer.length != width * height or outer.offset or outer.n_children != 1:
        return np.array(image)
    inner = outer.children[0].contents
    if inner.length != 4 * width * height or inner.offset or inner.n_buffers != 2:
        return np.array(image)
    pixels = _bytes_type(inner.length).from_address(inner.buffers[1])
    made = cv2.cvtColor(np.frombuffer(pixels, np.uint8).reshape(height, width, 4), cv2.COLOR_RGBA2RGB)
    del schema, capsule  # which keep the pixels in their place up to here
    return made
