"""Samplers: the stream of samples for any number of processes, and every validation image once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from data_loader.batch_samplers import EvaluationBatchSampler, TrainingBatchSampler
from utils.errors import DataError
from utils.random_streams import numpy_stream


def _global_batches(
    samples: int, batch: int, world: int, epoch: int = 0, start: int = 0, **args: Any
) -> list[list[int]]:
    """The batches of all processes, put together."""
    samplers = [TrainingBatchSampler(samples, batch, 9, rank, world, **args) for rank in range(world)]
    for sampler in samplers:
        sampler.set_position(epoch, start)
    by_process = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in by_process} == {len(samplers[0]) - start}
    assert all(keys.epoch == epoch for batches in by_process for keys in batches)
    assert all(len(keys) for batches in by_process for keys in batches)
    together = zip(*by_process, strict=True)
    return [[index for keys in batches for index in keys.indices.tolist()] for batches in together]


def test_the_order_is_the_epochs_keyed_permutation() -> None:
    expected = numpy_stream(9, "order", 4).permutation(50)[:48].reshape(6, 8).tolist()
    assert _global_batches(50, 8, 1, epoch=4) == expected
    assert _global_batches(50, 8, 1, epoch=5) != expected
    assert _global_batches(50, 8, 1, shuffle=False) == np.arange(48).reshape(6, 8).tolist()


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_fixed_global_batch_gives_one_stream_for_any_number_of_processes(drop_last: bool) -> None:
    streams = [_global_batches(104, 24 // world, world, 3, drop_last=drop_last) for world in (1, 2, 3, 4)]
    assert all(stream == streams[0] for stream in streams)
    assert sum(map(len, streams[0])) == (96 if drop_last else 104)


@pytest.mark.parametrize("rest", range(1, 9))
def test_the_stream_is_the_same_too_where_the_rest_joins_the_batch_before_it(rest: int) -> None:
    """And no process ever has a batch of one image, which batch normalisation cannot take."""
    streams = []
    for world in (1, 2, 3, 4):
        batches = _global_batches(96 + rest, 24 // world, world, 3, drop_last=False)
        assert [len(batch) for batch in batches] == ([24] * 4 + [rest] if rest >= 2 * world else [24] * 3 + [24 + rest])
        streams.append([*itertools.chain(*batches)])
    assert all(stream == streams[0] for stream in streams)


def test_an_epoch_may_begin_at_any_batch() -> None:
    whole = _global_batches(50, 4, 2, 1, drop_last=False)
    for start in range(len(whole) + 1):
        assert _global_batches(50, 4, 2, 1, start, drop_last=False) == whole[start:]


@pytest.mark.parametrize(("samples", "batch", "world"), [*itertools.product((7, 16, 17, 19, 31), (1, 4), (1, 2, 3))])
def test_without_drop_last_each_image_comes_once(samples: int, batch: int, world: int) -> None:
    seen = sorted(itertools.chain(*_global_batches(samples, batch, world, drop_last=False)))
    assert seen == list(range(samples))


def test_the_last_batch_is_divided_evenly() -> None:
    samplers = [TrainingBatchSampler(26, 4, 0, rank, 4, drop_last=False) for rank in range(4)]
    assert [len(list(sampler)[-1]) for sampler in samplers] == [3, 3, 2, 2]
    samplers = [TrainingBatchSampler(21, 4, 0, rank, 4, drop_last=False) for rank in range(4)]
    assert [[len(keys) for keys in sampler] for sampler in samplers] == [[6], [5], [5], [5]]
    assert {sampler.largest_batch for sampler in samplers} == {6}


def test_too_few_images_for_a_batch_are_told() -> None:
    with pytest.raises(DataError, match=r"batch_size = 8 on 2 processes needs 16 training images, and there are 15"):
        TrainingBatchSampler(15, 8, 0, 0, 2)
    with pytest.raises(DataError, match="set batch_size to 7 or less, or drop_last to false"):
        TrainingBatchSampler(15, 8, 0, 0, 2)
    assert len(TrainingBatchSampler(15, 8, 0, 0, 2, drop_last=False)) == 1
    assert len(TrainingBatchSampler(15, 7, 0, 0, 2)) == 1
    with pytest.raises(DataError):
        TrainingBatchSampler(1, 8, 0, 0, 2, drop_last=False)


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
