"""Images on a device are those of the cache, by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import data_loader.device_images
from data_loader.device_images import DeviceImages
from utils.errors import ConfigError, DataError

CPU = torch.device("cpu")


class _Noise:
    """Images that are drawn by their number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 90 + 7, 2**20])
def test_a_batch_holds_the_images_that_were_asked_for(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_loader.device_images, "_CHUNK_BYTES", chunk_bytes)
    images = _Noise(11)
    resident = DeviceImages(images, (6, 5), range(11), CPU)
    assert len(resident) == 11
    indices = np.array([10, 0, 3, 3])
    batch = resident[indices]
    assert batch.shape == (4, 6, 5, 3)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous()
    for made, index in zip(batch.numpy(), indices, strict=True):
        assert np.array_equal(made, images[index])
    batch.zero_()
    assert np.array_equal(resident[np.array([0])][0].numpy(), images[0])


def test_no_image_needs_no_room() -> None:
    assert len(DeviceImages(_Noise(0), (6, 5), [], CPU)) == 0


def test_an_image_of_another_size_is_named() -> None:
    with pytest.raises(DataError, match=r"^a\.jpg: the fixed transforms make 6 x 5 pixels .* 6 x 6 .*Resize"):
        DeviceImages(_Noise(2), (6, 6), ["a.jpg", "b.jpg"], CPU)


def test_a_device_without_room_is_told_before_anything_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**34))  # noqa: ARG005
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")  # noqa: ARG005
    with pytest.raises(ConfigError) as caught:
        DeviceImages(_Noise(2**30 // 90 + 1), (6, 5), [], torch.device("cuda"))
    assert str(caught.value) == (
        'data_loader.args.cache = "device": 11930465 images of 6 x 5 pixels take 1.0 GiB, and a card has 1.0 GiB free, '
        'of which training needs some; use "disk", or a smaller data_loader.args.input_size'
    )


def test_what_torch_keeps_of_an_earlier_fold_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver does not count it as free, but the next allocation comes out of it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**34))  # noqa: ARG005
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * 2**30)  # noqa: ARG005
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**30)  # noqa: ARG005
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")  # noqa: ARG005
    card = torch.device("cuda")
    data_loader.device_images._check_room((3 * 2**10, 2**10, 2**10), card)
    with pytest.raises(ConfigError, match=r"5\.0 GiB free"):
        data_loader.device_images._check_room((3 * 2**10 + 1, 2**10, 2**10), card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 2**34))  # noqa: ARG005
    data_loader.device_images._check_room((0, 2**10, 2**10), card)
