"""A run resumes, and is scored, only with the data that it began with; and only where something can be learned."""

from __future__ import annotations

import json
import re

import pytest

from tests.integration.workplace import Workplace, replaced
from utils.checkpoint.checkpoint_file import read_checkpoint, write_checkpoint

TWO_EPOCHS = ("--set", "trainer.epochs=2")


def change_a_label(workplace: Workplace) -> None:
    workplace.rewrite(workplace.train_root / "train.csv", replaced(",male,", ",female,", 1))


def test_the_same_data_may_be_elsewhere(trained: Workplace) -> None:
    trained.train_root.rename(trained.folder / "moved")
    trained.train("--resume", trained.run, *TWO_EPOCHS, "--set", "data.0.args.root=moved").check_success()


def test_other_labels_are_refused(trained: Workplace) -> None:
    change_a_label(trained)
    trained.train_and_change_nothing("--resume", trained.run, *TWO_EPOCHS).check_refusal(
        3, (f"{trained.run}/last.pth: ", "label_fixes", "begin a new run")
    )
    trained.test("--resume", trained.run, "--split", "validation").check_refusal(3, ("--split validation: ", "labels"))


def test_a_model_of_unknown_origin_is_warned_of(trained: Workplace) -> None:
    path = trained.folder / trained.run / "model_best.pth"
    content = read_checkpoint(path)
    del content["split_digest"]
    write_checkpoint(path, content)
    outcome = trained.test("--resume", trained.run, "--split", "validation")
    outcome.check_success()
    assert "warning: --split validation: " in outcome.out


def write_table(workplace: Workplace) -> None:
    """The training images as a table in which every row knows the mask alone, or gender and age alone."""
    rows = ["path,person,mask,gender,age"]
    for number, path in enumerate(sorted((workplace.train_root / "images").rglob("*.*"))):
        person, gender, _, age = path.parent.name.rsplit("_", 3)
        known = "wear,," if number % 2 else f",{gender},{age}"
        rows.append(f"{path.relative_to(workplace.folder)},{person},{known}")
    workplace.write("table.csv", "\n".join(rows))


def test_a_run_that_cannot_learn_is_refused(workplace: Workplace) -> None:
    write_table(workplace)
    config = workplace.write_config(
        {
            "data": [{"type": "AttributeTable", "args": {"path": "table.csv"}}],
            "labels": {"heads": {"all": ["mask", "gender", "age"]}},
            "loss": {"heads": {"mask": None, "gender": None, "age": None, "all": {"type": "CrossEntropyLoss"}}},
            "trainer.monitor": "off",
            "trainer.save_best": [],
        }
    )
    outcome = workplace.train("--config", config)
    assert outcome.exit_code == 3
    assert "(all)" in outcome.err


def test_a_sampler_says_how_many_images_it_uses(workplace: Workplace) -> None:
    write_table(workplace)
    config = workplace.write_config(
        {
            "data": [{"type": "AttributeTable", "args": {"path": "table.csv"}}],
            "sampler": {"type": "MPerClassSampler", "args": {"by": "gender", "images_per_class": 4}},
            "trainer.save_best": [],
        }
    )
    outcome = workplace.train("--config", config, "--dry-run")
    outcome.check_success()
    assert 'training images are used, those whose "gender" is known' in outcome.out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"lr_scheduler": {"type": "ReduceLROnPlateau", "metric": "val/f1"}},
            'lr_scheduler.args.mode = "min" must be "max"',
        ),
        (
            {"weight_averaging": {"type": "StochasticWeightAveraging", "args": {"from_epoch": 3}}},
            "weight_averaging.args.from_epoch = 3 ",
        ),
        ({"lr_scheduler": {"type": "ConstantLR", "warmup_epochs": 1}}, "lr_scheduler.warmup_epochs = 1 "),
        (
            {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1}, "warmup_epochs": 0.5}},
            "lr_scheduler.warmup_epochs = 0.5 ",
        ),
        ({"arch": {"type": "BaselineCNN", "args": {"width": 4, "embedding_size": 8}}}, "arch.args.embedding_size = 8 "),
        ({"loss.metric_learning": {"alike": {"type": "SupConLoss", "head": "age"}}}, "arch.args.embedding_size"),
    ],
)
def test_what_never_takes_effect_is_refused(workplace: Workplace, changes: dict[str, object], line: str) -> None:
    outcome = workplace.train("--config", workplace.write_config(changes))
    assert outcome.exit_code == 2
    assert line in outcome.err
    assert not workplace.runs


def test_a_table_without_persons_is_split_alike_wherever_it_is(workplace: Workplace) -> None:
    write_table(workplace)
    workplace.rewrite(workplace.folder / "table.csv", replaced("path,person", "path,who"))
    rows = (workplace.folder / "table.csv").read_text().splitlines()
    half = [row if number % 2 else re.sub(",[^,]*,", ",,", row, count=1) for number, row in enumerate(rows)]
    workplace.write("table.csv", "\n".join([rows[0], *half[1:]]))
    arguments = {"path": "table.csv", "person_column": "who", "columns": {"who": None}}
    config = workplace.write_config(
        {"data": [{"type": "AttributeTable", "args": arguments}], "trainer.monitor": "off", "trainer.save_best": []}
    )
    workplace.train("--config", config).check_success()
    absolute = workplace.folder / "table.csv"
    workplace.train("--resume", workplace.run, *TWO_EPOCHS, "--set", f"data.0.args.path={absolute}").check_success()


def test_an_impossible_fold_is_refused_before_the_first_is_trained(workplace: Workplace) -> None:
    write_table(workplace)
    people = sorted(path.name.split("_")[0] for path in (workplace.train_root / "images").iterdir())
    rows = (workplace.folder / "table.csv").read_text().splitlines()
    known = [row for row in rows[1:] if row.split(",")[1] == people[0]]
    unknown = [",".join([*row.split(",")[:2], "wear", "", ""]) for row in rows[1:] if row.split(",")[1] != people[0]]
    workplace.write("table.csv", "\n".join([rows[0], *known, *unknown]))
    changes = {
        "data": [{"type": "AttributeTable", "args": {"path": "table.csv"}}],
        "split": {"type": "KFoldSplit", "args": {"folds": 2}},
        "trainer.monitor": "max val/gender_accuracy",
        "trainer.save_best": [],
    }
    for seed in (1, 2, 3):
        outcome = workplace.train("--config", workplace.write_config({**changes, "seed": seed}))
        assert outcome.exit_code == 3
        assert "trainer.monitor" in outcome.err
        assert "val/gender_accuracy" in outcome.err
        assert not workplace.runs


TABLE = {"type": "AttributeTable", "args": {"path": "table.csv"}}


@pytest.mark.parametrize(
    ("files", "argv", "info_dir"),
    [
        ([{"data": [TABLE]}], [], None),  # config.json's is the competition's
        ([{"data": [TABLE]}], ["info_dir=own"], "own"),
        ([{}], ['data=[{"type": "AttributeTable", "args": {"path": "table.csv"}}]'], None),
        (
            [
                {"data": [TABLE], "info_dir": "own"},
                {"data": {"add": [{"type": "CompetitionFolder", "args": {"root": "data/train"}}]}},
            ],
            [],
            "own",
        ),
        ([{"data": [TABLE], "info_dir": "own"}, {"data": [TABLE]}], [], None),
        ([{"data": [TABLE]}, {"info_dir": "own"}], [], "own"),
        ([{"data": {"add": [TABLE]}}], [], "data/eval"),
    ],
)
def test_the_evaluation_of_another_data_set_is_not_inherited(
    workplace: Workplace, files: list[dict[str, object]], argv: list[str], info_dir: str | None
) -> None:
    write_table(workplace)
    path = workplace.write_config({"trainer.save_best": []})
    for number, values in enumerate(files):
        path = workplace.write(f"{number}.json", json.dumps({"extends": str(path), **values}))
    flags = [word for text in argv for word in ("--set", text)]
    outcome = workplace.train("--config", path, *flags, "--print-config")
    outcome.check_success()
    assert json.loads(outcome.out)["info_dir"] == info_dir


def test_models_whose_configs_name_different_evaluations(trained: Workplace) -> None:
    """One of them was made for other images."""
    path = trained.folder / trained.run / "model_best.pth"
    content = read_checkpoint(path)
    content["config"]["info_dir"] = None
    write_checkpoint(path.with_name("other.pth"), content)
    both = ("--resume", trained.run, f"{trained.run}/other.pth")
    trained.test(*both).check_refusal(2, ("", "data/eval", "other.pth", "--info-dir", "--split"))
    trained.test(*both, "--info-dir", "data/eval").check_success()
    trained.test("--resume", f"{trained.run}/other.pth").check_refusal(2, ("--split test", "--info-dir"))


@pytest.mark.parametrize(
    ("class_weights", "in_force", "warned"),
    [
        ([1.4, 7, 7], "class weights 1.4, 7, 7 (given)", False),
        ([7, 1, 1], "class weights 7, 1, 1 (given)", True),
        ("balanced", "class weights 0.4667, 2.333, 2.333 (balanced)", False),
        (None, "no class weights", False),
    ],
)
def test_the_classes_and_their_weights_are_in_the_log(
    workplace: Workplace, class_weights: object, in_force: str, warned: bool
) -> None:
    """Of six persons' seven photographs each: five, one and one."""
    config = workplace.write_config({"loss.heads.mask.args.class_weights": class_weights})
    outcome = workplace.train("--config", config)
    outcome.check_success()
    assert f"head mask: wear 30, incorrect 6, not_wear 6; {in_force}" in outcome.out
    assert ("warning: loss.heads.mask.args.class_weights" in outcome.out) == warned


def test_a_validation_of_one_class_is_no_success(workplace: Workplace) -> None:
    """Whose metrics are left out; a run cannot go by them."""
    rows = ["path,person,mask,gender,age"]
    for path in sorted((workplace.train_root / "images").rglob("*.jpg")):
        person, gender, _, _ = path.parent.name.rsplit("_", 3)
        mask = "incorrect" if "incorrect" in path.name else "not_wear" if "normal" in path.name else "wear"
        rows.append(f"{path.relative_to(workplace.folder)},{person},{mask},{gender},{20 if person > '000003' else 40}")
    workplace.write("table.csv", "\n".join(rows))
    changes = {"data": [TABLE], "split.args.stratify": [], "split.args.validation_share": 0.1}
    config = workplace.write_config(changes)
    outcome = workplace.train("--config", config)
    outcome.check_success()
    assert "warning: left out, as all validation images are of one class there: val/" in outcome.out
    metrics = (workplace.save_dir / "log" / workplace.run.relative_to("saved/models") / "metrics.jsonl").read_text()
    names = {name for name in json.loads(metrics.splitlines()[-1]) if name.startswith("val/") and "loss" not in name}
    assert names == {"val/accuracy", "val/f1", "val/mask_accuracy", "val/mask_f1"}
    outcome = workplace.train("--config", config, "--set", "trainer.monitor=max val/age_f1")
    outcome.check_refusal(3, ("--set trainer.monitor", "val/age_f1", "watch another"))
