"""An export predicts what its checkpoint predicts, and without the project."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from data_loader.preparation import BackgroundRemoval, FaceCrop
from data_loader.preparation.preparation import Preparation
from data_loader.records.records import Record
from inference.export.export import TOLERANCE, Parity, check_folder, export
from inference.export.exported import EXPORTED_FILE, Format, Precision, load_exported
from inference.export.quantisation import integer_coverage
from inference.predictor import Predictor, predict
from model.model import build_without_weights
from tests.data_loader.preparation.tiny_networks import red_mask_network
from tests.inference.conftest import resize
from utils.checkpoint.checkpoint_file import write_checkpoint
from utils.errors import CheckpointError, StorageFullError

LABELS = LabelSpace(
    {
        "mask": {"classes": ["on", "off"]},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60], "training_bins": [20, 30, 60]},
    },
    {"mask": ["mask"], "gender_age": ["gender", "age"]},
)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "convnet": {"type": "BaselineCNN", "args": {"width": 8}},
    "resnet": {"type": "TimmModelMulti", "args": {"model_name": "test_resnet"}},
    "efficientnet": {"type": "TimmModelMulti", "args": {"model_name": "test_efficientnet"}},
    "vit": {"type": "TimmModelMulti", "args": {"model_name": "test_vit", "img_size": 32}},
}

PredictorOf = Callable[..., Predictor]


@pytest.fixture(scope="module")
def predictor_of(tmp_path_factory: pytest.TempPathFactory) -> PredictorOf:
    """A predictor of an untrained model, sharpened so that its answers differ between images."""

    def make(
        arch: dict[str, Any], transforms: list[dict[str, Any]] | None = None, preparation: Preparation | None = None
    ) -> Predictor:
        torch.manual_seed(1)
        model = build_without_weights(arch, LABELS.num_classes)
        for module in model.modules():  # statistics of no data would make every image the same
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        for head in LABELS.heads:
            model.get_parameter(f"heads.head_{head}.weight").data *= 100
        steps = [] if preparation is None else preparation.to_config()
        statistics = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
        preprocessing = Preprocessing((32, 32), *statistics, transforms or resize(32, 32), preparation=steps)
        config = {"name": "Test", "arch": arch, "data_loader": {"args": {"num_workers": 0, "batch_size": 4}}}
        file = tmp_path_factory.mktemp("run") / "model_best.pth"
        content = {
            "model": model.state_dict(),
            "config": {**config, "trainer": {"save_dir": str(file.parent / "saved")}, "data": []},
            "labels": LABELS.to_config(),
            "preprocessing": preprocessing.to_config(),
            "run_name": "run",
            "completed_epochs": 3,
        }
        write_checkpoint(file, content)
        return Predictor.from_checkpoint(file)

    return make


def check_equal(predictor: Predictor, exported: Predictor, records: list[Record], tolerance: float) -> None:
    """On files, for batches of several sizes, in probabilities of heads, attributes and joint classes."""
    (expected,) = predict([predictor], records)
    assert float(expected.by_attribute["mask"].std(dim=0).max()) > 1e-3  # there is something to compare
    for batch_size in (1, 3, len(records)):
        (found,) = predict([exported], records, batch_size, 0)
        for name, table in expected.by_head.items():
            torch.testing.assert_close(found.by_head[name], table, rtol=0, atol=tolerance)
        for name, table in expected.by_attribute.items():
            torch.testing.assert_close(found.by_attribute[name], table, rtol=0, atol=tolerance)
        assert found.joint is not None
        assert expected.joint is not None
        torch.testing.assert_close(found.joint, expected.joint, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["efficientnet", "vit"])  # a convnet below, with its example
def test_onnx_is_equal(name: str, predictor_of: PredictorOf, records: list[Record], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    predictor = predictor_of(ARCHITECTURES[name])
    parity = export(predictor, tmp_path / "exported", "onnx", "float32", records)
    assert parity.largest <= TOLERANCE
    assert parity.changed == 0
    assert parity.num_images == len(records)
    check_equal(predictor, load_exported(tmp_path / "exported"), records, TOLERANCE)


@pytest.mark.parametrize(("name", "precision"), [("convnet", "half"), ("vit", "int8"), ("efficientnet", "int8")])
def test_less_precision_is_measured(
    name: str, precision: Precision, predictor_of: PredictorOf, records: list[Record], tmp_path: Path
) -> None:
    """Against the truth of plain float32; what is reported is what is found on the same images."""
    pytest.importorskip("onnxruntime")
    predictor, folder = predictor_of(ARCHITECTURES[name]), tmp_path / "exported"
    parity = export(predictor, folder, "onnx", precision, records, calibration=records)
    exported = load_exported(folder)
    expected, found = predict([predictor, exported], records)
    largest = max(float((found.by_head[head] - table).abs().max()) for head, table in expected.by_head.items())
    assert parity.largest >= largest > 0
    assert exported.run_name == f"run-onnx-{precision}"
    weights = sum(each.numel() for each in predictor.model.parameters()) * 4
    assert (folder / "model.onnx").stat().st_size < weights + 100_000
    if precision == "int8":  # all but attention's products of two activations, two in each of six layers; or the first
        found_numbers = re.findall(r"(\d+) of (\d+)", integer_coverage(folder / "model.onnx"))
        left = [int(whole) - int(quantised) for quantised, whole in found_numbers]
        assert left == ([0, 12] if name == "vit" else [min(8, int(found_numbers[0][1]) // 2), 0])
        assert min(int(quantised) for quantised, _ in found_numbers) > 0


@pytest.fixture
def preparation(tmp_path: Path) -> Preparation:
    """With a network of its own, and one of OpenCV's."""
    network = tmp_path / "mask.onnx"
    network.write_bytes(red_mask_network(16, 16))
    settings: Any = {"input_size": (16, 16), "mean": (0.0,) * 3, "std": (0.8,) * 3, "fill": (90, 128, 160)}
    mask = BackgroundRemoval(backend="onnx", weights_file=network, **settings)
    return Preparation([mask, FaceCrop(detector="haar")])


def test_weights_are_equal(
    predictor_of: PredictorOf, records: list[Record], preparation: Preparation, tmp_path: Path
) -> None:
    """With a preparation, whose network's file is no longer where it was."""
    predictor = predictor_of(ARCHITECTURES["convnet"], None, preparation)
    parity = export(predictor, tmp_path / "exported", "safetensors", "float32", records)
    assert parity.largest <= TOLERANCE
    predict([predictor], records)  # and what its network finds is kept
    (tmp_path / "mask.onnx").unlink()
    check_equal(predictor, load_exported(tmp_path / "exported"), records, 1e-6)
    (tmp_path / "exported" / "preparation_0.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.json: preparation\.0 .*preparation_0\.onnx"):
        load_exported(tmp_path / "exported")


def test_noise_is_compared_where_there_are_no_photographs(predictor_of: PredictorOf, tmp_path: Path) -> None:
    parity = export(predictor_of(ARCHITECTURES["convnet"]), tmp_path / "exported", "safetensors", "float32", [])
    assert parity == Parity(parity.largest, parity.num_images, True, 0, [], [])
    assert "noise" in (tmp_path / "exported" / "README.md").read_text()


@pytest.mark.parametrize(("kind", "cropped"), [("onnx", True), ("torch", False)])
def test_the_example_runs_without_the_project(
    kind: Format,
    cropped: bool,
    predictor_of: PredictorOf,
    records: list[Record],
    preparation: Preparation,
    tmp_path: Path,
) -> None:
    """With a list of transforms, or with a preparation, which changes what is predicted."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    transforms = [{"type": "CenterCrop", "args": {"height": 30, "width": 28}}, *resize(32, 32)] if cropped else None
    plain, folder = predictor_of(ARCHITECTURES["resnet"], transforms), tmp_path / "elsewhere"
    predictor = plain if cropped else predictor_of(ARCHITECTURES["resnet"], transforms, preparation)
    parity = export(predictor, folder, kind, "float32", records)
    assert parity.largest <= TOLERANCE
    if kind == "onnx":
        check_equal(predictor, load_exported(folder), records, TOLERANCE)
    lines_of_code = [line for line in (folder / "example.py").read_text().splitlines() if line.strip()]
    assert len(lines_of_code) <= 40
    photograph = tmp_path / "photograph.jpg"
    Image.open(records[0].path).save(photograph, quality=95)
    files = [*(record.path for record in records), photograph]
    # -I: neither the folder of the project nor its variables are seen
    everywhere = [Record(path, path.name, path.name, {}, "test") for path in files]
    (expected,) = predict([predictor], everywhere)
    if not cropped:
        (tmp_path / "mask.onnx").unlink()
        (without,) = predict([plain], everywhere)
        assert float((without.by_attribute["age"] - expected.by_attribute["age"]).abs().max()) > 0.1
    command = [sys.executable, "-I", str(folder / "example.py"), *map(str, files)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = iter(made.stdout.splitlines())
    for row, path in enumerate(files):
        for name, attribute in LABELS.predicted_attributes.items():
            table = expected.by_attribute[name][row]
            found = re.fullmatch(rf"{re.escape(str(path))}: {name} (\S+) \((\d\.\d+)\)", next(lines))
            assert found is not None
            best = attribute.class_names.index(found[1])
            tolerance = 2e-3 if path is not photograph else 0.05  # another decoder
            assert float(found[2]) == pytest.approx(float(table[best]), abs=tolerance)
            assert float(table.max() - table[best]) < 2 * tolerance
    assert next(lines, None) is None
    (tmp_path / "note.txt").write_text("no picture")
    for arguments, words in (([], "name photographs: "), (["note.txt"], "note.txt: cannot be read as a picture: ")):
        refused = subprocess.run([*command[:3], *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.startswith(words)
        assert len(refused.stderr.splitlines()) == 1


def test_the_folder_says_what_it_is(predictor_of: PredictorOf, records: list[Record], tmp_path: Path) -> None:
    export(predictor_of(ARCHITECTURES["convnet"]), tmp_path / "exported", "safetensors", "float32", records)
    described = json.loads((tmp_path / "exported" / "model.json").read_text())
    assert described["classes"] == {
        "mask": ["on", "off"],
        "gender": ["male", "female"],
        "age": ["<30", "30-59", ">=60"],
    }
    file = tmp_path / "exported" / "model.json"
    file.write_text(json.dumps(described))  # other white space is no other content
    load_exported(tmp_path / "exported")
    for classes in (["off", "on"], ["with", "without"]):
        mask = {**described["labels"]["attributes"]["mask"], "classes": classes}
        labels = {**described["labels"], "attributes": {**described["labels"]["attributes"], "mask": mask}}
        file.write_text(json.dumps({**described, "labels": labels}))
        with pytest.raises(CheckpointError, match=r"^.*model\.json: was edited .*export again[^\n]*$"):
            load_exported(tmp_path / "exported")
    assert described["outputs"] == ["mask", "gender", "age", "head_mask", "head_gender_age"]
    assert Preprocessing.from_config(described["preprocessing"]).image_hw == (32, 32)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "BaselineCNN" in card
    assert "30-59" in card


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_of_an_export_that_fails_nothing_is_left(
    error: BaseException, predictor_of: PredictorOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the same command may be given again."""
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "new", tmp_path / "there"):
        with monkeypatch.context() as patch:
            patch.setattr("inference.export.export.model_card", raising(error))
            with pytest.raises(StorageFullError if isinstance(error, OSError) else KeyboardInterrupt):
                export(predictor_of(ARCHITECTURES["convnet"]), folder, "safetensors", "float32", [])
        assert folder.exists() == (folder.name == "there")
        check_folder(folder)
        export(predictor_of(ARCHITECTURES["convnet"]), folder, "safetensors", "float32", [])
        assert (folder / EXPORTED_FILE).is_file()


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail
