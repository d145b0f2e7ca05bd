"""The step with all that changes its mathematics: mixing, sharpness, freezing, learned weights, compilation."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import Lookahead
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from base.batch import Batch
from base.mixing import Mix, plan_mix
from model.loss import CrossEntropyLoss, FocalLoss
from model.loss.multi_head import MultiHeadLoss
from model.optim import AdamP, OptimizerSettings, build_optimizer, lookahead
from tests.trainer.conftest import IMAGE_SIDE, Built, MakeTrainer, MemoryLoader, SmallModel, stop_after
from trainer.averaging import ExponentialMovingAverage
from trainer.compute import Compute
from trainer.learner import own_buffers
from trainer.schedule import Schedule
from trainer.sharpness_aware import SharpnessAware
from utils.checkpoint.checkpoint_file import read_checkpoint
from utils.errors import StopSignal


class RollBy:
    """Mixes every batch with itself, shifted; the share differs by batch."""

    batch_share = 1.0

    def __init__(self, box: bool) -> None:
        self.box = box

    def plan(self, targets: Mapping[str, Tensor], image_hw: tuple[int, int], stream: np.random.Generator) -> Mix:
        size = len(next(iter(targets.values())))
        half = (0, 0, image_hw[0], image_hw[1] // 2)
        share = 0.5 if self.box else float(stream.uniform(0.2, 0.9))
        return Mix(torch.arange(size).roll(1), share, half if self.box else None)


def plain(**arguments: Any) -> dict[str, Any]:
    """A model whose gradient is a plain function of its batch."""
    torch.manual_seed(3)
    return {"model": SmallModel(batch_norm=False, dropout=0.0), "optimizer": torch.optim.SGD, "lr": 1.0, **arguments}


def gradients(built: Built) -> dict[str, Tensor]:
    """Of the first update with SGD at rate 1: the weights before it less those after it."""
    learner = built.trainer.learner
    before = {name: parameter.detach().clone() for name, parameter in learner.model.named_parameters()}
    built.trainer.dry_run()
    return {name: before[name] - parameter.detach() for name, parameter in learner.model.named_parameters()}


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_mixed_gradient_is_that_of_soft_labels(make_trainer: MakeTrainer, box: bool, accumulation_steps: int) -> None:
    """By the other way: weighted soft labels in one cross entropy by hand, over all batches of the update at once."""
    loader = MemoryLoader()
    built = make_trainer(
        loader=loader, mixings=[RollBy(box)], accumulation_steps=accumulation_steps, channels_last=False, **plain()
    )
    learner = built.trainer.learner
    learner.criterion = MultiHeadLoss(
        {"mask": CrossEntropyLoss([1.0, 2.0]), "age": CrossEntropyLoss()}, {"mask": 0.4, "age": 0.6}
    )
    model = copy.deepcopy(learner.model)
    batches = [
        (batch, plan_mix([RollBy(box)], batch.scoring_targets, (IMAGE_SIDE,) * 2, 11, 1, number, 0))
        for number, batch in zip(range(accumulation_steps), loader.train_batches(1), strict=False)
    ]
    found = gradients(built)

    sums = {"mask": [torch.zeros(()), torch.zeros(())], "age": [torch.zeros(()), torch.zeros(())]}
    class_weights = {"mask": torch.tensor([1.0, 2.0]), "age": torch.ones(4)}
    for batch, mix in batches:
        assert mix is not None
        images = (batch.images.float() / 255 - 0.5) / 0.25
        others = images.roll(1, dims=0)
        if box:
            mixed = torch.cat([others[..., : IMAGE_SIDE // 2], images[..., IMAGE_SIDE // 2 :]], dim=3)
        else:
            mixed = mix.lam * images + (1 - mix.lam) * others
        outputs = model(mixed)
        for head, (total, weight) in sums.items():
            soft = _one_hot(batch.targets[head], class_weights[head]) * mix.lam
            soft = soft + _one_hot(batch.targets[head].roll(1), class_weights[head]) * (1 - mix.lam)
            sums[head] = [total - (soft * F.log_softmax(outputs[head], dim=1)).sum(), weight + soft.sum()]
    loss = 0.4 * sums["mask"][0] / sums["mask"][1] + 0.6 * sums["age"][0] / sums["age"][1]
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=2e-6, rtol=1e-4)


def _one_hot(target: Tensor, class_weights: Tensor) -> Tensor:
    """(B,) -> (B, C) times the class's weight; a row of zeros where the label is unknown."""
    rows = F.one_hot(target.clamp(min=0), len(class_weights)) * class_weights
    return rows * (target >= 0).unsqueeze(1)


def sharp(rho: float) -> Any:
    return lambda model, _optimizer: {"sharpness_aware": SharpnessAware([model], rho=rho)}


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_sharpness_aware_step_is_the_gradient_at_perturbed_weights(
    make_trainer: MakeTrainer, accumulation_steps: int
) -> None:
    arguments: dict[str, Any] = {"accumulation_steps": accumulation_steps}
    here = gradients(make_trainer("plain", **plain(), **arguments))
    norm = torch.stack([gradient.square().sum() for gradient in here.values()]).sum().sqrt()
    moved = plain()
    model = moved["model"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.1 * here[name] / norm
    there = gradients(make_trainer("moved", **moved, **arguments))
    found = gradients(make_trainer("sharp", parts=sharp(0.1), **plain(), **arguments))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, there[name], atol=1e-6, rtol=1e-4)
        assert not torch.allclose(gradient, here[name], atol=1e-6, rtol=1e-4)


def test_a_sharpness_aware_epoch_counts_each_image_once(make_trainer: MakeTrainer) -> None:
    built = make_trainer(parts=sharp(0.05))
    built.trainer.learner.begin_epoch(1)
    metrics = built.trainer.train_epoch(1)
    joint = built.trainer.train_metrics.metrics.joint
    assert joint is not None
    counted = joint.matrix.sum()
    batches = list(MemoryLoader().train_batches(1))
    known = sum(int(((b.scoring_targets["mask"] >= 0) & (b.scoring_targets["age"] >= 0)).sum()) for b in batches)
    assert counted == known
    assert metrics["train/loss"] > 0
    norms = next(m for m in built.trainer.learner.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert norms.num_batches_tracked is not None
    assert int(norms.num_batches_tracked) == len(batches)


def everything(model: nn.Module, _optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "averaging": ExponentialMovingAverage(decay=0.9),
        "sharpness_aware": SharpnessAware([model], rho=0.05),
    }


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_resume_after_every_update_with_all_of_it(make_trainer: MakeTrainer, accumulation_steps: int) -> None:
    """Also Lookahead, groups without decay, and a warm-up that a schedule follows."""
    settings = OptimizerSettings(decay_norms_and_biases=False)

    def build(folder: str, resume: dict[str, Any] | None = None) -> Built:
        torch.manual_seed(0)
        model = SmallModel()
        criterion = MultiHeadLoss(
            {"mask": CrossEntropyLoss([1.0, 2.0]), "age": FocalLoss(2.0)}, {"mask": 0.4, "age": 0.6}, None, True
        )
        built = make_trainer(
            folder,
            model=model,
            optimizer=lambda _, lr: lookahead(
                build_optimizer(
                    lambda groups: AdamP(groups, lr, weight_decay=0.1), model, criterion.parameters(), settings
                ),
                k=2,
            ),
            schedule=lambda optimizer: Schedule(StepLR(optimizer, 1, 0.5), "epoch", warmup_updates=4),
            parts=everything,
            mixings=[RollBy(False)],
            accumulation_steps=accumulation_steps,
            epochs=2,
        )
        built.trainer.learner.criterion = criterion
        if resume is not None:
            built.trainer.load_state_dict(resume)
        return built

    whole = build("whole")
    whole.trainer.train()
    updates = whole.trainer.learner.updates
    assert any(value != 0 for value in next(iter(whole.trainer.learner.criterion.parameters())).tolist())
    for number in range(1, updates):
        stopped = build("stopped")
        stop_after(stopped, number)
        with pytest.raises(StopSignal):
            stopped.trainer.train()
        resumed = build("resumed", read_checkpoint(stopped.folder / "last.pth"))
        resumed.trainer.train()
        assert (whole.folder / "last.pth").read_bytes() == (resumed.folder / "last.pth").read_bytes(), number
        for folder in (stopped.folder, resumed.folder):
            shutil.rmtree(folder)
            folder.mkdir()


def test_learned_weights_are_logged_and_saved(make_trainer: MakeTrainer) -> None:
    built = make_trainer()
    learner = built.trainer.learner
    learner.criterion = criterion = MultiHeadLoss(
        {"mask": CrossEntropyLoss(), "age": CrossEntropyLoss()}, {"mask": 1.0, "age": 1.0}, None, True
    )
    learner.optimizer.add_param_group({"params": list(criterion.parameters())})
    metrics = built.trainer.train_epoch(1)
    assert metrics["weight_age"] == pytest.approx(float(torch.exp(-criterion.log_variances.detach()[1])))  # type: ignore[union-attr]
    assert torch.equal(built.trainer.state_dict()["criterion"]["log_variances"], criterion.log_variances.detach())  # type: ignore[union-attr]


def test_the_kernels_are_chosen_anew_where_a_run_is_resumed(make_trainer: MakeTrainer) -> None:
    """A run that began on a GPU has a fused step in its checkpoint, of which the CPU's rounds differently."""
    first = make_trainer("first", epochs=1, optimizer=lambda weights, lr: torch.optim.AdamW(weights, lr, fused=True))
    first.trainer.train()
    content = read_checkpoint(first.folder / "last.pth")
    assert content["optimizer"]["param_groups"][0]["fused"]
    second = make_trainer("second", epochs=2, resume=content)
    (group,) = second.trainer.learner.optimizer.param_groups
    assert not group["fused"]
    assert group["betas"] == first.trainer.learner.optimizer.param_groups[0]["betas"]
    second.trainer.train()


def test_a_state_from_the_beginning_is_laid_out_as_the_weights(make_trainer: MakeTrainer) -> None:
    """Adagrad's sums are made with the optimizer, when the weights are not channels_last yet."""
    built = make_trainer("run", epochs=1, optimizer=torch.optim.Adagrad)
    state = built.trainer.learner.optimizer.state
    strides = [(value["sum"].stride(), parameter.stride()) for parameter, value in state.items()]
    assert [one for one, _ in strides] == [other for _, other in strides]
    assert (27, 1, 9, 3) in dict(strides)  # the convolution's, channels_last
    assert all((value["sum"] == 0).all() for value in state.values())


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_resumed_state_is_laid_out_as_the_weights(make_trainer: MakeTrainer, looks_ahead: bool) -> None:
    """A run may have begun on a CPU without channels_last, and is resumed on a GPU with it."""

    def adam(weights: Any, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(weights, lr)
        return Lookahead(optimizer, k=1000) if looks_ahead else optimizer

    contiguous, channels_last = ({"cpu": Compute("float32", each)} for each in (False, True))
    first = make_trainer("first", epochs=1, computes=contiguous, optimizer=adam)
    first.trainer.train()
    content = read_checkpoint(first.folder / "last.pth")
    second = make_trainer("second", epochs=2, computes=channels_last, optimizer=adam, resume=content)
    optimizer = second.trainer.learner.optimizer
    state = getattr(optimizer, "_base_optimizer", optimizer).state
    checked = 0
    for parameter, saved in zip(state, content["optimizer"]["state"].values(), strict=True):
        for name, value in state[parameter].items():
            assert torch.equal(value, saved[name])
            assert value.dtype == saved[name].dtype
            if name != "step":
                assert value.stride() == parameter.stride()
                checked += value.stride() != saved[name].stride()
    assert checked == 2  # both averages of the convolution's weights, which are (4, 3, 3, 3)
    second.trainer.train()
    # A run that stays where it was keeps the very tensors that torch's own loading gives.
    content = read_checkpoint(first.folder / "last.pth")  # whose tensors the second has trained with
    again = make_trainer("again", epochs=2, computes=contiguous, optimizer=adam, resume=content)
    whole = make_trainer("whole", epochs=2, computes=contiguous, optimizer=adam)
    again.trainer.train()
    whole.trainer.train()
    assert (again.folder / "last.pth").read_bytes() == (whole.folder / "last.pth").read_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_fused_optimizer_resumes_what_a_cpu_saved(make_trainer: MakeTrainer, optimizer: Any) -> None:
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    first = make_trainer(
        "first",
        epochs=1,
        computes={"cpu": Compute("float32", False)},
        optimizer=lambda weights, lr: optimizer(weights, lr, **momentum),
    )
    first.trainer.train()
    content = read_checkpoint(first.folder / "last.pth")
    second = make_trainer(
        "second",
        epochs=2,
        device=torch.device("cuda", 0),
        optimizer=lambda weights, lr: optimizer(weights, lr, fused=True, **momentum),
        resume=content,
    )
    second.trainer.train()
    assert second.trainer.completed_epochs == 2


def test_a_dry_run_of_a_run_that_stopped_after_its_last_update(make_trainer: MakeTrainer) -> None:
    """In validation: no batch of the epoch is left, and the schedule takes no further step."""

    def schedule(optimizer: torch.optim.Optimizer) -> Schedule:
        return Schedule(OneCycleLR(optimizer, 0.05, total_steps=5), "step")

    stopped = make_trainer("run", epochs=1, schedule=schedule)
    stopped.trainer.train_epoch(1)
    stopped.trainer.save()
    content = read_checkpoint(stopped.folder / "last.pth")
    assert content["batches_done"] == 5
    resumed = make_trainer("run", epochs=1, schedule=schedule, resume=content)
    assert not resumed.trainer.finished
    assert resumed.trainer.dry_run()["train/loss"] > 0


def test_running_means_are_left_to_each_process_by_the_name_that_this_torch_has() -> None:
    def renamed(module: nn.Module, forward_sync_buffers: bool | None = None) -> None: ...

    def earlier(module: nn.Module, broadcast_buffers: bool = True) -> None: ...

    assert own_buffers(renamed) == {"forward_sync_buffers": False}
    assert own_buffers(earlier) == {"broadcast_buffers": False}


def test_an_epoch_that_ends_early_closes_the_loader(make_trainer: MakeTrainer) -> None:
    closed: list[str] = []

    class Closed(MemoryLoader):
        def train_batches(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
            try:
                yield from super().train_batches(epoch, start_batch)
            finally:
                closed.append("training")

        def validation_batches(self) -> Iterator[Batch]:
            try:
                yield from super().validation_batches()
            finally:
                closed.append("validation")

    built = make_trainer(loader=Closed())
    built.stop.request()
    with pytest.raises(StopSignal) as kept:  # with its traceback, and so with all frames that it went through
        built.trainer.train()
    assert closed == ["training"]
    with pytest.raises(StopSignal):
        built.trainer.validate(1)
    assert closed == ["training", "validation"]
    assert kept.value.__traceback__ is not None
