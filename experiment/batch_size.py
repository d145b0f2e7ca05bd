"""`"batch_size": "auto"`: the largest batch that the GPU's memory takes, found by trying."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from base.batch import Batch
from base.label_space import LabelSpace
from base.metrics import Metrics
from base.mixing import Mix
from base.preprocessing import Preprocessing
from data_loader.data_loaders import AUTO
from data_loader.records import LabelTable
from data_loader.splits import Split
from data_loader.transforms import build_transforms
from experiment import builders
from parse_config import ConfigParser
from trainer.epoch_metrics import EpochMetrics
from trainer.learner import Learner
from utils import distributed
from utils.errors import ConfigError

logger = logging.getLogger(__name__)

KEY_PATH = "data_loader.args.batch_size"
STEP = 8
"""Batches of a multiple of so many images are tried."""
SPARE = 0.1
"""Of the GPU's memory: what a batch must leave free, since memory becomes fragmented as a run goes on."""
WHAT_TO_LOWER = (
    "lower data_loader.args.batch_size, and raise trainer.accumulation_steps by the same factor; or lower "
    "data_loader.args.input_size, set arch.args.gradient_checkpointing, or choose a smaller model"
)


def settle_batch_size(config: ConfigParser, labels: LabelSpace, split: Split, device: torch.device) -> None:
    """Puts a number in the place of "auto" in the config, and logs it. Raises ConfigError where none can be found."""
    if config["data_loader"]["args"]["batch_size"] != AUTO:
        return
    if not has_memory_of_its_own(device):
        wrong = "asks how much a GPU's memory takes, and the run is on the CPU; give a number, such as 64"
        raise config.error([config.problem(KEY_PATH, wrong)])
    if distributed.world_size() > 1:
        wrong = "is found by one process; run train.py --dry-run without torchrun, and give the number that it logs"
        raise config.error([config.problem(KEY_PATH, wrong)])
    sampler = config.build("sampler", label_space=labels)
    step = 1 if sampler is None else sampler.group_size
    if len(split.train) >= math.lcm(STEP, step):
        step = math.lcm(STEP, step)
    size = largest_that_fits(config, labels, split.train, device, step)
    config["data_loader"]["args"]["batch_size"] = size
    rate = config["optimizer"]["args"].get("lr")
    logger.info(
        '%s = "auto": %d images, the most that fit on %s (of %d to train); optimizer.args.lr = %s is as it was: it may '
        "have been chosen for another batch size",
        KEY_PATH, size, device, len(split.train), rate,
    )  # fmt: skip


def has_memory_of_its_own(device: torch.device) -> bool:
    """A CPU has the machine's, of which too much ends the process, or all others."""
    return device.type == "cuda"


def largest_that_fits(
    config: ConfigParser, labels: LabelSpace, train: LabelTable, device: torch.device, step: int
) -> int:
    """The most images of which the updates of this config's model fit: a multiple of `step`, at most all of `train`.

    Raises ConfigError where not even `step` images fit."""
    trial = _Trial(config, labels, train, device)
    size = largest(lambda images: _fits(trial, images), step, len(train))
    if size == 0:
        wrong = f'is "auto", but not even {step} images fit on {device}; {WHAT_TO_LOWER}'
        raise ConfigError(f"{config.origin(KEY_PATH)}: {KEY_PATH} {wrong}")
    return size


def largest(fits: Callable[[int], bool], step: int, most: int) -> int:
    """The largest multiple of `step`, at most `most`, that fits, where all smaller ones fit; 0 if `step` does not.

    The size is doubled until it no longer fits, and then bisected."""
    good, bad = 0, most // step + 1  # in steps
    size = 1
    while good + 1 < bad:
        size = min(size, bad - 1)
        if fits(size * step):
            good = size
            size = 2 * size if bad > most // step else (good + bad) // 2
        else:
            bad = size
            size = (good + bad) // 2
    return good * step


def _fits(trial: _Trial, images: int) -> bool:
    out_of_memory = False
    try:
        leaves_enough = trial.run(images)
    except torch.OutOfMemoryError:
        out_of_memory = True
    # Not within the except: there the error still holds the frames, and they hold the tensors.
    trial.forget()
    return not out_of_memory and leaves_enough


@dataclass(frozen=True)
class _NoImages:
    """As much of a data loader as a learner asks for."""

    train: LabelTable
    preprocessing: Preprocessing
    batch_size: int = STEP
    steps_per_epoch: int = 1
    num_validation: int = 0


class _Trial:
    """A model of the config with all that changes it, for updates from drawn images; not compiled."""

    def __init__(self, config: ConfigParser, labels: LabelSpace, train: LabelTable, device: torch.device) -> None:
        self.config, self.labels, self.device = config, labels, device
        arguments = config["data_loader"]["args"]
        model = builders.build_model(config, labels, None).to(device)
        built = build_transforms(
            config["transforms"], arguments["input_size"], model.mean, model.std, arguments["bits_used_of_16"]
        )
        loader = _NoImages(train, built.preprocessing)
        self.learner: Learner = builders.build_learner(config, labels, model, loader, device, None)  # type: ignore[arg-type]
        self.learner.network = self.learner.compiled = model
        self.learner.schedule = None
        self.learner.begin_epoch(1)

    def run(self, images: int) -> bool:
        """Two updates, of which the second has the optimizer's state, and a forward pass in evaluation. Returns whether
        enough of the memory is left. Raises torch.OutOfMemoryError."""
        learner = self.learner
        metrics = EpochMetrics(Metrics(self.labels, {}, self.device), learner.criterion.weights, self.device)
        batch = self._batch(images)
        for number in range(2):
            learner.update([batch] * min(2, learner.settings.accumulation_steps), 1, number, metrics)
        with torch.inference_mode(), learner.autocast():
            valid = self.config["data_loader"]["args"]["valid_batch_size"] or images
            learner.eval_model()(learner.inputs(self._batch(valid)))
        learner.network.train()
        if self.device.type != "cuda":
            return True
        free, total = torch.cuda.mem_get_info(self.device)
        return free >= SPARE * total

    def _batch(self, images: int) -> Batch:
        height, width = self.learner.preprocessing.image_hw
        zeros = torch.zeros(images, dtype=torch.int64, device=self.device)
        return Batch(
            torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, device=self.device),
            dict.fromkeys(self.labels.heads, zeros),
            dict.fromkeys(self.labels.attributes, zeros),
            zeros,
            Mix(torch.arange(images, device=self.device).roll(1), 0.5) if self.config["mixing"] else None,
        )

    def forget(self) -> None:
        """Gives the memory of a trial back, also of one that failed."""
        self.learner.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
