"""Soups: one model whose weights are the mean of several runs' (Wortsman et al. 2022, "Model soups").

    w = 1/M sum_m w_m

It costs what one model costs. It needs runs of one architecture that began with the same trained weights: from random
ones, each finds weights of its own, whose mean is worth nothing. The running statistics of batch norms are not averaged
but measured anew, on training images, as the mean of weights has other activations than any run had.

    uniform   all runs
    greedy    the best run alone, then in the order of their scores each run with which the soup is no worse

Greedy selection fits the soup to the validation people. Its nested estimate does not: of each fold of the persons, the
soup that is chosen without them predicts their images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data_loader.records import LabelTable
from experiment.resume import differences
from inference.out_of_fold import PredictionTable
from inference.predictor import Predictor
from inference.scoring.evaluation import JOINT, SetScores
from inference.scoring.intervals import number_persons
from model.model import build_without_weights
from utils.errors import ConfigError
from utils.random_streams import numpy_stream
from utils.wording import format_value

logger = logging.getLogger(__name__)

NUM_FOLDS = 5
WITHOUT_EFFECT = {
    "pretrained",
    "weights_file",
    "drop_rate",
    "drop_path_rate",
    "dropout_samples",
    "gradient_checkpointing",
}
"""Arguments of a model that a trained one answers alike with: the runs of a soup may differ in them."""


@dataclass(frozen=True)
class Ingredient:
    """A run in a soup: its checkpoint, and its predictor without test-time augmentation."""

    path: Path
    predictor: Predictor


def refuse_unlike(runs: Sequence[Ingredient]) -> None:
    """Raises ConfigError where two runs' weights do not mean the same, with what differs, a line a run."""
    lines, first = [], runs[0]
    for run in runs[1:]:
        for key_path, own, other in _unlike(first.predictor, run.predictor):
            found = f"{key_path} is {format_value(other)}, and {format_value(own)} in {first.path}"
            lines.append(f"{run.path}: {found}; a soup needs runs of one architecture, preprocessing and labels")
            break
    if lines:
        raise ConfigError("\n".join(lines))


def _unlike(first: Predictor, other: Predictor) -> Iterator[tuple[str, Any, Any]]:
    yield from differences(_architecture(first), _architecture(other), "arch")
    yield from differences(first.labels.to_config(), other.labels.to_config(), "labels")
    yield from differences(first.preprocessing.to_config(), other.preprocessing.to_config(), "preprocessing")
    shapes = [{name: list(each.shape) for name, each in p.model.state_dict().items()} for p in (first, other)]
    for name in {**shapes[0], **shapes[1]}:
        if shapes[0].get(name) != shapes[1].get(name):
            yield f"the shape of {name}", shapes[0].get(name), shapes[1].get(name)


def _architecture(predictor: Predictor) -> dict[str, Any]:
    arch = predictor.config["arch"]
    args = {name: value for name, value in arch["args"].items() if name not in WITHOUT_EFFECT and value is not None}
    return {"type": arch["type"], "args": args}


def warn_of_other_beginnings(runs: Sequence[Ingredient]) -> None:
    """Where the runs did not begin with the same trained weights."""
    beginnings = []
    for run in runs:
        config = run.predictor.config
        args = config["arch"]["args"]
        beginnings.append([config.get("initial_weights"), args.get("weights_file"), args.get("pretrained") or False])
    if not any(beginnings[0]):
        logger.warning("%s: began with random weights: the mean of such runs is rarely worth anything", runs[0].path)
    elif other := [run for run, own in zip(runs, beginnings, strict=True) if own != beginnings[0]]:
        logger.warning("%s and %s: began with other weights than each other", runs[0].path, other[0].path)


class Soups:
    """The soups that runs may make, by the numbers of the runs in them; each is made once, and predicts once.

    validation: images that no run has trained on; None where there are none
    training_batches: normalised images for the batch norms, (B, 3, h, w) on the models' device, alike at each call
    """

    def __init__(
        self,
        runs: Sequence[Ingredient],
        validation: LabelTable | None,
        training_batches: Callable[[], Iterator[Tensor]],
    ) -> None:
        self.runs, self.validation, self._batches = runs, validation, training_batches
        self._states = [{name: each.clone() for name, each in run.predictor.model.state_dict().items()} for run in runs]
        self.predictor = runs[0].predictor  # which answers with the weights of any soup
        arch = self.predictor.config["arch"]
        if arch["args"].get("gradient_checkpointing"):  # it would set the momentum of batch norms before each batch
            plain = {**arch, "args": {**arch["args"], "gradient_checkpointing": False}}
            model = build_without_weights(plain, self.predictor.labels.num_classes).to(self.predictor.device)
            self.predictor.model = model.to(memory_format=torch.channels_last).eval()
        self._tables: dict[frozenset[int], PredictionTable] = {}
        self.all = frozenset(range(len(runs)))

    @property
    def has_batch_norm(self) -> bool:
        return bool(_batch_norms(self.predictor.model))

    def weights(self, chosen: frozenset[int]) -> dict[str, Tensor]:
        """The state dict of a soup; that of one run is its own."""
        states = [self._states[number] for number in sorted(chosen)]
        if len(states) == 1:
            return states[0]
        model = self.predictor.model
        model.load_state_dict(mean_weights(states))
        measure_batch_norms(model, self._batches())
        return {name: each.clone() for name, each in model.state_dict().items()}

    def table(self, chosen: frozenset[int]) -> PredictionTable:
        """What a soup predicts of the validation images."""
        if chosen not in self._tables:
            assert self.validation is not None
            self.predictor.model.load_state_dict(self.weights(chosen))
            by_head = self.predictor.predict(self.validation.records).by_head
            self._tables[chosen] = PredictionTable.of(self.validation, None, by_head)
        return self._tables[chosen]

    def choose(self, rows: np.ndarray | None = None) -> frozenset[int]:
        """The greedy soup by the scores of some validation images; None: of all."""

        def score(chosen: frozenset[int]) -> float:
            table = self.table(chosen)
            return main_score(table.scores() if rows is None else table[rows.tolist()].scores())

        alone = {number: score(frozenset([number])) for number in self.all}
        first, *others = sorted(alone, key=lambda number: -alone[number])
        chosen, best = frozenset([first]), alone[first]
        for number in others:
            if (found := score(chosen | {number})) >= best:
                chosen, best = chosen | {number}, found
        return chosen

    @cached_property
    def nested(self) -> PredictionTable:
        """Of each image, what the soup predicts that was chosen greedily without its person."""
        assert self.validation is not None
        persons = number_persons([record.person for record in self.validation.records])
        dealt = numpy_stream(0, "soup folds").permutation(int(persons.max()) + 1) % NUM_FOLDS
        parts, order = [], []
        for fold in np.unique(dealt):
            held_out = np.flatnonzero(dealt[persons] == fold)
            parts.append(self.table(self.choose(np.flatnonzero(dealt[persons] != fold)))[held_out.tolist()])
            order.append(held_out)
        return PredictionTable.joined(parts)[np.argsort(np.concatenate(order)).tolist()]


def main_score(scores: Sequence[SetScores]) -> float:
    """Macro F1 of the joint class; where no image's is known, the attributes' mean."""
    joint = [row.macro_f1 for row in scores if row.name == JOINT]
    return joint[0] if joint else float(np.mean([row.macro_f1 for row in scores]))


def mean_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, in its type; counts are the first's."""
    mean = {}
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            mean[name] = torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        else:
            mean[name] = tensor.clone()
    return mean


def measure_batch_norms(model: nn.Module, batches: Iterator[Tensor]) -> None:
    """Replaces the running statistics of the model's batch norms by the mean over batches; all else answers as in
    evaluation. A model without any takes no batch."""
    norms = _batch_norms(model)
    if not norms:
        return
    with _cumulative(model, norms), torch.no_grad():
        for images in batches:
            model(images)


@contextmanager
def _cumulative(model: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # each batch counts alike
        norm.train()
    try:
        yield
    finally:
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [each for each in model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
