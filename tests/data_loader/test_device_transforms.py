"""Whole lists of random transforms on a device: chance by key alone, nothing that waits, errors that name the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_loader.device_images import DeviceImages
from data_loader.device_transforms import TWINS, DeviceTransforms, without_device_twin
from data_loader.transforms import Pipeline, TransformLists, build_transforms
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from utils.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = [ROOT / "config.json", *sorted((ROOT / "configs").glob("*.json"))]
OWN = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
CPU = torch.device("cpu")
RESIZE: dict[str, Any] = {"type": "Resize"}


def _one(kind: str, **args: Any) -> dict[str, Any]:
    return {"type": kind, "args": args}


EVERYTHING = [
    _one("Affine", scale=[0.8, 1.2], translate_percent=[-0.1, 0.1], rotate=20, shear=8, fill=90, p=0.7),
    _one("RandomResizedCrop", size=[36, 40], scale=[0.4, 1]),
    _one("Erasing", fill="random"),
    _one("ShiftScaleRotate", border_mode=cv2.BORDER_REFLECT_101),
    _one("RandomBrightnessContrast"),
    _one("RandomBrightnessContrast", brightness_by_max=False),
    _one("VerticalFlip"),
    _one("HorizontalFlip"),
    _one("CoarseDropout", fill="random_uniform", num_holes_range=[1, 4]),
    _one("CoarseDropout", fill=[1, 2, 3]),
    _one("RandomCrop", height=32, width=30),
]


def _pipeline(*specs: dict[str, Any], size: tuple[int, int] = (48, 44)) -> Pipeline:
    first = _one("Resize", height=size[0], width=size[1])
    last = [_one("Resize", height=32, width=30)]
    lists: TransformLists = {"train": [first, *specs], "eval": [first] if size == (32, 30) else last}
    return build_transforms(lists, None, *OWN).train


def _everything(device: torch.device = CPU, seed: int = 3) -> DeviceTransforms:
    return DeviceTransforms(_pipeline(*EVERYTHING), seed, device)


def _images(count: int, image_hw: tuple[int, int] = (48, 44)) -> Tensor:
    noise = np.random.default_rng(0).integers(0, 256, (count, 12, 11, 3), dtype=np.uint8)
    return torch.from_numpy(np.stack([cv2.resize(image, image_hw[::-1]) for image in noise]))


def _keys(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(count) * 7, np.zeros(count, np.int64)


def _recipe(path: Path) -> Pipeline:
    config = ConfigParser.from_file(path, SECTIONS)
    size = config["data_loader"]["args"]["input_size"]
    return build_transforms(config["transforms"], size, *OWN).train


@pytest.mark.parametrize(
    "name", ["config", "b4", "crop_256", "crop_bust_360", "random_erasing", "resize_128x96"]
)  # fmt: skip
def test_the_recipes_of_the_configs_run(name: str) -> None:
    pipeline = _recipe(next(path for path in CONFIGS if path.stem == name))
    assert pipeline.prefix.image_hw is not None
    images = _images(6, pipeline.prefix.image_hw)
    made = DeviceTransforms(pipeline, 1, CPU)(images, 0, *_keys(6))
    assert made.shape == (6, *pipeline.image_hw, 3)
    assert made.dtype == torch.uint8
    unchanged = [torch.equal(image, original) for image, original in zip(made, images, strict=True)]
    assert not all(unchanged)


def test_of_the_configs_only_the_strong_mixture_has_no_twins() -> None:
    without = {}
    for path in CONFIGS:
        if path.name != "config.schema.json":
            without[path.stem] = without_device_twin(_recipe(path))
    kinds = [line.split(": ")[1].split(" ")[0] for line in without.pop("strong_augmentation")]
    assert kinds == ["Perspective", "ColorJitter", "OneOf", "OneOf", "ImageCompression"]
    assert {name: lines for name, lines in without.items() if lines} == {}


def test_every_twin_is_tried_here() -> None:
    assert {spec["type"] for spec in EVERYTHING} == set(TWINS)


def test_a_sample_depends_on_its_key_alone() -> None:
    transforms, images, (indices, repeats) = _everything(), _images(24), _keys(24)
    made = transforms(images, 5, indices, repeats)
    assert made.shape == (24, 32, 30, 3)
    order = np.array([11, 3, 20, 0])
    some = transforms(images[order], 5, indices[order], repeats[order])
    assert torch.equal(some, made[order])
    for sample in (0, 9):
        alone = transforms(images[[sample]], 5, indices[[sample]], repeats[[sample]])
        assert torch.equal(alone[0], made[sample])
    others = images.roll(1, 0)
    others[4] = images[4]
    assert torch.equal(transforms(others, 5, indices, repeats)[4], made[4])
    assert torch.equal(_everything()(images, 5, indices, repeats), made)


def test_another_epoch_index_repeat_or_seed_is_another_chance() -> None:
    image = _images(1).expand(40, -1, -1, -1)
    (indices, repeats), transforms = _keys(40), _everything()
    made = transforms(image, 0, indices, repeats)
    others = [
        transforms(image, 1, indices, repeats),
        transforms(image, 0, indices, repeats + 1),
        transforms(image, 0, indices + 1000, repeats),
        _everything(seed=4)(image, 0, indices, repeats),
    ]
    seen = {bytes(sample) for batch in [made, *others] for sample in batch.numpy()}
    assert len(seen) == 5 * 40


def test_transforms_act_in_the_order_of_the_list() -> None:
    hole = _one("CoarseDropout", fill=255, hole_height_range=[0.5, 0.6], hole_width_range=[0.5, 0.6], p=1)
    dark = _one("RandomBrightnessContrast", brightness_limit=[-0.5, -0.4], contrast_limit=[-0.1, 0], p=1)
    images = torch.full((4, 32, 30, 3), 200, dtype=torch.uint8)
    brightest = [
        DeviceTransforms(_pipeline(*specs, size=(32, 30)), 0, CPU)(images, 0, *_keys(4)).amax((1, 2, 3))
        for specs in ((hole, dark), (dark, hole))
    ]
    assert (brightest[0] < 160).all()
    assert (brightest[1] == 255).all()


def test_two_flips_are_uncorrelated() -> None:
    transforms = DeviceTransforms(_pipeline(_one("HorizontalFlip"), _one("VerticalFlip"), size=(32, 30)), 0, CPU)
    corners = torch.zeros((1, 32, 30, 3), dtype=torch.uint8)
    corners[0, 0, 0] = 1
    made = transforms(corners.expand(2000, -1, -1, -1), 0, *_keys(2000))[..., 0]
    flips = np.array([made[:, :, -1].amax(1).numpy(), made[:, -1].amax(1).numpy()])
    assert abs(np.corrcoef(flips)[0, 1]) < 0.08  # 3.5 standard errors
    assert np.all(abs(flips.mean(axis=1) - 0.5) < 0.04)


def test_a_list_without_chance_gives_the_images_back() -> None:
    images = _images(2, (32, 30))
    assert DeviceTransforms(_pipeline(size=(32, 30)), 0, CPU)(images, 0, *_keys(2)) is images


class _NothingThatWaits(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: reading a number, or results whose size depends on the data."""

    _WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self._WAITING, name
        if name.startswith("index"):
            indices = [index for index in args[1] if index is not None] if name == "index" else []
            assert all(index.dtype in (torch.int32, torch.int64) for index in indices), "an index of truth values"
        self.num_operations += 1
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device() -> None:
    transforms, keys = _everything(), _keys(5)
    resident = DeviceImages(_images(40).numpy(), (48, 44), range(40), CPU)
    with _NothingThatWaits() as watch:
        transforms(resident[keys[0]], 0, *keys)
    assert watch.num_operations > 20
    with pytest.raises(AssertionError, match="_local_scalar_dense"), _NothingThatWaits():
        torch.ones(1).item()
    with pytest.raises(AssertionError, match="truth values"), _NothingThatWaits():
        _images(5)[torch.ones(5, dtype=torch.bool)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_makes_the_same_images_and_is_not_waited_for() -> None:
    cuda, keys = torch.device("cuda"), _keys(40)
    expected = _everything()(_images(40), 2, *keys)
    transforms, resident = _everything(cuda), DeviceImages(_images(40).numpy(), (48, 44), range(40), cuda)
    rows = np.arange(40)
    transforms(resident[rows], 2, *keys)  # the first call may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = transforms(resident[rows], 2, *keys)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (made.cpu().int() - expected.int()).abs()
    assert difference.max() <= 3
    assert difference.float().mean() < 0.02


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (_one("Perspective"), f"only {', '.join(TWINS)} can"),
        (_one("OneOf", transforms=[_one("HorizontalFlip"), _one("VerticalFlip")]), "only Affine, "),
        (_one("Affine", rotate=5, interpolation=cv2.INTER_CUBIC), "interpolation = 2, only 1 (linear)"),
        (_one("Affine", rotate=5, border_mode=cv2.BORDER_WRAP), "border_mode = 3, only 0, 1, 2, 4"),
        (_one("Affine", scale=[0.5, 2], balanced_scale=True), "balanced_scale"),
        (_one("Affine", rotate=5, fill=[1, 2, 3, 4]), "fill = (1.0, 2.0, 3.0, 4.0), only a number or three"),
        (_one("RandomBrightnessContrast", ensure_safe_range=True), "ensure_safe_range"),
        (_one("CoarseDropout", fill="inpaint_ns"), 'fill = "inpaint_ns", only numbers, "random" and "random_uniform"'),
        (_one("RandomResizedCrop", size=[32, 30], interpolation=cv2.INTER_AREA), "interpolation = 3, only 1 (linear)"),
        (_one("RandomResizedCrop", size=[32, 30], area_for_downscale="image"), 'area_for_downscale = "image"'),
        (_one("RandomCrop", height=32, width=40, pad_if_needed=True), "32 x 40 pixels of 32 x 30"),
    ],
)
def test_what_has_no_twin_is_named(spec: dict[str, Any], reason: str) -> None:
    end = _one("RandomCrop", height=32, width=30)
    pipeline = _pipeline(_one("HorizontalFlip"), spec, _one("VerticalFlip"), end, size=(32, 30))
    (line,) = without_device_twin(pipeline)
    assert line.startswith(f"transforms.train[2]: {spec['type']} has no twin on the device ({reason}")
    assert line.endswith('); take it out, or set data_loader.args.cache = "disk" or "memory"')
    with pytest.raises(ConfigError) as caught:
        DeviceTransforms(pipeline, 0, CPU)
    assert str(caught.value) == line


def test_a_crop_that_comes_now_and_then_is_named() -> None:
    first, last = _one("RandomCrop", height=40, width=40, p=0.5), _one("RandomCrop", height=32, width=30)
    (line,) = without_device_twin(_pipeline(first, last))
    assert "transforms.train[1]: RandomCrop has no twin on the device (p = 0.5, only 1 where the size changes)" in line


def test_images_of_unlike_sizes_are_named() -> None:
    lists: TransformLists = {
        "train": [_one("HorizontalFlip"), _one("RandomCrop", height=32, width=30)],
        "eval": [_one("Resize", height=32, width=30)],
    }
    (line,) = without_device_twin(build_transforms(lists, None, *OWN).train)
    assert line.endswith("needs images of one size before the first random transform; put a Resize first")
