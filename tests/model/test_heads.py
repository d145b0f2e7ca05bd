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


def test_several_dropouts_give_the_mean_of_their_logits() -> None:
    """Written out as the paper draws it: a dropout, a linear layer, again, and the mean."""
    torch.manual_seed(0)
    heads = LinearHeads(16, CLASSES, 0.5, dropout_samples=5).train()
    torch.manual_seed(7)
    given = heads(features())
    torch.manual_seed(7)
    dropped = [nn.functional.dropout(features(), 0.5) for _ in range(5)]
    assert not torch.equal(dropped[0], dropped[1])
    for name in CLASSES:
        linear = heads.get_submodule(f"head_{name}")
        torch.testing.assert_close(given[name], torch.stack([linear(one) for one in dropped]).mean(dim=0))


def test_gradients_are_those_of_the_mean_of_logits() -> None:
    torch.manual_seed(0)
    heads = LinearHeads(16, {"mask": 3}, 0.5, dropout_samples=3).train()
    target = torch.arange(8) % 3
    linear = heads.get_submodule("head_mask")
    gradients = []
    for way in ("ours", "written out"):
        torch.manual_seed(7)
        if way == "ours":
            logits = heads(features())["mask"]
        else:
            logits = sum(linear(nn.functional.dropout(features(), 0.5)) for _ in range(3)) / 3
        heads.zero_grad()
        nn.functional.cross_entropy(logits, target).backward()
        gradients.append([parameter.grad.clone() for parameter in linear.parameters()])  # type: ignore[union-attr]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_one_dropout_is_the_plain_head() -> None:
    torch.manual_seed(0)
    heads = LinearHeads(16, CLASSES, 0.5).train()
    torch.manual_seed(7)
    given = heads(features())
    torch.manual_seed(7)
    dropped = nn.functional.dropout(features(), 0.5)
    for name in CLASSES:
        assert torch.equal(given[name], heads.get_submodule(f"head_{name}")(dropped))


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


def test_heads_begin_alike_with_and_without_an_embedding() -> None:
    torch.manual_seed(0)
    plain = LinearHeads(16, CLASSES, 0.0).state_dict()
    torch.manual_seed(0)
    more = LinearHeads(16, CLASSES, 0.0, embedding_size=4).state_dict()
    assert list(more) == [*plain, "embedding.weight", "embedding.bias"]
    assert all(torch.equal(more[name], value) for name, value in plain.items())
