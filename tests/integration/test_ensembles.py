"""test.py with several models: unlike ones, specialists, a run's folds, views, votes, and what the platform says."""

from __future__ import annotations

import copy
import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from base.label_space import LabelSpace
from data_loader.records.sources import read_evaluation_folder
from inference.predictor import Predictor
from model.model import BaselineCNN
from tests.integration.workplace import EVALUATION_NAMES, Outcome, Workplace
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint

SIZES = (3, 2, 3)
ATTRIBUTES: dict[str, Any] = {
    "mask": {"classes": ["wear", "incorrect", "not_wear"]},
    "gender": {"classes": ["male", "female"]},
    "age": {"bins": [30, 60]},
}
DECADES = {**ATTRIBUTES, "age": {"bins": [30, 60], "training_bins": [20, 30, 40, 50, 60]}}
PAIR = {"mask": ["mask"], "pair": ["gender", "age"]}


class Models:
    """Untrained models in run folders of a workplace, unlike each other, whose answers differ between images."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self._content = read_checkpoint(workplace.folder / workplace.run / "last.pth")

    def write(
        self,
        run: str,
        attributes: dict[str, Any] = ATTRIBUTES,
        heads: dict[str, list[str]] | None = None,
        side: int = 32,
        name: str = "Tiny",
        checkpoint: str = "model_best.pth",
        config: dict[str, Any] | None = None,
    ) -> str:
        labels = LabelSpace(attributes, heads)
        torch.manual_seed(sum(map(ord, run)))
        model = BaselineCNN(labels.num_classes, width=4)
        for head in labels.heads:
            model.heads.get_parameter(f"head_{head}.weight").data *= 300
        content = copy.deepcopy(self._content)
        content["config"] |= {"name": name, "labels": labels.to_config(), **(config or {})}
        content["preprocessing"]["image_hw"] = [side, side]
        content["preprocessing"]["eval_transforms"] = [{"type": "Resize", "args": {"height": side, "width": side}}]
        run_name = Path(run.partition("/fold_")[0]).name
        content |= {"model": model.state_dict(), "labels": labels.to_config(), "run_name": run_name}
        del content["split_digest"]  # of other labels, or of another fold
        write_checkpoint(self.workplace.folder / run / checkpoint, content)
        return run

    def write_folds(self, run: str, present: Sequence[int], folds: int = 3) -> str:
        for fold in present:
            split = {"type": "KFoldSplit", "args": {"folds": folds, "fold": fold}}
            self.write(f"{run}/fold_{fold}", config={"split": split})
        return run

    def joint(self, run: str) -> np.ndarray:
        """(N, 3, 2, 3) of a model that answers mask, gender and age."""
        predictor = Predictor.from_checkpoint(self.workplace.folder / run / "model_best.pth")
        joint = predictor.predict(read_evaluation_folder(self.workplace.info_dir)).joint
        assert joint is not None
        return joint.double().numpy().reshape(-1, *SIZES)


@pytest.fixture
def models(trained: Workplace) -> Models:
    return Models(trained)


def answers(path: Path) -> list[int]:
    rows = list(csv.DictReader(path.open()))
    assert [row["ImageID"] for row in rows] == list(EVALUATION_NAMES)
    return [int(row["ans"]) for row in rows]


def answer(workplace: Workplace, *argv: str) -> tuple[Path, Outcome]:
    """Runs test.py; the CSV that it made."""
    before = set(workplace.submissions)
    outcome = workplace.test("--resume", *argv)
    outcome.check_success()
    made = [
        path for path in set(workplace.submissions) - before if "_part" not in path.name and "_prob" not in path.name
    ]
    (submission,) = made
    return submission, outcome


def likeliest(joint: np.ndarray) -> list[int]:
    return [int(row.argmax()) for row in joint.reshape(len(joint), -1)]


@pytest.mark.parametrize("more", [[], ["--vote", "hard"], ["--views", "flip"], ["--tta", "five_crops"]], ids=str)
def test_one_model_once_or_twice_writes_the_same_bytes(trained: Workplace, models: Models, more: list[str]) -> None:
    run = models.write("saved/models/Tiny/a", heads=PAIR)
    written = []
    for argv in ([run], [run, run], [run, run, run, "--weights", "1", "2", "0.1"]):
        outcome = trained.test("--resume", *argv, *more, "--probabilities", "--output", "out.csv")
        outcome.check_success()
        assert ("views of each image: plain, flip" in outcome.out) == ("flip" in more)
        written.append([(trained.folder / name).read_bytes() for name in ("out.csv", "out_probabilities.csv")])
    assert written[0] == written[1] == written[2]
    assert len(set(answers(trained.folder / "out.csv"))) > 1


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 0.5)])
def test_unlike_models_are_averaged(trained: Workplace, models: Models, weights: tuple[float, ...]) -> None:
    """Of other sizes, other heads, other training bins; each with its own preprocessing."""
    runs = [
        models.write("saved/models/Tiny/a"),
        models.write("saved/models/Other/b", heads={"all": ["mask", "gender", "age"]}, side=24, name="Other"),
        models.write("saved/models/Third/c", DECADES, PAIR, 40, "Third"),
    ]
    given = ["--weights", *map(str, weights)] if len(set(weights)) > 1 else []
    submission, outcome = answer(trained, *runs, *given, "--parts", "--probabilities")
    joints = [models.joint(run) for run in runs]
    mean = np.average(joints, axis=0, weights=weights)
    assert answers(submission) == likeliest(mean)
    assert submission.name == "Tiny_a+Other_b+Third_c.csv"
    table = list(csv.reader(submission.with_name(f"{submission.stem}_probabilities.csv").open()))
    assert table[0][1:4] == ["mask wear", "mask incorrect", "mask not_wear"]
    marginals = np.concatenate([mean.sum((2, 3)), mean.sum((1, 3)), mean.sum((1, 2))], axis=1)
    np.testing.assert_allclose(np.array(table[1:])[:, 1:].astype(float), marginals, atol=2e-6)
    for number, joint in enumerate(joints, start=1):
        part = submission.with_name(f"{submission.stem}_part{number}.csv")
        assert answers(part) == likeliest(joint)
        own = list(csv.reader(part.with_name(f"{part.stem}_probabilities.csv").open()))
        np.testing.assert_allclose(np.array(own[1:])[:, 1:4].astype(float), joint.sum((2, 3)), atol=2e-6)
    assert "answer = mask * 6 + gender * 3 + age (18 classes)" in outcome.out
    assert f"saved/models/Other/b/model_best.pth ({weights[1] / sum(weights):.3g})" in outcome.out


def test_specialists_become_18_classes_and_leave_their_own_answers(trained: Workplace, models: Models) -> None:
    mask = models.write("saved/models/Mask/a", {"mask": ATTRIBUTES["mask"]}, side=24, name="Mask")
    pair = models.write("saved/models/Pair/b", ATTRIBUTES, {"gender_age": ["gender", "age"]}, name="Pair")
    submission, outcome = answer(trained, mask, pair, "--parts")
    alone = [answer(trained, run)[0] for run in (mask, pair)]
    masks, pairs = (answers(path) for path in alone)
    assert answers(submission) == [6 * first + second for first, second in zip(masks, pairs, strict=True)]
    for number, path in enumerate(alone, start=1):
        assert submission.with_name(f"{submission.stem}_part{number}.csv").read_bytes() == path.read_bytes()
    assert "answer = mask * 6 + gender * 3 + age (18 classes)" in outcome.out
    assert len(set(masks)) > 1
    assert len(set(pairs)) > 1


def test_without_a_best_checkpoint_the_last_one_answers(trained: Workplace) -> None:
    (trained.folder / trained.run / "model_best.pth").unlink()
    _, outcome = answer(trained, str(trained.run))
    assert f"warning: {trained.run}: there is no best checkpoint; the last one is used" in outcome.out


def test_the_folds_of_a_run_are_averaged(trained: Workplace, models: Models) -> None:
    run = models.write_folds("saved/models/Tiny/folds", [0, 1, 2])
    submission, _ = answer(trained, run)
    joints = [models.joint(f"{run}/fold_{fold}") for fold in range(3)]
    assert submission.name == "Tiny_folds.csv"
    assert answers(submission) == likeliest(np.mean(joints, axis=0))
    other = models.write("saved/models/Other/b", name="Other")
    submission, outcome = answer(trained, run, other, "--weights", "3", "2")
    assert submission.name == "Tiny_folds+Other_b.csv"
    assert answers(submission) == likeliest(np.average([*joints, models.joint(other)], axis=0, weights=[1, 1, 1, 2]))
    assert f"{run}/fold_1/model_best.pth (0.2)" in outcome.out


def test_folds_that_are_not_there_yet_are_told_of(trained: Workplace, models: Models) -> None:
    run = models.write_folds("saved/models/Tiny/folds", [0, 2], folds=4)
    (trained.folder / run / "fold_1").mkdir()
    _, outcome = answer(trained, run)
    assert f"warning: {run}: fold_1, fold_3 of its 4 folds have no checkpoint yet" in outcome.out
    (trained.folder / "saved/models/Tiny/none/fold_0").mkdir(parents=True)
    trained.test("--resume", "saved/models/Tiny/none").check_refusal(
        4, ("saved/models/Tiny/none: none of its 1 folds has a checkpoint yet",)
    )
    trained.test("--resume", run, "--checkpoint", "last").check_refusal(
        4, (f"{run}/fold_0: has no checkpoint 'last'; it has model_best",)
    )


def test_no_model_is_scored_with_images_that_it_trained_on(trained: Workplace, models: Models) -> None:
    run = models.write_folds("saved/models/Tiny/folds", [0, 1, 2])
    trained.test("--resume", run, "--split", "validation").check_refusal(
        2, (f"--split validation: {run}/fold_0/model_best.pth and {run}/fold_1/", "out_of_fold.csv")
    )
    fold = f"{run}/fold_1"
    trained.test("--resume", fold, "--split", "validation").check_success()
    assert (trained.folder / run / "fold_1" / "predictions_validation.csv").exists()
    trained.test("--resume", fold).check_success()
    assert [path.name for path in trained.submissions] == ["Tiny_folds-fold_1.csv"]
    same_people = [models.write("saved/models/Tiny/a"), models.write("saved/models/Tiny/b", heads=PAIR, side=24)]
    trained.test("--resume", *same_people, "--split", "validation").check_success()
    assert trained.submissions[0].name == "Tiny_a+Tiny_b_predictions_validation.csv"
    same_people.append(models.write("saved/models/Tiny/c", DECADES, config={"seed": 7}))
    trained.test("--resume", *same_people, "--split", "validation").check_success()
    split = copy.deepcopy(trained.config()["split"])
    others = models.write("saved/models/Tiny/d", config={"split": {"type": "PersonSplit", **split}, "seed": 7})
    trained.test("--resume", same_people[0], others, "--split", "validation").check_refusal(2, "--split validation")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--weights", "1"], ("--weights 1: ", "give one for each")),
        (["--weights", "1", "0"], ("--weights 1 0: ", "above 0")),
        (["--weights", "1", "nan"], ("--weights 1 nan: ", "above 0")),
        (["--weights", "1e308", "1e308"], ("--weights 1e+308 1e+308: ", "1e+09")),
        (["--vote", "most"], ("", "--vote", "'most'", "soft")),
        (["--views", "crops"], ("", "--views", "'crops'", "five_crops")),
    ],
)
def test_wrong_flags_of_an_ensemble(trained: Workplace, argv: list[str], words: tuple[str, ...]) -> None:
    before = trained.files()
    trained.test("--resume", trained.run, trained.run, *argv).check_refusal(2, words)
    assert trained.files() == before


def test_a_run_that_was_moved_leaves_nothing_where_it_was(workplace: Workplace) -> None:
    config = workplace.write_config({"data_loader.args.cache": "disk"})
    workplace.train("--config", config).check_success()
    workplace.run.rename("moved")
    shutil.rmtree(workplace.save_dir)
    workplace.test("--resume", "moved").check_success()
    assert not workplace.save_dir.exists()
    workplace.save_dir.mkdir()  # any other run's
    workplace.test("--resume", "moved").check_success()
    assert {path.name for path in workplace.save_dir.iterdir()} == {"checked_images.json", "image_cache"}


def test_the_platform_says_what_the_command_line_does_not(
    trained: Workplace, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SageMaker's variables, each told in the log."""
    run = models.write("channel/model")
    truth = "".join(f"{name},{number}\n" for number, name in enumerate(EVALUATION_NAMES))
    trained.write("truth/info.csv", f"ImageID,ans\n{truth}")
    (trained.folder / "data/eval").rename(trained.folder / "elsewhere")
    for name, value in (
        ("SM_CHANNEL_MODEL", run),
        ("SM_CHANNEL_EVAL", "elsewhere"),
        ("SM_OUTPUT_DATA_DIR", "output"),
        ("SM_GROUND_TRUTH_DIR", "truth"),
    ):
        monkeypatch.setenv(name, value)
    outcome = trained.test()
    outcome.check_success()
    assert "environment variable SM_CHANNEL_MODEL: channel/model" in outcome.out
    assert "environment variable SM_GROUND_TRUTH_DIR: truth" in outcome.out
    assert "macro F1" in outcome.out
    assert answers(trained.folder / "output" / "Tiny_model.csv")
    # The command line wins.
    trained.write("own.csv", f"ImageID,ans\n{truth}")
    argv = ("--resume", trained.run, "--answers", "own.csv", "--output", "own/out.csv", "--info-dir", "elsewhere")
    outcome = trained.test(*argv)
    outcome.check_success()
    assert "environment variable" not in outcome.out
    assert answers(trained.folder / "own/out.csv")
    # The evaluation's images and answers are not those of the split.
    outcome = trained.test("--split", "validation")
    outcome.check_success()
    assert "SM_CHANNEL_EVAL" not in outcome.out
    trained.write("truth/b.csv", "")
    (trained.folder / "truth/info.csv").rename(trained.folder / "truth/a.csv")
    trained.test().check_refusal(3, ("truth (SM_GROUND_TRUTH_DIR): should hold answers.csv", "it holds a.csv, b.csv"))


def test_the_platforms_model_folder_stands_for_its_newest_run(
    trained: Workplace, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_MODEL_DIR", "saved")
    models.write("saved/models/Other/20990101-000000-000", name="Other")
    outcome = trained.test()
    outcome.check_success()
    assert "the newest run there: saved/models/Other/20990101-000000-000" in outcome.out
    models.write_folds("saved/models/Tiny/20990202-000000-000", [0, 1])
    outcome = trained.test()
    outcome.check_success()
    assert "the newest run there: saved/models/Tiny/20990202-000000-000" in outcome.out
    monkeypatch.setenv("SM_MODEL_DIR", "data")
    trained.test().check_refusal(4, ("data (SM_MODEL_DIR): holds no checkpoint",))


@pytest.mark.parametrize("used_for", ["validation", "answers"])
def test_the_average_of_the_weights_answers_where_the_config_says_so(workplace: Workplace, used_for: str) -> None:
    averaging = {"type": "ExponentialMovingAverage", "args": {"decay": 0.5, "used_for": [used_for]}}
    workplace.train("--config", workplace.write_config({"weight_averaging": averaging})).check_success()
    content = read_checkpoint(workplace.folder / workplace.run / "last.pth")
    predictor = Predictor.from_checkpoint(workplace.folder / workplace.run / "last.pth")
    weights = predictor.model.state_dict()["heads.head_mask.weight"]
    average = content["averaging"]["average"]["heads.head_mask.weight"]
    assert torch.equal(weights, average) == (used_for == "answers")
    assert torch.equal(weights, content["model"]["heads.head_mask.weight"]) == (used_for == "validation")
