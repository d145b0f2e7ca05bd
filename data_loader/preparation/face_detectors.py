"""Face detectors: one interface, an image to its faces with boxes and landmarks."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from data_loader.preparation.networks import (
    PerThread,
    PictureNetwork,
    Shared,
    file_digest,
    import_package,
    installed_version,
    require_file,
    require_package,
    wrong_file,
)

MIN_FACE_PIXELS = 20
"""Side of the smallest face that is looked for."""

LANDMARKS_IN_BOX = ((0.3, 0.38), (0.7, 0.38), (0.5, 0.58), (0.35, 0.77), (0.65, 0.77))
"""Where the five landmarks are taken to be in a box without them, in shares of its width and height."""

DetectorName = Literal["mtcnn", "yunet", "haar"]


@dataclass(frozen=True)
class Face:
    """A face in a picture, in pixels, x to the right and y down.

    box: (4,) float64: left, top, right, bottom
    landmarks: (5, 2) float64: the eye on the left of the picture, the other, nose, left and right corner of the mouth;
        None: the detector finds none
    """

    box: np.ndarray
    landmarks: np.ndarray | None = None

    @property
    def landmarks_or_estimate(self) -> np.ndarray:
        """The landmarks, or where they usually are in such a box."""
        if self.landmarks is not None:
            return self.landmarks
        return np.asarray(self.box[:2] + np.array(LANDMARKS_IN_BOX) * (self.box[2:] - self.box[:2]))


def choose_face(faces: Sequence[Face], image: np.ndarray, which: Literal["largest", "central"]) -> Face:
    """The largest face of an image, or the one nearest to its centre."""
    if which == "largest":
        return max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
    middle = np.array(image.shape[1::-1]) / 2
    return min(faces, key=lambda face: float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - middle)))


class FaceDetector(PictureNetwork):
    """Finds faces."""

    finds_landmarks: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, image: np.ndarray) -> list[Face]:
        """The faces in an image (H, W, 3) uint8. Raises ConfigError where the detector cannot be used."""


class MTCNNDetector(FaceDetector):
    """MTCNN (Zhang et al. 2016) of the package facenet-pytorch, which brings its weights.

    min_confidence: of a face
    """

    INSTALL = "--no-deps facenet-pytorch"
    """Its dependencies are bounded to versions of torch from 2024; it runs with today's."""

    def __init__(self, min_confidence: float) -> None:
        require_package("facenet_pytorch", self.INSTALL, 'detector = "mtcnn"')
        self.min_confidence = min_confidence
        self._network = Shared(self._load)

    def __call__(self, image: np.ndarray) -> list[Face]:
        if min(image.shape[:2]) < MIN_FACE_PIXELS:
            return []
        try:
            boxes, confidences, landmarks = self._network().detect(image, landmarks=True)
        except RuntimeError as error:
            if "non-empty" in str(error):  # it joins what it found, and that was nothing
                return []
            raise
        found = zip(boxes, confidences, landmarks, strict=True) if boxes is not None else ()
        return [
            Face(np.array(box, np.float64), np.array(points, np.float64))
            for box, confidence, points in found
            if confidence >= self.min_confidence
        ]

    @property
    def key(self) -> dict[str, Any]:
        return {"versions": {name: installed_version(name) for name in ("facenet-pytorch", "torch", "torchvision")}}

    def _load(self) -> Any:
        import torch

        package = import_package("facenet_pytorch", self.INSTALL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            return package.MTCNN(keep_all=True, min_face_size=MIN_FACE_PIXELS, device=device).eval()


class YuNetDetector(FaceDetector):
    """YuNet (Wu et al. 2023), which OpenCV runs: small, fast, and needs a file of 230 kB.

    min_confidence: of a face
    """

    SOURCE = "face_detection_yunet_2023mar.onnx of https://github.com/opencv/opencv_zoo"

    def __init__(self, min_confidence: float, weights_file: Path | None) -> None:
        self.path = require_file(weights_file, self.SOURCE)
        self.min_confidence = min_confidence
        self._network = PerThread(self._load)

    def __call__(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        network = self._network()
        network.setInputSize((width, height))
        try:
            _, rows = network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise wrong_file(self.path, self.SOURCE) from error
        faces = []
        for row in () if rows is None else rows.astype(np.float64):
            left, top, wide, high = row[:4]
            faces.append(Face(np.array([left, top, left + wide, top + high]), row[4:14].reshape(5, 2)))
        return faces

    @property
    def key(self) -> dict[str, Any]:
        return {"weights": file_digest(self.path), "versions": {"opencv": cv2.__version__}}

    def _load(self) -> Any:
        try:
            return cv2.FaceDetectorYN.create(str(self.path), "", (320, 320), self.min_confidence)
        except cv2.error as error:
            raise wrong_file(self.path, self.SOURCE) from error


class HaarDetector(FaceDetector):
    """OpenCV's Haar cascade (Viola and Jones 2001): always there and weak. It misses two of three faces with a mask,
    and finds faces where there are none."""

    finds_landmarks = False

    def __init__(self) -> None:
        self._network = PerThread(lambda: cv2.CascadeClassifier(str(self._path)))

    def __call__(self, image: np.ndarray) -> list[Face]:
        gray = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        smallest = (MIN_FACE_PIXELS, MIN_FACE_PIXELS)
        boxes = np.reshape(self._network().detectMultiScale(gray, 1.1, 5, minSize=smallest), (-1, 4))
        return [Face(np.array([left, top, left + wide, top + high], np.float64)) for left, top, wide, high in boxes]

    @property
    def key(self) -> dict[str, Any]:
        return {"weights": file_digest(self._path), "versions": {"opencv": cv2.__version__}}

    @property
    def _path(self) -> Path:
        return Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"


def make_detector(name: DetectorName, weights_file: Path | None, min_confidence: float) -> FaceDetector:
    """A detector by name.

    weights_file: of yunet
    min_confidence: of a face, for mtcnn and yunet

    Raises ValueError for a setting that the detector does not have, a missing package or a missing file."""
    if weights_file is not None and name != "yunet":
        raise ValueError(f'weights_file = {weights_file} is not a setting of detector "{name}"')
    if name == "mtcnn":
        return MTCNNDetector(min_confidence)
    return YuNetDetector(min_confidence, weights_file) if name == "yunet" else HaarDetector()
