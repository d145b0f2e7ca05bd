"""A differentiable macro F1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from base.batch import UNKNOWN
from model.loss.head_loss import HeadLoss


class F1Loss(HeadLoss):
    """1 - soft macro F1 of the batch: F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c), counted with probabilities.

    TP_c = sum_i y_ic p_ic, FP_c = sum_i (1 - y_ic) p_ic, FN_c = sum_i y_ic (1 - p_ic), p = softmax(logits), y one-hot;
    so the denominator is sum_i (p_ic + y_ic). The mean, weighted with class_weights if given, is over the classes that
    occur among the known targets: another class would only add a constant.

    F1 is of a batch as a whole, which should be large. Where batches share a normaliser each counts by its number of
    known samples.
    """

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """The batch's loss divided equally among the samples."""
        known = torch.ones_like(target, dtype=torch.bool)
        return (self.total(logits, target, known) / len(target)).expand(len(target))

    def total(self, logits: Tensor, target: Tensor, known: Tensor, weights: Tensor | None = None) -> Tensor:
        """(1 - F1) times the number of known samples, of which each counts by its weight."""
        counts = known if weights is None else known * weights
        probabilities = logits.softmax(dim=1) * counts.unsqueeze(1)
        truth = F.one_hot(target, logits.shape[1])
        true_positives = (probabilities * truth).sum(dim=0)
        occurrences = (truth * counts.unsqueeze(1)).sum(dim=0)
        # The floor is for classes that do not occur, which get no weight: those that do are above it.
        floor = 1 if weights is None else torch.finfo(logits.dtype).tiny
        scores = 2 * true_positives / (probabilities.sum(dim=0) + occurrences).clamp(min=floor)
        by_class = (occurrences > 0).to(scores.dtype)
        if self.class_weights is not None:
            by_class = by_class * self.class_weights
        weight = by_class.sum()
        loss = ((1 - scores) * by_class).sum() / torch.where(weight > 0, weight, torch.inf)
        return loss * counts.sum()

    def sample_weights(self, target: Tensor) -> Tensor:
        """1 for a known sample: the class weights are in the mean over classes."""
        return (target != UNKNOWN).float()
