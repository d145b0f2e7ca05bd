"""Training images/s on a GPU: the project's step, compiled and not, against the teams' loop and timm's step.

All are fed from memory: the project's from uint8 batches on the device, the others from float32 batches in the
computer's memory, as their loaders leave them."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from base.batch import Batch
from benchmarks.loops import TeamsLoop, TimmsLoop, as_floats
from benchmarks.measuring import Contender, Figure, Row, Target, interleaved, ratios, seconds_of
from benchmarks.roofline import layer_costs, measured_limits
from benchmarks.synthetic import (
    SyntheticLoader,
    synthetic_batches,
    synthetic_config,
    synthetic_trainer,
    train_one_epoch,
)
from benchmarks.workplace import Workplace
from trainer.trainer import Trainer

MODELS = {"efficientnetv2_rw_s": 240, "resnet50": 224, "tf_efficientnet_b4": 380, "vit_base_patch16_224": 224}
"""By model, the side of the images."""
BATCH_SIZES = (64, 256)
COUNTED = ("efficientnetv2_rw_s", 64)
TARGET = Target(3, 5)
"""Over the teams' loop, for the model and batch that are COUNTED; 4,500 images/s are aimed at on an H200."""
COMPILE_MODE = "reduce-overhead"
LEAST_STEPS = 10
OURS, COMPILED, TEAMS, TIMM = "ours", "ours, compiled", "the teams' loop", "timm's step"


def measure(workplace: Workplace) -> Row:
    figures: list[Figure] = []
    missing: dict[str, str] = {}
    for model_name, side in MODELS.items():
        for batch_size in BATCH_SIZES:
            case = f"{model_name} at {side}, batch {batch_size}"
            try:
                figures += measure_case(workplace, case, model_name, side, batch_size)
            except torch.cuda.OutOfMemoryError as error:
                missing[case] = f"out of memory ({str(error).splitlines()[0]})"
            gc.collect()
            torch.cuda.empty_cache()
            torch.compiler.reset()
    return Row(
        "Training on a GPU",
        figures,
        {"images": workplace.scale.gpu_images, "float32_matmul_precision": torch.get_float32_matmul_precision()},
        [
            "ours with all metrics and trackers on; the others compute the same loss of the same three heads",
            "forced synchronisations: how many more torch.cuda.set_sync_debug_mode warns of in an epoch that has "
            f"{LEAST_STEPS} steps more, over these steps",
            "share of the limit: the least time by bytes (and by the slower of bytes and arithmetic, layer by layer) "
            "over the time of ours; see benchmarks/roofline.py",
        ],
        missing,
    )


def measure_case(workplace: Workplace, case: str, model_name: str, side: int, batch_size: int) -> list[Figure]:
    steps = max(LEAST_STEPS, workplace.scale.gpu_images // batch_size)
    trainers = {
        name: trainer_of(workplace, model_name, side, batch_size, steps, compiled)
        for name, compiled in ((OURS, False), (COMPILED, True))
    }
    plain = trainers[OURS]
    contenders: dict[str, Contender] = {}

    def add(name: str, epoch: Callable[[], object]) -> None:
        def images_per_second() -> float:
            return steps * batch_size / seconds_of(lambda: finished(epoch, workplace.device))

        contenders[name] = images_per_second

    for name, trainer in trainers.items():
        add(name, partial(train_one_epoch, trainer))
    for name, loop, batch in by_hand(
        plain, workplace.config()["loss"]["heads"], host_batch(workplace, batch_size, side)
    ):
        add(name, partial(loop.epoch, [batch] * steps))
    values = interleaved(contenders, workplace.scale.rounds)
    figures = [Figure(f"{case}: {name}", "images/s", each) for name, each in values.items()]
    for name in (OURS, COMPILED):
        target = TARGET if (model_name, batch_size) == COUNTED else None
        over = ratios(values[name], values[TEAMS])
        figures.append(Figure(f"{case}: {name} / {TEAMS}", "x", over, target))
        figures.append(Figure(f"{case}: {name} / {TIMM}", "x", ratios(values[name], values[TIMM])))
        waits = forced_synchronisations_of_a_step(trainers[name])
        figures.append(Figure(f"{case}: {name}, forced synchronisations", "per step", [waits]))
    figures += shares_of_limits(case, plain, {name: values[name] for name in (OURS, COMPILED)}, batch_size, side)
    for trainer in trainers.values():
        trainer.trackers.close(0)
    return figures


def trainer_of(
    workplace: Workplace, model_name: str, side: int, batch_size: int, steps: int, compiled: bool
) -> Trainer:
    config = synthetic_config(workplace, model_name, side, {"compile": COMPILE_MODE if compiled else False})
    batches = synthetic_batches(workplace.labels, 1, batch_size, side, workplace.device)
    return synthetic_trainer(workplace, config, batches, steps, workplace.device)


def host_batch(workplace: Workplace, batch_size: int, side: int) -> Batch:
    return synthetic_batches(workplace.labels, 1, batch_size, side)[0]


def by_hand(trainer: Trainer, heads: Any, batch: Batch) -> list[tuple[str, TeamsLoop | TimmsLoop, Any]]:
    """The teams' loop and timm's on copies of the trainer's model, each with a batch as its loader makes them."""
    from timm.optim import create_optimizer_v2

    learner = trainer.learner
    mean, std, device = learner.preprocessing.mean, learner.preprocessing.std, learner.device
    floats = as_floats(batch, mean, std)
    pinned = tuple(_pinned(part, device) for part in floats)
    teams_model, timms_model = (copy.deepcopy(learner.model) for _ in range(2))
    teams_model.to(memory_format=torch.contiguous_format)
    adam = torch.optim.Adam(teams_model.parameters(), lr=1e-4, amsgrad=True)
    timms = create_optimizer_v2(timms_model, opt="adamw", lr=1e-4)
    return [
        (TEAMS, TeamsLoop(teams_model, adam, heads, mean, std, device), floats),
        (
            TIMM,
            TimmsLoop(timms_model, timms, heads, mean, std, device, compute_type=learner.compute.compute_type),
            pinned,
        ),
    ]


def _pinned(part: Any, device: torch.device) -> Any:
    if device.type != "cuda":
        return part
    return {name: each.pin_memory() for name, each in part.items()} if isinstance(part, dict) else part.pin_memory()


def finished(work: Callable[[], object], device: torch.device) -> None:
    """Does the work, and waits until the device has."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()


def forced_synchronisations_of_a_step(trainer: Trainer) -> float:
    """Without those that an epoch has once, at its end."""
    loader = trainer.data_loader
    assert isinstance(loader, SyntheticLoader)
    steps, counts = loader.steps, []
    for loader.steps in (LEAST_STEPS, 2 * LEAST_STEPS):
        counts.append(forced_synchronisations(lambda: train_one_epoch(trainer)))
    loader.steps = steps
    return (counts[1] - counts[0]) / LEAST_STEPS


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


def shares_of_limits(
    case: str, trainer: Trainer, values: dict[str, list[float]], batch_size: int, side: int
) -> list[Figure]:
    """Per cent of the limits that each of the ways to train reaches."""
    learner = trainer.learner
    limits = measured_limits(learner.device, learner.compute.compute_type)
    images = torch.zeros(batch_size, 3, side, side, device=learner.device)
    layers = layer_costs(learner.model, images, learner.compute.compute_type.itemsize)
    parameters = learner.model.num_parameters
    figures = []
    for name, images_per_second in values.items():
        for limit, seconds in (
            ("bytes alone", limits.seconds_of_bytes(layers, parameters)),
            ("bytes and arithmetic", limits.seconds(layers, parameters)),
        ):
            shares = [100 * seconds * each / batch_size for each in images_per_second]
            figures.append(Figure(f"{case}: {name}, share of the limit by {limit}", "%", shares))
    return figures
