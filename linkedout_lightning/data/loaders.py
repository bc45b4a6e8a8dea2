"""Batches made by indexing, in an order that seed and epoch fix, shared out over processes.

These are plain iterables and no ``DataLoader``: a batch costs one gather, so that worker processes
and a collate function would only slow it down, and Lightning leaves them as they are (it puts a
``DistributedSampler``, which repeats users to make processes even, into DataLoaders alone).

``S`` sequences, ``B`` sequences a step and process on average, ``P`` processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from linkedout_lightning.data.batches import EvalBatch, TrainBatch
from linkedout_lightning.data.sequences import gather_ranges
from linkedout_lightning.data.splits import Questions
from linkedout_lightning.errors import ConfigError


class Share(NamedTuple):
    """This process among those that share the data."""

    rank: int = 0
    of: int = 1


def distributed_share() -> Share:
    """The share by ``torch.distributed``; the whole where it is not initialised."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Share(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return Share()


class TrainLoader:
    """Training sequences, in a new order each epoch.

    All processes compute the same order and take their part of each step, equally many sequences
    each; the order is filled up to a multiple of ``P`` with at most ``P - 1`` sequences drawn
    again, so that every process makes the same number of steps.

    With ``bucket``, sequences of like length stand together, which saves the padding: the shuffled
    order is sorted by length within windows of that many steps, cut where the *targets* (not the
    sequences) are equally many, and the steps are shuffled again. Equal targets keep the weight of
    every transition in the average loss the same as without buckets; a step of short sequences
    holds more of them, and ``batch_size`` is their average.

    Lightning announces the epoch through :meth:`set_epoch` and saves :meth:`state_dict` in its
    checkpoints, so that training resumes with the batch that it was about to see. A plain loop
    needs neither: each pass over the loader is one epoch further.

    Args:
        items: ``(E,)`` flat items.
        start: ``(S,)`` ranges in ``items``.
        stop: ``(S,)``.
        batch_size: Sequences a step and process.
        seed: Of the order.
        bucket: Steps a window, 0 for none.
        pin_memory: Batches in page-locked memory, for faster copies to a GPU.
        share: Called at the start of an epoch.
    """

    def __init__(
        self,
        items: Tensor,
        start: Tensor,
        stop: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        bucket: int = 50,
        pin_memory: bool = False,
        share: Callable[[], Share] = distributed_share,
    ) -> None:
        if batch_size < 1 or bucket < 0:
            raise ConfigError(
                f"`batch_size` must be at least 1 and `bucket` at least 0, "
                f"got {batch_size} and {bucket}"
            )
        self.items, self.start, self.stop = items, start, stop
        self.batch_size, self.seed, self.bucket = batch_size, seed, bucket
        self.pin_memory, self._share = pin_memory, share
        self.epoch = 0
        self._step = 0  # handed out so far in this pass
        self._resume_at = 0

    @property
    def sampler(self) -> TrainLoader:
        """Itself: where Lightning looks for :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch that the next pass belongs to."""
        if epoch != self.epoch:
            self.epoch, self._step, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Epoch, and how many of its steps were handed out."""
        return {"epoch": self.epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass go on where :meth:`state_dict` was taken."""
        self.epoch = state["epoch"]
        self._step = self._resume_at = state["step"]

    def __len__(self) -> int:
        """Steps an epoch, the same on every process."""
        return -(-len(self.start) // (self.batch_size * self._share().of))

    def __iter__(self) -> Iterator[TrainBatch]:
        steps = self.order(self.epoch)
        rank, of = self._share()
        self._step = self._resume_at if self._resume_at < len(steps) else 0
        self._resume_at = 0
        while self._step < len(steps):
            rows = steps[self._step][rank::of]
            self._step += 1
            items = gather_ranges(self.items, self.start[rows], self.stop[rows])
            yield TrainBatch(items.pin_memory() if self.pin_memory else items)
        self.set_epoch(self.epoch + 1)

    def order(self, epoch: int) -> tuple[Tensor, ...]:
        """Sequences of each step of an epoch, over all processes."""
        sequences, of = len(self.start), self._share().of
        if not sequences:
            return ()
        # The large prime keeps (seed, epoch) and (seed + 1, epoch - 1) apart.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(sequences, generator=generator)
        order = order[torch.arange(-(-sequences // of) * of) % sequences]
        if not self.bucket:
            return torch.split(order, self.batch_size * of)
        targets = self.stop - self.start - 1
        steps: list[Tensor] = []
        for window in torch.split(order, self.batch_size * of * self.bucket):
            by_length = window[targets[window].argsort(stable=True)]
            pieces = -(-len(window) // (self.batch_size * of))
            steps += by_length.tensor_split(_equal_targets(targets[by_length], pieces, of))
        return tuple(steps[i] for i in torch.randperm(len(steps), generator=generator).tolist())


class EvalLoader:
    """Questions, each user exactly once over all processes, nobody twice to fill up.

    Every process makes the same number of steps, as collectives inside a step demand (DDP sends
    buffers in each forward pass of a validation), so the sizes of batches differ by one; with
    fewer users than processes a batch may be empty. Users are ordered by the length of their
    input, which saves padding.

    Args:
        items: ``(E',)`` flat items that inputs are cut from.
        history_items: ``(E,)`` flat items that histories are cut from.
        questions: Who is asked what.
        max_len: Longest input, ``M``; older items are cut off.
        batch_size: Users a step and process.
        pin_memory: Batches in page-locked memory.
        share: Called at the start of a pass.
    """

    def __init__(
        self,
        items: Tensor,
        history_items: Tensor,
        questions: Questions,
        *,
        max_len: int,
        batch_size: int,
        pin_memory: bool = False,
        share: Callable[[], Share] = distributed_share,
    ) -> None:
        if batch_size < 1 or max_len < 1:
            raise ConfigError(
                f"`batch_size` and `max_len` must be at least 1, got {batch_size} and {max_len}"
            )
        self.items, self.history_items, self.questions = items, history_items, questions
        self.batch_size, self.pin_memory, self._share = batch_size, pin_memory, share
        self._input_start = torch.maximum(questions.input_start, questions.input_stop - max_len)
        self._order = (questions.input_stop - self._input_start).argsort(stable=True)

    def __len__(self) -> int:
        """Steps a pass, the same on every process."""
        return -(-len(self._order) // (self.batch_size * self._share().of))

    def __iter__(self) -> Iterator[EvalBatch]:
        rank, of = self._share()
        for rows in self._order.tensor_split(max(1, len(self) * of))[rank::of]:
            if len(self):
                batch = self._batch(rows)
                yield EvalBatch(*(t.pin_memory() for t in batch)) if self.pin_memory else batch

    def _batch(self, rows: Tensor) -> EvalBatch:
        asked = self.questions
        return EvalBatch(
            users=asked.users[rows],
            inputs=gather_ranges(self.items, self._input_start[rows], asked.input_stop[rows]),
            target=asked.target[rows],
            history=gather_ranges(
                self.history_items, asked.history_start[rows], asked.history_stop[rows]
            ),
        )


def _equal_targets(targets: Tensor, pieces: int, multiple: int) -> list[int]:
    """Where to cut sequences into pieces of equally many targets.

    Cuts fall on multiples of ``multiple``, and no piece is empty.
    """
    total = targets.cumsum(0)
    wanted = total[-1] * torch.arange(1, pieces) / pieces
    cut = torch.searchsorted(total.double(), wanted.double()) // multiple
    # At least one multiple between cuts, from the left and then from the right.
    index = torch.arange(1, pieces)
    cut = (cut - index).clamp(min=0).cummax(0).values + index if pieces > 1 else cut
    most = len(targets) // multiple - (pieces - index)
    return [int(c) for c in torch.minimum(cut, most) * multiple]
