import pytest
import torch

from datamodules.batches import AspectBatches, GlobalBatches, LengthOrder, TokenBatches, sizes_by_tokens
from foundation.errors import UserError


def epoch_of(epoch: int = 0, **settings) -> list[list[int]]:
    batches = GlobalBatches(**settings)
    batches.set_epoch(epoch)
    return [batch.tolist() for batch in batches]


def test_order_is_a_function_of_seed_and_epoch():
    first = epoch_of(size=20, batch_size=4, seed=3)
    assert first == epoch_of(size=20, batch_size=4, seed=3)
    assert first != epoch_of(size=20, batch_size=4, seed=4)
    assert first != epoch_of(size=20, batch_size=4, seed=3, epoch=1)
    assert sorted(sum(first, [])) == list(range(20))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_cut_each_global_batch(world_size):
    whole = epoch_of(size=20, batch_size=6, seed=0)
    shares = [epoch_of(size=20, batch_size=6, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [sum(cut, []) for cut in zip(*shares, strict=True)] == whole
    assert {len(share) for cut in shares for share in cut} == {6 // world_size}


@pytest.mark.parametrize(("size", "world_size"), [(7, 1), (7, 2), (7, 3), (9, 3), (2, 3), (1, 2)])
def test_evaluation_sees_each_example_once(size, world_size):
    shares = [
        epoch_of(size=size, batch_size=4, seed=None, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(size))
    for share in shares:  # no empty batch, but for a rank that has nothing else
        assert all(share) or share == [[]]
    for rank, share in enumerate(shares):
        assert len(share) == len(GlobalBatches(size, 4, seed=None, rank=rank, world_size=world_size))


def test_training_drops_the_incomplete_batch_and_evaluation_keeps_it():
    assert [len(batch) for batch in epoch_of(size=10, batch_size=4, seed=0)] == [4, 4]
    assert [len(batch) for batch in epoch_of(size=10, batch_size=4, seed=None)] == [4, 4, 2]


def test_goes_on_after_consumed_batches_asked_late():
    consumed = 0
    batches = GlobalBatches(20, 4, seed=0, consumed=lambda: consumed)
    whole = [batch.tolist() for batch in batches]
    iterator = iter(batches)
    consumed = 3  # restored after iter() was called, as Lightning does
    assert [batch.tolist() for batch in iterator] == whole[3:]


def test_epoch_set_after_iter_counts():
    batches = GlobalBatches(20, 4, seed=0)
    iterator = iter(batches)
    batches.set_epoch(5)
    assert [batch.tolist() for batch in iterator] == epoch_of(size=20, batch_size=4, seed=0, epoch=5)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="5 examples, fewer than one batch of 8: set datamodule.batch_size to 5"):
        GlobalBatches(5, 8, seed=0)
    with pytest.raises(UserError, match="cannot be cut among 3 ranks: choose a multiple of 3, such as 6"):
        GlobalBatches(50, 8, seed=0, world_size=3)
    with pytest.raises(UserError, match="batch_size is 0"):
        GlobalBatches(50, 0, seed=None)


def test_indices_are_integers():
    assert next(iter(GlobalBatches(5, 2, seed=0))).dtype == torch.int64


def test_a_batch_is_of_one_aspect_and_every_example_comes_at_most_once():
    wide = torch.rand(500, generator=torch.Generator().manual_seed(0)) < 0.7
    order = AspectBatches(wide, 16, seed=0)
    epochs = []
    for epoch in range(20):
        order.set_epoch(epoch)
        found = list(order)
        assert len(found) == len(order) == int(wide.sum()) // 16 + int((~wide).sum()) // 16
        assert all(len(batch) == 16 and len(wide[batch].unique()) == 1 for batch in found)
        assert len(torch.cat(found).unique()) == 16 * len(found)
        epochs.append([bool(wide[batch[0]]) for batch in found])
    assert len(set(map(tuple, epochs))) == 20  # both kinds in a new order each time
    assert len({int(it) for epoch in range(20) for it in order_of(order, epoch)}) == 500  # no example is never seen
    assert order_of(order, 3) == order_of(AspectBatches(wide, 16, seed=0), 3)
    assert order_of(order, 3) != order_of(AspectBatches(wide, 16, seed=1), 3)


def order_of(batches: AspectBatches, epoch: int) -> list[int]:
    batches.set_epoch(epoch)
    return batches.order().tolist()


def by_tokens(epoch: int = 0, **settings) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 30, (500, 2), generator=generator)
    order = TokenBatches(lengths, **{"tokens": 400, "seed": 0} | settings)
    order.set_epoch(epoch)
    found = [it.tolist() for it in order]
    assert len(found) == len(order)
    assert all(len(it) * int(lengths[it].max()) <= 400 for it in found)
    return found


def test_batches_by_tokens_have_every_example_once_in_as_many_batches_each_epoch():
    epochs = [by_tokens(epoch) for epoch in range(3)]
    for found in epochs:
        assert sorted(sum(found, [])) == list(range(500))
        assert sorted(map(len, found)) == sorted(map(len, epochs[0]))
        assert sum(len(it) % 8 == 0 for it in found) >= len(found) - 2
    assert len({str(it) for it in epochs}) == 3
    assert len({str(sorted(map(sorted, it))) for it in epochs}) == 3  # of one length not the same ones meet
    assert by_tokens(1) == epochs[1] != by_tokens(1, seed=1)


@pytest.mark.parametrize("world_size", [2, 3])
def test_batches_by_tokens_are_the_same_on_any_number_of_ranks_and_go_on(world_size):
    shares = [by_tokens(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [sum(cut, []) for cut in zip(*shares, strict=True)] == by_tokens()
    generator = torch.Generator().manual_seed(0)
    rest = TokenBatches(torch.randint(3, 30, (500, 2), generator=generator), 400, seed=0, consumed=lambda: 7)
    assert [it.tolist() for it in rest] == by_tokens()[7:]


def test_the_last_batch_by_tokens_shares_with_the_one_before():
    assert sizes_by_tokens([2] * 33, 64) == [17, 16]
    assert sizes_by_tokens([4, 4, 4], 8) == [2, 1]
    assert sizes_by_tokens([9, 9, 1], 18) == [2, 1]
    with pytest.raises(UserError, match="batch_tokens is 8, and a text has 9 tokens"):
        sizes_by_tokens([9], 8)
    with pytest.raises(UserError, match="batch_tokens=9 makes a batch of 1 examples, which 2 ranks cannot share"):
        TokenBatches(torch.tensor([[9], [9]]), 9, seed=0, world_size=2)


def test_evaluation_by_length_sees_each_example_once():
    lengths = torch.tensor([[3, 1], [5, 2], [3, 2], [5, 2], [1, 9]])
    shares = [[it.tolist() for it in LengthOrder(lengths, 2, rank=rank, world_size=2)] for rank in range(2)]
    assert shares == [[[1], [2], [4]], [[3], [0]]]
