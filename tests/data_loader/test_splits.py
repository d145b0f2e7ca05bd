"""Splits: no person on both sides, strata within one person of their share, folds that partition."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from base.label_space import LabelSpace
from data_loader.records.records import Part, Record
from data_loader.splits import GivenSplit, ImageSplit, KFoldSplit, NoSplit, PersonSplit
from utils.errors import DataError


def _records(persons: int = 237, part: Part | None = None, seed: int = 5) -> list[Record]:
    stream = np.random.default_rng(seed)
    records: list[Record] = []
    for person in range(persons):
        gender = ("male", "female", "")[stream.choice(3, p=[0.35, 0.6, 0.05])]
        age = int(stream.choice([19, 25, 28, 33, 45, 58, 60, 71]))
        for image in range(int(stream.integers(1, 6))):
            mask = ("wear", "incorrect", "not_wear")[image % 3]
            attributes = {"mask": mask, "gender": gender, "age": str(age)}
            name = f"{person:04}/{image}.jpg"
            records.append(Record(Path(name), name, f"p{person}", attributes, f"row {len(records) + 2}", part))
    return records


def _persons(records: list[Record]) -> set[str]:
    return {record.person for record in records}


def _strata(records: list[Record]) -> dict[str, tuple[str, int]]:
    """By person, gender and age group, counted without the label space."""
    genders, ages = defaultdict(list), {}
    for record in records:
        genders[record.person].append(record.attributes["gender"])
        ages[record.person] = sum(int(record.attributes["age"]) >= edge for edge in (30, 60))
    return {person: (Counter(found).most_common(1)[0][0], ages[person]) for person, found in genders.items()}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.37])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_person_split_is_stratified_over_persons(labels: LabelSpace, share: float, seed: int) -> None:
    records = _records()
    split = PersonSplit(share, ["gender", "age"]).divide(records, labels, seed)
    assert not _persons(split.train) & _persons(split.validation)
    assert sorted(record.name for record in split.train + split.validation) == [record.name for record in records]
    strata = _strata(records)
    everyone = Counter(strata.values())
    chosen = Counter(strata[person] for person in _persons(split.validation))
    for stratum, count in everyone.items():
        assert abs(chosen[stratum] - share * count) <= 1
    assert len(_persons(split.validation)) == int(share * len(strata) + 0.5)


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_files(labels: LabelSpace) -> None:
    records = _records()
    shuffled = [records[index] for index in np.random.default_rng(1).permutation(len(records))]
    split = PersonSplit(0.1, ["age"])
    assert split.divide(records, labels, 3) == split.divide(shuffled, labels, 3)
    others = [_persons(split.divide(records, labels, seed).validation) for seed in range(5)]
    assert len({frozenset(other) for other in others}) == 5
    assert KFoldSplit(fold=1).divide(records, labels, 3) == KFoldSplit(fold=1).divide(shuffled, labels, 3)


def test_small_strata_are_not_always_on_the_same_side(labels: LabelSpace) -> None:
    records = _records(20)
    split = PersonSplit(0.1, ["gender", "age"])
    seen = set().union(*(_persons(split.divide(records, labels, seed).validation) for seed in range(200)))
    assert seen == _persons(records)


def test_folds_partition_the_persons(labels: LabelSpace) -> None:
    records = _records()
    strata = _strata(records)
    everyone = Counter(strata.values())
    seen: Counter[str] = Counter()
    for fold in range(5):
        split = KFoldSplit(5, fold, ["gender", "age"]).divide(records, labels, 7)
        assert not _persons(split.train) & _persons(split.validation)
        seen.update(record.name for record in split.validation)
        chosen = Counter(strata[person] for person in _persons(split.validation))
        assert all(abs(chosen[stratum] - count / 5) < 1 for stratum, count in everyone.items())
    assert seen == Counter(record.name for record in records)


def test_ages_are_dropped_from_training_only(labels: LabelSpace) -> None:
    records = _records()
    ranges: dict[str, list[list[float]]] = {"age": [[27, 29], [57, 59]]}
    plain = PersonSplit(0.2).divide(records, labels, 1)
    split = PersonSplit(0.2, drop_from_training=ranges).divide(records, labels, 1)
    assert split.validation == plain.validation
    assert {record.attributes["age"] for record in split.validation} >= {"28", "58"}
    assert split.train == [record for record in plain.train if record.attributes["age"] not in ("28", "58")]


def test_the_given_test_side_stays_out_of_every_split(labels: LabelSpace, caplog: pytest.LogCaptureFixture) -> None:
    records, test = _records(30), _records(4, "test")
    test = [Record(r.path, "t" + r.name, "t" + r.person, r.attributes, r.origin, r.part) for r in test]
    for split in (PersonSplit(0.2), KFoldSplit(3, 0), ImageSplit(0.2), NoSplit()):
        divided = split.divide(test + records, labels, 0)
        assert divided.test == test
        assert len(divided.train) + len(divided.validation) == len(records)
    both = [Record(r.path, r.name, r.person, r.attributes, r.origin, "test") for r in records[:1]]
    with pytest.raises(DataError, match=r'person "p0" is in the test side too \(row 2\)'):
        PersonSplit(0.2).divide(records + both, labels, 0)
    with caplog.at_level(logging.WARNING):
        PersonSplit(0.2).divide(_records(30, "validation"), labels, 0)
    assert "GivenSplit keeps it" in caplog.text


def test_given_split_takes_the_table_at_its_word(labels: LabelSpace) -> None:
    train, validation = _records(12, "train"), _records(8, "validation")
    split = GivenSplit().divide(validation + train, labels, 0)
    assert (len(split.train), len(split.validation)) == (len(train), len(validation))
    with pytest.raises(DataError, match=r"row 2: .* is given no side"):
        GivenSplit().divide(_records(3) + train, labels, 0)


def test_a_split_by_image_warns_that_it_leaks(labels: LabelSpace, caplog: pytest.LogCaptureFixture) -> None:
    records = _records()
    with caplog.at_level(logging.WARNING):
        split = ImageSplit(0.2).divide(records, labels, 0)
    assert len(split.validation) == round(0.2 * len(records))
    assert _persons(split.train) & _persons(split.validation)
    both = len(_persons(split.train) & _persons(split.validation))
    assert f"ImageSplit leaks: {both} of {len(_persons(records))} persons" in caplog.text


def test_no_split_trains_on_everything(labels: LabelSpace) -> None:
    records = _records()
    split = NoSplit().divide(records, labels, 0)
    assert (split.train, split.validation, split.test) == (records, [], [])


def test_a_class_that_one_side_lacks_is_warned_of(labels: LabelSpace, caplog: pytest.LogCaptureFixture) -> None:
    records = [record for record in _records() if int(record.attributes["age"]) < 60]
    with caplog.at_level(logging.WARNING):
        PersonSplit(0.2).divide(records, labels, 0)
    assert "the training side has no image of age = >=60" in caplog.text
    assert "the validation side has no image of age = >=60" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        PersonSplit(0.2, ["age"]).divide(_records(), labels, 0)
    assert not caplog.text


def test_a_class_that_a_fold_lacks_is_warned_of_by_its_number(
    labels: LabelSpace, caplog: pytest.LogCaptureFixture
) -> None:
    records = _records()
    seniors = {record.person for record in records if int(record.attributes["age"]) >= 60}
    kept = [record for record in records if record.person not in sorted(seniors)[1:]]  # one senior is left
    (last,) = (
        number
        for number in range(5)
        if sorted(seniors)[0] in _persons(KFoldSplit(5, number).divide(kept, labels, 0).validation)
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for fold in range(5):
            KFoldSplit(5, fold).divide(kept, labels, 0)
    told = [line for line in caplog.messages if "age" in line]
    assert told == [
        f"the {'training' if fold == last else 'validation'} side of fold {fold} has no image of age = >=60"
        for fold in range(5)
    ]


def test_a_combined_class_that_one_side_lacks_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    joint = LabelSpace(
        {"gender": {"classes": ["male", "female"]}, "age": {"bins": [30, 60]}}, {"gender_age": ["gender", "age"]}
    )
    records = [
        record for record in _records() if (record.attributes["gender"], record.attributes["age"]) != ("male", "71")
    ]
    records = [
        record for record in records if (record.attributes["gender"], record.attributes["age"]) != ("male", "60")
    ]
    with caplog.at_level(logging.WARNING):
        NoSplit().divide(records, joint, 0)
        NoSplit().divide([record for record in records if record.attributes["gender"] != "male"], joint, 0)
    assert caplog.messages == [
        "the training side has no image of head gender_age = male >=60",
        "the training side has no image of gender = male",
    ]


def test_a_split_into_all_folds_is_checked_whole(labels: LabelSpace) -> None:
    KFoldSplit(5).check_config(labels)
    with pytest.raises(AssertionError):
        KFoldSplit(5).divide(_records(), labels, 0)
    with pytest.raises(DataError, match="folds = 5: there are 3 persons"):
        KFoldSplit(5, 4).divide(_records(3), labels, 0)


def test_mistakes_are_told(labels: LabelSpace) -> None:
    with pytest.raises(ValueError, match=r'stratify names "agee", which is not one of .*did you mean "age"'):
        PersonSplit(stratify=["agee"]).divide(_records(), labels, 0)
    with pytest.raises(ValueError, match=r"drop_from_training\.gender needs an attribute with bins"):
        PersonSplit(drop_from_training={"gender": [[1, 2]]}).divide(_records(), labels, 0)
    with pytest.raises(ValueError, match=r"age\.0 = \[29, 27\] must be \[lowest, highest\]"):
        NoSplit({"age": [[29, 27]]}).divide(_records(), labels, 0)
    with pytest.raises(ValueError, match=r"^fold = 5 must be 0 to 4"):
        KFoldSplit(5, 5).divide(_records(), labels, 0)
    with pytest.raises(DataError, match="the validation side of the split is empty"):
        PersonSplit(0.1).divide(_records(3), labels, 0)
    with pytest.raises(DataError, match="the training side of the split is empty"):
        NoSplit().divide([], labels, 0)
