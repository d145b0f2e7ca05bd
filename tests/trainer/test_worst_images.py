"""The images that a model gets most wrong: against a sort of all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from base.batch import UNKNOWN, Batch
from tests.trainer.conftest import LABELS
from trainer.worst_images import NUM_IMAGES, WorstImages


@pytest.mark.parametrize("batch_size", [1, 5, 16, 60])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_worst_of_all_whatever_the_batches_are(batch_size: int, levels: int) -> None:
    """With few levels of the logits many probabilities are equal: then the first images are taken."""
    generator = torch.Generator().manual_seed(levels)
    truth = {
        "mask": torch.randint(-1, 2, (60,), generator=generator),
        "age": torch.randint(0, 3, (60,), generator=generator),
    }
    outputs = {
        "mask": torch.randint(levels, (60, 2), generator=generator) / levels,
        "age": torch.randint(levels, (60, 4), generator=generator) / levels,
    }
    worst = WorstImages(LABELS)
    for rows in torch.arange(60).split(batch_size):
        batch = Batch(torch.zeros(len(rows), 3, 2, 2), {}, {name: value[rows] for name, value in truth.items()}, rows)
        worst.update({head: output[rows] for head, output in outputs.items()}, batch)

    mask, age = (outputs[head].softmax(dim=1).numpy() for head in ("mask", "age"))
    answers = (mask[:, :, None] * np.stack([age[:, 0] + age[:, 1], age[:, 2], age[:, 3]], axis=1)[:, None]).reshape(
        60, 6
    )
    answer = (truth["mask"] * 3 + truth["age"]).numpy()
    known = (truth["mask"] != UNKNOWN).numpy()
    expected = sorted((answers[row, answer[row]], row) for row in range(60) if known[row])[:NUM_IMAGES]
    shown = worst.images(lambda index: np.full((1, 1, 3), index, np.uint8))
    assert [int(image[0, 0, 0]) for image, _ in shown] == [row for _, row in expected]
    for (_, row), (_, text) in zip(expected, shown, strict=True):
        names = LABELS.joint_class_names
        assert text == f"true: {names[answer[row]]}, predicted: {names[answers[row].argmax()]}"


def test_there_are_none_where_nothing_was_seen() -> None:
    assert WorstImages(LABELS).images(lambda _index: np.zeros((1, 1, 3), np.uint8)) == []
