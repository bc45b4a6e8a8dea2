from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linkedout_lightning.data.loaders import EvalLoader, Share, TrainLoader
from linkedout_lightning.data.sequences import windows
from linkedout_lightning.data.splits import Questions
from linkedout_lightning.errors import ConfigError

WHOLE = Share()
LENGTHS = st.lists(st.integers(2, 15), min_size=1, max_size=60)


def ranges(lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Flat items that name themselves, so that a batch tells which sequences it holds."""
    stop = torch.tensor(lengths).cumsum(0)
    return torch.arange(1, sum(lengths) + 1), stop - torch.tensor(lengths), stop


def train_loader(
    lengths: list[int], batch_size: int, bucket: int, share: Share = WHOLE, seed: int = 0
) -> TrainLoader:
    flat, start, stop = ranges(lengths)
    return TrainLoader(
        flat, start, stop, batch_size=batch_size, bucket=bucket, seed=seed, share=lambda: share
    )


def rows(batch: Tensor) -> list[tuple[int, ...]]:
    return [tuple(i for i in row if i) for row in batch.tolist()]


@settings(deadline=None)
@given(
    lengths=LENGTHS,
    batch_size=st.integers(1, 9),
    bucket=st.sampled_from([0, 1, 3]),
    of=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_each_process_its_share(
    lengths: list[int], batch_size: int, bucket: int, of: int, epoch: int
) -> None:
    flat, start, stop = ranges(lengths)
    expected = [tuple(flat[a:b].tolist()) for a, b in zip(start, stop, strict=True)]
    seen: list[tuple[int, ...]] = []
    sizes = []
    for rank in range(of):
        loader = train_loader(lengths, batch_size, bucket, Share(rank, of))
        loader.set_epoch(epoch)
        batches = [rows(batch.items) for batch in loader]
        assert len(batches) == len(loader) == -(-len(lengths) // (batch_size * of))
        sizes.append([len(batch) for batch in batches])
        assert all(sizes[-1])
        seen += [row for batch in batches for row in batch]
    assert all(size == sizes[0] for size in sizes)  # equal weights in DDP's mean of gradients
    assert set(seen) == set(expected)
    assert len(seen) == -(-len(expected) // of) * of  # at most `of - 1` are drawn again


def test_padding_is_left_and_trimmed() -> None:
    batch = next(iter(train_loader([2, 4, 3], batch_size=3, bucket=0)))
    assert batch.items.shape == (3, 4)
    assert bool((batch.items.sign().diff(dim=1) >= 0).all())
    assert torch.equal(batch.inputs, batch.items[:, :-1])
    assert bool(((batch.targets > 0) == (batch.inputs > 0)).all())
    first = torch.tensor([row[0] for row in rows(batch.items)])
    assert not torch.isin(batch.targets, first).any()


def test_buckets_save_padding_and_keep_the_weights() -> None:
    lengths = (torch.randint(2, 12, (3000,)) // torch.randint(1, 4, (3000,))).clamp(min=2).tolist()
    plain, bucketed = (list(train_loader(lengths, 64, bucket)) for bucket in (0, 50))
    assert len(plain) == len(bucketed)
    cells = [sum(batch.items.numel() for batch in batches) for batches in (plain, bucketed)]
    assert cells[1] < 0.6 * cells[0]
    targets = torch.tensor([int((b.inputs > 0).sum()) for b in bucketed]).double()
    assert float(targets.std() / targets.mean()) < 0.03
    widths = torch.tensor([b.items.shape[1] for b in bucketed]).double()
    assert abs(float(torch.corrcoef(torch.stack([widths, torch.arange(len(widths))]))[0, 1])) < 0.5


@pytest.mark.parametrize("bucket", [0, 5])
def test_order_hangs_on_seed_and_epoch_alone(bucket: int) -> None:
    lengths = torch.randint(2, 9, (200,)).tolist()

    def epochs(seed: int, number: int) -> list[list[list[tuple[int, ...]]]]:
        loader = train_loader(lengths, 16, bucket, seed=seed)
        return [[rows(batch.items) for batch in loader] for _ in range(number)]

    first = epochs(0, 3)
    assert first == epochs(0, 3)
    assert first[0] != first[1] != first[2]
    assert first != epochs(1, 3)
    later = train_loader(lengths, 16, bucket)
    later.set_epoch(2)
    assert [rows(batch.items) for batch in later] == first[2]


@pytest.mark.parametrize("bucket", [0, 5])
def test_resumes_with_the_next_batch(bucket: int) -> None:
    lengths = torch.randint(2, 9, (200,)).tolist()
    whole = train_loader(lengths, 16, bucket)
    expected = [[rows(batch.items) for batch in whole] for _ in range(2)]

    stopped = train_loader(lengths, 16, bucket)
    iterator = iter(stopped)
    begun = [rows(next(iterator).items) for _ in range(5)]
    resumed = train_loader(lengths, 16, bucket)
    resumed.load_state_dict(stopped.state_dict())
    assert begun + [rows(batch.items) for batch in resumed] == expected[0]
    assert [rows(batch.items) for batch in resumed] == expected[1]

    # Saved with the last batch handed out, the next epoch follows, as Lightning announces it.
    iterator = iter(whole := train_loader(lengths, 16, bucket))
    for _ in range(len(whole)):
        next(iterator)
    resumed.load_state_dict(whole.state_dict())
    resumed.set_epoch(1)
    assert [rows(batch.items) for batch in resumed] == expected[1]


def test_a_broken_off_pass_starts_again() -> None:
    loader = train_loader([3] * 40, 8, 0)
    first = rows(next(iter(loader)).items)
    assert rows(next(iter(loader)).items) == first


def eval_loader(
    users: int, max_len: int, batch_size: int, share: Share = WHOLE
) -> tuple[EvalLoader, dict[int, tuple[list[int], int, list[int]]]]:
    generator = torch.Generator().manual_seed(users)
    lengths = torch.randint(2, 12, (users,), generator=generator).tolist()
    flat, start, stop = ranges(lengths)
    questions = Questions(
        users=torch.arange(users) * 3, target=flat[stop - 1], input_start=start,
        input_stop=stop - 1, history_start=start, history_stop=stop - 1,
    )  # fmt: skip
    expected = {}
    for user, (a, b) in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        before = flat[a : b - 1].tolist()
        expected[user * 3] = (before[-max_len:], int(flat[b - 1]), before)
    loader = EvalLoader(
        flat, flat, questions, max_len=max_len, batch_size=batch_size, share=lambda: share
    )
    return loader, expected


@settings(deadline=None)
@given(
    users=st.integers(1, 50),
    max_len=st.integers(1, 12),
    batch_size=st.integers(1, 20),
    of=st.integers(1, 4),
)
def test_every_user_exactly_once(users: int, max_len: int, batch_size: int, of: int) -> None:
    found = {}
    steps = set()
    for rank in range(of):
        loader, expected = eval_loader(users, max_len, batch_size, Share(rank, of))
        batches = list(loader)
        assert len(batches) == len(loader)
        steps.add(len(batches))
        for batch in batches:
            assert len(batch.users) <= batch_size
            inputs, histories = rows(batch.inputs), rows(batch.history)
            for user, given_, target, history in zip(
                batch.users.tolist(), inputs, batch.target.tolist(), histories, strict=True
            ):
                assert user not in found
                found[user] = (list(given_), target, list(history))
    assert found == expected
    assert len(steps) == 1  # equal numbers of collectives


def test_nobody_to_ask() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    questions = Questions(
        users=empty, target=empty, input_start=empty, input_stop=empty,
        history_start=empty, history_stop=empty,
    )  # fmt: skip
    loader = EvalLoader(empty, empty, questions, max_len=3, batch_size=2)
    assert (len(loader), list(loader)) == (0, [])


def test_windows_feed_the_loader() -> None:
    start, stop = windows(torch.tensor([0]), torch.tensor([11]), 4)
    loader = TrainLoader(torch.arange(1, 12), start, stop, batch_size=8)
    targets = [t for batch in loader for row in batch.targets.tolist() for t in row if t]
    assert sorted(targets) == list(range(2, 12))


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        train_loader([3], 0, 0)
    with pytest.raises(ConfigError, match="max_len"):
        eval_loader(3, 0, 1)
