"""The training step: forward, backward, update of the weights."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from base.base_callback import BaseCallback, Update
from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.batch import Batch
from base.preprocessing import Preprocessing
from base.weights import load_weights
from trainer.averaging import WeightAveraging
from trainer.callbacks import Callbacks
from trainer.compiled_model import CompiledModel
from trainer.compute import Compute, choose_compute
from trainer.epoch_metrics import EpochMetrics
from trainer.freezing import Freezing
from trainer.schedule import Schedule
from trainer.sharpness_aware import SharpnessAware, restored
from trainer.skipped_updates import SkippedUpdates
from utils import distributed
from utils.device import seed_generators
from utils.random_streams import torch_seed

logger = logging.getLogger(__name__)

_DDP_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_ARGUMENTS else "broadcast_buffers": False
}
"""Each process has its own running means until the epoch's end. Newer versions of torch warn of the earlier name."""


class Learner:
    """The model and all that changes with it: criterion, optimizer, schedule, loss scale, averages.

    criterion: the weighted sum of losses, model.loss.multi_head.MultiHeadLoss
    seed: every random choice within the model (dropout, ...) follows from it and from the batch's number
    batch_sizes: images of a full batch in training and in evaluation, which the model is compiled for
    computes: by type of device, the precision and memory format that the run has used so far
    """

    def __init__(
        self,
        settings: TrainerSettings,
        *,
        model: BaseModel,
        criterion: Any,
        optimizer: torch.optim.Optimizer,
        preprocessing: Preprocessing,
        device: torch.device,
        seed: int,
        batch_sizes: tuple[int, int],
        schedule: Schedule | None = None,
        freezing: Freezing | None = None,
        sharpness_aware: SharpnessAware | None = None,
        averaging: WeightAveraging | None = None,
        callbacks: Sequence[BaseCallback] = (),
        computes: Mapping[str, Compute] | None = None,
    ) -> None:
        self.settings, self.preprocessing, self.device, self.seed = settings, preprocessing, device, seed
        kept = dict(computes or {})
        self.compute = kept.get(device.type) or choose_compute(settings, device)
        self.computes = kept | {device.type: self.compute}
        self.rank, self.num_processes = distributed.rank(), distributed.world_size()
        model.to(memory_format=self.compute.memory_format)
        _lay_out_as_parameters(optimizer)  # Adagrad has a state from its beginning
        torch.backends.cudnn.benchmark = True  # the batches of a run have one shape, or a few
        self.model, self.criterion, self.optimizer, self.schedule = model, criterion, optimizer, schedule
        self.freezing, self.sharpness_aware, self.averaging = freezing, sharpness_aware, averaging
        self.callbacks = Callbacks(callbacks)
        if averaging is not None:
            averaging.begin(model)
        self.compiled: nn.Module = model
        if settings.compile:
            mode = "default" if settings.compile is True else settings.compile
            self.compiled = CompiledModel(model, batch_sizes, mode, settings.accumulation_steps > 1, device)
        self.network = self._over_processes()
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.compute.dtype == torch.float16)
        self.skipped = SkippedUpdates(model, optimizer, device, on_host=device.type == "cpu")
        self.updates = 0  # of the weights, in the whole run, those included that were skipped

    # --- the step ---

    def update(
        self, micro_batches: Sequence[Batch], epoch: int, first_batch: int, metrics: EpochMetrics, stop: bool = False
    ) -> bool:
        """One update of the weights from `micro_batches`, as if they, and the other processes', were one batch.

        first_batch: index within the epoch of the first micro-batch
        metrics: the epoch's, to which they are added
        stop: whether this process is asked to stop; returns whether any process is, so that all stop together
        """
        weights = [self._sample_weights(batch) for batch in micro_batches]
        normalisers, stop = self._sum_over_update(weights, stop)
        if not self._has_settled_buckets:
            self._settle_buckets(micro_batches[:1], normalisers, epoch, first_batch)
        results = self._backward(micro_batches, normalisers, epoch, first_batch)
        for batch, batch_weights, (outputs, losses, gradients) in zip(micro_batches, weights, results, strict=True):
            metrics.add(losses, normalisers, batch_weights, outputs, batch.scoring_targets)
            metrics.add_gradients(gradients, batch_weights)
        if self.sharpness_aware is not None:
            with self.sharpness_aware.perturbed_weights():
                self._backward(micro_batches, normalisers, epoch, first_batch)
        update = Update(
            self.model,
            self.criterion,
            number=self.updates + 1,
            epoch=epoch,
            gradient_scale=self.scaler.scale(torch.ones((), device=self.device)),
            add_gradients=lambda: self._backward(micro_batches, normalisers, epoch, first_batch),
        )
        self.callbacks.before_update(update)
        metrics.add_update(self._update_weights())
        self.callbacks.after_update(update)
        return stop

    def _backward(
        self, micro_batches: Sequence[Batch], normalisers: Mapping[str, Tensor], epoch: int, first_batch: int
    ) -> list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]]:
        """Adds up the gradients of one update. Returns each batch's outputs, its losses by name, and the gradients of
        its logits, of an epoch's first update alone."""
        results = []
        watched = self.criterion.heads if first_batch == 0 else ()
        for number, batch in enumerate(micro_batches):
            self.seed_generators("model", epoch, first_batch + number)
            with self._synchronised_only_if(number == len(micro_batches) - 1):
                images = self.inputs(batch)
                with self.autocast():
                    outputs = self.network(images)
                    loss, losses = self._loss(outputs, batch, normalisers)
                for name in watched:
                    if outputs[name].requires_grad:
                        outputs[name].retain_grad()
                if self.num_processes > 1:  # gradients are averaged over them, and the normalisers span all of them
                    loss = loss * self.num_processes
                loss = self.scaler.scale(loss)
                # A loss that is not finite has gradients that are not, in all processes: their update is skipped.
                loss.backward(gradient=loss.detach() * 0 + 1)
            gradients = {name: _gradient(outputs[name]) for name in watched}
            results.append(({name: output.detach() for name, output in outputs.items()}, losses, gradients))
        distributed.average_gradients(self.criterion.parameters())
        return results

    def _settle_buckets(self, *arguments: Any) -> None:
        """DistributedDataParallel lays its buckets out anew after a first pass, by the order in which gradients come,
        and of three processes or more the sums are rounded by the layout. This pass, of which nothing is kept, lets the
        first update of a resumed run have the layout of all others.

        arguments: of `_backward`"""
        with restored([*self.model.buffers(), *self.criterion.buffers()]):
            self._backward(*arguments)
        self.optimizer.zero_grad(set_to_none=True)
        self._has_settled_buckets = True

    def _loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, normalisers: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; of mixed images lam * loss(own labels) + (1 - lam) * loss(paired labels)."""
        loss, losses = self.criterion(outputs, batch.targets, normalisers, batch.weights)
        if batch.mix is None:
            return loss, losses
        lam, paired_targets = batch.mix.lam, batch.mix.paired_targets(batch.targets)
        paired_weights = batch.mix.paired_weights(batch.weights)
        paired_loss, paired_losses = self.criterion(outputs, paired_targets, normalisers, paired_weights)
        return lam * loss + (1 - lam) * paired_loss, _mixed(lam, losses, paired_losses)

    def _sample_weights(self, batch: Batch) -> dict[str, Tensor]:
        """By loss, the sum of the weights of the batch's known labels."""
        weights = self.criterion.sample_weight_sums(batch.targets, batch.weights)
        if batch.mix is None:
            return weights
        paired_targets = batch.mix.paired_targets(batch.targets)
        paired_weights = batch.mix.paired_weights(batch.weights)
        return _mixed(batch.mix.lam, weights, self.criterion.sample_weight_sums(paired_targets, paired_weights))

    def _sum_over_update(self, weights: Sequence[dict[str, Tensor]], stop: bool) -> tuple[dict[str, Tensor], bool]:
        """The sums over the batches of an update and over all processes; whether any process is asked to stop."""
        if len(weights) == self.num_processes == 1:
            return weights[0], stop
        sums = torch.stack([torch.stack([each[name] for each in weights]).sum() for name in weights[0]])
        if self.num_processes > 1:
            reduced = distributed.all_reduce_sum(torch.cat([sums, sums.new_tensor([float(stop)])]))
            sums, stop = reduced[:-1], bool(reduced[-1] > 0)
        return dict(zip(weights[0], sums, strict=True)), stop

    def _update_weights(self) -> Tensor:
        """Whether the update was skipped, a scalar bool."""
        learned = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.settings.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([each.grad for each in learned if each.grad is not None])
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(learned, self.settings.max_grad_norm, norm)
        is_skipped = self.skipped.step(norm, self.scaler)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        if self.schedule is not None:
            self.schedule.after_update()
        if self.averaging is not None:
            self.averaging.after_update(self.updates)
        return is_skipped

    def inputs(self, batch: Batch) -> Tensor:
        """The batch's images as the model takes them: normalised, and mixed where they are to be.

        They have the type that autocast would round them to first, except for mixing, which comes before that."""
        if batch.mix is None:
            return self.preprocessing.normalise(batch.images, self.compute.dtype, self.compute.memory_format)
        return batch.mix.images(self.preprocessing.normalise(batch.images, memory_format=self.compute.memory_format))

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, where the run uses it."""
        if self.compute.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute.dtype)

    def seed_generators(self, purpose: str, epoch: int, batch: int) -> None:
        """Seeds the generators, so that a batch's randomness depends on its index alone."""
        seed_generators(torch_seed(self.seed, purpose, epoch, batch, self.rank), self.device)

    # --- the epoch ---

    def begin_epoch(self, epoch: int) -> None:
        """Puts the model in training mode, and freezes and unfreezes what is due in this epoch."""
        self.network.train()
        self.skipped.begin_epoch()
        if self.freezing is not None and self.freezing.begin_epoch(self.model, epoch):
            self.network = self._over_processes()  # it reads requires_grad once, when it is constructed
            trained, total = self.model.num_trainable / 1e6, self.model.num_parameters / 1e6
            logger.info("epoch %d: %.2f of %.2f M parameters are trained", epoch, trained, total)

    def end_epoch(self, epoch: int) -> None:
        """To be called after the epoch's last update."""
        distributed.share_buffers(self.model)  # each process has its own running means, and one model is validated
        if self.averaging is not None:
            self.averaging.after_epoch(epoch)
            if self.averaging.average is not None:
                distributed.share_buffers(self.averaging.average)

    def weights_are_finite(self) -> bool:
        """Of the model, of its average and of the losses, in the process that asks."""
        average = None if self.averaging is None else self.averaging.average
        modules = [self.model, self.criterion, *([] if average is None else [average])]
        weights = [parameter for module in modules for parameter in module.parameters()]
        return bool(nn.utils.get_total_norm(weights, norm_type=math.inf).isfinite())

    def eval_model(self) -> nn.Module:
        """What is validated, in evaluation mode: the model, or the average of its weights."""
        average = self._average_for("validation")
        return (self.compiled if average is None else average).eval()

    def rates(self) -> dict[str, float]:
        """The highest learning rate of the optimizer's groups, and the weights of the losses where they are learned."""
        rates = {"lr": max(float(group["lr"]) for group in self.optimizer.param_groups)}
        weights = self.criterion.effective_weights()
        if weights != self.criterion.weights:
            rates |= {f"weight_{name}": weight for name, weight in weights.items()}
        return rates

    def _average_for(self, use: str) -> BaseModel | None:
        return self.averaging.average if self.averaging is not None and use in self.averaging.used_for else None

    def _over_processes(self) -> nn.Module:
        self._has_settled_buckets = self.num_processes == 1
        return self.compiled if self.num_processes == 1 else DistributedDataParallel(self.compiled, **OWN_BUFFERS)

    def _synchronised_only_if(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are synchronised once an update, with its last batch."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()

    # --- saving and resuming ---

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "model": self.model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule is not None else None,
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped.state_dict(),
            "compute": {kind: asdict(compute) for kind, compute in self.computes.items()},
            "averaging": self.averaging.state_dict() if self.averaging is not None else None,
            "callbacks": self.callbacks.state_dict(),
            "answers_with": "model" if self._average_for("answers") is None else "average",
        }

    def load_state_dict(self, state: Mapping[str, Any], path: Path) -> None:
        """path: of the checkpoint, for error messages

        Raises CheckpointError; InvalidConfig if the schedule was planned for a run of another length."""
        load_weights(self.model, state["model"], path)
        self.criterion.load_state_dict(state.get("criterion", {}))
        _load_optimizer_state(self.optimizer, state["optimizer"])
        if self.schedule is not None and state["schedule"] is not None:
            self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty where the run does not scale its loss
            self.scaler.load_state_dict(state["scaler"])
        if "skipped" in state:  # earlier versions skipped none
            self.skipped.load_state_dict(state["skipped"])
        if self.averaging is not None:
            self.averaging.load_state_dict(state["averaging"])
        self.callbacks.load_state_dict(state.get("callbacks", []))
        self.updates = state["updates"]


def _gradient(output: Tensor) -> Tensor:
    """0 where it has none."""
    return torch.zeros((), device=output.device) if output.grad is None else output.grad


def _mixed(lam: float, own: Mapping[str, Tensor], paired: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: lam * value + (1 - lam) * paired[name] for name, value in own.items()}


def _load_optimizer_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Loads a state that was saved on any device; the kernels it steps with remain those of this device."""
    groups = [
        {**group, **{key: own[key] for key in ("fused", "foreach") if key in own}}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    _lay_out_as_parameters(optimizer)


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Gives the state of each parameter that parameter's layout in memory: a GPU's fused kernels refuse another."""
    stepping = getattr(optimizer, "_base_optimizer", optimizer)  # timm's Lookahead has no state of its own
    for parameter, state in stepping.state.items():
        for name, value in state.items():
            is_by_element = isinstance(value, Tensor) and value.shape == parameter.shape
            if is_by_element and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
