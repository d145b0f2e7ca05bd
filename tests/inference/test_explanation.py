"""The heat lies where the class is decided, on models made so that this is known."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from base.base_model import BaseModel
from base.label_space import LabelSpace
from base.preprocessing import Preprocessing
from inference.explanation import explain_prediction
from inference.predictor import Predictor
from model.model import TimmModelMulti
from tests.inference.conftest import MakeCheckpoint, resize

LABELS = LabelSpace({"colour": {"classes": ["other", "red"]}})
AGES = LabelSpace({"age": {"bins": [30, 60], "training_bins": [20, 30, 60]}})
SIDE = 32


class Redness(BaseModel):
    """How red an image is, by the mean over its positions.

    pooling: the shape of the map that a module averages; None: no module does
    corner: row and column, 0 to 3, of the one sixteenth that counts; None: all count alike
    """

    def __init__(self, pooling: str | None, corner: tuple[int, int] | None = None) -> None:
        super().__init__({"colour": 2})
        self.pooling, self.corner = pooling, corner
        self.pool: nn.Module = nn.Flatten()
        if pooling is not None:
            self.pool = SelectAdaptivePool2d(
                pool_type="fast", flatten=True, input_fmt="NCHW" if pooling == "BCHW" else "NHWC"
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        redness = (images[:, 0] - images[:, 1]).clamp(min=0)
        if self.corner is not None:  # it sees no other
            seen = torch.zeros_like(redness)
            rows, columns = (slice(8 * at, 8 * at + 8) for at in self.corner)
            seen[:, rows, columns] = redness[:, rows, columns]
            redness = seen
        features = torch.stack([torch.zeros_like(redness), redness], dim=3 if self.pooling == "BHWC" else 1)
        if self.pooling is None:
            return {"colour": self.pool(features).reshape(len(images), 2, -1).mean(dim=2) * 20}
        return {"colour": self.pool(features) * 20}

    def stages(self) -> list[list[str]]:
        return []


def predictor_of(
    model: BaseModel, side: int = SIDE, mean: tuple[float, float, float] = (0.5, 0.5, 0.5), **settings: Any
) -> Predictor:
    content = {
        "config": {"name": "Red", "data_loader": {"args": {}}, "trainer": {}, "data": [], **settings},
        "run_name": "run",
        "completed_epochs": 1,
    }
    preprocessing = Preprocessing((side, side), mean, (0.25,) * 3, resize(side, side))
    return Predictor(model, LABELS, preprocessing, torch.device("cpu"), content)


def grey(size: int = SIDE) -> np.ndarray:
    return np.full((size, size, 3), 128, dtype=np.uint8)


def share_inside(heat: np.ndarray, rows: slice, columns: slice) -> float:
    return float(heat[rows, columns].sum() / heat.sum())


CORNERS = list(product((0, 3), (0, 3)))
METHODS = {"BCHW": "Grad-CAM", "BHWC": "Grad-CAM", None: "occlusion"}


@pytest.mark.parametrize("pooling", METHODS)
@pytest.mark.parametrize("corner", CORNERS)
def test_the_heat_lies_where_the_red_patch_is(pooling: str | None, corner: tuple[int, int]) -> None:
    image = grey()
    rows, columns = (slice(8 * at, 8 * at + 8) for at in corner)
    image[rows, columns] = (250, 20, 20)
    explanation = explain_prediction(predictor_of(Redness(pooling)), image, "colour", 1)
    assert explanation.method == METHODS[pooling]
    assert explanation.heat.max() == pytest.approx(1)
    assert explanation.heat[rows, columns].mean() > 0.5
    outside = explanation.heat.copy()
    outside[max(0, rows.start - 3) : rows.stop + 3, max(0, columns.start - 3) : columns.stop + 3] = 0
    assert outside.max() == 0  # but for the interpolation at the patch's edge


@pytest.mark.parametrize("pooling", METHODS)
@pytest.mark.parametrize("corner", CORNERS)
def test_the_heat_lies_in_the_one_corner_that_decides(pooling: str | None, corner: tuple[int, int]) -> None:
    """Though the whole image is red."""
    image = grey()
    image[:] = (250, 20, 20)
    explanation = explain_prediction(predictor_of(Redness(pooling, corner)), image, "colour", 1)
    rows, columns = (slice(max(0, 8 * at - 3), 8 * at + 11) for at in corner)
    assert share_inside(explanation.heat, rows, columns) == pytest.approx(1)


def test_what_speaks_against_a_class_has_no_heat() -> None:
    image = grey()
    image[:8, :8] = (250, 20, 20)
    for pooling in METHODS:
        explanation = explain_prediction(predictor_of(Redness(pooling)), image, "colour", 0)
        assert explanation.heat.max() == 0
        assert np.array_equal(explanation.drawn(), image)


def test_the_picture_is_the_models_own_without_augmentation() -> None:
    """Of a photograph of another size, the heat has the shape of what the model sees."""
    image = grey(90)
    image[:20, :20] = (250, 20, 20)
    flipped = {"flip": [{"type": "HorizontalFlip", "args": {"p": 1}}]}
    explanation = explain_prediction(predictor_of(Redness("BCHW"), views=flipped), image, "colour", 1)
    assert explanation.prepared.shape == (SIDE, SIDE, 3)
    assert explanation.heat.shape == (SIDE, SIDE)
    assert explanation.heat[:6, :6].min() > 0.9
    assert explanation.drawn().dtype == np.uint8


def test_after_a_prediction_with_training_bins(make_checkpoint: MakeCheckpoint) -> None:
    """What inference mode has made is no part of a gradient; the weights keep none, and predictions stay."""
    predictor = Predictor.from_checkpoint(make_checkpoint(AGES))
    image = np.random.default_rng(1).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    before = predictor.predict_image(image)
    explanation = explain_prediction(predictor, image, "age", 0)
    assert explanation.method == "Grad-CAM"
    assert predictor.predict_image(image) == before
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


EXPECTED = {
    "test_resnet": "Grad-CAM",
    "test_efficientnet": "Grad-CAM",
    "test_convnext": "Grad-CAM",
    "test_nfnet": "Grad-CAM",
    "test_vit": "occlusion",
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("pooling", [None, "gem"])
def test_timms_models(name: str, pooling: Literal["gem"] | None) -> None:
    if pooling == "gem" and EXPECTED[name] == "occlusion":
        return
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": 64} if name == "test_vit" else {}
    model = TimmModelMulti({"colour": 2}, model_name=name, pretrained=False, pooling=pooling, **options)
    image = np.random.default_rng(2).integers(0, 256, (70, 50, 3)).astype(np.uint8)
    assert explain_prediction(predictor_of(model, 64), image, "colour", 1).method == EXPECTED[name]


def upsampled(heat: np.ndarray, side: int) -> np.ndarray:
    """Its positive part, the highest 1, bilinear."""
    positive = torch.from_numpy(heat.clip(min=0) / heat.max())[None, None]
    return np.asarray(nn.functional.interpolate(positive, (side, side), mode="bilinear", align_corners=False)[0, 0])


def sharpened(name: str, **options: Any) -> TimmModelMulti:
    torch.manual_seed(0)
    model = TimmModelMulti({"colour": 2}, model_name=name, pretrained=False, **options)
    model.heads.get_parameter("head_colour.weight").data *= 3
    return model


def test_occlusion_is_what_painting_over_a_patch_changes() -> None:
    """Of a ViT, patch by patch in uint8 and through what predicts photographs."""
    mean = (102, 153, 51)
    red, green, blue = (value / 255 for value in mean)
    predictor = predictor_of(sharpened("test_vit", img_size=64), 64, (red, green, blue))
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    probability = predictor.predict_image(image)["colour"]["red"]
    assert 0.01 < probability < 0.99
    whole = np.log(probability)
    falls = np.zeros((8, 8))
    for row, column in product(range(8), repeat=2):
        painted = image.copy()
        painted[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = mean
        falls[row, column] = whole - np.log(predictor.predict_image(painted)["colour"]["red"])
    assert falls.max() > 0.01
    explanation = explain_prediction(predictor, image, "colour", 1)
    assert explanation.method == "occlusion"
    np.testing.assert_allclose(explanation.heat, upsampled(falls, 64), atol=2e-3)


def test_grad_cam_is_the_map_weighted_by_what_each_channel_changes() -> None:
    """Of a ResNet, whose gradients are found by moving a channel of its last feature map as a whole."""
    model: Any = sharpened("test_resnet").eval()
    predictor = predictor_of(model, 64)
    image = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    images = predictor.preprocessing.normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    with torch.no_grad():
        features = model.backbone.forward_features(images).double()
        double = model.double()

        def log_probability(features: Tensor) -> float:
            logits = double.heads(double.backbone.forward_head(features, pre_logits=True))["colour"]
            return float(logits.log_softmax(dim=1)[0, 1])

        slopes = []
        for channel in range(features.shape[1]):
            moved = [features.clone(), features.clone()]
            moved[0][:, channel] -= 1e-4
            moved[1][:, channel] += 1e-4
            below, above = map(log_probability, moved)
            slopes.append((above - below) / 2e-4)
        heat = (torch.tensor(slopes)[:, None, None] * features[0]).sum(dim=0).numpy()
    model.float()
    explanation = explain_prediction(predictor, image, "colour", 1)
    np.testing.assert_allclose(explanation.heat, upsampled(heat, 64), atol=2e-3)
