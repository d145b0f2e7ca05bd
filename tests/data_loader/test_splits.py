"""Splits: no person on both sides, strata within one person of their share, folds that partition, one division for one
table."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from base.label_space import LabelSpace
from data_loader.records import LabelTable, Record
from data_loader.records.records import Part
from data_loader.splits import BaseSplit, GivenSplit, ImageSplit, KFoldSplit, NoSplit, PersonSplit, Split
from tests.data_loader.label_tables import split_of
from utils.errors import DataError, InvalidConfig
from utils.random_streams import numpy_stream


def _records(persons: int = 237, part: Part | None = None, seed: int = 5, prefix: str = "") -> list[Record]:
    stream = np.random.default_rng(seed)
    records: list[Record] = []
    for person in range(persons):
        gender = ("male", "female", "")[stream.choice(3, p=[0.35, 0.6, 0.05])]
        age = int(stream.choice([19, 25, 28, 33, 45, 58, 60, 71]))
        for image in range(int(stream.integers(1, 6))):
            mask = ("wear", "incorrect", "not_wear")[image % 3]
            attributes = {"mask": mask, "gender": gender, "age": str(age)}
            name = f"{prefix}{person:04}/{image}.jpg"
            records.append(Record(Path(name), name, f"{prefix}p{person}", attributes, f"row {len(records) + 2}", part))
    return records


def _divide(split: BaseSplit, records: Iterable[Record], labels: LabelSpace, run_seed: int = 0) -> Split:
    return split.divide(LabelTable.from_records([*records], labels), run_seed)


def _persons(table: LabelTable) -> set[str]:
    return {record.person for record in table.records}


def _sides(split: Split) -> list[list[Record]]:
    return [side.records for side in (split.train, split.validation, split.test)]


def _strata(records: list[Record], edges: tuple[int, ...] = (30, 60)) -> dict[str, tuple[str, int]]:
    """By person, gender and age group, counted without the label space."""
    genders, ages = defaultdict(list), {}
    for record in records:
        genders[record.person].append(record.attributes["gender"])
        ages[record.person] = sum(int(record.attributes["age"]) >= edge for edge in edges)
    return {person: (Counter(found).most_common(1)[0][0], ages[person]) for person, found in genders.items()}


def _with_training_bins(*edges: int) -> LabelSpace:
    return LabelSpace(
        {
            "mask": {"classes": ["wear", "incorrect", "not_wear"]},
            "gender": {"classes": ["male", "female"]},
            "age": {"bins": [30, 60], "training_bins": [*edges], "limits": [0, 120]},
        }
    )


@pytest.mark.parametrize("share", [0.1, 0.2, 0.37])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_person_split_is_stratified_over_persons(labels: LabelSpace, share: float, seed: int | None) -> None:
    records = _records()
    split = _divide(PersonSplit(share, ["gender", "age"], seed=seed), records, labels, 3)
    assert not _persons(split.train) & _persons(split.validation)
    train, validation, _ = _sides(split)
    assert sorted(record.name for record in train + validation) == [record.name for record in records]
    strata = _strata(records)
    chosen = Counter(strata[person] for person in _persons(split.validation))
    for stratum, count in Counter(strata.values()).items():
        assert abs(chosen[stratum] - share * count) <= 1
    assert split.validation.num_persons == int(share * len(strata) + 0.5)


@pytest.mark.parametrize(
    "split",
    [PersonSplit(0.1, ["gender", "age"], seed=0), KFoldSplit(5, 1, ["age"], seed=0), ImageSplit(0.1, seed=0)],
    ids=lambda split: type(split).__name__,
)
def test_one_table_is_divided_in_one_way(labels: LabelSpace, split: BaseSplit) -> None:
    """Whatever the run's seed, its training bins and the order of the rows are."""
    records = _records()
    shuffled = [records[index] for index in np.random.default_rng(1).permutation(len(records))]
    expected = _divide(split, records, labels, 1)
    for space, given, run_seed in (
        (labels, shuffled, 1),
        (labels, records, 2),
        (_with_training_bins(30, 58), records, 1),
        (_with_training_bins(20, 30, 40, 50, 60), shuffled, 3),
    ):
        found = _divide(split, given, space, run_seed)
        assert _sides(found) == _sides(expected)
        assert found.validation_digest() == expected.validation_digest()
    split.seed = 1
    other = _divide(split, records, labels, 1)
    assert _sides(other) != _sides(expected)
    assert other.validation_digest() != expected.validation_digest()


def test_without_a_seed_of_its_own_a_split_is_the_first_versions() -> None:
    """By the run's seed and training classes: the rule is written out here in plain Python."""
    records = _records(60)
    edges = (20, 30, 40, 50, 60)
    strata = _strata(records, edges)
    stream = numpy_stream(9, "split")
    persons = sorted(strata)
    rank = dict(zip(persons, stream.permutation(len(persons)), strict=True))
    order = []
    classes = {person: (["", "male", "female"].index(gender), age) for person, (gender, age) in strata.items()}
    for level in (0, 1):
        values = sorted({each[level] for each in classes.values()})
        order.append(dict(zip(values, stream.permutation(len(values)), strict=True)))
    persons.sort(key=lambda person: (order[0][classes[person][0]], order[1][classes[person][1]], rank[person]))
    space = _with_training_bins(*edges)
    for fold in range(3):
        found = _divide(KFoldSplit(3, fold, ["gender", "age"], seed=None), records, space, 9)
        assert _persons(found.validation) == set(persons[fold::3])
    steps = [int(0.2 * count + 0.5) for count in range(len(persons) + 1)]
    expected = {person for person, low, high in zip(persons, steps, steps[1:], strict=False) if high > low}
    assert _persons(_divide(PersonSplit(0.2, ["gender", "age"], seed=None), records, space, 9).validation) == expected


def test_the_digest_is_over_names_persons_and_classes(labels: LabelSpace) -> None:
    first, second = (
        Record(Path("x/a.jpg"), "a.jpg", "p", {"mask": "wear", "gender": "female", "age": "61"}, ""),
        Record(Path("x/b.jpg"), "b.jpg", "q", {"mask": None}, ""),
    )
    text = (
        "a.jpg\0p\0[('age', 2), ('gender', 1), ('mask', 0)]\n\n"
        "b.jpg\0q\0[('age', -1), ('gender', -1), ('mask', -1)]\n\n\n"
    )
    split = split_of(labels, [first], [second])
    assert split.digest() == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    assert split_of(labels, [second], [first]).digest() != split.digest()


def test_small_strata_are_not_always_on_the_same_side(labels: LabelSpace) -> None:
    records = _records(20)
    splits = [PersonSplit(0.1, ["gender", "age"], seed=seed) for seed in range(200)]
    seen = set().union(*(_persons(_divide(split, records, labels, 0).validation) for split in splits))
    assert seen == {record.person for record in records}


def test_folds_partition_the_persons(labels: LabelSpace) -> None:
    records = _records()
    strata = _strata(records)
    seen: Counter[str] = Counter()
    for fold in range(5):
        split = _divide(KFoldSplit(5, fold, ["gender", "age"], seed=0), records, labels, 7)
        assert not _persons(split.train) & _persons(split.validation)
        seen.update(record.name for record in split.validation.records)
        chosen = Counter(strata[person] for person in _persons(split.validation))
        assert all(abs(chosen[stratum] - count / 5) < 1 for stratum, count in Counter(strata.values()).items())
    assert seen == Counter(record.name for record in records)


def test_ages_are_dropped_from_training_only(labels: LabelSpace) -> None:
    records = _records()
    ranges: dict[str, list[list[float]]] = {"age": [[27, 29], [57, 59]]}
    plain = _divide(PersonSplit(0.2), records, labels)
    split = _divide(PersonSplit(0.2, drop_from_training=ranges), records, labels)
    assert split.validation.records == plain.validation.records
    assert {record.attributes["age"] for record in split.validation.records} >= {"28", "58"}
    kept = [record for record in plain.train.records if record.attributes["age"] not in ("28", "58")]
    assert split.train.records == kept


def test_the_given_test_side_stays_out_of_every_split(labels: LabelSpace, caplog: pytest.LogCaptureFixture) -> None:
    records, test = _records(30), _records(4, "test", prefix="t")
    for split in (PersonSplit(0.2), KFoldSplit(3, 0), ImageSplit(0.2), NoSplit()):
        divided = _divide(split, test + records, labels)
        assert divided.test.records == test
        assert len(divided.train) + len(divided.validation) == len(records)
    both = [Record(r.path, r.name, r.person, r.attributes, "row 99", "test") for r in records[:1]]
    with pytest.raises(DataError, match=r'"p0".*row 99'):
        _divide(PersonSplit(0.2), records + both, labels)
    caplog.clear()
    _divide(PersonSplit(0.2), _records(30, "validation"), labels)
    assert "GivenSplit" in caplog.text


def test_given_split_takes_the_tables_sides(labels: LabelSpace) -> None:
    train, validation = _records(12, "train"), _records(8, "validation", prefix="v")
    split = _divide(GivenSplit(), validation + train, labels)
    assert _sides(split) == [train, validation, []]
    with pytest.raises(DataError, match=r"row 2.*PersonSplit"):
        _divide(GivenSplit(), _records(3) + train, labels)


def test_a_split_by_image_warns_that_it_leaks(labels: LabelSpace, caplog: pytest.LogCaptureFixture) -> None:
    records = _records()
    split = _divide(ImageSplit(0.2), records, labels)
    assert len(split.validation) == round(0.2 * len(records))
    both = len(_persons(split.train) & _persons(split.validation))
    assert both
    assert f"{both} of {len(_strata(records))} persons" in caplog.text


def test_a_class_that_one_side_lacks_is_warned_of(labels: LabelSpace, caplog: pytest.LogCaptureFixture) -> None:
    records = _records()
    seniors = sorted({record.person for record in records if int(record.attributes["age"]) >= 60})
    kept = [record for record in records if record.person not in seniors[1:]]  # one senior is left
    for fold in range(5):
        caplog.clear()
        split = _divide(KFoldSplit(5, fold, seed=0), kept, labels)
        lacking = "training" if seniors[0] in _persons(split.validation) else "validation"
        (line,) = (line for line in caplog.messages if "age" in line)
        assert all(word in line for word in (lacking, f"fold {fold}", ">=60"))
    caplog.clear()
    _divide(PersonSplit(0.2, ["age"]), records, labels)
    _divide(PersonSplit(0.2), [record for record in records if record.person not in seniors], labels)
    assert not caplog.text  # nobody of the data is of that class, which is said where it is read


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (PersonSplit(stratify=["agee"]), ("stratify", '"agee"', '"age"')),
        (PersonSplit(drop_from_training={"gender": [[1, 2]]}), ("drop_from_training.gender", "bins")),
        (NoSplit({"age": [[29, 27]]}), ("drop_from_training.age", "[29, 27]", "[lowest, highest]")),
    ],
)
def test_what_the_labels_lack_is_refused(labels: LabelSpace, split: BaseSplit, words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidConfig) as error:
        split.check_config(labels)
    assert all(word in str(error.value) for word in words)


def test_impossible_folds_are_refused(labels: LabelSpace) -> None:
    with pytest.raises(ValueError, match=r"^fold = 5 must be 0 to 4"):
        KFoldSplit(5, 5)
    with pytest.raises(DataError, match=r"folds = 5.* 3 persons"):
        _divide(KFoldSplit(5, 4), _records(3), labels)


def test_an_empty_side_is_refused(labels: LabelSpace) -> None:
    with pytest.raises(DataError, match="validation side"):
        _divide(PersonSplit(0.1), _records(3), labels)
    with pytest.raises(DataError, match="training side"):
        _divide(NoSplit(), [], labels)
