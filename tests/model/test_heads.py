"""The heads: several dropouts of the same features, and the embedding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from base.batch import EMBEDDING
from model.heads import LinearHeads

CLASSES = {"mask": 3, "age": 6}


def features() -> torch.Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [1, 5])
def test_several_dropouts_give_the_mean_of_their_logits(samples: int) -> None:
    """Written out as in the paper: a dropout, a linear layer, again, and the mean."""
    torch.manual_seed(0)
    heads = LinearHeads(16, CLASSES, 0.5, dropout_samples=samples).train()
    torch.manual_seed(7)
    given = heads(features())
    torch.manual_seed(7)
    dropped = [nn.functional.dropout(features(), 0.5) for _ in range(samples)]
    for name in CLASSES:
        linear = heads.get_submodule(f"head_{name}")
        torch.testing.assert_close(given[name], torch.stack([linear(one) for one in dropped]).mean(dim=0))


def test_evaluation_is_one_plain_pass_that_draws_nothing() -> None:
    torch.manual_seed(0)
    heads = LinearHeads(16, CLASSES, 0.5, dropout_samples=5, embedding_size=4).eval()
    before = torch.get_rng_state()
    given = heads(features())
    assert torch.equal(torch.get_rng_state(), before)
    for name in CLASSES:
        assert torch.equal(given[name], heads.get_submodule(f"head_{name}")(features()))


@pytest.mark.parametrize("training", [True, False])
def test_the_embedding_is_a_linear_layer_on_the_features_themselves(training: bool) -> None:
    torch.manual_seed(0)
    heads = LinearHeads(16, CLASSES, 0.5, embedding_size=4).train(training)
    given = heads(features())
    assert list(given) == ["mask", "age", EMBEDDING]
    weight, bias = heads.get_parameter("embedding.weight"), heads.get_parameter("embedding.bias")
    assert weight.shape == (4, 16)
    torch.testing.assert_close(given[EMBEDDING], features() @ weight.T + bias)
