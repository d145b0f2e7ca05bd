"""scripts.export and scripts.predict as a user runs them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import test
from benchmarks.equal_numbers import differences, predict_everywhere
from inference.export.export import TOLERANCE
from inference.predictor import Predictor, find_checkpoint
from inference.scoring.scores import read_scores
from scripts import export, predict
from tests.integration.workplace import EVALUATION_NAMES, Outcome, Workplace, copy_into, photograph
from utils.images.decoding import read_rgb


def run_export(workplace: Workplace, *argv: str | Path) -> Outcome:
    return workplace._run(export.main, argv)


def run_predict(workplace: Workplace, *argv: str | Path) -> Outcome:
    return workplace._run(predict.main, argv)


@dataclass(frozen=True)
class Export:
    """An exported folder, to be copied, and what the command printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def onnx_export(made_data: Path, made_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Of a run that test.py has scored; made once, as it takes seconds."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("exported")
    copy_into(made_data, folder)
    copy_into(made_run, folder / "saved")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        (run,) = Path("saved/models/Tiny").iterdir()
        answers = Path("answers.csv")
        rows = "".join(f"{name},{number}\n" for number, name in enumerate(EVALUATION_NAMES))
        answers.write_text(f"ImageID,ans\n{rows}", encoding="utf-8")
        test.main(["--resume", str(run), "--answers", str(answers)])
        export.main([str(run), "--to", "onnx"])
    return Export(folder / run / "exported_onnx", printed.getvalue())


def test_an_export_answers_as_its_run(trained: Workplace, onnx_export: Export) -> None:
    assert "validation images, one by one and in batches: largest difference of a probability" in onnx_export.printed
    assert "macro F1" in onnx_export.printed
    folder = trained.run / "exported_onnx"
    copy_into(onnx_export.folder, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "example.py", "model.json", "model.onnx"]
    (tested,) = read_scores(onnx_export.folder.parent)
    card = (folder / "README.md").read_text()
    for name in ("f1", "mask_f1", "gender_f1", "age_f1", "age_accuracy"):
        low, high = tested.intervals[f"test/{name}"]
        line = f"    {name:<16} {tested.metrics[f'test/{name}']:.4f} [{low:.4f}, {high:.4f}]\n"
        assert line in card
    assert 'PersonSplit {"validation_share": 0.25' in card
    outputs = []
    for resumed, name in ((trained.run, "a.csv"), (folder, "b.csv")):
        trained.test("--resume", resumed, "--output", name, "--probabilities").check_success()
        text = Path(name.replace(".", "_probabilities.")).read_text(encoding="utf-8")
        outputs.append([*csv.reader(text.splitlines())])
        assert len(outputs[-1]) == 7
    for one, other in zip(*outputs, strict=True):
        assert one[0] == other[0]
        if one[0] != "ImageID":
            assert [*map(float, one[1:])] == pytest.approx([*map(float, other[1:])], abs=TOLERANCE + 1e-6)
    trained.test("--resume", trained.run, folder, "--output", "both.csv", "--tta", "flip").check_success()
    trained.test("--resume", folder).check_success()
    assert [path.stem for path in trained.submissions] == [f"Tiny_{trained.run.name}-onnx"]
    answers = (onnx_export.folder.parents[4] / "answers.csv").read_bytes()
    trained.test("--resume", folder, "--answers", trained.write("answers.csv", answers)).check_success()
    assert len(read_scores(folder)) == 1
    assert not read_scores(trained.run)


@pytest.mark.filterwarnings("ignore")
def test_the_numbers_are_equal_everywhere(trained: Workplace, onnx_export: Export) -> None:
    """Predictor, test.py, the page and the ONNX graph, on files of several sizes and formats."""
    pytest.importorskip("streamlit")
    files = sorted(trained.info_dir.glob("images/*.jpg"))[:3]
    for number, size_hw in enumerate(((31, 77), (200, 150), (64, 64))):
        files.append(trained.folder / f"{number}.png")
        Image.fromarray(photograph(number, size_hw)).save(files[-1])
    found = predict_everywhere(trained.run.absolute(), onnx_export.folder, files)
    assert found.keys() == {"Predictor", "test.py", "ONNX", "page"}
    assert all(table.shape == (6, 8) for table in found.values())
    assert found["Predictor"].std(axis=0).max() > 1e-4
    tolerances = {"Predictor": 0, "page": 0, "test.py": 2e-6, "ONNX": TOLERANCE}  # test.py writes six places
    for name, largest in differences(found).items():
        assert largest <= tolerances[name]


def test_what_less_precision_costs_is_printed(trained: Workplace) -> None:
    pytest.importorskip("onnxruntime")
    made = run_export(trained, trained.run, "--to", "onnx", "--int8", "--output", "small")
    made.check_success()
    assert "before" in made.out
    assert "calibrated on 42 training images" in made.out
    assert "8-bit integers compute 2 of 4 convolutions and 3 of 3 matrix products" in made.out
    trained.test("--resume", "small").check_success()
    shutil.rmtree("data/train")
    refused = run_export(trained, trained.run, "--to", "onnx", "--int8", "--output", "another")
    refused.check_refusal(2, ("--int8: needs training photographs",))


def test_without_the_runs_data_noise_is_compared(trained: Workplace) -> None:
    shutil.rmtree("data/train")
    made = run_export(trained, trained.run, "--to", "safetensors", "--output", "exported")
    made.check_success()
    assert "32 images of noise" in made.out
    run_export(trained, trained.run, "--to", "safetensors", "--output", "exported").check_success()  # replaced
    trained.test("--resume", "exported", "--output", "x.csv").check_success()


def test_what_cannot_be_exported_is_refused(trained: Workplace) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("x")
    for argv, code, fragments in (
        ((trained.run, "--to", "safetensors", "--output", "full"), 2, ("--output full: ",)),
        ((trained.run, "--to", "safetensors", "--half"), 2, ("--half: ", "onnx")),
        ((trained.run, "--to", "torch", "--images", "0"), 2, ("--images 0: ",)),
        ((trained.run, "--to", "torch", "--checkpoint", "best_f9"), 4, (f"{trained.run}: ", "best_f9")),
        (("nowhere", "--to", "torch"), 4, ("nowhere: ",)),
        ((trained.run, "--to", "coreml"), 2, ("scripts.export: ", "coreml")),
        ((trained.run, "--to", "onnx", "--half", "--int8"), 2, ("scripts.export: ", "--int8")),
    ):
        run_export(trained, *argv).check_refusal(code, fragments)
    assert Path("full/mine.txt").read_text() == "x"


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line(trained: Workplace, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    outcome = run_export(trained, trained.run, "--to", "onnx", "--output", "exported")
    outcome.check_refusal(2, ("--to onnx: ", name, "pip install "))
    assert not Path("exported").exists()


def test_an_onnx_folder_without_onnxruntime(
    trained: Workplace, onnx_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_into(onnx_export.folder, Path("exported"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    trained.test("--resume", "exported").check_refusal(2, ("exported/model.onnx: ", "pip install onnxruntime"))


def test_a_program_is_for_others(trained: Workplace) -> None:
    """Reading one can run code."""
    run_export(trained, trained.run, "--to", "torch", "--output", "exported").check_success()
    refused = trained.test("--resume", "exported")
    refused.check_refusal(4, ("exported/model.pt2: ", "onnx or safetensors"))


def test_an_incomplete_folder_is_refused(trained: Workplace) -> None:
    run_export(trained, trained.run, "--to", "safetensors", "--output", "exported").check_success()
    folder = Path("exported")
    weights, description = folder / "model.safetensors", folder / "model.json"
    complete, described = weights.read_bytes(), description.read_text()

    def check_refused(line: str) -> None:
        trained.test("--resume", "exported", "--output", "x.csv").check_refusal(4, line)

    weights.unlink()
    check_refused("exported/model.safetensors: ")
    weights.write_bytes(complete[:-1] + bytes([complete[-1] ^ 1]))
    check_refused("exported/model.safetensors: ")
    weights.write_bytes(complete)
    description.write_text(described[:-20])
    check_refused("exported/model.json: ")
    for key in ("labels", "preprocessing", "format", "sha256", "content_sha256", "trained"):
        kept = {name: value for name, value in json.loads(described).items() if name != key}
        description.write_text(json.dumps(kept))
        check_refused("exported/model.json: ")
    description.unlink()
    check_refused("exported: ")
    description.write_text(described)
    trained.test("--resume", "exported", "--output", "x.csv").check_success()


def test_a_run_of_folds_is_exported_fold_by_fold(workplace: Workplace) -> None:
    split = {"type": "KFoldSplit", "args": {"folds": 2}}
    workplace.train("-c", workplace.write_config({"split": split})).check_success()
    refused = run_export(workplace, workplace.run, "--to", "safetensors")
    refused.check_refusal(2, (f"{workplace.run}: ", "fold_0"))
    run_export(workplace, workplace.run / "fold_0", "--to", "safetensors").check_success()
    run_predict(workplace, workplace.run, "data/eval/images").check_success()


def test_predict_a_file_a_folder_and_a_table(trained: Workplace) -> None:
    predictor = Predictor.from_checkpoint(find_checkpoint(trained.run))
    files = sorted(trained.info_dir.glob("images/*.jpg"))
    outcome = run_predict(trained, trained.run, "data/eval", files[0], "--output", "x.csv")
    outcome.check_success()
    rows = [*csv.DictReader(Path("x.csv").read_text(encoding="utf-8").splitlines())]
    assert [row["ImageID"] for row in rows] == [
        *(str(path.relative_to(trained.folder)) for path in files),
        str(files[0]),
    ]
    for row, path in zip(rows, [*files, files[0]], strict=True):
        predicted = predictor.predict_image(read_rgb(path))
        expected = {f"{name} {text}": value for name, classes in predicted.items() for text, value in classes.items()}
        assert {key: float(value) for key, value in row.items() if key != "ImageID"} == pytest.approx(
            expected, abs=2e-6
        )
    single = run_predict(trained, trained.run, files[0])
    single.check_success()
    (line,) = single.out.splitlines()
    assert line.startswith(f"{files[0]}: mask ")
    for name, classes in predictor.predict_image(read_rgb(files[0])).items():
        best = max(classes, key=lambda text: classes[text])
        assert f"{name} {best} ({classes[best]:.3f})" in line


def test_what_cannot_be_predicted_is_named(trained: Workplace) -> None:
    trained.write("data/mine/good.jpg", (trained.info_dir / "images" / "aaaaaaaa.jpg").read_bytes())
    trained.write("data/mine/bad.jpg", "not an image")
    Path("empty").mkdir()
    bad = run_predict(trained, trained.run, "data/mine", "--output", "x.csv")
    assert bad.exit_code == 3
    assert "data/mine/bad.jpg" in bad.err
    assert "good" not in bad.err
    assert not Path("x.csv").exists()
    inputs: Sequence[tuple[tuple[str | Path, ...], int, str]] = (
        ((trained.run, "empty"), 3, "empty: "),
        ((trained.run, "nothing.jpg"), 3, "nothing.jpg: "),
        (("nowhere", "data/mine/good.jpg"), 4, "nowhere: "),
        ((trained.run, "data/mine/good.jpg", "--output", "data/mine/good.jpg"), 2, "--output data/mine/good.jpg: "),
    )
    for argv, code, line in inputs:
        run_predict(trained, *argv).check_refusal(code, line)
