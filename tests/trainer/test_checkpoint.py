"""Which of a run's checkpoints it resumes from, whatever has become of the others."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint import BEST, LAST, Checkpoints, Resumable, read_newest, read_resumable
from trainer.monitor import Monitor
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import CheckpointError

F1 = [0.2, 0.5, 0.4, 0.3]
LOSS = [0.9, 0.8, 0.7, 0.75]
BEST_LOSS = "best_loss.pth"
"""The best by F1 is of epoch 2, by loss of epoch 3."""


def train(folder: Path, first: int = 0, state: dict[str, Any] | None = None, save_period: int = 1) -> None:
    """What a trainer saves of four epochs, resumed after the `first`, and stopped in a fifth."""
    checkpoints, monitors = Checkpoints(folder), [Monitor("max val/f1"), Monitor("min val/loss")]
    for monitor, saved in zip(monitors, (state or {}).get("monitors", []), strict=False):
        monitor.load_state_dict(saved)
    for epoch in range(first + 1, len(F1) + 1):
        better = [each.update(epoch, {"val/f1": F1[epoch - 1], "val/loss": LOSS[epoch - 1]}) for each in monitors]
        names = [name for name, is_better in zip((BEST, BEST_LOSS), better, strict=True) if is_better]
        names += [f"checkpoint-epoch{epoch}.pth"] if save_period else []
        saved = [each.state_dict() for each in monitors]
        checkpoints.save({"completed_epochs": epoch, "batches_done": 0, "monitors": saved}, names)
    checkpoints.save(
        {"completed_epochs": len(F1), "batches_done": 2, "monitors": [each.state_dict() for each in monitors]}
    )


def damage(file: Path) -> None:
    """This name alone, not the others of the same file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)


def contents(folder: Path) -> dict[str, Any]:
    return {path.name: read_checkpoint(path) for path in sorted(folder.glob("*.pth"))}


def resume(folder: Path) -> Resumable | None:
    """None where it is refused."""
    try:
        return read_resumable(folder)
    except CheckpointError:
        return None


def test_with_any_files_damaged_a_run_that_resumes_has_all_of_them_at_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But copies of epochs that are not trained again, which nothing reads. Or it does not resume: exit code 4."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a second in all
    train(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    logging.getLogger("trainer").propagate = True
    resumed_from = []
    for number, spoiled in enumerate(itertools.chain(*(itertools.combinations(whole, n) for n in (0, 1, 2, 4)))):
        folder = tmp_path / str(number)
        train(folder)
        for name in spoiled:
            damage(folder / name)
        caplog.clear()
        resumed = resume(folder)
        if resumed is None:
            assert "checkpoint-epoch1.pth" in spoiled  # else there is one that is before all that was lost
            continue
        file, content, damaged = resumed
        resumed_from.append(file.name)
        assert file.name not in spoiled
        warned = {*caplog.messages}
        assert len(warned) == len(caplog.messages)
        assert all(any(f"/{name}: is damaged" in each for name in spoiled) for each in warned)
        used = {LAST, BEST, BEST_LOSS} & set(spoiled)
        assert all(any(f"/{name}: is damaged" in each for each in warned) for name in used)
        first = content["completed_epochs"]
        if damaged:
            bests = zip((BEST, BEST_LOSS), content["monitors"], strict=True)
            state = {key: content[key] for key in ("completed_epochs", "batches_done", "monitors")}
            Checkpoints(folder).save(state, [name for name, each in bests if each["best_epoch"] == first])
        train(folder, first, content)
        left = [f"checkpoint-epoch{epoch}.pth" for epoch in range(1, first + 1)]
        for name, each in whole.items():
            if name not in left:
                assert read_checkpoint(folder / name) == each, (spoiled, name)
    assert set(resumed_from) == {LAST, BEST, BEST_LOSS, *(f"checkpoint-epoch{epoch}.pth" for epoch in range(1, 5))}


def test_the_newest_is_found_by_its_epoch_not_by_its_name(tmp_path: Path) -> None:
    train(tmp_path, save_period=0)
    damage(tmp_path / LAST)
    file, content = read_newest(tmp_path)
    assert (file.name, content["completed_epochs"]) == (BEST_LOSS, 3)
    damage(tmp_path / BEST)
    with pytest.raises(CheckpointError, match=rf"{BEST}: is damaged.* epoch 2 .*remove it.*{BEST_LOSS}$"):
        read_resumable(tmp_path)
    (tmp_path / BEST).unlink()
    assert read_resumable(tmp_path)[0].name == BEST_LOSS
