"""The step with all that changes its mathematics: mixing, sharpness, freezing, learned weights, compilation."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import Lookahead
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR

from base.batch import Batch
from base.mixing import Mix, plan_mix
from model.loss import CrossEntropyLoss, FocalLoss
from model.loss.multi_head import MultiHeadLoss
from model.optim import AdamP, OptimizerSettings, build_optimizer, lookahead
from tests.trainer.conftest import IMAGE_SIDE, Built, MakeTrainer, MemoryLoader, SmallModel, train_until
from trainer.averaging import ExponentialMovingAverage
from trainer.compute import Compute
from trainer.schedule import Schedule
from trainer.sharpness_aware import SharpnessAware


class RollBy:
    """Mixes every batch with itself, shifted; lam differs by batch."""

    batch_share = 1.0

    def __init__(self, box: bool) -> None:
        self.box = box

    def plan(self, targets: Mapping[str, Tensor], image_hw: tuple[int, int], stream: np.random.Generator) -> Mix:
        size = len(next(iter(targets.values())))
        half = (0, 0, image_hw[0], image_hw[1] // 2)
        lam = 0.5 if self.box else float(stream.uniform(0.2, 0.9))
        return Mix(torch.arange(size).roll(1), lam, half if self.box else None)


def plain(**arguments: Any) -> dict[str, Any]:
    """A model whose gradient is a plain function of its batch."""
    torch.manual_seed(3)
    return {"model": SmallModel(batch_norm=False, dropout=0.0), "optimizer": torch.optim.SGD, "lr": 1.0, **arguments}


def gradients(built: Built) -> dict[str, Tensor]:
    """Of the first update with SGD at rate 1: the weights before it less those after it."""
    model = built.trainer.learner.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    built.trainer.dry_run()
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}


class WeightedLoader(MemoryLoader):
    """Every third image has half the weight, as a pseudo-labelled one may."""

    def batch(self, rows: Tensor) -> Batch:
        return replace(super().batch(rows), weights=torch.where(rows % 3 == 0, 0.5, 1.0))


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(
    ("accumulation_steps", "loader"), [(1, MemoryLoader()), (3, MemoryLoader()), (3, WeightedLoader())]
)
def test_mixed_gradient_is_that_of_soft_labels(
    make_trainer: MakeTrainer, box: bool, accumulation_steps: int, loader: MemoryLoader
) -> None:
    """By the other way: weighted soft labels in one cross entropy by hand, over all batches of the update at once."""
    shares = {"mask": 0.4, "age": 0.6}
    built = make_trainer(
        loader=loader,
        mixings=[RollBy(box)],
        accumulation_steps=accumulation_steps,
        channels_last=False,
        criterion=MultiHeadLoss({"mask": CrossEntropyLoss([1.0, 2.0]), "age": CrossEntropyLoss()}, shares),
        **plain(),
    )
    model = copy.deepcopy(built.trainer.learner.model)
    found = gradients(built)

    class_weights = {"mask": torch.tensor([1.0, 2.0]), "age": torch.ones(4)}
    sums = {head: [torch.zeros(()), torch.zeros(())] for head in shares}
    for number, batch in zip(range(accumulation_steps), loader.train_batches(1), strict=False):
        mix = plan_mix([RollBy(box)], batch.scoring_targets, (IMAGE_SIDE,) * 2, 11, 1, number, 0)
        assert mix is not None
        images = (batch.images.float() / 255 - 0.5) / 0.25
        others = images.roll(1, dims=0)
        if box:
            mixed = torch.cat([others[..., : IMAGE_SIDE // 2], images[..., IMAGE_SIDE // 2 :]], dim=3)
        else:
            mixed = mix.lam * images + (1 - mix.lam) * others
        outputs = model(mixed)
        own = torch.ones(len(batch), 1) if batch.weights is None else batch.weights.unsqueeze(1)
        for head, (total, weight) in sums.items():
            soft = own * _one_hot(batch.targets[head], class_weights[head]) * mix.lam
            paired = own.roll(1, dims=0) * _one_hot(batch.targets[head].roll(1), class_weights[head])
            soft = soft + paired * (1 - mix.lam)
            sums[head] = [total - (soft * F.log_softmax(outputs[head], dim=1)).sum(), weight + soft.sum()]
    torch.stack([share * sums[head][0] / sums[head][1] for head, share in shares.items()]).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=2e-6, rtol=1e-4)


def _one_hot(target: Tensor, class_weights: Tensor) -> Tensor:
    """(B,) -> (B, C) times the class's weight; a row of zeros where the label is unknown."""
    rows = F.one_hot(target.clamp(min=0), len(class_weights)) * class_weights
    return rows * (target >= 0).unsqueeze(1)


def sharp(rho: float) -> Any:
    return lambda model: {"sharpness_aware": SharpnessAware([model], rho=rho)}


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_sharpness_aware_step_is_the_gradient_at_perturbed_weights(
    make_trainer: MakeTrainer, accumulation_steps: int
) -> None:
    arguments: dict[str, Any] = {"accumulation_steps": accumulation_steps}
    here = gradients(make_trainer("plain", **plain(), **arguments))
    norm = torch.stack([gradient.square().sum() for gradient in here.values()]).sum().sqrt()
    moved = plain()
    with torch.no_grad():
        for name, parameter in moved["model"].named_parameters():
            parameter += 0.1 * here[name] / norm
    there = gradients(make_trainer("moved", **moved, **arguments))
    found = gradients(make_trainer("sharp", parts=sharp(0.1), **plain(), **arguments))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, there[name], atol=1e-6, rtol=1e-4)
        assert not torch.allclose(gradient, here[name], atol=1e-6, rtol=1e-4)


def test_a_sharpness_aware_epoch_counts_each_image_once(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(parts=sharp(0.05)).trainer
    trainer.train_epoch(1)
    joint = trainer.train_metrics.metrics.counts[None]
    batches = list(MemoryLoader().train_batches(1))
    known = sum(int(((b.scoring_targets["mask"] >= 0) & (b.scoring_targets["age"] >= 0)).sum()) for b in batches)
    assert joint.matrix.sum() == known
    norms = next(m for m in trainer.learner.model.modules() if isinstance(m, nn.BatchNorm2d))
    assert norms.num_batches_tracked is not None
    assert int(norms.num_batches_tracked) == len(batches)


def learned_weights() -> MultiHeadLoss:
    losses = {"mask": CrossEntropyLoss([1.0, 2.0]), "age": FocalLoss(2.0)}
    return MultiHeadLoss(losses, {"mask": 0.4, "age": 0.6}, None, learned_weights=True)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_resume_after_every_update_with_everything(make_trainer: MakeTrainer, accumulation_steps: int) -> None:
    """Also Lookahead, groups without decay, and a warm-up that a schedule follows."""
    settings = OptimizerSettings(decay_norms_and_biases=False)

    def build(folder: str, resume: dict[str, Any] | None = None) -> Built:
        torch.manual_seed(0)
        model, criterion = SmallModel(), learned_weights()

        def optimizer(_: Any, lr: float) -> torch.optim.Optimizer:
            adam = build_optimizer(
                lambda groups: AdamP(groups, lr, weight_decay=0.1), model, criterion.parameters(), settings
            )
            return lookahead(adam, k=2)

        return make_trainer(
            folder,
            resume,
            model=model,
            criterion=criterion,
            optimizer=optimizer,
            schedule=lambda optimizer: Schedule(StepLR(optimizer, 1, 0.5), "epoch", warmup_updates=4),
            parts=lambda model: {"averaging": ExponentialMovingAverage(decay=0.9), **sharp(0.05)(model)},
            mixings=[RollBy(False)],
            accumulation_steps=accumulation_steps,
            epochs=2,
        )

    whole = build("whole").train()
    assert any(value != 0 for value in whole.checkpoint()["criterion"]["log_variances"].tolist())
    for number in range(1, whole.trainer.learner.updates):
        content = train_until(build("stopped"), number)
        resumed = build("resumed", content).train()
        assert (whole.folder / "last.pth").read_bytes() == (resumed.folder / "last.pth").read_bytes(), number
        for folder in (resumed.folder, resumed.folder.with_name("stopped")):
            shutil.rmtree(folder)


def test_learned_weights_are_logged(make_trainer: MakeTrainer) -> None:
    criterion = learned_weights()
    built = make_trainer(criterion=criterion)
    built.trainer.learner.optimizer.add_param_group({"params": list(criterion.parameters())})
    metrics = built.trainer.train_epoch(1)
    assert criterion.log_variances is not None
    mask, age = torch.exp(-criterion.log_variances.detach()).tolist()
    assert [metrics["weight_mask"], metrics["weight_age"]] == pytest.approx([0.4 * mask, 0.6 * age])


def test_the_kernels_are_chosen_anew_where_a_run_is_resumed(make_trainer: MakeTrainer) -> None:
    """A run that began on a GPU has a fused step in its checkpoint, of which the CPU's rounds differently."""
    fused = make_trainer("first", epochs=1, optimizer=lambda weights, lr: torch.optim.AdamW(weights, lr, fused=True))
    content = fused.train().checkpoint()
    assert content["optimizer"]["param_groups"][0]["fused"]
    (group,) = make_trainer("second", epochs=2, resume=content).train().trainer.learner.optimizer.param_groups
    assert not group["fused"]


def test_a_state_from_the_beginning_is_laid_out_as_the_weights(make_trainer: MakeTrainer) -> None:
    """Adagrad's sums are made with the optimizer, when the weights are not channels_last yet."""
    state = make_trainer(epochs=1, optimizer=torch.optim.Adagrad).trainer.learner.optimizer.state
    strides = [(value["sum"].stride(), parameter.stride()) for parameter, value in state.items()]
    assert all(one == other for one, other in strides)
    assert (27, 1, 9, 3) in dict(strides)  # the convolution's, channels_last
    assert all((value["sum"] == 0).all() for value in state.values())


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_resumed_state_is_laid_out_as_the_weights(make_trainer: MakeTrainer, looks_ahead: bool) -> None:
    """A run may have begun on a CPU without channels_last, and is resumed on a GPU with it."""

    def adam(weights: Any, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(weights, lr)
        return Lookahead(optimizer, k=1000) if looks_ahead else optimizer

    contiguous, channels_last = ({"cpu": Compute("float32", each)} for each in (False, True))
    content = make_trainer("first", epochs=1, computes=contiguous, optimizer=adam).train().checkpoint()
    second = make_trainer("second", epochs=2, computes=channels_last, optimizer=adam, resume=content)
    optimizer = second.trainer.learner.optimizer
    state = getattr(optimizer, "_base_optimizer", optimizer).state
    changed = 0
    for parameter, saved in zip(state, content["optimizer"]["state"].values(), strict=True):
        for name, value in state[parameter].items():
            assert torch.equal(value, saved[name])
            assert value.dtype == saved[name].dtype
            if name != "step":
                assert value.stride() == parameter.stride()
                changed += value.stride() != saved[name].stride()
    assert changed == 2  # both averages of the convolution's weights, which are (4, 3, 3, 3)
    second.train()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_a_fused_optimizer_resumes_what_a_cpu_saved(make_trainer: MakeTrainer, momentum: float | None) -> None:
    def make(weights: Any, lr: float, **fused: Any) -> torch.optim.Optimizer:
        if momentum is None:
            return torch.optim.AdamW(weights, lr, **fused)
        return torch.optim.SGD(weights, lr, momentum, **fused)

    first = make_trainer("first", epochs=1, computes={"cpu": Compute("float32", False)}, optimizer=make).train()
    second = make_trainer(
        "second",
        epochs=2,
        device=torch.device("cuda", 0),
        optimizer=lambda weights, lr: make(weights, lr, fused=True),
        resume=first.checkpoint(),
    )
    assert second.train().trainer.completed_epochs == 2
