"""Samplers: how often each image comes, in which company, and that it looks different each time."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]
from sklearn.utils.class_weight import compute_sample_weight

from base.class_weights import weights_by_rule
from base.label_space import LabelSpace
from data_loader import samplers
from data_loader.records import LabelTable, Record
from data_loader.samplers import (
    EpochOrder,
    EvaluationBatchSampler,
    MPerClassSampler,
    RepeatSampler,
    TrainingBatchSampler,
    WeightedSampler,
    every_image_once,
)
from data_loader.transforms import AugmentationKey, DeterministicPrefix, Pipeline
from tests.data_loader.label_tables import same_batches, small_loader
from utils.config.sections import TypedSection, exported
from utils.errors import DataError, InvalidConfig
from utils.random_streams import numpy_stream, python_stream

MASKS = ("wear", "incorrect", "not_wear")


def _records(count: int = 420, seed: int = 1) -> list[Record]:
    """Mostly wear; a tenth of the genders are unknown."""
    stream = np.random.default_rng(seed)
    records = []
    for number in range(count):
        attributes = {
            "mask": MASKS[stream.choice(3, p=[0.7, 0.2, 0.1])],
            "gender": (None, "male", "female")[stream.choice(3, p=[0.1, 0.3, 0.6])],
            "age": str(stream.choice([20, 40, 60], p=[0.5, 0.42, 0.08])),
        }
        records.append(Record(Path(f"{number}.jpg"), f"{number}.jpg", str(number), attributes, f"row {number}"))
    return records


_table = LabelTable.from_records


def _values(records: list[Record], name: str) -> np.ndarray:
    return np.array([str(record.attributes[name]) for record in records])


def _draw(order: EpochOrder, epoch: int = 0) -> np.ndarray:
    return order.draw(numpy_stream(0, "order", epoch))


@pytest.fixture(scope="module")
def joint() -> LabelSpace:
    """A head of two attributes, and one attribute that no head predicts."""
    attributes: dict[str, Any] = {
        "mask": {"classes": list(MASKS)},
        "gender": {"classes": ["male", "female"]},
        "age": {"bins": [30, 60]},
    }
    return LabelSpace(attributes, {"gender_age": ["gender", "age"]})


def test_balanced_weights_are_scikit_learns(labels: LabelSpace) -> None:
    records = _records()
    masks = _values(records, "mask")
    expected = compute_sample_weight("balanced", masks)
    order = WeightedSampler(labels, "mask").order(_table(records, labels))
    assert order.length == len(records)
    drawn = np.concatenate([_draw(order, epoch) for epoch in range(100)])
    counts = np.bincount(drawn, minlength=len(records))
    assert stats.chisquare(counts, expected / expected.sum() * len(drawn)).pvalue > 0.01
    shares = [count / len(drawn) for count in Counter(masks[drawn]).values()]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.01)


@pytest.mark.parametrize("weighting", ["sqrt", "effective"])
def test_weights_are_those_of_the_losses(labels: LabelSpace, weighting: Literal["sqrt", "effective"]) -> None:
    records = _records(5000)
    ages = np.array([MEANING[value] for value in _values(records, "age")])
    weights = weights_by_rule(weighting, torch.from_numpy(np.bincount(ages))).numpy().astype(np.float64)
    drawn = np.concatenate(
        [_draw(WeightedSampler(labels, "age", weighting).order(_table(records, labels)), n) for n in range(20)]
    )
    expected = weights * np.bincount(ages)
    found = np.bincount(ages[drawn])
    assert stats.chisquare(found, expected / expected.sum() * len(drawn)).pvalue > 0.01


MEANING = {"20": 0, "40": 1, "60": 2}


def test_unknown_classes_keep_their_share(labels: LabelSpace) -> None:
    records = _records()
    genders = _values(records, "gender")
    order = WeightedSampler(labels, "gender").order(_table(records, labels))
    drawn = np.concatenate([_draw(order, epoch) for epoch in range(200)])
    share = Counter(genders[drawn])["None"] / len(drawn)
    assert share == pytest.approx((genders == "None").mean(), abs=0.01)
    nothing_known = [Record(r.path, r.name, r.person, {}, r.origin) for r in records]
    for rule in (WeightedSampler(labels, "gender"), MPerClassSampler(labels, "gender")):
        with pytest.raises(DataError, match='no training image has a known "gender" to sample by'):
            rule.order(_table(nothing_known, labels))


def test_heads_attributes_and_the_answer_may_be_balanced(joint: LabelSpace, labels: LabelSpace) -> None:
    records = [record for record in _records(3000) if record.attributes["gender"]]
    for space, by, names in (
        (joint, "gender_age", ("gender", "age")),
        (joint, "mask", ("mask",)),
        (labels, "answer", ("mask", "gender", "age")),
    ):
        classes = np.array([" ".join(record.attributes[name] for name in names) for record in records])
        drawn = np.concatenate(
            [_draw(WeightedSampler(space, by).order(_table(records, space)), epoch) for epoch in range(10)]
        )
        counts = Counter(classes[drawn])
        assert len(counts) == len(set(classes))
        assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_an_epoch_shows_each_image_as_often_as_is_asked(labels: LabelSpace) -> None:
    records = _records()
    times: dict[str, dict[str, int]] = {"mask": {"incorrect": 4, "not_wear": 3}, "gender": {"female": 2}}
    order = RepeatSampler(labels, times).order(_table(records, labels))
    expected = {
        index: times["mask"].get(record.attributes["mask"], 1) * (2 if record.attributes["gender"] == "female" else 1)
        for index, record in enumerate(records)
    }
    assert order.length == sum(expected.values())
    for epoch in range(3):
        assert Counter(_draw(order, epoch).tolist()) == expected
    assert not np.array_equal(_draw(order, 0), _draw(order, 1))
    assert np.array_equal(_draw(order, 1), _draw(order, 1))
    shown_once = RepeatSampler(labels, {}).order(_table(records, labels))
    assert sorted(_draw(shown_once).tolist()) == list(range(len(records)))


@pytest.mark.parametrize(("size", "batch"), [(4, 12), (4, 8), (2, 32), (5, 20)])
def test_batches_hold_groups_of_each_class(labels: LabelSpace, size: int, batch: int) -> None:
    records = _records()
    for by, classes in (("mask", _values(records, "mask")), ("gender", _values(records, "gender"))):
        order = MPerClassSampler(labels, by, size).order(_table(records, labels))
        drawn = _draw(order)
        known = len(records) - Counter(classes)["None"]
        assert len(drawn) == order.length == known // size * size
        groups = drawn.reshape(-1, size)
        assert all(len(set(classes[group])) == 1 and len(set(group)) == size for group in groups)
        kinds = len(set(classes) - {"None"})
        for start in range(0, len(drawn) - batch + 1, batch):
            counts = Counter(classes[drawn[start : start + batch]])
            assert "None" not in counts
            assert len(counts) == min(kinds, batch // size)
            assert max(counts.values()) - min(counts.values()) <= size
    seen = set(itertools.chain(*(_draw(order, epoch).tolist() for epoch in range(12))))
    assert len(seen) > 0.95 * known


def test_a_class_with_few_images_repeats_them(labels: LabelSpace) -> None:
    records = [record for record in _records(60) if record.attributes["mask"] != "not_wear"]
    rare = next(record for record in _records() if record.attributes["mask"] == "not_wear")
    drawn = _draw(MPerClassSampler(labels, "mask", 4).order(_table([*records, rare], labels)))
    groups = [group for group in drawn.reshape(-1, 4).tolist() if len(records) in group]
    assert groups == [[len(records)] * 4] * len(groups)
    assert len(groups) in (len(drawn) // 12, len(drawn) // 12 + 1)
    few = MPerClassSampler(labels, "mask", 4).order(_table([rare], labels))
    assert (few.length, _draw(few).tolist()) == (4, [0, 0, 0, 0])


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_stream_is_one_for_any_number_of_processes_and_any_start(labels: LabelSpace, drop_last: bool) -> None:
    table = _table(_records(104), labels)
    orders = [
        rule.order(table)
        for rule in (WeightedSampler(labels, "mask"), RepeatSampler(labels, {"mask": {"incorrect": 3}}))
    ]
    for order in (*orders, every_image_once(104)):
        whole = _global_batches(order, 12, 1, 4, drop_last=drop_last)
        keys = [*itertools.chain(*whole)]
        for world in (2, 3):  # each process has two images at least in the last batch
            assert _global_batches(order, 12 // world, world, 4, drop_last=drop_last) == whole
        expected = order.draw(numpy_stream(9, "order", 4))[: len(keys)]
        assert keys == [
            (index, expected[:position].tolist().count(index)) for position, index in enumerate(expected.tolist())
        ]
        for start in range(len(whole) + 1):
            assert _global_batches(order, 12, 1, 4, start, drop_last=drop_last) == whole[start:]


def test_a_first_occurrence_has_the_stream_that_it_always_had() -> None:
    class Spy:
        def set_random_state(self, *generators: Any) -> None:
            self.drawn = [generator.random() for generator in generators]

        def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
            return {"image": image}

    spy, image = Spy(), np.zeros((2, 2, 3), np.uint8)
    pipeline = Pipeline(DeterministicPrefix([], [], None), [spy], (2, 2))
    pipeline.finish(image, AugmentationKey(1, 2, 3))
    expected = [numpy_stream(1, "augmentation", 2, 3).random(), python_stream(1, "augmentation", 2, 3).random()]
    assert spy.drawn == expected
    found = set()
    for repeat in range(4):
        pipeline.finish(image, AugmentationKey(1, 2, 3, repeat))
        found.add(tuple(spy.drawn))
    assert len(found) == 4
    assert tuple(expected) in found


def test_a_repeated_image_is_augmented_anew_each_time(image_records: list[Record], labels: LabelSpace) -> None:
    sampler = RepeatSampler(labels, {"mask": {"incorrect": 4}})
    loader = small_loader(image_records, labels, sampler=sampler, drop_last=False)
    assert loader.steps_per_epoch == 10  # 7 of 20 come four times: 41 images, the last with the four before it
    batches = list(loader.train_batches(0))
    plain = {
        int(index): image
        for batch in small_loader(image_records, labels).train_batches(0)
        for index, image in zip(batch.indices, batch.images, strict=True)
    }
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in batches:
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            seen.setdefault(index, []).append(image)
    assert {index: len(images) for index, images in seen.items()} == {
        index: 4 if index % 3 == 1 else 1 for index in range(20)
    }
    for index, images in seen.items():
        assert len({image.numpy().tobytes() for image in images}) == len(images)
        assert torch.equal(images[0], plain[index])  # the first time as without a sampler
    for workers in (1, 2):
        other = small_loader(image_records, labels, sampler=sampler, drop_last=False, num_workers=workers)
        assert same_batches(list(other.train_batches(0)), batches)
        assert same_batches(list(other.train_batches(0, 6)), batches[6:])
    assert loader.num_validation == 6


SECTION = TypedSection(exported(samplers), ("label_space",), optional=True)


@pytest.mark.parametrize(
    ("kind", "args", "expected"),
    [
        ("WeightedSampler", {"by": "msk"}, 'sampler.args.by names "msk", which is not one of mask, gender, age'),
        ("RepeatSampler", {"times": {"mak": {"wear": 2}}}, 'sampler.args.times names "mak", which'),
        ("RepeatSampler", {"times": {"mask": {"incorect": 2}}}, 'did you mean "incorrect"? (the'),
        ("RepeatSampler", {"times": {"mask": {"wear": 0}}}, "sampler.args.times.mask.wear = 0 must be"),
        ("WeightedSampler", {"by": "age", "weighting": "balance"}, 'did you mean "balanced"?'),
        ("MPerClassSampler", {"by": "age", "images_per_class": 0}, "images_per_class = 0 must be"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(labels: LabelSpace, kind: str, args: dict[str, Any], expected: str) -> None:
    """By the signature, or by the constructor that knows the labels."""
    spec = {"type": kind, "args": args}
    problems = SECTION.problems(spec, ("sampler",))
    if not problems:
        with pytest.raises(InvalidConfig) as refusal:
            SECTION.build(spec, ("sampler",), {"label_space": labels})
        problems = refusal.value.problems
    (problem,) = problems
    assert expected in str(problem)


def _global_batches(
    order: EpochOrder, batch: int, world: int, epoch: int = 0, start: int = 0, drop_last: bool = True
) -> list[list[tuple[int, int]]]:
    """The batches of all processes, put together: each image's index, and how often it came before."""
    samplers = [TrainingBatchSampler(order, batch, 9, rank, world, drop_last) for rank in range(world)]
    for sampler in samplers:
        sampler.set_position(epoch, start)
    by_process = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in by_process} == {len(samplers[0]) - start}
    for keys in itertools.chain(*by_process):
        assert keys.epoch == epoch
        assert 0 < len(keys) <= samplers[0].largest_batch
    return [
        [key for keys in batches for key in zip(keys.indices.tolist(), keys.repeats.tolist(), strict=True)]
        for batches in zip(*by_process, strict=True)
    ]


def _indices(batches: list[list[tuple[int, int]]]) -> list[list[int]]:
    return [[index for index, _ in batch] for batch in batches]


def test_the_order_is_the_epochs_keyed_permutation() -> None:
    expected = numpy_stream(9, "order", 4).permutation(50)[:48].reshape(6, 8).tolist()
    assert _indices(_global_batches(every_image_once(50), 8, 1, epoch=4)) == expected
    assert _indices(_global_batches(every_image_once(50), 8, 1, epoch=5)) != expected
    unshuffled = _indices(_global_batches(every_image_once(50, shuffle=False), 8, 1))
    assert unshuffled == np.arange(48).reshape(6, 8).tolist()


@pytest.mark.parametrize("rest", range(1, 9))
def test_a_rest_joins_the_batch_before_it_where_a_process_would_have_one_image(rest: int) -> None:
    """Batch normalisation cannot take one image."""
    streams = []
    for world in (1, 2, 3, 4):
        batches = _global_batches(every_image_once(96 + rest), 24 // world, world, 3, drop_last=False)
        assert [len(batch) for batch in batches] == ([24] * 4 + [rest] if rest >= 2 * world else [24] * 3 + [24 + rest])
        streams.append([*itertools.chain(*batches)])
    assert all(stream == streams[0] for stream in streams)
    assert sorted(index for index, _ in streams[0]) == list(range(96 + rest))


@pytest.mark.parametrize(("images", "batch_size"), [(23, 4), (3, 4), (0, 4), (24, 4)])
def test_processes_share_the_batches_of_one(images: int, batch_size: int) -> None:
    """A batch of another composition would have other last digits."""
    (alone,) = ([keys.indices.tolist() for keys in EvaluationBatchSampler(images, batch_size)],)
    assert [index for batch in alone for index in batch] == [*range(images)]
    for world in (1, 2, 3, 9):
        samplers = [
            EvaluationBatchSampler(images, batch_size, rank, world, whole_batches=True) for rank in range(world)
        ]
        shares = [[keys.indices.tolist() for keys in sampler] for sampler in samplers]
        assert [len(sampler) for sampler in samplers] == [*map(len, shares)]
        assert [shares[number % world][number // world] for number in range(len(alone))] == alone
        assert sum(map(len, shares)) == len(alone)


def test_the_last_batch_is_divided_evenly() -> None:
    for samples, expected in ((26, [[4, 3], [4, 3], [4, 2], [4, 2]]), (21, [[6], [5], [5], [5]])):
        samplers = [TrainingBatchSampler(every_image_once(samples), 4, 0, rank, 4, False) for rank in range(4)]
        assert [[len(keys) for keys in sampler] for sampler in samplers] == expected


def test_too_few_images_for_a_batch() -> None:
    with pytest.raises(DataError) as error:
        TrainingBatchSampler(every_image_once(15), 8, 0, 0, 2)
    words = ("batch_size = 8", "2 processes", "16 training images", "15", "7 or less", "drop_last")
    assert all(word in str(error.value) for word in words)
    assert len(TrainingBatchSampler(every_image_once(15), 8, 0, 0, 2, drop_last=False)) == 1
    assert len(TrainingBatchSampler(every_image_once(15), 7, 0, 0, 2)) == 1
    with pytest.raises(DataError):
        TrainingBatchSampler(every_image_once(1), 8, 0, 0, 2, drop_last=False)


@pytest.mark.parametrize(("samples", "batch", "world"), [*itertools.product((0, 1, 5, 16), (1, 3, 50), (1, 2, 7))])
def test_evaluation_takes_every_image_once_in_order(samples: int, batch: int, world: int) -> None:
    by_process = []
    for rank in range(world):
        sampler = EvaluationBatchSampler(samples, batch, rank, world)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(0 < len(keys) <= batch for keys in batches)
        by_process.append([index for keys in batches for index in keys.indices.tolist()])
    assert all(indices == list(range(rank, samples, world)) for rank, indices in enumerate(by_process))
    assert sorted(itertools.chain(*by_process)) == list(range(samples))
