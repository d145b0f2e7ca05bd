"""Face crops and crops of a region of the face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
from pydantic import NonNegativeFloat

from data_loader.preparation.face_detectors import DetectorName, Face, choose_face, make_detector
from data_loader.preparation.preparation import PreparationStep
from utils.config.signatures import Fraction

REGIONS = {"forehead": (-1.25, -0.25), "nose_to_chin": (0.4, 1.7), "chin_to_neck": (1.5, 2.5)}
"""Top and bottom of each region, in eye-to-mouth distances below the eyes: a face is about three such distances long,
with the hairline 1.25 above the eyes and the chin 1.65 below them."""

MIN_CROP_PIXELS = 8


@dataclass(kw_only=True, eq=False)
class FaceStep(PreparationStep):
    """What the crops share: the detector, the choice of a face, the alignment.

    detector: "mtcnn" (pip install --no-deps facenet-pytorch), "yunet" (a file), or "haar", which is always there and
        weak: it misses two of three faces with a mask
    weights_file: of yunet
    min_confidence: of a face, for mtcnn and yunet
    face: which of several faces: the "largest" or the most "central" one
    align: whether the picture is turned so that the eyes are level (mtcnn, yunet)
    margin: added on each side, in shares of the face or region
    fallback_share: of the largest crop that the picture allows, what is cropped from its centre where no face is found

    Raises ValueError for a setting that the detector does not have, a missing package or a missing file.
    """

    detector: DetectorName = "mtcnn"
    weights_file: Path | None = None
    min_confidence: Fraction = 0.8
    face: Literal["largest", "central"] = "largest"
    align: bool = False
    margin: NonNegativeFloat = 0.2
    fallback_share: Fraction = 0.7

    fallback: ClassVar[str] = "no face was found, the centre was cropped"

    def __post_init__(self) -> None:
        self.network = self._detector = make_detector(self.detector, self.weights_file, self.min_confidence)
        if self.align and not self._detector.finds_landmarks:
            raise ValueError(f'align = true needs the eyes, which "{self.detector}" does not find; use mtcnn or yunet')

    @property
    def network_name(self) -> str:
        return str(self.weights_file or self.detector)

    def find(self, image: np.ndarray) -> np.ndarray | None:
        """The crop, float64 (7,): left, top, right, bottom in whole pixels of the picture that is turned by an angle in
        degrees around a point x, y; None: see `fallback`."""
        faces = self._detector(image)
        if not faces:
            return None
        face = choose_face(faces, image, self.face)
        centre = (face.box[:2] + face.box[2:]) / 2
        angle = 0.0
        if self.align and face.landmarks is not None:
            right, down = face.landmarks[1] - face.landmarks[0]
            angle = float(np.degrees(np.arctan2(down, right)))
            turned = np.c_[face.landmarks, np.ones(5)] @ cv2.getRotationMatrix2D(tuple(centre), angle, 1.0).T
            face = Face(face.box, turned)
        box = self._crop_of(face, image)
        return None if box is None else np.array([*box, angle, *centre])

    def apply(self, image: np.ndarray, found: np.ndarray | None) -> np.ndarray:
        """The crop of the picture."""
        if found is None:
            left, top, right, bottom = self._central_crop(image)
        else:
            left, top, right, bottom = found[:4].astype(int)
            if angle := float(found[4]):
                matrix = cv2.getRotationMatrix2D((float(found[5]), float(found[6])), angle, 1.0)
                image = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        return image[top:bottom, left:right].copy()

    def _crop_of(self, face: Face, image: np.ndarray) -> np.ndarray | None:
        """Left, top, right, bottom in whole pixels inside the image."""
        raise NotImplementedError

    def _central_crop(self, image: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@dataclass(kw_only=True, eq=False)
class FaceCrop(FaceStep):
    """Crops the face. Where no face is found, the centre of the picture is cropped.

    shape: of the crop: "square", or that of the "input" picture; it is inside the picture, so that near its edges
        there is less margin
    """

    shape: Literal["square", "input"] = "square"

    def _crop_of(self, face: Face, image: np.ndarray) -> np.ndarray:
        left, top, right, bottom = face.box
        size = np.array([right - left, bottom - top]) * (1 + 2 * self.margin)
        return _fitted(np.array([left + right, top + bottom]) / 2, self._shaped(size, image), image)

    def _central_crop(self, image: np.ndarray) -> np.ndarray:
        largest = np.array(image.shape[1::-1], np.float64)
        if self.shape == "square":
            largest[:] = largest.min()
        return _fitted(np.array(image.shape[1::-1]) / 2, largest * self.fallback_share, image)

    def _shaped(self, size: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The least size (width, height) of the shape that holds `size`, and that the image can hold."""
        unit = np.ones(2) if self.shape == "square" else np.array(image.shape[1::-1], np.float64)
        factor = min(float((size / unit).max()), float((np.array(image.shape[1::-1]) / unit).min()))
        return unit * factor


@dataclass(kw_only=True, eq=False)
class RegionCrop(FaceStep):
    """Crops one region of the face, as wide as the face.

    Where no face is found, or the region is not in the picture, the crop is where a face in the centre would have it.

    region: "forehead" (hairline to brows), "nose_to_chin", or "chin_to_neck"; from the landmarks that the detector
        finds, or else from shares of its box
    """

    region: Literal["forehead", "nose_to_chin", "chin_to_neck"]
    margin: NonNegativeFloat = 0.0

    fallback: ClassVar[str] = "the region was not found, it was taken from a face in the centre"

    def _crop_of(self, face: Face, image: np.ndarray) -> np.ndarray | None:
        landmarks = face.landmarks_or_estimate
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        top, bottom = eyes[1] + np.array(REGIONS[self.region]) * max(mouth[1] - eyes[1], 1.0)
        left, right = face.box[[0, 2]]
        height, width = image.shape[:2]
        margins = self.margin * np.array([right - left, bottom - top])
        box = np.array([left - margins[0], top - margins[1], right + margins[0], bottom + margins[1]])
        clipped = np.rint(box.clip(0, [width, height, width, height])).astype(int)
        enough = min(clipped[2:] - clipped[:2]) >= MIN_CROP_PIXELS and (clipped[3] - clipped[1]) >= (bottom - top) / 3
        return clipped if enough else None

    def _central_crop(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        half = min(height, width) * self.fallback_share / 2
        box = np.array([width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half])
        found = self._crop_of(Face(box), image)
        return np.array([0, 0, width, height]) if found is None else found


def _fitted(centre: np.ndarray, size: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom in whole pixels of a crop of `size` (width, height), moved into the image."""
    limits = np.array(image.shape[1::-1])
    whole = np.rint(size).astype(int).clip(1, limits)
    corner = np.rint(centre - whole / 2).astype(int).clip(0, limits - whole)
    return np.concatenate([corner, corner + whole])
