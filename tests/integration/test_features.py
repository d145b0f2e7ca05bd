"""Every idea that people ran by hand runs here to the end, on drawn faces, by the command that the README names."""

from __future__ import annotations

import contextlib
import csv
import importlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from experiment.schema import SECTIONS
from parse_config import ConfigParser
from scripts.make_demo_data import make_demo_data
from tests.data_loader.preparation.tiny_networks import red_mask_network
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.config.layers import Override
from utils.errors import ConfigError
from utils.images import read_rgb

ROOT = Path(__file__).parents[2]

TRAININGS: dict[str, tuple[str, ...]] = {
    "A1 A6 B1 C2 D1 E1 E3": ("-c config.json",),
    "A3": ("-c configs/real_faces.json",),
    "A4": ("-c configs/label_fixes.json",),
    "A5": ("-c configs/age_58.json", "-c configs/six_decades.json", "-c configs/drop_boundary_ages.json"),
    "A6": ("-c configs/image_split.json", "-c configs/all_data.json"),
    "A7": ("-c configs/weighted_sampler.json", "-c configs/up_sampling.json", "-c configs/balanced_weights.json"),
    "A9": ("-c configs/background_removal.json",),
    "A10": ("-c configs/face_crop.json",),
    "B2": ("-c configs/b4.json",),
    "B3": (
        "-c configs/crop_256.json",
        "-c configs/crop_bust_360.json",
        "-c configs/crop_bust_360.json --set data_loader.args.input_size=384",
        "-c configs/inception_299.json",
        "-c configs/resize_128x96.json",
    ),
    "B4": ("-c configs/strong_augmentation.json", "-c configs/random_erasing.json"),
    "B5": ("-c configs/cutmix.json", "-c configs/cutmix_60s.json", "-c configs/mixup.json"),
    "B6": ("-c configs/views_flip.json",),
    "C1": ("-c configs/vit_384.json", "-c configs/swin.json", "-c configs/clip.json", "-c configs/nfnet.json"),
    "C2": (
        "-c configs/head_18_way.json",
        "-c configs/mask_only.json",
        "-c configs/gender_age_only.json",
        "-c configs/gender_age_head.json",
    ),
    "C3": (
        "-c configs/frozen_backbone.json",
        "-c configs/freeze_first_stages.json",
        "-c configs/layer_wise_rates.json",
    ),
    "C4": ("-c configs/multi_sample_dropout.json", "-c configs/gem.json"),
    "C5": ("-c configs/baseline_cnn.json",),
    "C6 D3": ("-c configs/metric_learning.json",),
    "D1": ("-c configs/first_team.json", "-c configs/learned_head_weights.json"),
    "D2": (
        "-c configs/f1_loss.json",
        "-c configs/label_smoothing.json",
        "-c configs/ldam.json",
        "-c configs/ordinal_age.json",
    ),
    "D4": (
        "-c configs/adamp.json",
        "-c configs/lookahead.json",
        "-c configs/sam.json",
        "-c configs/rmsprop.json",
        "--set optimizer.type=Muon",
    ),
    "D5": (
        "-c configs/multi_step.json",
        "-c configs/cosine_warmup.json",
        "-c configs/one_cycle.json",
        "-c configs/plateau.json",
    ),
    "E4": (
        "-c configs/ema.json",
        "-c configs/swa.json",
        "--set trainer.precision=bfloat16",
        "--set trainer.accumulation_steps=4",
        "--set trainer.max_grad_norm=1",
    ),
    "G13": ("-c configs/awp.json",),
    "G14": (
        "-c configs/pseudo_labels.json",
        "-c configs/progressive_sizes.json",
        "-c configs/baseline_cnn.json --set trainer.max_hours=2",
    ),
    "G12": (
        "-c configs/memory_cache.json",
        "--set data_loader.args.cache=none",
    ),
    "E6 G7": ("-c configs/kfold.json", "-c configs/kfold.json --fold 2"),
}
TINY_FAMILIES = {"vit": "test_vit", "swin": "test_vit", "eca_nfnet": "test_nfnet", "inception": "test_efficientnet"}
"""A model of timm's own tiny ones in the place of a large one; test_backbones.py has the large ones."""


def test_every_command_stands_in_a_readme() -> None:
    pages = [ROOT / "README.md", ROOT / "configs" / "README.md", *ROOT.glob("docs/*.md")]
    text = "".join(page.read_text() for page in pages)
    for commands in TRAININGS.values():
        for command in commands:
            for word in shlex.split(command):
                if word.startswith("configs/"):
                    assert f"]({word})" in text or f"]({word.removeprefix('configs/')})" in text, command
                elif word != "config.json":
                    assert word.split("=")[0] in text, command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the project's own, with drawn data where the configs look for it."""
    folder = tmp_path_factory.mktemp("features")
    make_demo_data(folder / "data", 12, 3, seed=3, workers=1)
    for name in ("config.json", "configs"):
        (folder / name).symlink_to(ROOT / name)
    _write_table(folder)
    _write_pseudo_labels(folder)
    (folder / "mask.onnx").write_bytes(red_mask_network(32, 32))
    people = [path.name for path in sorted((folder / "data" / "train" / "images").iterdir())]
    first, gender = people[0].split("_")[0], people[0].split("_")[1]
    other = "female" if gender == "male" else "male"
    (folder / "fixes.csv").write_text(f"person,attribute,value\n{first},gender,{other}\n")
    with contextlib.chdir(folder):
        yield folder


def _write_table(folder: Path) -> None:
    """The same photographs as a table, of which half the rows know the mask alone, and half gender and age alone."""
    target = folder / "data" / "real_faces"
    target.mkdir()
    with (target / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "person", "mask", "gender", "age", "split"])
        for number, path in enumerate(sorted((folder / "data" / "train" / "images").rglob("*.*"))):
            person, gender, _, age = path.parent.name.rsplit("_", 3)
            name = f"{path.parent.name}_{path.name}"
            shutil.copy(path, target / name)
            mask = {"incorrect_mask": "incorrect", "normal": "not_wear"}.get(path.stem, "wear")
            known = (mask, "", "") if number % 2 else ("", gender, age)
            table.writerow([name, person, *known, "test" if int(person) % 6 == 0 else "train"])


def _write_pseudo_labels(folder: Path) -> None:
    """What an ensemble may have said of the photographs to answer: of half of them it is sure."""
    (folder / "submit").mkdir()
    sure, unsure = "0.98,0.01,0.01,0.99,0.01,0.02,0.03,0.95", "0.4,0.3,0.3,0.5,0.5,0.4,0.3,0.3"
    rows = ["ImageID,mask wear,mask incorrect,mask not_wear,gender male,gender female,age <30,age 30-59,age >=60"]
    with (folder / "data" / "eval" / "info.csv").open() as file:
        names = [row["ImageID"] for row in csv.DictReader(file)]
    rows += [f"{name},{sure if number % 2 else unsure}" for number, name in enumerate(names)]
    (folder / "submit" / "ensemble_probabilities.csv").write_text("\n".join(rows))


def small(command: list[str]) -> list[str]:
    """The same command with a small model, small images and one epoch."""
    given = dict(zip(command[::2], command[1::2], strict=False))
    path = given.get("-c", "config.json")
    sets = [word.split("=", 1) for flag, word in itertools.pairwise(command) if flag == "--set"]
    overrides = [Override(*pair) for pair in sets]
    values = ConfigParser.from_file(Path(path), SECTIONS, overrides).resolved
    changes: dict[str, Any] = {
        "n_gpu": 0,
        "data_loader.args.batch_size": 7,
        "data_loader.args.valid_batch_size": 14,
        "data_loader.args.num_workers": 0,
        "trainer.epochs": 2 if (values["weight_averaging"] or {}).get("type") == "StochasticWeightAveraging" else 1,
        "trainer.tensorboard": "false",
        "trainer.verbosity": 1,
        "split.args.stratify": "[]",
    }
    if values["data_loader"]["args"]["progressive_sizes"]:
        changes["data_loader.args.progressive_sizes"] = "[[1, 32], [3, 48]]"
    if (values.get("lr_scheduler") or {}).get("warmup_epochs"):
        changes["trainer.epochs"] = 3
    if "from_epoch" in (values["weight_averaging"] or {}).get("args", {}):
        changes["weight_averaging.args.from_epoch"] = 1
    if values["split"]["type"] != "KFoldSplit":
        changes["split.args.validation_share"] = 0.3
    if values["split"]["type"] == "NoSplit":
        del changes["split.args.stratify"], changes["split.args.validation_share"]
    if values["split"]["type"] == "ImageSplit":
        del changes["split.args.stratify"]
    if values["label_fixes"]:
        changes["label_fixes"] = "fixes.csv"
    for number, step in enumerate(values["preparation"] or []):
        if step["args"]["weights_file"]:
            network = {"backend": "onnx", "weights_file": "mask.onnx", "input_size": "[32, 32]"}
            changes |= {f"preparation.{number}.args.{name}": value for name, value in network.items()}
    named = [step["type"] for side in ("train", "eval") for step in values["transforms"][side]]
    cropped = any(name in named for name in ("CenterCrop", "Crop"))
    if values["arch"]["type"] == "TimmModelMulti":
        name = values["arch"]["args"]["model_name"]
        tiny = next((tiny for family, tiny in TINY_FAMILIES.items() if name.startswith(family)), "test_resnet")
        changes |= {"arch.args.model_name": tiny, "arch.args.pretrained": "false"}
        if tiny == "test_vit":
            changes["arch.args.img_size"] = 48
    if not cropped:
        changes["data_loader.args.input_size"] = 48
    return [*command, *(part for place, value in changes.items() for part in ("--set", f"{place}={value}"))]


def main_of(module: str) -> Any:
    return importlib.import_module(module).main


@pytest.mark.parametrize(
    "command", [pytest.param(command, id=f"{rows}: {command}") for rows, cs in TRAININGS.items() for command in cs]
)
def test_a_training(place: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = small(shlex.split(command))
    # One save_dir for all: the photographs are checked, and resized ones cached, once.
    words += ["--set", f"trainer.save_dir={place / 'saved'}", "--set", f"submit_dir={tmp_path / 'submit'}"]
    run = main_of("train")(words).folders.models
    if "--fold" in words:
        assert [path.name for path in run.glob("fold_*")] == ["fold_2"]
        return
    folds = sorted(run.glob("fold_*"))
    content = read_checkpoint((folds[0] if folds else run) / "last.pth")
    assert content["completed_epochs"] == content["config"]["trainer"]["epochs"]
    if content["config"].get("info_dir") is None:
        return
    main_of("test")(["--resume", str(run), "--bs", "8", "--num-workers", "0"])
    (submission,) = (tmp_path / "submit").glob("*.csv")
    answers = list(csv.DictReader(submission.open()))
    info = list(csv.DictReader((place / "data" / "eval" / "info.csv").open()))
    assert [row["ImageID"] for row in answers] == [row["ImageID"] for row in info]
    assert all(0 <= int(row["ans"]) < 18 for row in answers)
    if folds:
        check_g7_tuning(run, tmp_path)
    capsys.readouterr()


def check_g7_tuning(run: Path, folder: Path) -> None:
    """The folds' predictions are tuned on, and answered by."""
    main_of("scripts.tune")([str(run), "--output", str(folder / "tuned.json")])
    main_of("test")(
        ["-r", str(run), "--decision", str(folder / "tuned.json"), "--output", str(folder / "a.csv"), "--bs", "8"]
    )
    assert all(0 <= int(row["ans"]) < 18 for row in csv.DictReader((folder / "a.csv").open()))


def test_g5_duplicates_across_persons(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training photograph, mirrored among those of the evaluation: found by the command, and told before training."""
    data = tmp_path / "data"
    shutil.copytree(place / "data", data)
    (first, *_), target = (
        sorted((data / "train" / "images").rglob("normal.*")),
        next((data / "eval" / "images").iterdir()),
    )
    cv2.imwrite(str(target), read_rgb(first)[:, ::-1, ::-1])  # BGR
    sets = [f"data.0.args.root={data / 'train'}", f"info_dir={data / 'eval'}", f"trainer.save_dir={tmp_path / 'saved'}"]
    words = ["-c", "config.json", *(word for each in sets for word in ("--set", each))]
    (leak,) = main_of("scripts.find_duplicates")([*words, "--output", str(tmp_path / "found")])
    (pair,) = csv.DictReader((tmp_path / "found" / "duplicates.csv").open())
    assert leak.crosses_sides
    assert pair["kind"] == "mirrored"
    assert {Path(pair["path"]), Path(pair["other_path"])} == {first, target}
    assert read_rgb(tmp_path / "found" / "duplicates.jpg").shape[1] == 2 * 160 + 8
    capsys.readouterr()
    main_of("train")([*small(words), "--dry-run"])
    assert f"evaluation (1 mirrored), such as {pair['path']}" in capsys.readouterr().out
    shutil.copyfile(place / "data" / "eval" / "images" / target.name, target)
    main_of("scripts.find_duplicates")([*words, "--output", str(tmp_path / "found")])  # none: no sheet of earlier ones
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["duplicates.csv"]
    (tmp_path / "found" / "duplicates.csv").write_text("somebody's,own\n")
    with pytest.raises(ConfigError, match="is nothing that this command writes"):
        main_of("scripts.find_duplicates")([*words, "--output", str(tmp_path / "found")])


def test_f6_the_platforms_variables_in_training(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(place / "data" / "train"))
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    words = small(["-c", "config.json"])
    with contextlib.chdir(tmp_path):
        for name in ("config.json", "configs"):
            Path(name).symlink_to(ROOT / name)
        main_of("train")(words)
    (run,) = (tmp_path / "model" / "models").glob("*/*")
    assert (run / "last.pth").exists()


@pytest.mark.usefixtures("place")
def test_e7_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = small(["-c", "configs/sweep.json", "--set", f"trainer.save_dir={tmp_path}"])[2:]
    main_of("scripts.sweep")(["configs/sweep.json", "--trials", "2", "--timeout", "600", "--workers", "2", *words])
    best = json.loads((tmp_path / "sweeps/Sweep/best.json").read_text())
    assert best["optimizer"]["type"] in ("Adam", "RMSprop", "SGD")
    main_of("train")(["-c", str(tmp_path / "sweeps/Sweep/best.json"), "--run-id", "best"])
    scores = [
        max(json.loads(line)["val/f1"] for line in path.read_text().splitlines())
        for path in sorted((tmp_path / "log/Sweep").glob("*/metrics.jsonl"))
    ]
    assert len(scores) == 3
    assert scores[-1] == max(scores)


@pytest.mark.usefixtures("place")
def test_g6_a_head_that_does_not_learn_is_named(tmp_path: Path) -> None:
    words = small(["-c", "configs/baseline_cnn.json", "--set", "loss.heads.age.weight=0"])
    main_of("train")([*words, "--set", f"trainer.save_dir={tmp_path}"])
    (log,) = tmp_path.glob("log/*/*/info.log")
    named = [line for line in log.read_text().splitlines() if "does not learn" in line]
    assert len(named) == 1
    assert "WARNING epoch 1: head age does not learn: the weight of its loss is 0" in named[0]


@pytest.mark.usefixtures("place")
def test_a_rate_to_begin_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It leaves no run behind."""
    words = small(["-c", "configs/baseline_cnn.json", "--set", f"trainer.save_dir={tmp_path / 'saved'}"])
    picture = tmp_path / "new" / "rates.png"
    main_of("scripts.lr_finder")([*words, "--updates", "40", "--lowest", "1e-5", "--output", str(picture)])
    said = capsys.readouterr().out
    assert "--set optimizer.args.lr=" in said or "no rate is suggested: " in said
    assert picture.stat().st_size > 5000
    rows = list(csv.DictReader(picture.with_suffix(".csv").open()))
    assert len(rows) >= 20
    assert [float(rows[number]["lr"]) for number in (0, 1)] == pytest.approx([1e-5, 1e-5 * 1e6 ** (1 / 39)], rel=1e-4)
    assert not list(tmp_path.glob("saved/models/*"))


@pytest.mark.usefixtures("place")
def test_e8_a_run_tracked_by_mlflow(tmp_path: Path) -> None:
    words = small(["-c", "configs/baseline_cnn.json", "--set", "mlflow=true"])
    main_of("train")([*words, "--set", f"trainer.save_dir={tmp_path}"])
    client = importlib.import_module("mlflow").MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("Baseline_CNN").experiment_id])
    (metrics,) = (tmp_path / "log/Baseline_CNN").glob("*/metrics.jsonl")
    assert run.data.metrics["val/f1"] == json.loads(metrics.read_text().splitlines()[-1])["val/f1"]


def test_e9_a_project_of_ones_own_trains(place: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    main_of("scripts.new_project")([str(mine)])
    data = place / "data"
    words = [*small(["-c", "config.json"]), "--set", f"data.0.args.root={data / 'train'}"]
    command = [sys.executable, "train.py", *words, "--set", f"info_dir={data / 'eval'}"]
    trained = subprocess.run(command, cwd=mine, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    (run,) = mine.glob("saved/models/*/*")
    assert (run / "last.pth").exists()


def test_a11_g16_from_bare_faces_to_the_18_classes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks are drawn on faces of which gender and age are known, and joined with others' masks alone."""
    with contextlib.chdir(tmp_path):
        for name in ("config.json", "configs"):
            Path(name).symlink_to(ROOT / name)
        for name in ("faces", "masks"):
            Path("data", name).mkdir(parents=True)
        faces, masks = [["file", "subject", "sex", "age"]], [["path", "person", "mask", "gender", "age"]]
        for folder in sorted((place / "data" / "train" / "images").iterdir())[:6]:
            person, gender, _, age = folder.name.split("_")
            photograph = {path.stem: read_rgb(path)[::4, ::4, ::-1] for path in folder.iterdir()}
            cv2.imwrite(f"data/faces/{person}.png", photograph["normal"])
            faces.append([f"{person}.png", person, gender, age])
            for stem, state in (("mask1", "wear"), ("incorrect_mask", "incorrect")):
                cv2.imwrite(f"data/masks/{person}{stem}.png", photograph[stem])
                masks.append([f"{person}{stem}.png", "a crowd", state, "unknown", "unknown"])
        for name, rows in (("faces", faces), ("masks", masks)):
            Path(f"data/{name}/labels.csv").write_text("\n".join(map(",".join, rows)))
        draw = ["data/faces/labels.csv", "data/drawn_masks", "--detector", "haar", "--workers", "1"]
        main_of("scripts.draw_masks")(draw)
        main_of("train")(small(["-c", "configs/faces_with_drawn_masks.json"]))
        (run,) = Path("saved/models").glob("*/*")
        capsys.readouterr()
        main_of("scripts.predict")([str(run), "data/faces"])
    answers = [int(line.partition(" -> ")[2]) for line in capsys.readouterr().out.splitlines() if " -> " in line]
    assert len(answers) == 6
    assert all(0 <= answer < 18 for answer in answers)


@pytest.fixture(scope="module")
def small_run(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, and test.py's answers of it in answers.csv and answers_probabilities.csv."""
    assert Path.cwd() == place
    folder = tmp_path_factory.mktemp("small run")
    main_of("train")([*small(["-c", "configs/baseline_cnn.json"]), "--set", f"trainer.save_dir={folder}"])
    (run,) = (folder / "models").glob("*/*")
    main_of("test")(["--resume", str(run), "--output", str(run / "answers.csv"), "--probabilities"])
    return run


def test_f5_the_page_answers_as_test(place: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("streamlit.testing.v1")
    monkeypatch.setattr(sys, "argv", ["app.py", f"--save-dir={small_run.parents[2]}"])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    page = testing.AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    rows = list(csv.DictReader((small_run / "answers_probabilities.csv").open()))[:2]
    files = [(row["ImageID"], (place / "data" / "eval" / "images" / row["ImageID"]).read_bytes()) for row in rows]
    page.file_uploader(key="upload").set_value([(*file, "image/jpeg") for file in files]).run()
    assert not page.exception
    table = page.dataframe[0].value
    for (_, shown), row in zip(table.iterrows(), rows, strict=True):
        assert shown["photograph"] == row.pop("ImageID")
        assert {name: float(shown[name]) for name in row} == pytest.approx(
            {name: float(value) for name, value in row.items()}, abs=2e-6
        )


def test_g14_a_probe_and_a_soup(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run, and of the run with another that went on from it; the soup answers as any run."""
    main_of("scripts.probe")(["--resume", str(small_run), "--images", "21"])
    assert "the run, linear" in capsys.readouterr().out
    words = [*small(["-c", "configs/baseline_cnn.json"]), "--from", str(small_run), "--set", "seed=1"]
    main_of("train")([*words, "--set", f"trainer.save_dir={tmp_path}"])
    (other,) = (tmp_path / "models").glob("*/*")
    main_of("scripts.soup")([str(small_run), str(other), "--greedy", "--output", str(tmp_path / "soup")])
    assert "nested estimate" in capsys.readouterr().out
    main_of("test")(["--resume", str(tmp_path / "soup"), "--output", str(tmp_path / "s.csv")])
    assert all(0 <= int(row["ans"]) < 18 for row in csv.DictReader((tmp_path / "s.csv").open()))


@pytest.mark.usefixtures("place")
def test_g11_a_report_of_the_run_and_of_what_test_measured(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = small_run / "report.html"
    trained = report.read_text()
    assert "test.py:" not in trained
    main_of("test")(["--resume", str(small_run), "--split", "validation"])
    (validation,) = [line for line in (small_run / "scores.jsonl").read_text().splitlines() if '"val/f1"' in line]
    low, high = json.loads(validation)["intervals"]["val/f1"]
    (shown,) = re.findall(r"<h3>test.py:.*?</table>", report.read_text(), flags=re.DOTALL)
    assert f"[{low:.3f}, {high:.3f}]" in shown
    assert report.read_text().count('<img src="data:image/jpeg;base64,') > 3
    rows = list(csv.DictReader((small_run / "predictions_validation.csv").open()))
    right = [row["ans"] == row["true ans"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(json.loads(validation)["metrics"]["val/accuracy"])
    assert {row["true gender"] for row in rows} <= {"male", "female"}
    report.unlink()
    main_of("scripts.report")([str(small_run)])
    assert shown in report.read_text()
    assert f"{report}: written" in capsys.readouterr().out


def test_g9_an_exported_run_answers_as_the_run(place: Path, small_run: Path, tmp_path: Path) -> None:
    main_of("scripts.export")([str(small_run), "--to", "safetensors", "--output", str(tmp_path / "exported")])
    main_of("test")(["--resume", str(tmp_path / "exported"), "--output", str(tmp_path / "b.csv"), "--probabilities"])
    main_of("scripts.predict")([str(small_run), str(place / "data" / "eval"), "--output", str(tmp_path / "c.csv")])
    answers = small_run / "answers_probabilities.csv"
    assert answers.read_text() == (tmp_path / "b_probabilities.csv").read_text()
    by_name = [
        {Path(row.pop("ImageID")).name: row for row in csv.DictReader(table.open())}
        for table in (answers, tmp_path / "c.csv")
    ]
    assert by_name[0] == by_name[1]
