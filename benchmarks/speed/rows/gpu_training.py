"""Training images/s on a GPU: the project's step, compiled and not, against the teams' loop and timm's step.

All are fed from memory, each as its own loader leaves the batches there: see `NOTES`. One case is one row."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from base.base_model import BaseModel
from base.base_trainer import TrainerSettings
from base.batch import Batch
from base.preprocessing import Preprocessing
from benchmarks.speed.loops import TeamsLoop, TimmsLoop, as_floats
from benchmarks.speed.measuring import Contender, Figure, Row, Target, Values, interleaved, ratios, seconds_of
from benchmarks.speed.roofline import Limits, layer_costs, measured_limits
from benchmarks.speed.synthetic import (
    SyntheticLoader,
    synthetic_batches,
    synthetic_config,
    synthetic_trainer,
    train_one_epoch,
)
from benchmarks.speed.workplace import Workplace
from data_loader.transforms import build_transforms
from experiment.builders import build_model
from trainer.compute import choose_compute
from trainer.epoch_metrics import BATCHES_TOGETHER


class Case(NamedTuple):
    """A model, the side of its images in pixels, the batch."""

    model_name: str
    side: int
    batch_size: int

    @property
    def row(self) -> str:
        return f"gpu_training_{self.model_name}_{self.batch_size}"


COUNTED = Case("efficientnetv2_rw_s", 240, 64)
"""The case that the targets are for; it comes first."""
SIDES = {COUNTED.model_name: COUNTED.side, "resnet50": 224, "tf_efficientnet_b4": 380, "vit_base_patch16_224": 224}
CASES = [Case(model_name, side, batch_size) for batch_size in (64, 256) for model_name, side in SIDES.items()]
TARGET = Target(3, 5)
"""Over the teams' loop; 4,500 images/s are aimed at on an H200."""
COMPILE_MODE = "reduce-overhead"
LEAST_STEPS = 10
COUNTED_STEPS = 2 * BATCHES_TOGETHER, 4 * BATCHES_TOGETHER
"""Of the two epochs whose difference is the forced synchronisations: whole numbers of what is added up together."""

OURS, COMPILED, TEAMS, TIMM = "ours", "ours, compiled", "the teams' loop", "timm's step"
HOST, RESIDENT = "from the host", "data on the device"
NOTES = [
    f"ours, {HOST}: uint8 batches in pinned memory, copied one batch ahead on a stream of its own, as training with a "
    f"cache on disk does; {RESIDENT}: they lie there already, nothing is copied",
    "the teams' loop: float32 batches in pinned memory, as torch's DataLoader leaves them, copied by the step itself",
    "timm's step: float32 batches on the device, normalised already, as its prefetcher hands them over; the copy and "
    "the normalisation are not charged to it",
    "ours with all metrics and trackers on; the others compute the same loss of the same three heads",
    "forced synchronisations: how many more torch.cuda.set_sync_debug_mode warns of in an epoch of "
    f"{COUNTED_STEPS[1]} steps than in one of {COUNTED_STEPS[0]}, by step. It sees no waiting for an event: the feed "
    "waits for the copy of the batch after, on the stream that copies",
    "share of the limit: the least time by bytes (and by the slower of bytes and arithmetic, layer by layer) over the "
    "time of ours; see benchmarks/speed/roofline.py",
]


@dataclass
class Entrant:
    """A way to train, in memory once, and measured in one or more ways.

    contenders: by name
    counts: measurements that are taken once, by name
    close: called when nothing more is measured
    """

    contenders: dict[str, Contender]
    counts: dict[str, Contender] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def measure(workplace: Workplace, case: Case) -> Row:
    limits = measured_limits(workplace.device, compute_type_of(workplace, case))
    entrants, missing = built(
        {
            OURS: partial(ours, workplace, case, compiled=False),
            COMPILED: partial(ours, workplace, case, compiled=True),
            TEAMS: partial(teams, workplace, case),
            TIMM: partial(timms, workplace, case),
        }
    )
    contenders = {name: contender for each in entrants for name, contender in each.contenders.items()}
    values = interleaved(contenders, workplace.scale.rounds)
    counts = {name: count() for each in entrants for name, count in each.counts.items()}
    for entrant in entrants:
        entrant.close()
    return Row(
        f"Training on a GPU: {case.model_name} at {case.side}, batch {case.batch_size}",
        figures_of(workplace, case, values, counts, limits),
        {
            **case._asdict(),
            "steps": steps_of(workplace, case),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        NOTES,
        missing,
    )


def built(builders: Mapping[str, Callable[[], Entrant]]) -> tuple[list[Entrant], dict[str, str]]:
    """The entrants that fit on the card together, each run once, and by name why the others are missing."""
    entrants: list[Entrant] = []
    missing: dict[str, str] = {}
    for name, build in builders.items():
        entrant = None
        try:
            entrant = build()
            for contender in entrant.contenders.values():
                contender()
        except torch.OutOfMemoryError:
            missing[name] = "out of memory beside the others"
        if name not in missing and entrant is not None:
            entrants.append(entrant)
        elif entrant is not None:
            entrant.close()
        entrant = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return entrants, missing


def figures_of(
    workplace: Workplace, case: Case, values: Mapping[str, Values], counts: Mapping[str, float], limits: Limits
) -> list[Figure]:
    """Images/s, ratios, synchronisations and shares of the limits."""
    figures = [Figure(name, "images/s", each) for name, each in values.items()]
    of_ours = [named(way, feed) for feed in (HOST, RESIDENT) for way in (OURS, COMPILED)]
    of_ours = [name for name in of_ours if name in values]
    counted = TARGET if case == COUNTED else None
    for name in of_ours:
        for peer in (TEAMS, TIMM):
            if peer in values:
                target = counted if peer == TEAMS and name.endswith(HOST) else None
                figures.append(Figure(f"{name} / {peer}", "x", ratios(values[name], values[peer]), target))
    figures += [Figure(name, "per step", [count]) for name, count in counts.items()]
    for limit, seconds in least_seconds(workplace, case, limits).items():
        for name in of_ours:
            shares = [100 * seconds * each / case.batch_size for each in values[name]]
            figures.append(Figure(f"{name}, share of the limit by {limit}", "%", shares))
    return figures


def named(way: str, feed: str) -> str:
    return f"{way}, {feed}"


# --- who is measured ---


def ours(workplace: Workplace, case: Case, compiled: bool) -> Entrant:
    """The trainer, once, with batches on the host and on the device."""
    device, steps = workplace.device, steps_of(workplace, case)
    config = config_of(workplace, case, {"compile": COMPILE_MODE if compiled else False})
    on_host = [batch.mapped(lambda tensor: pinned(tensor, device)) for batch in host_batches(workplace, case)]
    trainer = synthetic_trainer(workplace, config, on_host, steps, device)
    loader = cast(SyntheticLoader, trainer.data_loader)
    way = COMPILED if compiled else OURS

    def epoch_of(batches: list[Batch], steps: int) -> None:
        loader.batches, loader.steps = batches, steps
        train_one_epoch(trainer)

    def synchronisations() -> float:
        few, more = (forced_synchronisations(partial(epoch_of, on_host, each)) for each in COUNTED_STEPS)
        return (more - few) / (COUNTED_STEPS[1] - COUNTED_STEPS[0])

    def close() -> None:
        trainer.trackers.close(0)
        if compiled:  # the compiler keeps the graphs' memory
            torch.compiler.reset()

    feeds = {HOST: on_host, RESIDENT: [batch.to(device) for batch in on_host]}
    return Entrant(
        {
            named(way, feed): images_per_second(workplace, case, partial(epoch_of, batches, steps))
            for feed, batches in feeds.items()
        },
        {f"{way}, forced synchronisations": synchronisations},
        close,
    )


def teams(workplace: Workplace, case: Case) -> Entrant:
    """Their loop, with what torch's DataLoader gives it: float32 in pinned memory, (B, 3, H, W) contiguous."""
    model, preprocessing, arguments = parts_by_hand(workplace, case)
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True)
    loop = TeamsLoop(model, adam, *arguments)
    images, targets = floats_of(workplace, case, preprocessing)
    device = workplace.device
    batch = pinned(images, device), {name: pinned(target, device) for name, target in targets.items()}
    return by_hand(workplace, case, TEAMS, loop, batch)


def timms(workplace: Workplace, case: Case) -> Entrant:
    """timm's step, with what its PrefetchLoader gives it: float32 on the device."""
    from timm.optim import create_optimizer_v2

    model, preprocessing, arguments = parts_by_hand(workplace, case)
    adam = create_optimizer_v2(model, opt="adamw", lr=1e-4)
    loop = TimmsLoop(model, adam, *arguments, compute_type=compute_type_of(workplace, case))
    images, targets = floats_of(workplace, case, preprocessing)
    device = workplace.device
    batch = images.to(device), {name: target.to(device) for name, target in targets.items()}
    return by_hand(workplace, case, TIMM, loop, batch)


def by_hand(workplace: Workplace, case: Case, name: str, loop: TeamsLoop | TimmsLoop, batch: Any) -> Entrant:
    epoch = partial(loop.epoch, [batch] * steps_of(workplace, case))
    return Entrant({name: images_per_second(workplace, case, epoch)})


# --- what they are made of ---


def steps_of(workplace: Workplace, case: Case) -> int:
    return max(LEAST_STEPS, workplace.scale.gpu_images // case.batch_size)


def config_of(workplace: Workplace, case: Case, changes: dict[str, Any] | None = None) -> Any:
    return synthetic_config(workplace, case.model_name, case.side, changes)


def compute_type_of(workplace: Workplace, case: Case) -> torch.dtype:
    """What the project computes in on this device."""
    settings: TrainerSettings = config_of(workplace, case).extra("trainer")
    return choose_compute(settings, workplace.device).dtype


def host_batches(workplace: Workplace, case: Case) -> list[Batch]:
    return synthetic_batches(workplace.labels, 1, case.batch_size, case.side)


def parts_by_hand(workplace: Workplace, case: Case) -> tuple[BaseModel, Preprocessing, tuple[Any, ...]]:
    """The project's model on the device, what its images go through, and what a loop takes behind its optimizer."""
    config = config_of(workplace, case)
    model = build_model(config, workplace.labels, None).to(workplace.device)
    preprocessing = build_transforms(config["transforms"], case.side, model.mean, model.std).preprocessing
    return model, preprocessing, (config["loss"]["heads"], preprocessing.mean, preprocessing.std, workplace.device)


def floats_of(workplace: Workplace, case: Case, preprocessing: Preprocessing) -> Any:
    (batch,) = host_batches(workplace, case)
    return as_floats(batch, preprocessing.mean, preprocessing.std)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """In pinned memory, where there is a GPU to copy it to."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


# --- what is measured of them ---


def images_per_second(workplace: Workplace, case: Case, epoch: Callable[[], object]) -> Contender:
    def finished() -> None:
        epoch()
        if workplace.device.type == "cuda":
            torch.cuda.synchronize()

    return lambda: steps_of(workplace, case) * case.batch_size / seconds_of(finished)


def forced_synchronisations(work: Callable[[], object]) -> int:
    """How often the work makes the processor wait for the GPU, as far as torch notices it."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def least_seconds(workplace: Workplace, case: Case, limits: Limits) -> dict[str, float]:
    """Of a step, by limit. The layers are counted where no memory is: the card may be full."""
    model = build_model(config_of(workplace, case), workplace.labels, None).to("meta")
    images = torch.zeros(case.batch_size, 3, case.side, case.side, device="meta")
    layers = layer_costs(model, images, compute_type_of(workplace, case).itemsize)
    return {
        "bytes alone": limits.seconds_of_bytes(layers, model.num_parameters),
        "bytes and arithmetic": limits.seconds(layers, model.num_parameters),
    }
