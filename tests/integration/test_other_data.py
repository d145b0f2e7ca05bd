"""A run goes on, and is scored, only with the data that it began with; and only where something can be learned."""

from __future__ import annotations

import pytest

from tests.integration.workplace import Workplace, replaced
from utils.checkpoint_file import read_checkpoint, write_checkpoint

TWO_EPOCHS = ("--set", "trainer.epochs=2")


def change_a_label(workplace: Workplace) -> None:
    workplace.rewrite(workplace.train_root / "train.csv", replaced(",male,", ",female,", 1))


def test_the_same_data_may_lie_elsewhere(trained: Workplace) -> None:
    trained.train_root.rename(trained.folder / "moved")
    trained.train("--resume", trained.run, *TWO_EPOCHS, "--set", "data.0.args.root=moved").check_success()


def test_other_labels_are_refused(trained: Workplace) -> None:
    change_a_label(trained)
    trained.train_and_change_nothing("--resume", trained.run, *TWO_EPOCHS).check_refusal(
        3, (f"{trained.run}/last.pth: was trained on other data", "label_fixes", "begin a new run")
    )
    trained.test("--resume", trained.run, "--split", "validation").check_refusal(
        3, ("--split validation: the images, their labels or the sides", "put them back")
    )


def test_a_model_of_unknown_origin_is_warned_of(trained: Workplace) -> None:
    path = trained.folder / trained.run / "model_best.pth"
    content = read_checkpoint(path)
    del content["split_digest"]
    write_checkpoint(path, content)
    outcome = trained.test("--resume", trained.run, "--split", "validation")
    outcome.check_success()
    assert "nothing tells which images the model was trained on" in outcome.out


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
    assert outcome.err.startswith("nothing can be learned: no training image has a label for a head (all)")


def test_what_a_sampler_leaves_unlearned_is_told(workplace: Workplace) -> None:
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
    assert 'training images are shown, those whose "gender" is known' in outcome.out
    assert "the head mask cannot learn: none of the images shown has a label for it" in outcome.out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"lr_scheduler": {"type": "ReduceLROnPlateau", "metric": "val/f1"}},
            'lr_scheduler.args.mode must be "max" for val/f1',
        ),
        (
            {"weight_averaging": {"type": "StochasticWeightAveraging", "args": {"from_epoch": 3}}},
            "weight_averaging.args.from_epoch = 3 is never reached: trainer.epochs = 1",
        ),
        (
            {"lr_scheduler": {"type": "ConstantLR", "warmup_epochs": 1}},
            "lr_scheduler.warmup_epochs = 1 must be below trainer.epochs = 1",
        ),
        (
            {"lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.1}, "warmup_epochs": 0.5}},
            "lr_scheduler.warmup_epochs = 0.5 must go: OneCycleLR has a warm-up of its own",
        ),
        (
            {"arch": {"type": "BaselineCNN", "args": {"width": 4, "embedding_size": 8}}},
            "arch.args.embedding_size = 8 makes an embedding that nothing trains",
        ),
        (
            {"loss.metric_learning": {"alike": {"type": "SupConLoss", "head": "age"}}},
            "loss.metric_learning compares embeddings, and the model makes none; set arch.args.embedding_size",
        ),
    ],
)
def test_what_never_takes_effect_is_refused(workplace: Workplace, changes: dict[str, object], line: str) -> None:
    outcome = workplace.train("--config", workplace.write_config(changes))
    assert outcome.exit_code == 2
    assert line in outcome.err
    assert not workplace.runs
