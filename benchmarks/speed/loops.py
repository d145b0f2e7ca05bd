"""Training loops that are written by hand: an expert's, the teams', timm's.

The expert's does the same arithmetic as the project's trainer and nothing else: it computes no metric and writes
nothing. The teams' is what they wrote: float32, NCHW, `.item()` and scikit-learn's F1 after each step. timm's is the
step of its train.py, with its optimizer and mixed precision, which logs the loss now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from base.batch import Batch

TIMM_LOG_INTERVAL = 50
"""Steps between two logged losses, timm's default."""


class ByHand:
    """The base of the loops: the model, the recipe's loss by head (gamma, class weights, weight), the normalisation."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        heads: Mapping[str, Mapping[str, Any]],
        mean: Iterable[float],
        std: Iterable[float],
        device: torch.device,
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.mean, self.std = (torch.tensor(list(each), device=device).view(1, 3, 1, 1) for each in (mean, std))
        self.heads = {
            name: (spec["args"]["gamma"], torch.tensor(spec["args"]["class_weights"], device=device), spec["weight"])
            for name, spec in heads.items()
        }

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum over the heads of the weighted mean of (1 - p)^gamma (-log p)."""
        total = torch.zeros((), device=self.device)
        for name, (gamma, class_weights, share) in self.heads.items():
            negative_log = F.cross_entropy(outputs[name].float(), targets[name], reduction="none")
            weights = class_weights[targets[name]]
            total = (
                total + share * (weights * (-torch.expm1(-negative_log)) ** gamma * negative_log).sum() / weights.sum()
            )
        return total


class ExpertsLoop(ByHand):
    """The bare loop: mixed precision in `compute_type`, images and weights in `memory_format`."""

    def __init__(
        self, *arguments: Any, compute_type: torch.dtype, memory_format: torch.memory_format, **others: Any
    ) -> None:
        super().__init__(*arguments, **others)
        self.compute_type, self.memory_format = compute_type, memory_format
        self.scale, self.shift = 1 / (255 * self.std), -self.mean / self.std
        self.model.to(memory_format=memory_format)

    def epoch(self, batches: Iterable[Batch]) -> None:
        self.model.train()
        for batch in batches:
            self.update(batch)

    def update(self, batch: Batch) -> None:
        """One update of the weights; the model is in training."""
        images = batch.images.to(self.device, non_blocking=True)
        targets = {name: target.to(self.device, non_blocking=True) for name, target in batch.targets.items()}
        with _autocast(self.device, self.compute_type):
            outputs = self.model(self._normalised(images))
        self.loss(outputs, targets).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _normalised(self, images: Tensor) -> Tensor:
        """In the type that is computed in; on a GPU in one pass, which an expert would not leave out either."""
        if self.device.type == "cpu":
            wide = images.to(torch.float32, memory_format=self.memory_format)
            return torch.addcmul(self.shift, wide, self.scale, out=wide).to(self.compute_type)
        made = torch.empty(images.shape, dtype=self.compute_type, device=self.device, memory_format=self.memory_format)
        return torch.addcmul(self.shift, images, self.scale, out=made)


class TeamsLoop(ByHand):
    """As four teams wrote it. Batches come as float32, normalised, (B, 3, H, W) contiguous, on the host."""

    def epoch(self, batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]]) -> None:
        from sklearn.metrics import f1_score

        self.model.train()
        losses, scores = [], []
        for images, on_host in batches:
            inputs = images.to(self.device)
            targets = {name: target.to(self.device) for name, target in on_host.items()}
            self.optimizer.zero_grad()
            outputs = self.model(inputs)
            loss = self.loss(outputs, targets)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            for name, target in targets.items():
                answers = outputs[name].argmax(dim=1)
                scores.append(f1_score(target.cpu().numpy(), answers.cpu().numpy(), average="macro"))


class TimmsLoop(ByHand):
    """timm's train.py: autocast in `compute_type`, channels_last, the loss logged every TIMM_LOG_INTERVAL steps.

    Batches come as float32, normalised, on the device, as its prefetcher gives them."""

    def __init__(self, *arguments: Any, compute_type: torch.dtype, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.compute_type = compute_type
        self.model.to(memory_format=torch.channels_last)

    def epoch(self, batches: Iterable[tuple[Tensor, Mapping[str, Tensor]]]) -> None:
        from timm.utils import AverageMeter

        self.model.train()
        average = AverageMeter()
        for number, (images, on_host) in enumerate(batches):
            inputs = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            targets = {name: target.to(self.device, non_blocking=True) for name, target in on_host.items()}
            with _autocast(self.device, self.compute_type):
                outputs = self.model(inputs)
                loss = self.loss(outputs, targets)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if number % TIMM_LOG_INTERVAL == 0:
                average.update(loss.item(), len(images))


def _autocast(device: torch.device, compute_type: torch.dtype) -> AbstractContextManager[Any]:
    return nullcontext() if compute_type == torch.float32 else torch.autocast(device.type, compute_type)


def as_floats(batch: Batch, mean: Iterable[float], std: Iterable[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch as the teams' workers make it: float32, normalised, (B, 3, H, W) contiguous, on the host."""
    wide_mean, wide_std = (torch.tensor(list(each)).view(1, 3, 1, 1) for each in (mean, std))
    images = (batch.images.cpu().float() / 255 - wide_mean) / wide_std
    return images.contiguous(), {name: target.cpu() for name, target in batch.targets.items()}
