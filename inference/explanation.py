"""What a prediction depends on in an image: Grad-CAM where the model pools a feature map, else occlusion.

Both ask how much the log probability of one class depends on each part of the image as the model sees it:

- Grad-CAM (Selvaraju et al. 2017): the last feature map before its pooling, its channels weighted by the mean gradient
  over the positions. One forward pass and the end of a backward pass.
- Occlusion (Zeiler & Fergus 2014): how far it falls where a patch has the mean colour. 64 forward passes, for models
  without such a map: ViTs, and heads on all positions.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from data_loader.transforms import eval_pipeline
from inference.predictor import Predictor, Probabilities

OCCLUSION_GRID = 8
"""Patches to a side that are hidden one at a time."""


@dataclass(frozen=True)
class Explanation:
    """What a prediction depends on.

    prepared: (h, w, 3) uint8, RGB, the image as the model sees it: cropped and resized, without test-time augmentation
    heat: (h, w) float32, how much each pixel speaks for the class, 0 to 1; 0 everywhere if none does
    method: how the heat was found
    """

    prepared: np.ndarray
    heat: np.ndarray
    method: Literal["Grad-CAM", "occlusion"]

    def drawn(self) -> np.ndarray:
        """The prepared image under its heat, from blue to red, (h, w, 3) uint8, RGB; it stays as it is where 0."""
        levels = (self.heat * 255).round().astype(np.uint8)
        colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
        weight = 0.6 * self.heat[..., None]
        return np.asarray(self.prepared * (1 - weight) + colours * weight, dtype=np.uint8)


def explain_prediction(predictor: Predictor, image: np.ndarray, attribute: str, class_number: int) -> Explanation:
    """What speaks for a class of an attribute. One thread at a time may ask a model.

    image: (H, W, 3) uint8, RGB
    class_number: of the attribute's scored classes
    """
    prepared = eval_pipeline(predictor.preprocessing, predictor.preparation)(image)
    tensor = torch.from_numpy(prepared).permute(2, 0, 1).unsqueeze(0).to(predictor.device)
    images = predictor.preprocessing.normalise(tensor, memory_format=torch.channels_last)
    question = _Question(predictor, attribute, class_number)
    method: Literal["Grad-CAM", "occlusion"]
    if (pooling := _find_pooling(predictor.model, images)) is not None:
        method, heat = "Grad-CAM", _grad_cam(question, images, *pooling)
    else:
        method, heat = "occlusion", _occlusion(question, images)
    heat = heat.clamp(min=0)
    if (highest := float(heat.max())) > 0:
        heat = heat / highest
    height, width = prepared.shape[:2]
    resized = cv2.resize(heat.cpu().numpy().astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return Explanation(prepared, np.asarray(resized, dtype=np.float32), method)


@dataclass(frozen=True)
class _Question:
    """The class that is asked about."""

    predictor: Predictor
    attribute: str
    class_number: int

    def log_probability(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) normalised -> (B,)."""
        labels = self.predictor.labels
        outputs = self.predictor.model(images)
        by_head = {head: outputs[head].float().softmax(dim=1) for head in labels.heads}
        probabilities = Probabilities.from_heads(labels, by_head).by_attribute[self.attribute]
        return probabilities[:, self.class_number].clamp_min(1e-12).log()


def _find_pooling(model: nn.Module, images: Tensor) -> tuple[nn.Module, int] | None:
    """The module that pools the last feature map of more than one position, and the axis of the map's channels."""
    found: list[tuple[nn.Module, int]] = []

    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if (
            len(inputs) != 1
            or inputs[0] is images
            or not (isinstance(inputs[0], Tensor) and isinstance(output, Tensor))
        ):
            return
        if (axis := _pooled_axis(inputs[0].shape, output.shape)) is not None:
            found.append((module, axis))

    with ExitStack() as hooks, torch.inference_mode():
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(note))
        model(images)
    return found[-1] if found else None


def _pooled_axis(features: torch.Size, pooled: torch.Size) -> int | None:
    """The axis of the channels where (B, C, H, W) or (B, H, W, C) becomes (B, C), else None."""
    if len(features) != 4:
        return None
    for axis, positions in ((1, features[2:]), (3, features[1:3])):
        shapes = [(features[0], features[axis]), tuple(1 if at not in (0, axis) else features[at] for at in range(4))]
        if tuple(pooled) in shapes and math.prod(positions) > 1:
            return axis
    return None


def _grad_cam(question: _Question, images: Tensor, pooling: nn.Module, channels: int) -> Tensor:
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        kept.append(inputs[0].detach().clone().requires_grad_())
        return (kept[0].clone(),)  # which the pooling may write into

    with torch.enable_grad(), pooling.register_forward_pre_hook(keep):
        (gradients,) = torch.autograd.grad(question.log_probability(images).sum(), kept[0])
    positions = [axis for axis in (1, 2, 3) if axis != channels]
    weights = gradients.mean(dim=positions, keepdim=True)
    return (weights * kept[0].detach()).sum(dim=channels)[0]


def _occlusion(question: _Question, images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    rows = np.linspace(0, height, OCCLUSION_GRID + 1).astype(int)
    columns = np.linspace(0, width, OCCLUSION_GRID + 1).astype(int)
    falls = []
    with torch.inference_mode():
        whole = question.log_probability(images)
        for top, bottom in pairwise(rows):
            hidden = images.repeat(OCCLUSION_GRID, 1, 1, 1)
            for number, (left, right) in enumerate(pairwise(columns)):
                hidden[number, :, top:bottom, left:right] = 0  # the mean colour, after normalisation
            falls.append(whole - question.log_probability(hidden))
    return torch.stack(falls)
