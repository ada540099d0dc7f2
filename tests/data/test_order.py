"""The order of images follows from (seed, epoch) alone, not from batch size, ranks or restarts."""

from __future__ import annotations

from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.data.order import Draw, EpochOrder, TrainingOrder


def order(length=10, batch_size=3, seed=0, shuffle=True, drop_last=False, **rest) -> EpochOrder:
    return EpochOrder(length, batch_size, seed, shuffle, drop_last, **rest)


def images(draws) -> list[int]:
    return list(chain.from_iterable(draw.indices for draw in draws))


def test_an_epoch_shows_every_image_once():
    assert sorted(images(order())) == list(range(10))
    assert images(order(shuffle=False)) == list(range(10))
    assert [len(draw.indices) for draw in order()] == [3, 3, 3, 1]
    assert [len(draw.indices) for draw in order(drop_last=True)] == [3, 3, 3]


def test_order_depends_only_on_seed_and_epoch():
    assert list(order()) == list(order())
    assert images(order(batch_size=3)) == images(order(batch_size=4))
    assert images(order()) != images(order(seed=1))
    assert images(order()) != images(order(epoch=1))


def test_every_batch_has_its_own_seed():
    seeds = [draw.seed for epoch in range(20) for seed in range(5) for draw in order(seed=seed, epoch=epoch)]
    assert len(set(seeds)) == len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_order_is_the_same_in_every_version():
    """A checkpoint resumed by a later version must meet the order that it left."""
    draw = next(iter(order(length=6, batch_size=6)))
    assert draw.indices == (4, 5, 3, 1, 0, 2)
    assert draw.seed == 2190576382479227965


@given(st.integers(1, 40), st.integers(1, 7), st.booleans(), st.integers(0, 3), st.data())
def test_restart_draws_the_rest_of_the_epoch(length, batch_size, drop_last, epoch, data):
    if drop_last and length < batch_size:
        length = batch_size
    whole = list(order(length, batch_size, drop_last=drop_last, epoch=epoch))
    done = data.draw(st.integers(0, len(whole)))
    seen = order(length, batch_size, drop_last=drop_last).seen(done)
    rest = order(length, batch_size, drop_last=drop_last, epoch=epoch, start=seen)
    assert list(rest) == whole[done:]
    assert len(rest) == len(whole)
    assert list(rest) == whole[done:], "iterating a second time gives the same"


def batches(training: TrainingOrder, number=100) -> list[Draw]:
    """Train on at most so many batches of an epoch."""
    drawn = list(islice(training, number))
    for _ in drawn:
        training.count_batch()
    return drawn


def test_training_advances_through_epochs():
    training = TrainingOrder(order())
    for epoch in range(3):
        assert len(training) == 4
        assert batches(training) == list(order(epoch=epoch))


def test_training_from_a_position_within_an_epoch():
    training = TrainingOrder(order(epoch=2, start=6))
    assert len(training) == 4
    assert batches(training) == list(order(epoch=2))[2:]
    assert batches(training) == list(order(epoch=3))


def test_untrained_epoch_is_repeated():
    training = TrainingOrder(order(epoch=2, start=6))
    loaded_ahead = list(training)
    assert batches(training) == loaded_ahead


def test_position_of_training():
    training = TrainingOrder(order(start=3))
    assert training.position(0, 4) == (0, 3)
    batches(training, 1)
    assert training.position(unfinished=0, batches_per_epoch=4) == (0, 6)
    assert training.position(unfinished=1, batches_per_epoch=4) == (0, 3)
    assert training.position(unfinished=0, batches_per_epoch=2) == (1, 0)
    batches(training)
    assert training.position(unfinished=0, batches_per_epoch=4) == (2, 0)
    assert training.position(unfinished=1, batches_per_epoch=4) == (1, 9)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_ranks_share_the_steps_of_one_device_with_all_their_batches(length, batch_size, world_size, drop_last):
    if drop_last:
        length = max(length, batch_size * world_size)
    single = list(order(length, batch_size * world_size, drop_last=drop_last))
    ranks = [
        list(order(length, batch_size, drop_last=drop_last, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {len(single)}
    for step, draw in enumerate(single):
        together = images(rank[step] for rank in ranks)
        assert tuple(together[: len(draw.indices)]) == draw.indices
        assert len({len(rank[step].indices) for rank in ranks}) == 1
        assert len({rank[step].seed for rank in ranks}) == world_size
        assert len(together) - len(draw.indices) < world_size


@pytest.mark.parametrize(
    ("length", "batch_size", "drop_last", "world_size"), [(0, 3, False, 1), (5, 6, True, 1), (5, 3, True, 2)]
)
def test_an_epoch_without_a_batch_is_refused(length, batch_size, drop_last, world_size):
    with pytest.raises(ValueError, match=rf"data\.loading\.batch_size = {batch_size} .*drop_last = {drop_last}"):
        order(length, batch_size, drop_last=drop_last, world_size=world_size)


def test_start_inside_a_batch_is_refused():
    with pytest.raises(ValueError, match="multiple of the 3 images of a step, got 4"):
        order(start=4)
