"""What is built for several processes."""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm

from model.model import BaselineCNN


def test_synchronised_batch_norms_are_the_same_model() -> None:
    """So that its checkpoint is that of any other run; alone they compute as the others do."""
    torch.manual_seed(0)
    model, images = BaselineCNN({"mask": 3}, width=4), torch.rand(4, 3, 32, 32)
    weights, before = {**model.state_dict()}, model(images)["mask"]
    parameters = [*model.parameters()]
    model.load_state_dict(weights)
    synchronised = convert_sync_batchnorm(model)
    assert sum(isinstance(each, torch.nn.SyncBatchNorm) for each in synchronised.modules()) == 4
    assert all(one is other for one, other in zip(synchronised.parameters(), parameters, strict=True))
    assert synchronised.state_dict().keys() == weights.keys()
    assert torch.equal(synchronised(images)["mask"], before)
