"""The best value of a metric; patience is in test_trainer.py."""

from __future__ import annotations

import math

import pytest

from trainer.monitor import Monitor


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_epoch_is_better_than_all_before_it(mode: str) -> None:
    values = [0.5, 0.4, 0.6, math.nan, 0.4, 0.3, math.inf, -math.inf, 0.9]
    monitor = Monitor(f"{mode} val/loss")
    better = [monitor.update(epoch, {"val/loss": value}) for epoch, value in enumerate(values)]
    pick = min if mode == "min" else max
    finite = [value for value in values if math.isfinite(value)]
    assert monitor.best == pick(finite)
    assert monitor.best_epoch == values.index(pick(finite))
    expected = [
        math.isfinite(v) and all(pick(v, w) == v and v != w for w in values[:i] if math.isfinite(w))
        for i, v in enumerate(values)
    ]
    assert better == expected


def test_off_watches_nothing() -> None:
    monitor = Monitor("off")
    assert not monitor.is_on
    assert not monitor.update(1, {"val/loss": 0.1})


@pytest.mark.parametrize("text", ["", "min", "val/loss", "least val/loss", "min "])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="min <metric>"):
        Monitor(text)


@pytest.mark.parametrize(
    ("text", "name"), [("max val/age_f1", "best_age_f1.pth"), ("min train/loss", "best_train_loss.pth")]
)
def test_the_file_is_named_after_the_metric(text: str, name: str) -> None:
    assert Monitor(text).file_name == name


def test_a_resumed_monitor_of_another_metric_begins_anew() -> None:
    old, new, again = Monitor("min val/loss"), Monitor("max val/f1"), Monitor("min val/loss")
    old.update(1, {"val/loss": 0.2})
    for monitor in (new, again):
        monitor.load_state_dict(old.state_dict())
    assert new.best is None
    assert (again.best, again.best_epoch) == (0.2, 1)
