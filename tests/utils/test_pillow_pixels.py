"""Pixels are those of numpy's own conversion, and belong to the array alone."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from utils import pillow_pixels
from utils.images.decoding import decode_rgb
from utils.pillow_pixels import rgb_array


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng((width, height)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (384, 512), (1, 3000), (2000, 1), (2600, 2300)], ids=str)
def test_pixels_are_those_that_numpy_makes(size: tuple[int, int]) -> None:
    """The last is over 16 MB, which Pillow keeps in several pieces."""
    image = noise(*size)
    made = rgb_array(image)
    expected = np.array(image)
    np.testing.assert_array_equal(made, expected)
    assert (made.dtype, made.shape, made.flags.c_contiguous) == (np.uint8, expected.shape, True)
    made[:] = 7
    np.testing.assert_array_equal(np.array(image), expected)
    del image
    assert (made == 7).all()


@pytest.mark.parametrize("made_by", ["transpose", "convert", "paste", "crop"])
def test_images_however_they_came_about(made_by: str) -> None:
    image = noise(31, 17)
    if made_by == "transpose":
        image = image.transpose(Image.Transpose.ROTATE_90)
    elif made_by == "convert":
        image = image.convert("CMYK").convert("RGB")
    elif made_by == "paste":
        background = Image.new("RGB", image.size, (255, 255, 255))
        background.paste(image, (3, 2))
        image = background
    else:
        image = image.crop((2, 3, 20, 11))
    np.testing.assert_array_equal(rgb_array(image), np.array(image))


class _Odd(Image.Image):
    """A Pillow whose interface says something else, or nothing."""

    answer: Any = None

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer.__arrow_c_array__()


@pytest.mark.parametrize("answer", [AttributeError(), ValueError("multi-block"), Image.new("L", (6, 5)), noise(5, 5)])
def test_where_the_interface_does_not_fit_numpys_way_is_taken(answer: Any) -> None:
    image = noise(6, 5)
    expected = np.array(image)
    image.__class__ = _Odd
    image.answer = answer  # type: ignore[attr-defined]
    np.testing.assert_array_equal(rgb_array(image), expected)


def test_what_is_decoded_does_not_take_numpys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = BytesIO()
    noise(40, 30).save(stream, "JPEG")
    expected = np.array(Image.open(stream))
    with monkeypatch.context() as without:
        without.setattr(pillow_pixels.np, "array", lambda _: pytest.fail("numpy converts the image"))
        made = decode_rgb(stream.getvalue(), "a.jpg")
    np.testing.assert_array_equal(made, expected)
