"""Every row at a hundredth of its size: what it measures, and that what it measures is what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import run as command
from benchmarks.measuring import Row
from benchmarks.roofline import Limits
from benchmarks.rows import (
    cache_build,
    cpu_training,
    evaluation_feed,
    first_batch,
    full_size,
    gpu_training,
    judging,
    loading,
    trainer_overhead,
    transport,
    waiting,
)
from benchmarks.workplace import Workplace
from data_loader.batch_samplers import BatchKeys
from utils.errors import ConfigError
from utils.run_folders import RunFolders


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def checked(row: Row, rounds: int = 2) -> dict[str, float]:
    """The medians by name; every figure has one finite value a round."""
    assert len({figure.name for figure in row.figures}) == len(row.figures)
    for figure in row.figures:
        assert len(figure.values) == rounds, figure.name
        assert np.isfinite(figure.values).all(), figure.name
    json.dumps(row.settings)
    return {figure.name: figure.median for figure in row.figures}


def targets(row: Row) -> dict[str, tuple[float, float]]:
    return {
        figure.name: (figure.target.floor, figure.target.aim) for figure in row.figures if figure.target is not None
    }


def test_loading(workplace: Workplace) -> None:
    row = loading.measure(workplace)
    medians = checked(row)
    assert {"JPEG, 0 workers", "JPEG, 1 worker", "memory, 2 workers", "disk, 0 workers", "device"} <= medians.keys()
    assert all(value > 0 for value in medians.values())
    assert sorted(targets(row).values()) == [(1.8, 2.2), (7, 10), (9, 25), (9, 25)]
    assert row.missing == {}


def test_the_feed_for_evaluation(workplace: Workplace) -> None:
    row = evaluation_feed.measure(workplace)
    assert {"memory", "disk", "device"} <= checked(row).keys()
    assert list(targets(row).values()) == [(40, 100)]


def test_transport(workplace: Workplace) -> None:
    assert {"slots, workers: 1", "pipe, uint8, workers: 2", "pipe, float32, workers: 2"} <= checked(
        transport.measure(workplace)
    ).keys()
    source = transport.OneImageInSlots(np.full((2, 2, 3), 9, np.uint8), 5)
    made = np.zeros((3, 2, 2, 3), np.uint8)
    source.fill(BatchKeys(0, np.arange(3), np.zeros(3, np.int64)), [made])
    assert (made == 9).all()


def test_waiting(workplace: Workplace) -> None:
    row = waiting.measure(workplace)
    medians = checked(row)
    assert len(targets(row)) == 2 * len(waiting.RATES)
    assert all(0 < medians[name] < 100 for name in targets(row))
    assert f"net of 1,000 images/s, {waiting.TEAMS}: hidden" in medians


def test_the_first_batch_and_the_cache(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_a_process(place: Workplace, workers: int) -> object:
        file = place.config_file({"split": {"type": "NoSplit", "args": {}}}, "process")

        def measure_once() -> float:
            first_batch.main(str(file))
            return float(capsys.readouterr().out) + 0 * workers

        return measure_once

    monkeypatch.setattr(first_batch, "in_fresh_process", without_a_process)
    row = first_batch.measure(workplace)
    assert len(targets(row)) == 3
    assert all(value > 0 for value in checked(row).values())
    built = checked(cache_build.measure(workplace))
    assert built["cache on disk, whole build"] == pytest.approx(14 / built["cache on disk"], rel=0.5)
    assert not any((workplace.folder / "build_memory").glob("*/"))


def test_a_forgotten_cache_is_built_again(workplace: Workplace) -> None:
    make = workplace.loader_maker(workplace.records, save_dir="kept", cache="disk", num_workers=0)
    make()
    folder = workplace.folder / "kept"
    assert [path for path in folder.iterdir() if path.is_dir()]
    workplace.forget_images(workplace.records, "kept")
    assert [path.is_file() for path in folder.iterdir()] == [True]  # the check of the files


def test_the_trainers_overhead(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (
        trainer_overhead.Case("resnet10t", 32, 2, 1.0, counts=False),
        trainer_overhead.Case("mobilenetv3_small_050", 32, 2, 1.0, counts=True),
    )
    monkeypatch.setattr(trainer_overhead, "CASES", cases)
    monkeypatch.setattr(trainer_overhead, "ROUNDS", 1)
    row = trainer_overhead.measure(workplace)
    medians = checked(row)
    assert targets(row) == {"mobilenetv3_small_050 at 32, batch 2: overhead": (2, 1)}
    for figure in row.figures:
        if figure.name.endswith("more than that"):
            bare, share = (f"{figure.name.partition(':')[0]}: {name}" for name in ("bare loop", "overhead"))
            values = {each.name: each.values for each in row.figures}
            expected = [100 * more / least for more, least in zip(figure.values, values[bare], strict=True)]
            assert values[share] == pytest.approx(expected)
    assert len(medians) == 6


def test_training_on_a_cpu(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_training, "MODELS", {"resnet10t": cpu_training.MODELS["efficientnet_b0"]})
    monkeypatch.setattr(cpu_training, "BATCH_SIZE", 2)
    row = cpu_training.measure(workplace)
    assert targets(row) == {"resnet10t: ratio": (2.5, 2.9)}
    assert checked(row).keys() == {f"resnet10t, {name}" for name in (cpu_training.OURS, cpu_training.PLAIN)} | {
        "resnet10t: ratio"
    }
    assert row.settings["chosen"].keys() == {"resnet10t"}


def test_judging(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MODELS", ("resnet10t", "mobilenetv3_small_050"))
    row = judging.measure(workplace)
    assert len(checked(row)) == 4
    assert len((workplace.folder / "answers.csv").read_text().splitlines()) == 1 + 7
    assert row.settings["images"] == 7


def test_training_on_a_gpu_on_a_cpu(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what only a GPU has: its limits, its synchronisations, and its compiler."""
    counts = iter([3, 23] * 2)  # of an epoch of ten steps, and of one of twenty
    monkeypatch.setattr(gpu_training, "COMPILE_MODE", False)
    monkeypatch.setattr(gpu_training, "LEAST_STEPS", 2)
    monkeypatch.setattr(gpu_training, "measured_limits", lambda *_: Limits(1e9, 1e9))
    monkeypatch.setattr(gpu_training, "forced_synchronisations", lambda work: (work(), next(counts))[1])
    figures = gpu_training.measure_case(workplace, "case", "resnet10t", 32, 4)
    medians = {figure.name: figure.median for figure in figures}
    assert medians["case: ours, forced synchronisations"] == (23 - 3) / 2
    assert medians["case: ours / the teams' loop"] > 0
    assert medians["case: ours, share of the limit by bytes and arithmetic"] > 0


def test_the_run_of_full_size_names_the_newest_run(tmp_path: Path) -> None:
    for run in ("1120_100000", "1120_110000", "1119_230000"):
        RunFolders(tmp_path, "Benchmark", run).models.mkdir(parents=True)
    assert full_size.newest_run(tmp_path / "models").name == "1120_110000"


def test_the_command_measures_keeps_and_prints(
    tmp_path: Path,
    photographs: Path,
    workplace: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "QUICK", workplace.scale)
    output = tmp_path / "results.json"
    command.main(["--quick", "--rows", "transport", "--data", str(photographs), "--output", str(output)])
    report = json.loads(output.read_text())
    assert list(report["rows"]) == ["transport"]
    assert report["rows"]["transport"]["scale"]["rounds"] == 2
    printed = capsys.readouterr().out
    assert "## Transport alone" in printed
    assert str(output) in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rows", "loding"], 'loding: is not one of .*did you mean "loading"'),
        (["--rows", "full_size", "loading"], "measured alone"),
        (["--quick", "--write-readme"], "not with --quick"),
        pytest.param(
            ["--rows", "gpu_training"],
            "needs a CUDA device",
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
    assert not {"gpu_training", "full_size"} & set(default)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert set(command.chosen_rows(None)) - set(default) == {"gpu_training"}


def test_every_module_of_rows_is_a_row_and_stands_in_the_readme() -> None:
    folder = Path(command.__file__).parent
    modules = {path.stem for path in (folder / "rows").glob("*.py")} - {"__init__"}
    assert command.ROWS.keys() == modules
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"[`{name}`](rows/{name}.py)" in readme for name in modules)
