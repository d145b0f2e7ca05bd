"""The largest batch that fits, where a device of a known memory is played by an update that runs out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import train as train_script
from experiment import batch_size
from tests.integration.workplace import TINY, make_data
from trainer.learner import Learner
from utils.errors import ConfigError, UserError
from utils.run_folders import read_kept_config


@pytest.mark.parametrize("step", [1, 3, 8])
def test_it_is_what_trying_every_size_finds(step: int) -> None:
    for most in (step, 4 * step + step // 2, 100, 1000):
        for memory in (0, step - 1, step, 5 * step + 1, 77, 512, 999, 10**6):
            tried = _check_largest(step, most, memory)
            assert len(tried) <= 2 + 2 * max(1, most // step).bit_length()
            assert all(size <= most and size % step == 0 for size in tried)


def _check_largest(step: int, most: int, memory: int) -> list[int]:
    tried: list[int] = []

    def fits(images: int) -> bool:
        tried.append(images)
        return images <= memory

    sizes = [size for size in range(step, most + 1, step) if size <= memory]
    assert batch_size.largest(fits, step, most) == max(sizes, default=0)
    return tried


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """56 photographs, of which 42 are trained; batches of unknown size."""
    make_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = json.loads(json.dumps(TINY))
    values["data_loader"]["args"]["batch_size"] = "auto"
    path = tmp_path / "auto.json"
    path.write_text(json.dumps(values))
    return path


def with_memory_for(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns the sizes of all updates."""
    sizes: list[int] = []
    update = Learner.update

    def limited(learner: Learner, micro_batches: Sequence[Any], *rest: Any) -> bool:
        sizes.append(len(micro_batches[0]))
        if len(micro_batches[0]) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore")
        return update(learner, micro_batches, *rest)

    monkeypatch.setattr(batch_size, "has_memory_of_its_own", lambda _device: True)
    monkeypatch.setattr(Learner, "update", limited)
    return sizes


def test_a_run_keeps_the_number_that_was_found(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the run with that number, also where it is resumed with the same file."""
    sizes = with_memory_for(21, monkeypatch)
    train_script.main(["-c", str(config), "--run-id", "auto"])
    said = capsys.readouterr().out
    assert "16 images, the most that fit" in said
    assert "optimizer.args.lr = " in said
    run = Path("saved/models/Tiny/auto")
    kept = read_kept_config(run)
    assert kept is not None
    assert kept["data_loader"]["args"]["batch_size"] == 16
    assert max(sizes) > 21
    train_script.main(["-c", str(config), "--run-id", "named", "--bs", "16"])
    files = [torch.load(run.with_name(name) / "last.pth", weights_only=True)["model"] for name in ("auto", "named")]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    sizes.clear()
    for arguments in (["--resume", str(run), "-c", str(config)], ["--resume", "auto", "-c", str(config)]):
        train_script.main([*arguments, "--set", "trainer.epochs=2"])
    assert set(sizes) == {16}


def test_where_no_batch_fits_and_where_one_is_too_large(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory_for(7, monkeypatch)
    with pytest.raises(ConfigError, match=r"not even 8 images fit on cpu; lower .*gradient_checkpointing") as caught:
        train_script.main(["-c", str(config)])
    assert caught.value.exit_code == 2
    with pytest.raises(
        UserError, match=r"^cpu: out of memory with batches of 8: lower data_loader\.args\.batch_size"
    ) as told:
        train_script.main(["-c", str(config), "--bs", "8"])
    assert "\n" not in str(told.value)


def test_a_cpu_has_no_memory_of_its_own(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"auto.json: data_loader.args.batch_size .*the run is on the CPU"):
        train_script.main(["-c", str(config)])
    assert not Path("saved/models").exists()
