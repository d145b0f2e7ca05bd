"""The models that a config trains: how many, with which config, and who validates each."""

from __future__ import annotations

import pytest

from experiment.builders import read_label_table
from experiment.folds import is_run_of_folds, refuse_impossible_fold, splits_of, with_all_folds
from experiment.schema import SECTIONS
from parse_config import ConfigParser
from tests.integration.workplace import PEOPLE, Workplace
from utils.errors import ConfigError


def config_of(workplace: Workplace, **arguments: int) -> ConfigParser:
    split = {"type": "KFoldSplit", "args": {"folds": 4, **arguments}}
    return ConfigParser.from_file(workplace.write_config({"split": split}), SECTIONS)


def test_each_fold_validates_other_people(workplace: Workplace) -> None:
    config = config_of(workplace)
    folds = splits_of(config, read_label_table(config, config.shared("labels")))
    assert [fold.number for fold in folds] == [0, 1, 2, 3]
    validated = [{record.person for record in fold.split.validation.records} for fold in folds]
    assert sum(map(len, validated)) == len(set.union(*validated)) == len(PEOPLE)
    for fold, persons in zip(folds, validated, strict=True):
        assert fold.config["split"]["args"]["fold"] == fold.number
        assert with_all_folds(fold.config.resolved) == config.resolved
        assert persons.isdisjoint(record.person for record in fold.split.train.records)


def test_a_named_fold_is_a_run_of_one_model(workplace: Workplace) -> None:
    config = config_of(workplace, fold=2)
    (fold,) = splits_of(config, read_label_table(config, config.shared("labels")))
    assert fold.number is None
    assert not is_run_of_folds(config.resolved)
    with pytest.raises(ConfigError, match="KFoldSplit"):
        refuse_impossible_fold(config, 1)


@pytest.mark.parametrize(("fold", "is_refused"), [(-1, True), (0, False), (3, False), (4, True)])
def test_folds_that_do_not_exist_are_refused(workplace: Workplace, fold: int, is_refused: bool) -> None:
    config = config_of(workplace)
    if is_refused:
        with pytest.raises(ConfigError, match=rf"--fold {fold}: .* 0 to 3"):
            refuse_impossible_fold(config, fold)
    else:
        refuse_impossible_fold(config, fold)
