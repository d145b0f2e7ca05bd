"""What a run watches exists, and is watched the way in which it gets better."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.schema import METRICS
from tests.integration.workplace import Workplace

MONITORS = {"min val/loss", "max val/f1", "max val/age_f1", "min val/loss_gender", "max train/mask_accuracy"}


def turned(monitor: str) -> str:
    return monitor.replace("min ", "mxn ").replace("max ", "min ").replace("mxn ", "max ")


@pytest.mark.parametrize("monitor", sorted(MONITORS))
@pytest.mark.parametrize("key", ["trainer.monitor", "trainer.save_best"])
def test_the_wrong_direction_is_refused_with_the_right_one(empty_workplace: Workplace, key: str, monitor: str) -> None:
    as_list = key == "trainer.save_best"
    right, wrong = ({key: [text] if as_list else text} for text in (monitor, turned(monitor)))
    empty_workplace.train("--config", empty_workplace.write_config(right), "--print-config").check_success()
    outcome = empty_workplace.train_and_change_nothing("--config", empty_workplace.write_config(wrong))
    key_path = f"{key}.0" if as_list else key
    outcome.check_refusal(2, (f'tiny.json: {key_path} = "{turned(monitor)}"', f'"{monitor}"'))


def balanced_error(confusion: Any) -> float:
    return float(1 - (confusion.diagonal() / confusion.sum(dim=1)).mean())


@pytest.mark.parametrize(("direction", "refused"), [("min", "max"), ("max", "min"), (None, "min")])
def test_a_plug_in_metric_has_a_direction(
    empty_workplace: Workplace, monkeypatch: pytest.MonkeyPatch, direction: str | None, refused: str
) -> None:
    monkeypatch.setitem(METRICS.own, "balanced_error", balanced_error)
    if direction is not None:
        monkeypatch.setattr(balanced_error, "direction", direction, raising=False)
    for mode in ("min", "max"):
        changes = {"metrics": ["f1", "balanced_error"], "trainer.monitor": f"{mode} val/balanced_error"}
        outcome = empty_workplace.train("--config", empty_workplace.write_config(changes), "--print-config")
        assert outcome.exit_code == (2 if mode == refused else 0)


@pytest.mark.parametrize(("mode", "exit_code"), [("min", 2), ("max", 0)])
def test_a_schedule_follows_its_metric_rightly(empty_workplace: Workplace, mode: str, exit_code: int) -> None:
    """glossy_f1 is no loss, though its name holds one."""
    changes = {
        "labels": {
            "attributes": {"glossy": {"classes": ["wear", "incorrect", "not_wear"]}},
            "heads": {"glossy": ["glossy"], "gender": ["gender"], "age": ["age"]},
        },
        "loss": {"heads": {"mask": None, "glossy": {"type": "CrossEntropyLoss"}}},
        "lr_scheduler": {"type": "ReduceLROnPlateau", "args": {"mode": mode}, "metric": "val/glossy_f1"},
    }
    outcome = empty_workplace.train("--config", empty_workplace.write_config(changes), "--print-config")
    assert outcome.exit_code == exit_code
    assert exit_code == 0 or outcome.err.startswith('tiny.json: lr_scheduler.args.mode = "min" must be "max"')
