"""Every row at a hundredth of its size: what it measures, and that what it measures is what it says."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import run as command
from benchmarks.speed.measuring import Row
from benchmarks.speed.roofline import Limits
from benchmarks.speed.rows import (
    cache_build,
    cpu_training,
    first_batch,
    gpu_training,
    loading,
    prediction,
    trainer_overhead,
    waiting,
)
from benchmarks.speed.workplace import Workplace
from utils.errors import ConfigError


def checked(row: Row, rounds: int = 2) -> dict[str, float]:
    """The medians by name; every figure has one finite value a round."""
    assert len({figure.name for figure in row.figures}) == len(row.figures)
    for figure in row.figures:
        assert len(figure.values) == rounds, figure.name
        assert np.isfinite(figure.values).all(), figure.name
    json.dumps(row.settings)
    return {figure.name: figure.median for figure in row.figures}


def always_two() -> Callable[[], float]:
    """A contender of another process."""
    return two


def two() -> float:
    return 2.0


def targets(row: Row) -> dict[str, tuple[float, float]]:
    return {
        figure.name: (figure.target.floor, figure.target.aim) for figure in row.figures if figure.target is not None
    }


@pytest.mark.long
def test_loading(workplace: Workplace) -> None:
    row = loading.measure(workplace)
    medians = checked(row)
    assert {"JPEG, 0 workers", "JPEG, 1 worker", "memory, 2 workers", "disk, 0 workers"} <= medians.keys()
    assert all(value > 0 for value in medians.values())
    assert sorted(targets(row).values()) == [(1.8, 2.2), (7, 10), (9, 25), (9, 25)]
    assert row.missing == {}


@pytest.mark.long
def test_waiting(workplace: Workplace) -> None:
    row = waiting.measure(workplace)
    medians = checked(row)
    assert len(targets(row)) == 2 * len(waiting.RATES)
    assert all(0 < medians[name] < 100 for name in targets(row))
    assert f"net of 1,000 images/s, {waiting.TEAMS}: hidden" in medians


@pytest.mark.long
def test_the_first_batch_and_the_cache(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_a_process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        first_batch.main(*command[3:])
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out)

    monkeypatch.setattr(subprocess, "run", without_a_process)
    row = first_batch.measure(workplace)
    assert len(targets(row)) == 5
    assert all(value > 0 for value in checked(row).values())
    built = checked(cache_build.measure(workplace))
    assert built["cache on disk, whole build"] == pytest.approx(14 / built["cache on disk"], rel=0.5)


def test_a_forgotten_cache_is_built_again(workplace: Workplace) -> None:
    make = workplace.loader_maker(workplace.records, save_dir="kept", cache="disk", num_workers=0)
    make()
    folder = workplace.folder / "kept"
    assert [path for path in folder.iterdir() if path.is_dir()]
    workplace.forget_images(workplace.records, "kept")
    assert [path.is_file() for path in folder.iterdir()] == [True]  # the check of the files


def test_the_trainers_overhead(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (trainer_overhead.Case("resnet10t", 32, 2, counts=True),)
    monkeypatch.setattr(trainer_overhead, "CASES", {"cpu": cases})
    monkeypatch.setattr(trainer_overhead, "BATCHES_TOGETHER", 3)
    terminals: list[io.StringIO] = []

    class Kept(trainer_overhead._Terminal):
        def __init__(self) -> None:
            super().__init__()
            terminals.append(self)

    monkeypatch.setattr(trainer_overhead, "_Terminal", Kept)
    row = trainer_overhead.measure(workplace)
    assert "epoch 1/" in terminals[0].getvalue()  # the bar was on
    assert targets(row) == {"resnet10t at 32, batch 2: overhead": (2, 1)}
    assert len(checked(row)) == 4
    values = {each.name.partition(": ")[2]: each.values for each in row.figures}
    expected = [
        100 * more / least for more, least in zip(values["trainer, more than that"], values["bare loop"], strict=True)
    ]
    assert values["overhead"] == pytest.approx(expected)
    assert row.settings["updates_of_an_epoch"] == 3


@pytest.mark.long
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_training_on_a_cpu(precision: torch.dtype, workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL_NAME": "resnet10t", "SIDE": 32, "BATCH_SIZE": 2, "UPDATES": 1}.items():
        monkeypatch.setattr(cpu_training, name, value)
    monkeypatch.setattr(cpu_training, "choose_compute_type", lambda *_: precision)
    monkeypatch.setattr(cpu_training, "loop_by_hand", always_two)
    row = cpu_training.measure(workplace)
    medians = checked(row)
    assert medians["float32, the trainer / float32, NCHW, a loop by hand"] == medians["float32, the trainer"] / 2
    if precision == torch.bfloat16:
        assert targets(row) == {"bfloat16, the trainer / float32, NCHW, a loop by hand": (2.0, 2.2)}
    else:
        assert row.missing == {"bfloat16": "no instructions for it here"}


@pytest.mark.long
def test_prediction(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "MODELS", ("resnet10t", "mobilenetv3_small_050"))
    row = prediction.measure(workplace)
    assert len(checked(row)) == 6
    assert len(targets(row)) == 2
    assert len((workplace.folder / "answers.csv").read_text().splitlines()) == 1 + 7
    assert row.settings["images"] == 7


def test_training_on_a_gpu_on_a_cpu(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what only a GPU has: its limits, its synchronisations, and its compiler."""
    counts = iter([3, 23] * 2)  # of an epoch of one step, and of one of three
    monkeypatch.setattr(gpu_training, "COMPILE_MODE", False)
    monkeypatch.setattr(gpu_training, "LEAST_STEPS", 1)
    monkeypatch.setattr(gpu_training, "COUNTED_STEPS", (1, 3))
    monkeypatch.setattr(gpu_training, "measured_limits", lambda *_: Limits(1e9, 1e9))
    monkeypatch.setattr(gpu_training, "forced_synchronisations", lambda work: (work(), next(counts))[1])
    case = gpu_training.Case("resnet10t", 32, 4)
    monkeypatch.setattr(gpu_training, "COUNTED", case)
    row = gpu_training.measure(workplace, case)
    medians = {figure.name: figure.median for figure in row.figures}
    assert medians["ours, forced synchronisations"] == (23 - 3) / 2
    for way in ("ours", "ours, compiled"):
        for feed in ("from the host", "data on the device"):
            name = f"{way}, {feed}"
            share = medians[f"{name}, share of the limit by bytes and arithmetic"]
            assert 0 < medians[f"{name}, share of the limit by bytes alone"] <= share
            assert medians[f"{name} / the teams' loop"] > 0
            assert medians[f"{name} / timm's step"] > 0
    assert targets(row) == {
        "ours, from the host / the teams' loop": (3, 5),
        "ours, compiled, from the host / the teams' loop": (3, 5),
    }
    assert row.missing == {}
    json.dumps(row.settings)


def test_what_does_not_fit_on_a_gpu_is_missing() -> None:
    closed: list[str] = []

    def full() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def entrant(name: str, contender: Any) -> Any:
        return lambda: gpu_training.Entrant({name: contender}, close=lambda: closed.append(name))

    builders = {"first": entrant("first", lambda: 1.0), "large": entrant("large", full), "no room": full}
    entrants, missing = gpu_training.built({**builders, "last": entrant("last", lambda: 2.0)})
    assert [list(each.contenders) for each in entrants] == [["first"], ["last"]]
    assert missing.keys() == {"large", "no room"}
    assert closed == ["large"]


def test_the_command_measures_keeps_and_prints(
    tmp_path: Path,
    photographs: Path,
    workplace: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "QUICK", workplace.scale)
    output = tmp_path / "results.json"
    command.main(["--quick", "--rows", "cache_build", "--data", str(photographs), "--output", str(output)])
    report = json.loads(output.read_text())
    assert list(report["rows"]) == ["cache_build"]
    assert report["rows"]["cache_build"]["scale"]["rounds"] == 2
    assert "decoding alone" in {figure["name"] for figure in report["rows"]["cache_build"]["figures"]}
    printed = capsys.readouterr().out
    assert "## Building the cache" in printed
    assert str(output) in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rows", "loding"], 'loding: is not one of .*did you mean "loading"'),
        (["--rows", "full_size", "loading"], "measured alone"),
        (["--quick", "--write-readme"], "not with --quick"),
        (["--rows", "loading", "one", "gpu_training", "two"], r"^--rows one: .*\n--rows two: [^\n]*$"),
        (["--rows", "loading", "--data", __file__], f"^--data {__file__} is not empty"),
        (["--rows", "loading", "--output", f"{__file__}/x.json"], rf"^--output {__file__}/x.json: cannot be written"),
        (["--rows", "loading", "--output", "/proc/x.json"], "^--output /proc/x.json: cannot be written"),
        pytest.param(
            ["--rows", "gpu_training"],
            "^--rows gpu_training: needs a CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        command.main(arguments)


def test_the_default_rows_are_those_of_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    default = command.chosen_rows(None)
    assert "loading" in default
    assert not {*command.GROUPS["gpu_training"], "full_size"} & set(default)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    of_a_gpu = command.chosen_rows(["gpu_training"])
    assert of_a_gpu == command.GROUPS["gpu_training"]
    assert set(command.chosen_rows(None)) - set(default) == set(of_a_gpu)
    assert command.chosen_rows([of_a_gpu[3], "loading"]) == ["loading", of_a_gpu[3]]


def test_every_module_of_rows_is_a_row_and_stands_in_the_readme() -> None:
    folder = Path(command.__file__).parent
    modules = {path.stem for path in (folder / "speed" / "rows").glob("*.py")} - {"__init__"}
    cases = set(command.GROUPS["gpu_training"])
    assert (command.ROWS.keys() - cases) | {"gpu_training"} == modules
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"[`{name}`](speed/rows/{name}.py)" in readme for name in modules)
