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

import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data_loader.data_loaders import AttributeDataLoader
from data_loader.records import LabelTable
from data_loader.splits import Split
from experiment import builders
from experiment.checks import check_config
from experiment.resume import differences
from experiment.run_record import RunRecord
from experiment.schema import SECTIONS
from inference.inputs import folds_with_checkpoints
from inference.out_of_fold import OUT_OF_FOLD_FILE, PredictionTable
from inference.predictor import CHECKPOINT_NAMES, EXPORTED_FILE, Predictor, find_checkpoint
from inference.scoring.evaluation import JOINT, SetScores
from inference.scoring.intervals import number_persons
from inference.tta import PRESETS
from model.model import build_without_weights
from parse_config import ConfigParser
from utils.checkpoint.checkpoint_file import write_checkpoint
from utils.config.layers import Override
from utils.config.plugins import COPIES
from utils.errors import CheckpointError, ConfigError, DataError, write_error
from utils.random_streams import numpy_stream
from utils.run_folders import RunFolders, new_run, refuse_missing
from utils.wording import counted, format_value

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


def make_soup(runs: Sequence[Ingredient], *, greedy: bool, num_images: int, output: Path | None, command: str) -> Path:
    """Makes a run of several, with the mean of their weights, and returns its folder.

    greedy: only the runs that help, chosen on their common validation people
    num_images: so many training images, at most, measure the batch norms
    output: the run folder; None: a new one in save_dir, <name>_soup
    command: for run.json

    Raises ConfigError, DataError, StorageFullError."""
    refuse_unlike(runs)
    warn_of_other_beginnings(runs)
    config = config_of(runs[0])
    data_loader, split, is_shared = read_data(config, runs)
    if greedy and not is_shared:
        raise ConfigError(
            "--greedy: the runs were divided differently (folds?), so that some have trained on people whom the "
            "others validate on; leave --greedy out, or name runs of one split"
        )
    predictor = runs[0].predictor

    images: list[Tensor] = []  # uint8, drawn once for all soups

    def training_batches() -> Iterator[Tensor]:
        if not images:
            number = -(-num_images // data_loader.batch_size)
            with closing(data_loader.train_batches(data_loader.epoch_of_full_size)) as batches:  # type: ignore[type-var]
                images.extend(batch.images.clone() for batch in itertools.islice(batches, number))
        for each in images:
            yield predictor.preprocessing.normalise(each.to(predictor.device), memory_format=torch.channels_last)

    validation = data_loader.validation if is_shared and len(data_loader.validation) else None
    soups = Soups(runs, validation, training_batches)
    if soups.has_batch_norm:
        number = min(len(data_loader.train), num_images)
        logger.info("batch norms: their running statistics are measured anew on %d training images", number)
    chosen = soups.choose() if greedy else soups.all
    table = log_scores(soups, chosen, greedy)
    folder = write_run(soups, chosen, greedy, config, split, table, output, command)
    logger.info("%s: a soup of %s; python test.py --resume %s", folder, counted(len(chosen), "run"), folder)
    return folder


# --- the runs ---


def read_runs(paths: Sequence[Path], checkpoint: str, device: torch.device) -> list[Ingredient]:
    """The models of the runs; a run of folds stands for its folds.

    checkpoint: of a run folder: "best", "last", "best_f1", ...

    Raises ConfigError, CheckpointError."""
    files = []
    for path in paths:
        refuse_missing(path)
        for folder in folds_with_checkpoints(path).values() or [path]:
            file = find_checkpoint(folder, checkpoint)
            if file.name == EXPORTED_FILE:
                raise CheckpointError(f"{path}: is exported; name the run")
            files.append(file)
    for number, file in enumerate(files):
        if same := [other for other in files[:number] if other.samefile(file)]:
            named = "is named twice" if same[0] == file else f"is the same file as {same[0]}"
            raise ConfigError(f"{file}: {named}; name each model once")
    if len(files) < 2:
        raise ConfigError(f"{files[0]}: alone makes no soup; name another run")
    return [Ingredient(file, Predictor.from_checkpoint(file, device, PRESETS["none"])) for file in files]


def config_of(run: Ingredient) -> ConfigParser:
    """The first run's, under another name: a soup is not resumed as a run of that config."""
    values = run.predictor.config
    name = Override("name", f"{values['name']}_soup", "scripts.soup")
    config = ConfigParser.from_dict(values, SECTIONS, f"run {run.path}", [name], True, run.path.parent)
    check_config(config, begins=False)
    return config


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


def read_data(config: ConfigParser, runs: Sequence[Ingredient]) -> tuple[AttributeDataLoader, Split, bool]:
    """The images of the first run, and whether they validate all runs. Raises DataError."""
    predictor = runs[0].predictor
    labels = config.shared("labels")
    split: Split = config.build("split").divide(builders.read_label_table(config, labels), config.extra().seed)
    if predictor.split_digest not in (None, split.digest()):
        wrong = "images, labels (pseudo-labels, too), label_fixes or the split have changed since; put them back"
        raise DataError(f"{runs[0].path}: {wrong}")
    own = (split.digest(), split.validation_digest())
    is_shared = all(run.predictor.validation_digest == own[1] or run.predictor.split_digest == own[0] for run in runs)
    if not is_shared:
        logger.warning(
            "the runs were divided differently, or do not tell how: some have trained on people who validate others; "
            "what the soup is worth only other photographs can tell"
        )
    return builders.build_data_loader(config, split, predictor.model, predictor.device), split, is_shared


# --- the soups that they may make ---


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


# --- what is shown and written ---


def log_scores(soups: Soups, chosen: frozenset[int], greedy: bool) -> PredictionTable | None:
    """The scores of each run and of the soup on the validation people; returns what the soup predicts of them, in the
    nested estimate of a greedy one. None where nothing validates all runs."""
    if soups.validation is None:
        return None
    for number, run in enumerate(soups.runs):
        part = ", in the soup" if greedy and number in chosen else ""
        log_table(f"{run.path}{part}:", soups.table(frozenset([number])))
    if not greedy:
        log_table(f"the soup of all {len(chosen)}:", soups.table(chosen))
        return soups.table(chosen)
    log_table(
        f"the greedy soup of {len(chosen)}, fitted: it was chosen on these very people, and promises too much:",
        soups.table(chosen),
    )
    log_table("its nested estimate: each person's images by the soup that is chosen without them:", soups.nested)
    return soups.nested


def log_table(title: str, table: PredictionTable) -> None:
    logger.info("%s", title)
    rows: list[SetScores] = table.scores()
    for row in rows:
        logger.info("  %s", row)


def write_run(
    soups: Soups,
    chosen: frozenset[int],
    greedy: bool,
    config: ConfigParser,
    split: Split,
    table: PredictionTable | None,
    output: Path | None,
    command: str,
) -> Path:
    """A run folder that other commands take: checkpoint, config, run.json, and out_of_fold.csv where there is a table.

    Raises ConfigError, StorageFullError."""
    if output is None:
        folders = new_run(Path(config["trainer"]["save_dir"]), config["name"])
    else:
        folders = RunFolders(output, output / "log", output.name)
    predictor = soups.predictor
    digests = {"split": split.digest(), "validation": split.validation_digest()}
    digests = digests if soups.validation is not None else {}
    content = {
        "model": {name: each.cpu() for name, each in soups.weights(chosen).items()},
        "config": config.resolved,
        "labels": predictor.labels.to_config(),
        "preprocessing": predictor.preprocessing.to_config(),
        "run_name": folders.run,
        "completed_epochs": max(soups.runs[number].predictor.completed_epochs for number in chosen),
        "soup": [str(soups.runs[number].path) for number in sorted(chosen)],
        "greedy": greedy,
        **{f"{side}_digest": digest for side, digest in digests.items()},
    }
    try:
        write_checkpoint(folders.models / CHECKPOINT_NAMES["best"], content)
        plugins = soups.runs[0].path.parent / COPIES
        if plugins.is_dir():
            shutil.copytree(plugins, folders.models / COPIES)
    except OSError as error:
        raise write_error(folders.models, error) from None
    folders.write_config(config.resolved)
    record = RunRecord(folders.models)
    record.begin(folders, config, command, digests)
    record.end("finished")
    if table is not None:
        table.write(folders.models / OUT_OF_FOLD_FILE)
    return folders.models
