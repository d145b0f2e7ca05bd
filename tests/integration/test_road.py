"""From a JSON file to a trained model to a submission."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sklearn.metrics import f1_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import test as test_script
import train as train_script
from tests.integration.drawn_road import assert_same_end, run, weights_and_metrics, write_config
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import DataError


def test_from_json_to_submission(config: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = run(config)
    assert {"config.json", "last.pth", "model_best.pth", "best_loss.pth"} <= {path.name for path in models.iterdir()}

    arguments = ["--resume", str(models), "--answers", str(drawn / "eval_answers.csv"), "--probabilities"]
    result = test_script.main(arguments)
    rows = list(csv.reader(result.submission.open()))
    expected_rows = list(csv.reader((drawn / "eval" / "info.csv").open()))
    assert rows[0] == ["ImageID", "ans"]
    assert [row[0] for row in rows] == [row[0] for row in expected_rows]
    truth = {row["ImageID"]: int(row["ans"]) for row in csv.DictReader((drawn / "eval_answers.csv").open())}
    answers = [int(row[1]) for row in rows[1:]]
    expected = f1_score([truth[row[0]] for row in rows[1:]], answers, average="macro", zero_division=0)
    assert result.scores[0].macro_f1 == pytest.approx(expected)
    assert result.scores[0].interval[0] <= expected <= result.scores[0].interval[1]

    printed = capsys.readouterr().out
    assert "wear male <30" in printed
    file = result.submission.with_name(f"{result.submission.stem}_probabilities.csv")
    table = list(csv.reader(file.open()))
    assert table[0][1:] == ["mask wear", "mask incorrect", "mask not_wear", "gender male", "gender female",
                            "age <30", "age 30-59", "age >=60"]  # fmt: skip
    for row, answer in zip(table[1:], answers, strict=True):
        p = [float(text) for text in row[1:]]
        mask, gender, age = (values.index(max(values)) for values in (p[:3], p[3:5], p[5:]))
        assert sum(p) == pytest.approx(3, abs=1e-5)
        assert answer == mask * 6 + gender * 3 + age


def test_the_validation_split_scores_as_it_did_in_training(config: Path) -> None:
    models = run(config)
    best = read_checkpoint(models / "model_best.pth")
    metrics = [json.loads(line) for line in weights_and_metrics(models)[1].splitlines()]
    result = test_script.main(["--resume", str(models), "--split", "validation"])
    scored = {row.name: row for row in result.scores}
    line = metrics[best["completed_epochs"] - 1]
    assert scored["answer"].macro_f1 == pytest.approx(line["val/f1"])
    assert scored["answer"].accuracy == pytest.approx(line["val/accuracy"])
    for name in ("mask", "gender", "age"):
        assert scored[name].macro_f1 == pytest.approx(line[f"val/{name}_f1"])


def test_the_same_run_twice_is_identical(config: Path) -> None:
    assert_same_end(run(config), run(config))


def test_caches_and_workers_change_no_number(config: Path) -> None:
    first = run(config, "--set", "data_loader.args.cache=disk")
    for loader in ("cache=none num_workers=auto", "cache=memory num_workers=1", "cache=disk num_workers=2"):
        overrides = [part for word in loader.split() for part in ("--set", f"data_loader.args.{word}")]
        assert_same_end(first, run(config, *overrides))


def test_a_dry_run_leaves_no_run(config: Path, tmp_path: Path) -> None:
    train_script.main(["-c", str(config), "--dry-run"])
    assert not (tmp_path / "saved" / "models").exists()


def write_table(path: Path, drawn: Path, known_and_split: dict[int, tuple[set[str], str]]) -> None:
    """Three images of each person listed by number, with the attributes that are known of the person."""
    people = list(csv.DictReader((drawn / "train" / "train.csv").open()))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "person", "mask", "gender", "age", "split"])
        writer.writeheader()
        for number, (known, split) in known_and_split.items():
            person = people[number]
            for stem, mask in (("mask1", "wear"), ("incorrect_mask", "incorrect"), ("normal", "not_wear")):
                labels = {"mask": mask, "gender": person["gender"], "age": person["age"]}
                labels = {name: label for name, label in labels.items() if name in known}
                writer.writerow(
                    {"path": f"{person['path']}/{stem}.jpg", "person": person["id"], "split": split, **labels}
                )


def test_unknown_labels_and_several_sources_train_one_model(tmp_path: Path, drawn: Path) -> None:
    """One source knows masks alone, another gender and age alone: every head learns, from its own."""
    everyone = {"masks": {"mask"}, "people": {"gender", "age"}}
    for parity, (name, known) in enumerate(everyone.items()):
        rows = {number: (known, "eval" if number < 2 else "train") for number in range(parity, 10, 2)}
        write_table(tmp_path / f"{name}.csv", drawn, rows)
    sources = [
        {"type": "AttributeTable",
         "args": {"path": str(tmp_path / f"{name}.csv"), "root": str(drawn / "train" / "images"),
                  "split_column": "split"}}
        for name in ("masks", "people")
    ]  # fmt: skip
    trainer = {"epochs": 1, "save_dir": str(tmp_path / "saved"), "monitor": "max val/mask_f1", "save_best": []}
    config = write_config(tmp_path, drawn, data=sources, trainer=trainer, info_dir=None)
    models = run(config)
    line = json.loads(weights_and_metrics(models)[1])
    assert {"train/loss_mask", "train/loss_gender", "train/loss_age", "val/mask_f1", "val/loss_gender"} <= line.keys()
    assert "val/f1" not in line
    result = test_script.main(["--resume", str(models)])
    assert {row.name: row.num_images for row in result.scores} == {"mask": 3, "gender": 3, "age": 3}


def test_the_published_config_trains_with_nothing_changed_but_its_paths(tmp_path: Path, drawn: Path) -> None:
    """The form of the first team's config: comments, all_loss with triples, data_loader "setup"."""
    text = """{
        "name": "Mask_Published",                    // the run's name
        "n_gpu": 1,
        "arch": {"type": "TimmModelMulti", "args": {"model_name": "test_efficientnet", "pretrained": false}},
        "data_loader": {
            "type": "setup", "args": {"stage": "train", "input_size": 48, "batch_size": 8, "num_workers": 0}
        },
        "optimizer": {"type": "Adam", "args": {"lr": 0.0001, "weight_decay": 0, "amsgrad": true}},
        "loss": "all_loss",                 // the weighted sum over the three heads
        "loss_name": [
            ["focal", [1.4, 7.0, 7.0], 0.375],
            ["focal", [1.6285, 2.5912], 0.25],
            ["focal", [2.8723, 3.9589, 4.5075, 14.0625, 14.0625, 28.4211], 0.375]   /* six ages */
        ],
        "metrics": ["accuracy", "f1"],
        "lr_scheduler": {"type": "StepLR", "args": {"step_size": 5, "gamma": 0.1}},
        "trainer": {"epochs": 1, "save_dir": "SAVED", "save_period": 1, "verbosity": 2, "monitor": "min val/loss",
                    "early_stop": 3, "tensorboard": false},
        "wandb": false, "visualize": false, "submit_dir": "SUBMIT", "info_dir": "INFO"
    }"""
    paths = {"SAVED": tmp_path / "saved", "SUBMIT": tmp_path / "submit", "INFO": drawn / "eval"}
    for word, path in paths.items():
        text = text.replace(word, str(path))
    config = tmp_path / "published.json"
    config.write_text(text)
    models = run(config)
    weights, _ = weights_and_metrics(models)
    assert weights["heads.head_age.weight"].shape[0] == 6
    log = (models.parents[2] / "log" / "Mask_Published" / models.name / "info.log").read_text()
    assert "loss_name" in log
    result = test_script.main(["--resume", str(models)])
    assert result.submission.parent == tmp_path / "submit"


def test_every_tracker_holds_every_number(tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The JSON lines, TensorBoard's events and wandb's offline file of one run, that was resumed in between."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = write_config(tmp_path, drawn, lr_scheduler=None)
    flags = ["--set", "wandb=true", "--set", "visualize=true", "--set", "trainer.tensorboard=true"]
    models = run(config, *flags, "--set", "trainer.epochs=2")
    first_id = read_checkpoint(models / "last.pth")["trackers"]["wandb"]["run_id"]
    assert run(config, *flags, "--resume", "auto") == models
    assert read_checkpoint(models / "last.pth")["trackers"]["wandb"]["run_id"] == first_id

    lines = [json.loads(line) for line in weights_and_metrics(models)[1].splitlines()]
    log = models.parents[2] / "log" / "Road" / models.name
    events = EventAccumulator(str(log), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    scalars = {name for name in events.Tags()["scalars"] if not name.startswith("time/")}
    assert scalars == lines[0].keys() - {"epoch"}
    for name in scalars:
        read = {event.step: event.value for event in events.Scalars(name)}
        assert read == pytest.approx({line["epoch"]: line[name] for line in lines}, rel=1e-5), name
    assert "val/worst/0" in events.Tags()["images"]
    assert len(list((log / "wandb").glob(f"offline-run-*-{first_id}"))) == 2


def test_a_metric_without_labels_cannot_be_followed(tmp_path: Path, drawn: Path) -> None:
    """No age is known among those who validate: a monitor of it would silently never save a best."""
    everything = {"mask", "gender", "age"}
    rows = {number: (everything, "train") if number >= 3 else ({"mask", "gender"}, "val") for number in range(10)}
    write_table(tmp_path / "table.csv", drawn, rows)
    source = {"type": "AttributeTable", "args": {"path": str(tmp_path / "table.csv"), "split_column": "split",
                                                 "root": str(drawn / "train" / "images")}}  # fmt: skip
    trainer = {"epochs": 1, "save_dir": str(tmp_path / "saved"), "verbosity": 0, "save_best": []}
    config = write_config(tmp_path, drawn, data=[source], trainer=trainer, split={"type": "GivenSplit"}, info_dir=None)
    plateau = 'lr_scheduler={"type":"ReduceLROnPlateau","args":{"mode":"max"},"metric":"val/age_f1"}'
    for change, name in (
        ("trainer.monitor=max val/f1", "val/f1"),
        ("trainer.monitor=min val/loss_age", "val/loss_age"),
        (plateau, "val/age_f1"),
    ):
        with pytest.raises(DataError, match=f"watches {name}, but no validation image"):
            run(config, "--set", "trainer.monitor=max val/mask_f1", "--set", change)
    assert not (tmp_path / "saved" / "models").exists()
    run(config, "--set", "trainer.monitor=min val/loss")
