"""The images that a model gets most wrong: against a sort of all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from base.batch import UNKNOWN, Batch
from base.label_space import LabelSpace
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


def test_without_a_joint_class_the_known_attributes_count() -> None:
    labels = LabelSpace({f"a{number}": {"classes": ["no", "yes"]} for number in range(13)})
    generator = torch.Generator().manual_seed(1)
    truth = {name: torch.randint(-1, 2, (30,), generator=generator) for name in labels.attributes}
    for column in truth.values():
        column[7] = -1
    outputs = {name: torch.rand(30, 2, generator=generator) for name in labels.heads}
    worst = WorstImages(labels)
    worst.update(outputs, Batch(torch.zeros(30, 3, 2, 2), {}, truth, torch.arange(30)))
    tables = {name: output.softmax(dim=1) for name, output in outputs.items()}
    of_truth = {
        row: np.prod([tables[n][row, own[row]].item() for n, own in truth.items() if own[row] != UNKNOWN])
        for row in range(30)
        if row != 7
    }
    shown = worst.images(lambda index: np.full((1, 1, 3), index, np.uint8))
    assert [int(image[0, 0, 0]) for image, _ in shown] == sorted(of_truth, key=of_truth.__getitem__)[:NUM_IMAGES]
    true, predicted = shown[0][1].removeprefix("true: ").split(", predicted: ")
    first = int(shown[0][0][0, 0, 0])
    assert true.split() == [{-1: "?", 0: "no", 1: "yes"}[int(own[first])] for own in truth.values()]
    assert predicted.split() == [["no", "yes"][int(own[first].argmax())] for own in outputs.values()]
