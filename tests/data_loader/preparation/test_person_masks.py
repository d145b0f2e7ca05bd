"""Masks of each backend: what the network makes of a picture, in the picture's size."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data_loader.preparation.person_masks import OnnxMask, RembgMask, SelfieMask, TracerMask
from tests.data_loader.preparation.test_tracer import save
from tests.data_loader.preparation.tiny_networks import bytes_network, red_mask_network
from utils.errors import ConfigError
from utils.images import read_rgb

SHARED = Path(__file__).parents[4] / "shared"
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.fixture
def image() -> np.ndarray:
    """A gradient of red from left to right, of blue from top to bottom."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, 64)
    image[..., 2] = np.linspace(0, 255, 48)[:, None]
    return image


@pytest.fixture
def red_network(tmp_path: Path) -> Path:
    path = tmp_path / "red.onnx"
    path.write_bytes(red_mask_network(48, 64))
    return path


@pytest.fixture(params=["opencv", "onnxruntime"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    else:
        find_spec = __import__("importlib.util").util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    return str(request.param)


@pytest.mark.usefixtures("runtime")
def test_an_onnx_network_gets_the_picture_as_its_arguments_tell(image: np.ndarray, red_network: Path) -> None:
    red, blue = image[..., 0] / 255, image[..., 2] / 255
    mask = OnnxMask(red_network, (48, 64), **PLAIN)
    assert mask(image).dtype == np.float32
    np.testing.assert_allclose(mask(image), red, atol=1e-6)
    np.testing.assert_allclose(OnnxMask(red_network, (48, 64), channel_order="BGR", **PLAIN)(image), blue, atol=1e-6)
    normalised = OnnxMask(red_network, (48, 64), (0.2, 0, 0), (0.5, 1, 1), activation="sigmoid")(image)
    np.testing.assert_allclose(normalised, 1 / (1 + np.exp(-(red - 0.2) / 0.5)), atol=1e-6)
    stretched = OnnxMask(red_network, (48, 64), (0.5, 0, 0), (4, 1, 1), activation="minmax")(image)
    np.testing.assert_allclose(stretched, red, atol=1e-5)


@pytest.mark.usefixtures("runtime")
def test_a_mask_has_the_size_of_its_picture(image: np.ndarray, red_network: Path) -> None:
    large = cv2.resize(image, (640, 480), interpolation=cv2.INTER_LINEAR)
    found = OnnxMask(red_network, (48, 64), **PLAIN)(large)
    assert found.shape == (480, 640)
    assert np.abs(found - large[..., 0] / 255).max() < 0.02


def test_a_network_that_cannot_take_the_picture_is_one_line(
    image: np.ndarray, red_network: Path, tmp_path: Path, runtime: str
) -> None:
    (tmp_path / "no.onnx").write_bytes(b"<html>")
    (tmp_path / "two.onnx").write_bytes(red_mask_network(48, 64, masks=2))
    wrong = [(tmp_path / "no.onnx", (48, 64)), (tmp_path / "two.onnx", (48, 64))]
    if runtime == "onnxruntime":  # OpenCV runs it in any size
        wrong.append((red_network, (50, 64)))
    for path, size in wrong:
        with pytest.raises(ConfigError, match=path.name) as error:
            OnnxMask(path, size)(image)
        assert "\n" not in str(error.value)


def test_tracer_sees_a_square_normalised_picture(image: np.ndarray, tmp_path: Path) -> None:
    mask = TracerMask(save(tmp_path / "tracer.pth", 0), input_size=160)
    found = mask(image)
    square = cv2.resize(image, (160, 160)) / 255
    values = (square - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    from data_loader.preparation.tracer import read_tracer

    network, _ = read_tracer(mask.path)
    with torch.inference_mode():
        expected = network(torch.from_numpy(values).float().permute(2, 0, 1)[None])[0, 0].numpy()
    np.testing.assert_allclose(found, cv2.resize(expected, (64, 48)), atol=1e-3)
    (tmp_path / "cut.pth").write_bytes(mask.path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"^weights_file = .*cut\.pth is another file, or damaged; .*TRACER"):
        TracerMask(tmp_path / "cut.pth")(image)


@pytest.mark.parametrize("kind", [OnnxMask, SelfieMask, TracerMask])
def test_a_file_of_another_kind_is_one_line_with_the_argument_and_its_source(
    kind: Any, tmp_path: Path, image: np.ndarray
) -> None:
    (tmp_path / "note.txt").write_text("no network")
    with pytest.raises(ConfigError, match=r"^weights_file = .*note\.txt is .*; set it to [^\n]*$") as error:
        kind(tmp_path / "note.txt")(image)
    assert str(error.value).endswith(kind.SOURCE)
    assert "[ONNXRuntimeError]" not in str(error.value)


def test_a_network_of_bytes_is_not_answered_with_its_size(tmp_path: Path, image: np.ndarray) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "bytes.onnx").write_bytes(bytes_network(48, 64))
    with pytest.raises(ConfigError, match=r"bytes\.onnx: the network takes uint8, not float32 .*set it to") as error:
        OnnxMask(tmp_path / "bytes.onnx", (48, 64))(image)
    assert "input_size" not in str(error.value)


@pytest.mark.parametrize("kind", [OnnxMask, SelfieMask, TracerMask])
def test_a_missing_file_is_named_with_its_source(kind: Any, tmp_path: Path) -> None:
    for path in (None, tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"^weights_file .*(ONNX|mediapipe|TRACER)"):
            kind(path)


def test_a_key_follows_the_content_of_the_file_not_its_name(red_network: Path, tmp_path: Path) -> None:
    (tmp_path / "same.onnx").write_bytes(red_network.read_bytes())
    (tmp_path / "other.onnx").write_bytes(red_mask_network(48, 66))
    keys = [OnnxMask(tmp_path / f"{name}.onnx").key for name in ("red", "same", "other")]
    assert keys[0] == keys[1] != keys[2]


class _Session:
    """What rembg has for each of its networks."""

    def __init__(self, name: str, is_local: bool, folder: Path) -> None:
        self.name, self.is_local, self._folder = lambda: name, lambda: is_local, folder
        self.model_dir = lambda: str(folder)

    def download_models(self) -> str:
        if not list(self._folder.glob("*.onnx")):
            raise OSError("no network")
        return str(next(self._folder.glob("*.onnx")))

    def predict(self, picture: Any) -> list[Any]:
        return [picture.getchannel("R"), picture.getchannel("B")]


@pytest.fixture
def rembg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package of rembg's form, and the folder of its weights."""
    folder = tmp_path / "home"
    folder.mkdir()
    sessions = {"near": _Session("near", True, folder), "far": _Session("far", False, folder)}
    package, inner = types.ModuleType("rembg"), types.ModuleType("rembg.sessions")
    package.new_session, inner.sessions = sessions.__getitem__, sessions  # type: ignore[attr-defined]
    package.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec("rembg", None)
    monkeypatch.setitem(sys.modules, "rembg", package)
    monkeypatch.setitem(sys.modules, "rembg.sessions", inner)
    return folder


def test_masks_of_rembg(rembg: Path, image: np.ndarray) -> None:
    (rembg / "near.onnx").write_bytes(b"weights")
    expected = np.maximum(image[..., 0], image[..., 2]) / 255
    np.testing.assert_allclose(RembgMask("near")(image), expected, atol=1e-6)


def test_sessions_that_send_pictures_away_are_refused_by_name(rembg: Path, image: np.ndarray) -> None:
    for name in ("withoutbg", "atlascloud"):
        with pytest.raises(ValueError, match=f"session = {name} .*server"):
            RembgMask(name)
    with pytest.raises(ConfigError, match=r"session = far .*server"):
        RembgMask("far")(image)
    with pytest.raises(ConfigError, match=r"session = farr .*near$"):
        RembgMask("farr")(image)
    with pytest.raises(ConfigError, match=rf"session = near.*no network.*put near\.onnx into {rembg}"):
        RembgMask("near")(image)


def test_without_the_package_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install .*rembg"):
        RembgMask()


@pytest.mark.long
def test_rembg_itself_runs_a_network_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: np.ndarray
) -> None:
    pytest.importorskip("rembg")
    monkeypatch.setenv("REMBG_HOME", str(tmp_path))
    folder = tmp_path / "models" / "u2netp"
    folder.mkdir(parents=True)
    (folder / "u2netp.onnx").write_bytes(red_mask_network(320, 320))
    found = RembgMask("u2netp")(image)
    assert np.abs(found - image[..., 0] / 255).max() < 0.02  # its output is stretched to 0 to 1


@pytest.mark.skipif(not (SHARED / "weights" / "selfie_segmentation.tflite").is_file(), reason="needs ../shared/weights")
def test_selfie_finds_the_people_of_real_photographs() -> None:
    mask = SelfieMask(SHARED / "weights" / "selfie_segmentation.tflite")
    shares, centres = [], []
    for path in sorted((SHARED / "data" / "real_faces" / "images").glob("fairface_*.jpg"))[:20]:
        found = mask(read_rgb(path))
        assert found.shape == (224, 224)
        shares.append((found > 0.5).mean())
        centres.append(found[90:134, 90:134].mean())
    assert 0.3 < np.mean(shares) < 0.9
    assert np.mean(centres) > 0.9
