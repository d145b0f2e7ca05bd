"""Background removal."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from data_loader.preparation.person_masks import Activation, OnnxMask, PersonMask, RembgMask, SelfieMask, TracerMask
from data_loader.preparation.preparation import PreparationStep
from utils.config.signatures import Fraction

BACKENDS: dict[str, type[PersonMask]] = {
    "rembg": RembgMask,
    "tracer": TracerMask,
    "onnx": OnnxMask,
    "selfie": SelfieMask,
}
Level = Annotated[int, Field(ge=0, le=255)]


@dataclass(kw_only=True, eq=False)
class BackgroundRemoval(PreparationStep):
    """Fills what is not the person with one colour. Where no person is found, the whole picture stays.

    backend: the network that finds the person: "rembg" (a package with a choice of networks), "tracer" (slow and
        exact), "selfie" (small and fast), or "onnx" (a network of your own)
    session: rembg's name of a network, "u2net_human_seg" where it is left out; those that send pictures to a server
        are refused
    weights_file: of tracer, selfie and onnx
    input_size: pixels, or [height, width], of the network's input (onnx, tracer)
    mean, std: of the network's normalisation, three numbers of the range 0 to 1 (onnx); ImageNet's where left out
    channel_order: of the network's input (onnx); "RGB" where left out
    activation: that makes the network's output a mask (onnx); "minmax" stretches each output to 0 to 1; "none" where
        left out
    fill: the colour of the background, RGB
    feather_pixels: width of the soft edge between person and background
    keep_largest: whether only the largest connected part of the person stays, of several people one
    min_share: share of the picture; a person that covers less does not count as found

    Raises ValueError for a setting of another backend, a missing package or a missing file.
    """

    backend: Literal["rembg", "tracer", "onnx", "selfie"]
    session: str | None = None
    weights_file: Path | None = None
    input_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    channel_order: Literal["RGB", "BGR"] | None = None
    activation: Activation | None = None
    fill: tuple[Level, Level, Level] = (255, 255, 255)
    feather_pixels: NonNegativeFloat = 2.0
    keep_largest: bool = True
    min_share: Fraction = 0.1

    fallback: ClassVar[str] = "no person was found, the background stays"

    def __post_init__(self) -> None:
        options = ("session", "weights_file", "input_size", "mean", "std", "channel_order", "activation")
        given = {name: value for name in options if (value := getattr(self, name)) is not None}
        network = BACKENDS[self.backend]
        taken = inspect.signature(network).parameters
        for name, value in given.items():
            if name not in taken:
                raise ValueError(f'{name} = {value} is not a setting of backend "{self.backend}"; leave it out')
        if isinstance(self.input_size, int) and self.backend == "onnx":
            given["input_size"] = (self.input_size, self.input_size)
        if isinstance(self.input_size, tuple) and self.backend == "tracer":
            raise ValueError(f"input_size = {list(self.input_size)} must be one number; TRACER takes squares")
        if "weights_file" in taken:
            given.setdefault("weights_file", None)
        self.network = self._mask = network(**given)

    def find(self, image: np.ndarray) -> np.ndarray | None:
        """The mask of the person, uint8 (H, W), 0 for background to 255; None: see min_share."""
        mask = self._mask(image)
        if self.keep_largest:
            mask = largest_part(mask)
        rounded = np.rint(mask.clip(0, 1) * 255).astype(np.uint8)
        return rounded if (rounded >= 128).mean() >= max(self.min_share, 1e-9) else None

    def apply(self, image: np.ndarray, found: np.ndarray | None) -> np.ndarray:
        """The person before the fill colour; the image itself where none was found."""
        if found is None:
            return image.copy()
        person = found if not self.feather_pixels else cv2.GaussianBlur(found, (0, 0), self.feather_pixels / 2)
        height, width = person.shape
        share = cv2.merge([person] * 3).reshape(height, -1).astype(np.uint16)
        # In whole numbers and in rows of width * 3, for speed: n / 255 = (n + n // 256 + 1) // 256 for n < 65535.
        filled = (255 - share) * np.tile(np.array(self.fill, np.uint16), width)
        total = image.reshape(height, -1) * share + filled + 127
        return ((total + (total >> 8) + 1) >> 8).astype(np.uint8).reshape(image.shape)

    @property
    def network_name(self) -> str:
        return str(self.weights_file or self.session or self.backend)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The mask, float (H, W), without the connected parts above one half that are not the largest, and without what is
    nearer to them than to it."""
    parts, labels, statistics, centres = cv2.connectedComponentsWithStats((mask >= 0.5).astype(np.uint8))
    if parts <= 2:
        return mask
    # Of parts of one size the topmost: their numbers depend on OpenCV's threads.
    largest = max(range(1, parts), key=lambda n: (statistics[n, cv2.CC_STAT_AREA], *-centres[n][::-1]))
    is_largest = labels == largest
    distances = [
        cv2.distanceTransform(np.where(part, 0, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for part in (is_largest, (labels > 0) & ~is_largest)
    ]
    # Squares are whole numbers: the last bit of a distance depends on the threads, too.
    squares = [np.rint(each.astype(np.float64) ** 2) for each in distances]
    return np.where(squares[0] <= squares[1], mask, 0)
