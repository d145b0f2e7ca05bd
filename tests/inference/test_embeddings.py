"""Embeddings are what the heads see: the heads' own layers, applied to them, give the model's answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from data_loader.records.records import Record
from inference.embeddings import embed
from inference.predictor import Predictor, predict
from inference.tta import PRESETS
from tests.inference.conftest import MakeCheckpoint
from utils.errors import CheckpointError, ConfigError

LABELS = LabelSpace({"mask": {"classes": ["on", "off"]}, "gender": {"classes": ["male", "female", "other"]}})


def test_the_heads_answer_from_the_embeddings(make_checkpoint: MakeCheckpoint, records: list[Record]) -> None:
    """Of two models of different sizes at once, in batches that do not divide the images."""
    first = Predictor.from_checkpoint(make_checkpoint(LABELS))
    other = Predictor.from_checkpoint(make_checkpoint(LABELS, seed=2, image_hw=(32, 32), name="b/last.pth"))
    found = embed([first, other], records, batch_size=3, num_workers=0)
    for predictor, features in zip((first, other), found, strict=True):
        assert features.shape == (len(records), 32)  # width 4, doubled three times
        assert features.dtype == np.float32
        (expected,) = predict([predictor], records)
        for head, table in expected.by_head.items():
            layer = predictor.model.get_submodule(f"heads.head_{head}")
            with torch.inference_mode():
                answers = layer(torch.from_numpy(features)).softmax(dim=1)
            torch.testing.assert_close(answers, table, rtol=0, atol=1e-5)
    assert not np.allclose(found[0], found[1])
    alone = embed([other], records, batch_size=1, num_workers=0)[0]
    np.testing.assert_allclose(alone, found[1], rtol=1e-4, atol=1e-6)


def test_the_variants_are_averaged(make_checkpoint: MakeCheckpoint, records: list[Record]) -> None:
    file = make_checkpoint(LABELS)
    plain = Predictor.from_checkpoint(file, tta=PRESETS["none"])
    with_flip = Predictor.from_checkpoint(file, tta=PRESETS["flip"])
    flipped = Predictor.from_checkpoint(file, tta={"flip": PRESETS["flip"]["flip"]})
    one, both, other = (embed([each], records, 4, 0)[0] for each in (plain, with_flip, flipped))
    assert not np.allclose(one, other)
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-4, atol=1e-6)


def test_what_has_no_embeddings_is_named(make_checkpoint: MakeCheckpoint, records: list[Record]) -> None:
    predictor = Predictor.from_checkpoint(make_checkpoint(LABELS))
    predictor.model.get_parameter("features.0.weight").data.fill_(float("inf"))
    with pytest.raises(CheckpointError, match=r"^BaselineCNN: its features are not finite"):
        embed([predictor], records, 4, 0)
    predictor.model.heads = torch.nn.Identity()
    with pytest.raises(ConfigError, match=r"^BaselineCNN has no LinearHeads"):
        embed([predictor], records, 4, 0)
