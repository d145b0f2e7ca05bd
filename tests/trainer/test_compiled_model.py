"""torch.compile in training: what is compiled, and when; the numbers are those of the model itself, within rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import CPU, Built, MakeTrainer, MemoryLoader, SmallModel, train_until
from trainer.averaging import ExponentialMovingAverage
from trainer.compiled_model import CompiledModel
from trainer.freezing import Freezing
from trainer.sharpness_aware import SharpnessAware


class Spied(SmallModel):
    """Writes down what torch.compile is given, and the batches that go through the compiled call."""

    def __init__(self) -> None:
        super().__init__(batch_norm=False, dropout=0.0)
        self.modes: list[dict[str, Any]] = []
        self.compiled_for: list[tuple[bool, int]] = []

    def compile(self, **options: Any) -> None:
        self.modes.append(options)
        self._compiled_call_impl = self._spy

    def _spy(self, images: Tensor) -> dict[str, Tensor]:
        self.compiled_for.append((self.training, len(images)))
        return self.forward(images)

    def __getstate__(self) -> dict[str, Any]:
        raise AssertionError("not copied here")


def images(size: int) -> Tensor:
    return torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(size))


def test_only_whole_batches_go_through_what_is_compiled() -> None:
    """Also where a smaller one is the first, as in a run that resumes before an epoch's last."""
    model = Spied()
    compiled = CompiledModel(model, (4, 6), "default", accumulating=False, device=CPU)
    for training, sizes in ((True, (2, 4, 4, 2, 4)), (False, (1, 6, 6, 5)), (True, (3, 4))):
        compiled.train(training)
        for size in sizes:
            outputs = compiled(images(size))
            expected = model.forward(images(size))
            assert all(torch.equal(outputs[head], expected[head]) for head in expected)
    assert model.compiled_for == [(True, 4)] * 3 + [(False, 6)] * 2 + [(True, 4)]


def test_a_resumed_run_compiles_what_the_whole_run_did(make_trainer: MakeTrainer) -> None:
    """Stopped before an epoch's last, smaller batch, and after it."""

    class Uneven(MemoryLoader):
        @property
        def steps_per_epoch(self) -> int:
            return -(-self.num_train // self.batch_size)

    def build(folder: str, **arguments: Any) -> tuple[Built, Spied]:
        model = Spied()
        return make_trainer(folder, model=model, loader=Uneven(10, 7), epochs=1, compile=True, **arguments), model

    whole, seen = build("whole")
    whole.train()
    assert seen.compiled_for == [(True, 4)] * 2 + [(False, 4)]
    for updates in (2, 3):
        resumed, seen = build("resumed", resume=train_until(build("stopped")[0], updates))
        resumed.train()
        assert seen.compiled_for == [(False, 4)]


@pytest.mark.parametrize(
    ("mode", "accumulating", "device", "given", "graphs"),
    [
        ("default", False, "cuda", "default", False),
        ("reduce-overhead", False, "cuda", "reduce-overhead", True),
        ("reduce-overhead", False, "cpu", "reduce-overhead", False),
        ("reduce-overhead", True, "cuda", "default", False),
        ("max-autotune", False, "cuda", "max-autotune", True),
        ("max-autotune", True, "cuda", "max-autotune-no-cudagraphs", False),
    ],
)
def test_graphs_where_their_memory_allows_it(
    mode: Any, accumulating: bool, device: str, given: str, graphs: bool
) -> None:
    model = Spied()
    compiled = CompiledModel(model, (4, 4), mode, accumulating, torch.device(device))
    assert model.modes == [{"mode": given, "dynamic": False}]
    assert compiled.has_graphs == graphs
    first, second = compiled(images(4)), compiled(images(4))
    storages = {outputs["mask"].data_ptr() for outputs in (first, second)}
    assert len(storages) == 2  # also of a graph, which has one place for its outputs


@pytest.mark.long
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_a_compiled_run_with_all_of_it_is_the_same_within_rounding(make_trainer: MakeTrainer, mode: Any) -> None:
    """With a smaller last batch, several batches an update, an average, sharpness, and stages that are unfrozen."""

    def parts(model: SmallModel) -> dict[str, Any]:
        return {
            "averaging": ExponentialMovingAverage(0.5, used_for=["answers"]),
            "sharpness_aware": SharpnessAware([model], 0.05),
            "freezing": Freezing(1, epochs=1),
        }

    class Staged(SmallModel):
        def stages(self) -> list[list[str]]:
            return [["body.0.weight", "body.0.bias"]]

    states = []
    for name, compiled in (("eager", False), ("compiled", mode)):
        torch.manual_seed(3)
        built = make_trainer(
            name,
            model=Staged(batch_norm=False, dropout=0.0),
            loader=MemoryLoader(16, 7),
            optimizer=torch.optim.SGD,
            parts=parts,
            epochs=2,
            accumulation_steps=2,
            compile=compiled,
        )
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        built.trainer.train()
        # Frozen and unfrozen, in training and in evaluation: a last batch of another size is no further graph.
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == (4 if compiled else 0)
        average = built.trainer.learner.averaging.average  # type: ignore[union-attr]
        states.append({**built.trainer.learner.model.state_dict(), **average.state_dict(prefix="average.")})  # type: ignore[union-attr]
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], atol=1e-4, rtol=1e-3)
