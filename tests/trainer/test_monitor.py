"""Better, best, and patience."""

from __future__ import annotations

import math

import pytest

from trainer.monitor import EarlyStopping, Monitor
from utils.errors import ConfigError


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_is_the_best_of_all(mode: str) -> None:
    values = [0.5, 0.4, 0.6, math.nan, 0.4, 0.3, math.inf, -math.inf, 0.9]
    monitor = Monitor(f"{mode} val/loss")
    better = [monitor.update(epoch, {"val/loss": value}) for epoch, value in enumerate(values)]
    finite = [value for value in values if math.isfinite(value)]
    best = min(finite) if mode == "min" else max(finite)
    assert monitor.best == best
    assert monitor.best_epoch == values.index(best)
    pick = min if mode == "min" else max
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
def test_a_mistyped_monitor_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="min <metric>"):
        Monitor(text)


def test_the_file_is_named_after_the_metric() -> None:
    assert Monitor("max val/f1").file_stem == "best_f1"
    assert Monitor("max val/age_f1").file_stem == "best_age_f1"
    assert Monitor("min train/loss").file_stem == "best_train_loss"


def test_the_best_value_is_not_taken_over_by_another_monitor() -> None:
    old, new = Monitor("min val/loss"), Monitor("max val/f1")
    old.update(1, {"val/loss": 0.2})
    new.load_state_dict(old.state_dict())
    assert new.best is None
    again = Monitor("min val/loss")
    again.load_state_dict(old.state_dict())
    assert (again.best, again.best_epoch) == (0.2, 1)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_is_exact(patience: int) -> None:
    stopping = EarlyStopping(patience)
    assert not stopping.update(True)
    assert [stopping.update(False) for _ in range(patience)] == [False] * (patience - 1) + [True]


def test_a_better_epoch_renews_the_patience_and_0_never_stops() -> None:
    stopping = EarlyStopping(2)
    assert [stopping.update(better) for better in (False, True, False, True, False, False)] == [False] * 5 + [True]
    assert not any(EarlyStopping(0).update(False) for _ in range(100))
