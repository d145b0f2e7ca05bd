"""A team's checkpoint, pickled config and all, becomes a run whose answers are those of the team's own model."""

from __future__ import annotations

import csv
import os
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from scripts import import_checkpoint
from tests.integration.workplace import EVALUATION_NAMES, Workplace

SIDE = 32
MEAN, STD = (0.548, 0.504, 0.479), (0.237, 0.247, 0.246)
NORMALISE = {"type": "Normalize", "args": {"mean": list(MEAN), "std": list(STD)}}
CONFIG = {
    "arch": {"type": "TimmModelMulti", "args": {"model_name": "test_efficientnet", "pretrained": False}},
    "labels.attributes.age.training_bins": [20, 30, 40, 50, 60],
    "loss.heads.age.args.class_weights": None,
    "transforms": {"train": [{"type": "Resize"}, NORMALISE], "eval": [{"type": "Resize"}, NORMALISE]},
}


class TeamModel(nn.Module):
    """timm's model with three layers in its classifier's place; six ages."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("test_efficientnet")
        outputs = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(self.model.num_features, number))
                for name, number in (("mask_out", 3), ("gender_out", 2), ("age_out", 6))
            }
        )
        self.model.classifier = nn.Sequential(outputs)

    def answer(self, pixels: np.ndarray) -> int:
        """mask * 6 + gender * 3 + age of one image (H, W, 3) uint8; the six ages' probabilities summed to three."""
        compose = albumentations.Compose([albumentations.Resize(SIDE, SIDE), albumentations.Normalize(MEAN, STD)])
        image = torch.from_numpy(compose(image=pixels)["image"]).permute(2, 0, 1)[None]
        with torch.no_grad():
            features = self.model.forward_head(self.model.forward_features(image), pre_logits=True)
            p = {name: head(features).softmax(1)[0] for name, head in self.model.classifier[0].items()}
        age = torch.stack([p["age_out"][:2].sum(), p["age_out"][2:5].sum(), p["age_out"][5]])
        return int(p["mask_out"].argmax()) * 6 + int(p["gender_out"].argmax()) * 3 + int(age.argmax())


class ConfigParser:
    """As pytorch-template pickles it into its checkpoints."""

    def __init__(self) -> None:
        self._config = OrderedDict(name="Mask_Base")
        self._save_dir, self.resume = Path("saved/models/Mask_Base"), None


@pytest.fixture
def team_module() -> Iterator[None]:
    """The module that the team's config object is of, which is not there when its checkpoint is read."""
    module, name_of_module = types.ModuleType("parse_config_of_a_team"), ConfigParser.__module__
    module.ConfigParser = ConfigParser  # type: ignore[attr-defined]
    sys.modules[module.__name__], ConfigParser.__module__ = module, module.__name__
    yield
    del sys.modules[module.__name__]
    ConfigParser.__module__ = name_of_module


@pytest.fixture
def team_model() -> TeamModel:
    torch.manual_seed(4)
    model = TeamModel().eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor *= 1 + 0.1 * torch.rand_like(tensor)
            tensor *= 30 if "_out" in name else 1
    return model


def save(path: Path, model: nn.Module, **others: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    state = {
        "arch": "TimmModelMulti", "epoch": 7, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(),
        "monitor_best": np.float64(0.3), "config": ConfigParser(), **others,
    }  # fmt: skip
    torch.save(state, path)


def run_import(workplace: Workplace, *argv: str) -> Any:
    return workplace._run(import_checkpoint.main, argv)


RENAMES = [
    word for name in ("mask", "gender", "age")
    for word in ("--rename", f"model.classifier.0.{name}_out.0=heads.head_{name}")
]  # fmt: skip


@pytest.mark.usefixtures("team_module")
def test_a_teams_checkpoint_answers_as_it_did(workplace: Workplace, team_model: TeamModel) -> None:
    workplace.write_config(CONFIG)
    save(workplace.folder / "old.pth", team_model)
    workplace.test("--resume", "old.pth").check_refusal(4, ("old.pth: ", "scripts.import_checkpoint old.pth -c"))
    outcome = run_import(workplace, "old.pth", "-c", "tiny.json", *RENAMES)
    outcome.check_success()
    for fragment in ("under model.", "0 male, 1 female"):
        assert fragment in outcome.out
        assert fragment in workplace.only("saved/log/Tiny/*/info.log").read_text()

    workplace.test("--resume", workplace.run).check_success()
    (submission,) = workplace.submissions
    rows = list(csv.DictReader(submission.open()))
    images = workplace.info_dir / "images"
    expected = [team_model.answer(np.asarray(Image.open(images / name))) for name in EVALUATION_NAMES]
    assert [int(row["ans"]) for row in rows] == expected
    assert len(set(expected)) > 1
    # An imported run has nothing to resume, and auto does not take it for one.
    workplace.train("--resume", workplace.run).check_refusal(4, (str(workplace.run), "imported", "--from"))
    workplace.train("-c", "tiny.json", "--resume", "auto", "--dry-run").check_success()


def test_what_is_left_and_what_is_needed_is_listed_and_can_be_renamed(
    workplace: Workplace, team_model: TeamModel
) -> None:
    workplace.write_config(CONFIG)
    weights = {f"module.{name}": tensor for name, tensor in team_model.state_dict().items()}
    torch.save(weights | {"module.race.weight": torch.zeros(5, 2)}, "weights.pth", _use_new_zipfile_serialization=False)
    refused = run_import(workplace, "weights.pth", "-c", "tiny.json")
    assert refused.exit_code == 4
    assert len(refused.lines) <= 10
    assert all(line.startswith("weights.pth: ") for line in refused.lines)
    for layer, shape in (("heads.head_mask", "(3, "), ("model.classifier.0.mask_out.0", "(3,)")):
        assert any(f"{layer}: " in line and shape in line for line in refused.lines)
    assert "--rename" in refused.lines[-1]
    assert not workplace.save_dir.exists()
    argv = ("weights.pth", "-c", "tiny.json", *RENAMES, "--rename", "race=", "--output", "mine")
    run_import(workplace, *argv).check_success()
    run_import(workplace, *argv).check_refusal(2, ("--output mine",))
    workplace.test("--resume", "mine").check_success()
    assert [path.name for path in workplace.submissions] == ["Tiny_mine.csv"]


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("mkdir executed",)


@pytest.mark.usefixtures("team_module")
def test_a_hostile_checkpoint_is_not_run(workplace: Workplace, team_model: TeamModel) -> None:
    workplace.write_config(CONFIG)
    save(workplace.folder / "old.pth", team_model, monitor_best=Hostile())
    imported = run_import(workplace, "old.pth", "-c", "tiny.json")
    for outcome in (imported, workplace.test("--resume", "old.pth")):
        outcome.check_refusal(4, ("old.pth: ", "posix.system", "nothing was executed", "do not use it"))
        assert "scripts.import_checkpoint" not in outcome.err
    assert not (workplace.folder / "executed").exists()


@pytest.mark.parametrize(
    ("argv", "exit_code", "fragments"),
    [
        (["old.pth"], 2, ("", "-c/--config")),
        (["old.pth", "-c", "tiny.json", "--rename", "fc"], 2, ("--rename fc: ", "old=new")),
        (["weights.pth", "-c", "tiny.json", "--rename", "fc=heads"], 2, ("--rename fc=heads: ",)),
        (["none.pth", "-c", "tiny.json"], 4, ("none.pth: ",)),
        (["tiny.json", "-c", "tiny.json"], 4, ("tiny.json: ", "it begins with")),
    ],
)
def test_what_is_wrong_is_told(
    workplace: Workplace, argv: list[str], exit_code: int, fragments: tuple[str, ...]
) -> None:
    workplace.write_config(CONFIG)
    torch.save({"a.weight": torch.zeros(1)}, "weights.pth")
    before = workplace.files()
    run_import(workplace, *argv).check_refusal(exit_code, fragments)
    assert workplace.files() == before
