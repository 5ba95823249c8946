import numpy as np

from csr_model.batches import epoch_batches, steps_per_epoch


def test_an_epoch_visits_each_row_at_most_once() -> None:
    """Rows seen twice in an epoch would weigh more; only the unfilled last batch may be missing."""
    batches = list(epoch_batches(rows=103, batch_size=10, seed=0, epoch=0))
    assert len(batches) == steps_per_epoch(103, 10) == 10
    assert len(np.unique(np.concatenate(batches))) == 100


def test_ranks_share_the_batches_of_one_rank() -> None:
    """Two workers must learn what one would: the same rows in the same steps."""
    alone = list(epoch_batches(103, 12, seed=3, epoch=2))
    parts = [list(epoch_batches(103, 12, seed=3, epoch=2, rank=rank, ranks=3)) for rank in range(3)]
    for step, rows in enumerate(alone):
        together = np.concatenate([part[step] for part in parts])
        assert sorted(together) == rows.tolist()


def test_resuming_inside_an_epoch_skips_what_was_done() -> None:
    """A worker killed mid-epoch must go on with the next batch, not repeat or lose one."""
    whole = list(epoch_batches(100, 10, seed=1, epoch=0))
    rest = list(epoch_batches(100, 10, seed=1, epoch=0, first_step=4))
    assert all(np.array_equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_epochs_and_seeds_differ() -> None:
    """The same order every epoch would leave the same rows out each time."""
    first = next(epoch_batches(100, 10, seed=1, epoch=0))
    assert not np.array_equal(first, next(epoch_batches(100, 10, seed=1, epoch=1)))
    assert not np.array_equal(first, next(epoch_batches(100, 10, seed=2, epoch=0)))
