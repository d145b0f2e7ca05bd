"""The main road on each device and in each precision; on a GPU with: pytest -m gpu"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.workplace import Workplace
from utils.checkpoint.checkpoint_file import read_checkpoint

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["auto", "float16", "bfloat16", "float32"])
def test_a_run_trains_goes_on_and_answers(workplace: Workplace, device: str, precision: str) -> None:
    config = workplace.write_config({"trainer.precision": precision, "trainer.accumulation_steps": 2, "n_gpu": 1})
    workplace.train("-c", config, "-d", device).check_success()
    workplace.train("--resume", workplace.run, "-d", device, "--set", "trainer.epochs=2").check_success()
    assert read_checkpoint(workplace.folder / workplace.run / "last.pth")["completed_epochs"] == 2
    workplace.test("--resume", workplace.run, "-d", device).check_success()
    assert len(workplace.submissions) == 1


def trained_with(workplace: Workplace, changes: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The last line of metrics that a run of two epochs on the GPU left, and its folder; test.py answers with it."""
    config = workplace.write_config(
        {"n_gpu": 1, "trainer.epochs": 2, "trainer.precision": "float32", "data_loader.args.valid_batch_size": 8}
        | changes
    )
    before = set(workplace.runs)
    workplace.train("-c", config, "-d", "cuda").check_success()
    (run,) = set(workplace.runs) - before
    workplace.test("--resume", run.relative_to(workplace.folder), "-d", "cuda").check_success()
    lines = (workplace.save_dir / "log" / run.relative_to(workplace.save_dir / "models") / "metrics.jsonl").read_text()
    return json.loads(lines.splitlines()[-1]), run


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_gpu_learns_the_same_however_it_is_fed(workplace: Workplace, accumulation_steps: int) -> None:
    """Workers, caches and their pinned slots bring the same images; sums on a GPU may differ in their order."""
    found = {}
    for cache, workers in (("none", 0), ("none", 2), ("memory", 0), ("disk", 2)):
        changes = {
            "data_loader.args.cache": cache,
            "data_loader.args.num_workers": workers,
            "data_loader.args.batch_size": 4,
            "trainer.accumulation_steps": accumulation_steps,
        }
        found[cache, workers] = trained_with(workplace, changes)[0]["train/loss"]
    expected = found.pop(("none", 0))
    assert found == {way: pytest.approx(expected, rel=1e-3) for way in found}


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_compiled_model_learns_the_same_on_a_gpu(
    workplace: Workplace, mode: bool | str, accumulation_steps: int
) -> None:
    """With CUDA graphs too, whose outputs lie in memory that the next replay writes over."""
    changes = {
        "data_loader.args.batch_size": 4,
        "data_loader.args.cache": "memory",
        "trainer.accumulation_steps": accumulation_steps,
    }
    plain, _ = trained_with(workplace, changes)
    compiled, run = trained_with(workplace, changes | {"trainer.compile": mode})
    assert compiled["train/loss"] == pytest.approx(plain["train/loss"], rel=1e-2)
    workplace.train(
        "--resume", run.relative_to(workplace.folder), "-d", "cuda", "--set", "trainer.epochs=3"
    ).check_success()
