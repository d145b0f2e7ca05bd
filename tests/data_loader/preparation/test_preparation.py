"""Steps in a row, their key, their report, and what is kept of files."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from data_loader.preparation import BackgroundRemoval, FaceCrop
from data_loader.preparation.build import saved_preparation
from data_loader.preparation.networks import PictureNetwork, Shared
from data_loader.preparation.preparation import Preparation, PreparationStep, fallback_report
from data_loader.preparation.prepared_images import PreparedImages
from tests.data_loader.preparation.tiny_networks import red_mask_network
from utils import threads
from utils.errors import CheckpointError, ConfigError, DataError, StopSignal
from utils.images import read_rgb


class Ruler(PictureNetwork):
    key: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self._network = Shared(dict)


@dataclass(kw_only=True, eq=False)
class Halve(PreparationStep):
    """Cuts a picture in two where it is wider than `least`."""

    least: int = 0
    weights_file: Path | None = None
    fallback: ClassVar[str] = "too narrow"
    looked_at: ClassVar[list[tuple[int, ...]]] = []

    def find(self, image: np.ndarray) -> np.ndarray | None:
        self.looked_at.append(image.shape)
        return np.array([image.shape[1] // 2]) if image.shape[1] > self.least else None

    def apply(self, image: np.ndarray, found: np.ndarray | None) -> np.ndarray:
        return image.copy() if found is None else image[:, : int(found[0])].copy()

    def __post_init__(self) -> None:
        self.network = Ruler()

    @property
    def network_name(self) -> str:
        return "a ruler"


@pytest.fixture(autouse=True)
def looked_at() -> list[tuple[int, ...]]:
    Halve.looked_at.clear()
    return Halve.looked_at


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of 4 x 8, 4 x 16, ... pixels."""
    stream = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), stream.integers(0, 256, (4, 8 * number + 8, 3), dtype=np.uint8))
    return paths


def test_a_step_sees_what_the_steps_before_it_made() -> None:
    image = np.arange(4 * 32 * 3, dtype=np.uint8).reshape(4, 32, 3)
    preparation = Preparation([Halve(), Halve(least=20), Halve(least=8)])
    made, fallbacks = preparation(image)
    np.testing.assert_array_equal(made, image[:, :8])
    assert fallbacks == ["Halve: too narrow"]
    same, none = Preparation([])(image)
    assert same is image
    assert none == []


def test_the_key_is_plain_data_of_settings_and_not_of_paths(tmp_path: Path) -> None:
    def key(**settings: Any) -> str:
        return json.dumps(Preparation([Halve(**settings)]).key)

    assert key() == key(weights_file=tmp_path) != key(least=3)
    crop = FaceCrop(detector="haar")
    assert (
        json.dumps(crop.key)
        == json.dumps(copy.deepcopy(crop).key)
        != json.dumps(FaceCrop(detector="haar", margin=0).key)
    )


def test_the_report_counts_and_lists() -> None:
    assert fallback_report([("a", []), ("b", [])]) == ["all 2 pictures were prepared without a fallback"]
    lines = fallback_report(
        [(f"p{n}", ["no face"] if n % 2 else ["no face", "no person"][n // 4 :]) for n in range(8)], 3
    )
    assert lines == [
        "no face: 6 of 8 pictures (75.0%): p0, p1, p2 and 3 more",
        "no person: 4 of 8 pictures (50.0%): p0, p2, p4 and 1 more",
    ]


def test_each_file_is_looked_at_once(files: list[Path], tmp_path: Path, looked_at: list[Any]) -> None:
    preparation = Preparation([Halve(least=20), Halve(least=1)])
    expected = [preparation(read_rgb(path)) for path in files]
    looked_at.clear()
    for folder in (tmp_path / "kept", None):
        images = PreparedImages(preparation, folder)
        assert images.find_all([*files[1:], files[1]]) == [fallbacks for _, fallbacks in [*expected[1:], expected[1]]]
        assert len(looked_at) == 10
        again = copy.deepcopy(images) if folder is None else PreparedImages(preparation, folder)
        assert again.find_all(files) == [fallbacks for _, fallbacks in expected]
        assert len(looked_at) == 12  # the one file that was not there before
        for path, (image, _) in zip(files, expected, strict=True):
            np.testing.assert_array_equal(again(read_rgb(path), str(path)), image)
        assert len(looked_at) == 12
        looked_at.clear()


def test_what_is_kept_is_of_the_file_as_it_was(files: list[Path], tmp_path: Path, looked_at: list[Any]) -> None:
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    images.find_all(files[5:])
    cv2.imwrite(str(files[5]), np.zeros((4, 6, 3), np.uint8))
    assert images(read_rgb(files[5]), str(files[5])).shape == (4, 3, 3)
    PreparedImages(Preparation([Halve(least=1)]), tmp_path / "kept").find_all(files[5:])
    assert len(looked_at) == 3


def test_a_worker_runs_no_network(files: list[Path], tmp_path: Path) -> None:
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    images.find_all(files[:1])
    process = multiprocessing.get_context("fork").Process(target=_work, args=(images, files, tmp_path))
    process.start()
    process.join()
    assert (tmp_path / "result").read_text() == f"{files[0]} (4, 4, 3)\n{files[1]}: has changed since it was prepared"


def _work(images: PreparedImages, files: list[Path], folder: Path) -> None:
    lines = [f"{files[0]} {images(read_rgb(files[0]), str(files[0])).shape}"]
    try:
        images(read_rgb(files[1]), str(files[1]))
    except DataError as error:
        lines.append(str(error).partition(",")[0])
    (folder / "result").write_text("\n".join(lines))


def test_a_preparation_that_is_stopped_is_continued(
    files: list[Path], tmp_path: Path, looked_at: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Halve.find

    def stop(step: Halve, image: np.ndarray) -> np.ndarray | None:
        if len(looked_at) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return find(step, image)

    monkeypatch.setattr(threads, "number_of_cores", lambda: 1)
    monkeypatch.setattr(Halve, "find", stop)
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    with pytest.raises(StopSignal):
        images.find_all(files)
    assert 2 < len(looked_at) <= len(files)
    assert images.folder is not None
    kept = len(list(images.folder.rglob("*.npz")))
    assert kept == len(looked_at)
    (next(images.folder.rglob("*.npz"))).unlink()  # one at least is left to do, however late the signal came
    assert images.find_all(files) == [[]] * len(files)
    assert len(looked_at) == len(files) + 1


def test_two_that_prepare_at_once_share_the_work(files: list[Path], tmp_path: Path, looked_at: list[Any]) -> None:
    both = [PreparedImages(Preparation([Halve()]), tmp_path / "kept") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(lambda images: images.find_all(files), both)] == [[[]] * len(files)] * 2
    assert len(looked_at) == len(files)


def test_damage_is_repaired(files: list[Path], tmp_path: Path, looked_at: list[Any]) -> None:
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    image, name = read_rgb(files[3]), str(files[3])
    images.find_all([files[3]])
    expected = images(image, name)
    (kept,) = (tmp_path / "kept").rglob("*.npz")
    for damaged in (b"", kept.read_bytes()[:-9], b"\x80\x04N."):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(images(image, name), expected)
        images.find_all([files[3]])
        looked_at.clear()
        np.testing.assert_array_equal(images(image, name), expected)
        assert not looked_at


def test_files_that_cannot_be_read_and_folders_that_cannot_be_written(files: list[Path], tmp_path: Path) -> None:
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    with pytest.raises(DataError, match="absent"):
        images.find_all([*files, tmp_path / "absent.png"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file.*could not be written"):
        PreparedImages(Preparation([Halve()]), tmp_path / "file").find_all(files)


def test_an_upload_is_prepared_and_not_kept(
    files: list[Path], tmp_path: Path, looked_at: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where a file has the name that it goes by; and it is looked at once, however often it is asked for."""
    monkeypatch.chdir(tmp_path)
    files[5].rename("image")
    images = PreparedImages(Preparation([Halve()]), tmp_path / "kept")
    for path in (files[0], files[1], files[0]):
        image = read_rgb(path)
        for _ in range(3):
            np.testing.assert_array_equal(images(image, "image"), image[:, : image.shape[1] // 2])
    assert not (tmp_path / "kept").exists()
    assert len(looked_at) == 3


def test_errors_of_a_network_are_not_the_files(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ConfigError("x.onnx: is no network"), RuntimeError("out of memory")):

        def fail(_: Halve, __: np.ndarray, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Halve, "find", fail)
        with pytest.raises(type(error), match=str(error)):
            PreparedImages(Preparation([Halve()]), None).find_all(files)


def test_it_survives_a_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The network file is found where it was or beside the checkpoint, and told from another of its name."""
    file = tmp_path / "networks" / "mask.onnx"
    file.parent.mkdir()
    file.write_bytes(red_mask_network(8, 8))
    steps = [
        BackgroundRemoval(backend="onnx", weights_file=file, input_size=(8, 8), fill=(1, 2, 3)),
        FaceCrop(detector="haar"),
    ]
    preparation, origin = Preparation(steps), tmp_path / "run" / "model_best.pth"
    saved, key = json.loads(json.dumps(preparation.to_config())), json.dumps(preparation.key)

    def read() -> Preparation:
        found = saved_preparation(saved, origin)
        assert found is not None
        return found

    assert json.dumps(read().key) == key
    assert saved_preparation([], origin) is None
    origin.parent.mkdir()
    moved = file.rename(origin.parent / file.name)
    assert json.dumps(read().key) == key
    moved.write_bytes(red_mask_network(8, 16))
    with pytest.raises(CheckpointError, match=rf"^{origin}: preparation\.0 .*{moved} is not the network"):
        read()
    moved.unlink()
    with pytest.raises(
        ConfigError, match=rf"^{origin}: preparation\.0\.args\.weights_file = .*{file}.*beside model_best"
    ):
        read()
    assert not caplog.messages
    saved[1]["network"]["versions"]["opencv"] = "3.0"
    saved_preparation(saved[1:], origin)
    assert "3.0" in caplog.text
    for damaged in ([{**saved[1], "type": "os.system"}], [{**saved[1], "args": {"detector": "eyes"}}]):
        with pytest.raises(ValueError, match=r"preparation\.0\."):
            saved_preparation(damaged, origin)


def test_what_is_kept_of_a_mask_is_small(tmp_path: Path, files: list[Path]) -> None:
    @dataclass(kw_only=True, eq=False)
    class Disc(Halve):
        def find(self, image: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
            mask = cv2.circle(np.zeros((512, 384), np.uint8), (190, 250), 150, 255, -1)
            return cv2.GaussianBlur(mask, (0, 0), 3)

    PreparedImages(Preparation([Disc()]), tmp_path / "kept").find_all(files[:1])
    (kept,) = (tmp_path / "kept").rglob("*.npz")
    assert os.path.getsize(kept) < 12_000  # noqa: PTH202
