"""Each detector's boxes and landmarks, in pixels of the picture it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_loader.preparation.face_detectors import FaceDetector, HaarDetector, MTCNNDetector, YuNetDetector
from tests.data_loader.preparation.tiny_networks import yunet_of_red_blocks
from utils.errors import ConfigError
from utils.images import read_rgb

REAL_FACES = Path(__file__).parents[4] / "shared" / "data" / "real_faces" / "images"


def test_yunet_finds_what_is_red_in_rgb(tmp_path: Path) -> None:
    (tmp_path / "yunet.onnx").write_bytes(yunet_of_red_blocks(128, 128))
    detector = YuNetDetector(0.8, tmp_path / "yunet.onnx")
    image = np.zeros((100, 120, 3), np.uint8)  # no multiple of 32
    image[32:64, 64:96, 0] = 255
    image[0:32, 0:32, 2] = 255
    (face,) = detector(image)
    np.testing.assert_allclose(face.box, [56, 16, 104, 80], atol=1e-3)
    assert face.landmarks is not None
    expected = [[72, 36], [88, 36], [80, 48], [72, 60], [88, 60]]
    np.testing.assert_allclose(face.landmarks, expected, atol=1e-3)
    assert detector(np.zeros((40, 200, 3), np.uint8)) == []


def test_another_file_than_yunet_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^weights_file .*yunet.*onnx"):
        YuNetDetector(0.8, None)
    (tmp_path / "no.onnx").write_bytes(b"no")
    with pytest.raises(
        ConfigError, match=r"^weights_file = .*no\.onnx is another file, or damaged; set it to face_detection_yunet"
    ):
        YuNetDetector(0.8, tmp_path / "no.onnx")(np.zeros((64, 64, 3), np.uint8))


def test_haar_is_always_there() -> None:
    assert HaarDetector()(np.full((64, 64, 3), 120, np.uint8)) == []
    assert len(HaarDetector().key["weights"]) == 64


def test_without_facenet_pytorch_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps facenet-pytorch"):
        MTCNNDetector(0.8)


@pytest.mark.skipif(not REAL_FACES.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("name", "least"), [("haar", 10), ("mtcnn", 19)])
def test_faces_of_real_photographs(name: str, least: int) -> None:
    if name == "mtcnn":
        pytest.importorskip("facenet_pytorch")
    detector: FaceDetector = HaarDetector() if name == "haar" else MTCNNDetector(0.8)
    found = 0
    for path in sorted(REAL_FACES.glob("fairface_*.jpg"))[:20]:
        image = read_rgb(path)
        faces = detector(image)
        found += any((face.box[:2] < 112).all() and (face.box[2:] > 112).all() for face in faces)
        for face in faces:
            assert detector.finds_landmarks == (face.landmarks is not None)
            if face.landmarks is not None:  # left eye, right eye, nose, mouth
                assert face.landmarks[0, 0] <= face.landmarks[1, 0]
                assert face.landmarks[:2, 1].mean() < face.landmarks[3:, 1].mean()
    assert found >= least
    assert detector(np.zeros((5, 9, 3), np.uint8)) == []
