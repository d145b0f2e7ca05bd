"""The main road on each device and in each precision; on a GPU with: pytest -m gpu"""

from __future__ import annotations

import pytest
import torch

from tests.integration.workplace import Workplace
from utils.checkpoint_file import read_checkpoint

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["auto", "float16", "bfloat16", "float32"])
def test_a_run_trains_goes_on_and_answers(workplace: Workplace, device: str, precision: str) -> None:
    config = workplace.write_config({"trainer.precision": precision, "trainer.accumulation_steps": 2, "n_gpu": 1})
    workplace.train("-c", config, "-d", device).check_success()
    workplace.train("--resume", workplace.run, "-d", device, "--set", "trainer.epochs=2").check_success()
    assert read_checkpoint(workplace.folder / workplace.run / "last.pth")["completed_epochs"] == 2
    workplace.test("--resume", workplace.run, "-d", device).check_success()
    assert len(workplace.submissions) == 1
