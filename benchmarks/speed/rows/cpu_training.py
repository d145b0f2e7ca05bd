"""Training on a CPU: the project's trainer in float32 and in what `precision: "auto"` chooses, against a float32 loop
as torch has it by default (NCHW, the allocator's own settings)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
from torch.nn.functional import cross_entropy

from benchmarks.speed.measuring import Contender, Figure, Row, Target, interleaved, ratios, seconds_of
from benchmarks.speed.peers_process import PeersProcess
from benchmarks.speed.synthetic import synthetic_batches, synthetic_config, synthetic_trainer, train_one_epoch
from benchmarks.speed.workplace import Workplace
from utils.device import choose_compute_type

MODEL_NAME, SIDE, BATCH_SIZE, UPDATES = "efficientnet_b0", 240, 16, 6
CLASSES_OF_HEADS = (3, 2, 3)
AS_IT_COMES = "float32, NCHW, a loop by hand"
TARGET = Target(2.0, 2.2)
CPU = torch.device("cpu")


def measure(workplace: Workplace) -> Row:
    automatic = str(choose_compute_type("auto", CPU)).removeprefix("torch.")
    precisions = ["float32"] if automatic == "float32" else ["float32", automatic]
    contenders = {f"{precision}, the trainer": trainer_in(workplace, precision) for precision in precisions}
    with PeersProcess({AS_IT_COMES: loop_by_hand}) as theirs:
        values = interleaved({**theirs.contenders, **contenders}, workplace.scale.rounds)
    figures = [Figure(name, "images/s", each) for name, each in values.items()]
    for precision in precisions:
        target = TARGET if precision == "bfloat16" else None
        name = f"{precision}, the trainer"
        figures.append(Figure(f"{name} / {AS_IT_COMES}", "x", ratios(values[name], values[AS_IT_COMES]), target))
    return Row(
        "Training on a CPU",
        figures,
        {"model": MODEL_NAME, "side": SIDE, "batch_size": BATCH_SIZE, "updates": UPDATES},
        [f"{MODEL_NAME} at {SIDE} px in batches of {BATCH_SIZE}, on batches in memory; all threads compute"],
        theirs.missing if automatic != "float32" else {**theirs.missing, "bfloat16": "no instructions for it here"},
    )


def images_per_second(epoch: Callable[[], object]) -> float:
    return UPDATES * BATCH_SIZE / seconds_of(epoch)


def trainer_in(workplace: Workplace, precision: str) -> Contender:
    config = synthetic_config(workplace, MODEL_NAME, SIDE, {"precision": precision})
    batches = synthetic_batches(workplace.labels, 2, BATCH_SIZE, SIDE)
    trainer = synthetic_trainer(workplace, config, batches, UPDATES, CPU)
    return partial(images_per_second, partial(train_one_epoch, trainer))


def loop_by_hand() -> Contender:
    model = timm.create_model(MODEL_NAME, num_classes=sum(CLASSES_OF_HEADS)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    images = torch.rand(BATCH_SIZE, 3, SIDE, SIDE)
    targets = [torch.randint(classes, (BATCH_SIZE,)) for classes in CLASSES_OF_HEADS]

    def epoch() -> None:
        for _ in range(UPDATES):
            logits = model(images).split(CLASSES_OF_HEADS, dim=1)
            loss = sum(cross_entropy(of_head, target) for of_head, target in zip(logits, targets, strict=True))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            optimizer.step()

    return partial(images_per_second, epoch)
