"""Networks that find the person in a picture: one interface, an image to a mask."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

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
from utils.errors import CheckpointError, ConfigError
from utils.wording import first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

UPLOADING_SESSIONS = ("withoutbg", "atlascloud")
"""Sessions of rembg that send the picture to a company's servers. A later one says so itself (`is_local`)."""

Activation = Literal["none", "sigmoid", "minmax"]


class PersonMask(PictureNetwork):
    """Finds the person in pictures."""

    @abstractmethod
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, 3) uint8 -> float32 (H, W), 0 to 1: how much of each pixel is the person.

        Raises ConfigError where the network cannot be used."""


class RembgMask(PersonMask):
    """One of rembg's networks that run on this machine (https://github.com/danielgatis/rembg).

    session: rembg's name of it, such as u2net_human_seg, isnet-general-use or birefnet-portrait

    rembg downloads the weights once, to REMBG_HOME or U2NET_HOME (~/.rembg).
    """

    INSTALL = '"rembg[cpu]"'

    def __init__(self, session: str = "u2net_human_seg") -> None:
        if session in UPLOADING_SESSIONS:
            raise ValueError(_uploads(session))
        if session.endswith("_custom"):
            raise ValueError(f'session = {session} takes a file; use backend "onnx" with weights_file')
        if session == "sam":
            raise ValueError("session = sam needs a point in each picture; use another session")
        require_package("rembg", self.INSTALL, 'backend = "rembg"')
        self.session = session
        self._network = Shared(self._load)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        masks = self._network().predict(Image.fromarray(image))
        stacked = np.stack([np.asarray(mask.convert("L")) for mask in masks])  # of clothes, one for each kind
        return stacked.max(axis=0).astype(np.float32) / 255

    @property
    def key(self) -> dict[str, Any]:
        kind = self._session_class()
        versions = {name: installed_version(name) for name in ("rembg", "onnxruntime", "pillow")}
        return {"weights": file_digest(Path(self._weights_of(kind))), "versions": versions}

    def _session_class(self) -> Any:
        classes = import_package("rembg.sessions", self.INSTALL).sessions
        names = sorted(
            name for name, each in classes.items() if _is_local(each) and not name.endswith("_custom") and name != "sam"
        )
        if self.session not in classes:
            raise ConfigError(f"session = {self.session} is not one of rembg's: {', '.join(names)}")
        if not _is_local(classes[self.session]):
            raise ConfigError(_uploads(self.session))
        return classes[self.session]

    def _weights_of(self, kind: Any) -> str:
        try:
            return str(kind.download_models())
        except Exception as error:  # of rembg, pooch, requests or urllib3
            home = Path(kind.model_dir() if hasattr(kind, "model_dir") else kind.u2net_home())
            raise ConfigError(
                f"session = {self.session}: the weights could not be downloaded ({first_line(error)[:120]}); put "
                f"{self.session}.onnx into {home}"
            ) from error

    def _load(self) -> Any:
        path = self._weights_of(self._session_class())
        try:
            return import_package("rembg", self.INSTALL).new_session(self.session)
        except Exception as error:
            raise ConfigError(f"{path}: rembg cannot load it ({first_line(error)[:120]}); download it again") from error


def _is_local(session_class: Any) -> bool:
    return bool(getattr(session_class, "is_local", lambda: session_class.name() not in UPLOADING_SESSIONS)())


def _uploads(session: str) -> str:
    return f"session = {session} sends every picture to a server; use one that runs here, such as u2net_human_seg"


class OnnxMask(PersonMask):
    """A network of one's own with one output, the mask, in an ONNX file; by onnxruntime if it is installed, else by
    OpenCV.

    input_size: height and width in pixels of its input
    mean, std: of its normalisation, in units of the full range 0 to 1
    channel_order: of its input
    activation: that makes the output a mask: "none", "sigmoid", or "minmax", which stretches each to 0 to 1
    """

    SOURCE = "an ONNX file of a network from float32 pictures to one output, the mask"

    def __init__(
        self,
        weights_file: Path | None,
        input_size: tuple[int, int] = (320, 320),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: Literal["RGB", "BGR"] = "RGB",
        activation: Activation = "none",
    ) -> None:
        self.path = require_file(weights_file, self.SOURCE)
        self.input_hw, self.channel_order, self.activation = tuple(input_size), channel_order, activation
        self.mean, self.std = mean, std
        self.runtime = "onnxruntime" if importlib.util.find_spec("onnxruntime") else "opencv"
        self._network = Shared(self._load) if self.runtime == "onnxruntime" else PerThread(self._load)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = self.input_hw
        # Areas, as far as the picture is made smaller: otherwise thin parts of it would be missed.
        shrinks = height < image.shape[0] and width < image.shape[1]
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        values = _normalised(resized, self.mean, self.std)
        values = values if self.channel_order == "RGB" else values[..., ::-1]
        output = self._run(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))
        mask = output.squeeze()
        if mask.ndim != 2:
            raise ConfigError(f"weights_file = {self.path}: has an output {output.shape}; set it to {self.SOURCE}")
        return cv2.resize(_activated(mask, self.activation), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    @property
    def key(self) -> dict[str, Any]:
        runtime = cv2.__version__ if self.runtime == "opencv" else installed_version(self.runtime)
        return {"weights": file_digest(self.path), "versions": {self.runtime: runtime}}

    def _run(self, values: np.ndarray) -> np.ndarray:
        run = self._network()
        try:
            outputs = run(values)
        except Exception as error:  # onnxruntime and OpenCV have errors of many kinds
            raise ConfigError(
                f"weights_file = {self.path}: the network cannot take {values.shape} float32; set input_size to what "
                f"it expects ({first_line(error)[:160]})"
            ) from error
        if len(outputs) != 1:
            raise ConfigError(f"weights_file = {self.path}: has {len(outputs)} outputs; set it to {self.SOURCE}")
        return np.asarray(outputs[0])

    def _load(self) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        try:
            return self._load_onnxruntime() if self.runtime == "onnxruntime" else self._load_opencv()
        except ConfigError:
            raise
        except Exception as error:  # of a file that is one, the reason may be an operation that this version lacks
            reason = "" if type(error).__name__ == "InvalidProtobuf" else f" ({first_line(error)[:160]})"
            raise ConfigError(
                f"weights_file = {self.path} is not an ONNX network that {self.runtime} can run{reason}; set it to "
                f"{self.SOURCE}"
            ) from error

    def _load_onnxruntime(self) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        import onnxruntime

        available = onnxruntime.get_available_providers()
        local = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in available]
        session = onnxruntime.InferenceSession(str(self.path), providers=local)
        taken = [each.type.removeprefix("tensor(").removesuffix(")") for each in session.get_inputs()]
        if taken != ["float"]:
            wrong = f"the network takes {', '.join(taken)}, not float32 pictures"
            raise ConfigError(f"weights_file = {self.path}: {wrong}; set it to {self.SOURCE}")
        return lambda values: session.run(None, {session.get_inputs()[0].name: values})

    def _load_opencv(self) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
        network = cv2.dnn.readNetFromONNX(str(self.path))

        def run(values: np.ndarray) -> Sequence[np.ndarray]:
            network.setInput(values)
            return network.forward(network.getUnconnectedOutLayersNames())

        return run


class SelfieMask(PersonMask):
    """MediaPipe's selfie segmentation: small, fast, and made for one person near the camera.

    weights_file: selfie_segmentation.tflite
    """

    SOURCE = "selfie_segmentation.tflite of the npm package @mediapipe/selfie_segmentation"
    SIDE = 256

    def __init__(self, weights_file: Path | None) -> None:
        self.path = require_file(weights_file, self.SOURCE)
        self._network = PerThread(self._load)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        network = self._network()
        network.setInput(
            cv2.dnn.blobFromImage(cv2.resize(image, (self.SIDE, self.SIDE), interpolation=cv2.INTER_AREA), 1 / 255)
        )
        mask = network.forward().squeeze()
        return cv2.resize(mask.clip(0, 1), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    @property
    def key(self) -> dict[str, Any]:
        return {"weights": file_digest(self.path), "versions": {"opencv": cv2.__version__}}

    def _load(self) -> Any:
        try:
            return cv2.dnn.readNetFromTFLite(str(self.path))
        except cv2.error as error:
            raise wrong_file(self.path, self.SOURCE) from error


class TracerMask(PersonMask):
    """TRACER, slow and exact: see data_loader/preparation/tracer.py. It runs on a GPU where there is one.

    weights_file: TRACER-Efficient-0.pth to TRACER-Efficient-7.pth
    input_size: side in pixels; None: the one that the network was trained on, 320 to 640
    """

    SOURCE = "TRACER-Efficient-0.pth to -7.pth of https://github.com/Karel911/TRACER/releases/tag/v1.0"

    def __init__(self, weights_file: Path | None, input_size: int | None = None) -> None:
        self.path = require_file(weights_file, self.SOURCE)
        if input_size is not None and input_size % 32:
            raise ValueError(f"input_size = {input_size} must be a multiple of 32")
        self.input_size = input_size
        self._network = Shared(self._load)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import torch

        network, side, device = self._network()
        resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
        values = _normalised(resized, IMAGENET_MEAN, IMAGENET_STD)
        with torch.inference_mode():
            mask = network(torch.from_numpy(values).permute(2, 0, 1)[None].to(device)).cpu().numpy()[0, 0]
        return cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    @property
    def key(self) -> dict[str, Any]:
        versions = {name: installed_version(name) for name in ("torch", "timm")}
        return {"weights": file_digest(self.path), "versions": versions}

    def _load(self) -> Any:
        import torch

        from data_loader.preparation.tracer import read_tracer

        try:
            network, trained_on = read_tracer(self.path)
        except CheckpointError as error:
            raise wrong_file(self.path, self.SOURCE) from error
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return network.to(device), self.input_size or trained_on, device


def _normalised(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    scaled = image.astype(np.float32) / 255
    return (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)


def _activated(output: np.ndarray, activation: Activation) -> np.ndarray:
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-output))
    if activation == "minmax":
        lowest, highest = float(output.min()), float(output.max())
        return (output - lowest) / max(highest - lowest, 1e-6)
    return output.clip(0, 1)
