"""In which batches, and in which order, the items of a job go through the model.

Results must not depend on where a job was killed, nor on who else was at it. A row's bits may
depend on what shares its batch (padding, and kernels that are chosen by size), so batches are
fixed: the work is a list in a fixed order, cut greedily from its front into units, and a unit is
committed whole. What a killed job leaves is the rest of that list, which is cut in the same places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from linkedout_lightning.tap.items import Item
from linkedout_lightning.tap.types import TapInput
from linkedout_lightning.tap.units import Unit

if TYPE_CHECKING:
    from linkedout_lightning.tap.preparing import Preparer
    from linkedout_lightning.video import Frames

VIDEO_BATCH, TEXT_BATCH = 8, 32
# 32 titles fit easily, 32 long documents would not; nor would 8 videos in full resolution.
BATCH_TOKENS = 16_384
_WINDOW = 4  # Batches whose videos are sorted by shape together.
_T = TypeVar("_T")
_Worded = TypeVar("_Worded", Item, TapInput)
_Shapes = tuple[tuple[int, ...] | None, tuple[int, ...] | None]


def cut_units(
    items: Sequence[Item],
    prepare: Preparer,
    *,
    sources: Collection[str],
    batch_size: int | None,
    batch_tokens: int,
) -> list[Unit]:
    """Cut items into the units in which they are extracted and committed.

    Args:
        items: The items.
        prepare: The tap's, whose tokenizer measures texts.
        sources: Which files of an item the model sees.
        batch_size: Most items of a batch; None: 8 with a video, 32 texts.
        batch_tokens: Most tokens of a batch of texts, with padding.

    Returns:
        Items with files first, in order and some batches at a time, as they are sorted by shape
        once they are decoded; then texts, of like length together.
    """
    watched = [item for item in items if has_files(item, sources)]
    window = videos_a_unit(batch_size)
    cuts = [tuple(watched[start : start + window]) for start in range(0, len(watched), window)]
    units = [Unit(number, cut, True) for number, cut in enumerate(cuts)]
    read = [item for item in items if not has_files(item, sources)]
    lengths = text_lengths(prepare, [item.columns for item in read])
    batches = text_batches(
        read, lengths, batch_size=batch_size or TEXT_BATCH, batch_tokens=batch_tokens
    )
    return units + [
        Unit(number, tuple(batch), False) for number, batch in enumerate(batches, len(units))
    ]


def videos_a_unit(batch_size: int | None) -> int:
    """How many items with files make a unit; that many are decoded ahead, too."""
    return (batch_size or VIDEO_BATCH) * _WINDOW


def has_files(item: Item, sources: Collection[str]) -> bool:
    """Whether something must be decoded for an item."""
    return any(getattr(item, source) is not None for source in sources)


def text_lengths(builder: Preparer, items: Sequence[Mapping[str, str]]) -> list[int]:
    """Tokens of each item's filled prompt."""
    lengths: list[int] = []
    for start in range(0, len(items), 1024):
        texts = [builder.template.fill(columns).text for columns in items[start : start + 1024]]
        encoded = builder.tokenizer(texts, add_special_tokens=False)
        lengths += map(len, encoded["input_ids"])
    return lengths


def text_batches(
    items: Sequence[_T],
    lengths: Sequence[int],
    *,
    batch_size: int,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[list[_T]]:
    """Items of like length together, longest first: if memory does not do, that shows at once.

    Args:
        items: The items.
        lengths: Tokens of each.
        batch_size: Most items of a batch.
        batch_tokens: Most tokens of a batch, with padding.
    """
    order = sorted(range(len(items)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        fitting = batch_tokens // max(1, lengths[order[start]])
        stop = start + max(1, min(batch_size, fitting))
        yield [items[i] for i in order[start:stop]]
        start = stop


class VideoCutter:
    """Cuts decoded items into batches: equal frames together, of like text length within.

    A batch is there as soon as it is full, so that the model need not wait for a unit's last video.
    How many tokens frames of a shape become is found once a shape with a picture of noise, so that
    it does not depend on which items came first (some processors leave still parts out).

    Args:
        prepare: The tap's; used by one thread at a time.
        batch_size: Most items of a batch.
        batch_tokens: Most tokens of a batch, unless one item has more.
    """

    def __init__(self, prepare: Preparer, *, batch_size: int, batch_tokens: int) -> None:
        self._prepare = prepare
        self._batch_size, self._batch_tokens = batch_size, batch_tokens
        self._tokens: dict[_Shapes, int] = {}

    def __call__(self, items: Sequence[TapInput]) -> Iterator[list[TapInput]]:
        """The batches of items that are decoded."""
        return self.cut(self.ordered(items))

    def ordered(self, items: Sequence[_Worded]) -> list[_Worded]:
        """The order in which items are to be decoded, and to come to :meth:`cut`."""
        lengths = text_lengths(self._prepare, [item.columns for item in items])
        return [items[i] for i in sorted(range(len(items)), key=lambda i: -lengths[i])]

    def cut(self, items: Iterable[TapInput]) -> Iterator[list[TapInput]]:
        """The batches of items that come one by one, longest text first.

        Yields:
            Full batches as they fill, then what is left of each shape.
        """
        waiting: dict[_Shapes, list[TapInput]] = {}
        sizes: dict[_Shapes, int] = {}
        for item in items:
            shapes = _shapes(item)
            if shapes not in sizes:
                sizes[shapes] = self._size(shapes, longest=item)
            batch = waiting.setdefault(shapes, [])
            batch.append(item)
            if len(batch) == sizes[shapes]:
                yield waiting.pop(shapes)
        yield from waiting.values()

    def _size(self, shapes: _Shapes, *, longest: TapInput) -> int:
        (length,) = text_lengths(self._prepare, [longest.columns])
        tokens = self._tokens_of(shapes) + length
        return max(1, min(self._batch_size, self._batch_tokens // max(1, tokens)))

    def _tokens_of(self, shapes: _Shapes) -> int:
        if shapes not in self._tokens:
            frames, cover = (_noise(shape) for shape in shapes)
            noise = TapInput("noise", frames, {}, cover=cover)
            # A shape that the processor refuses is refused again with the items, by name.
            try:
                self._tokens[shapes] = self._prepare([noise]).tokens
            except Exception:
                self._tokens[shapes] = 0
        return self._tokens[shapes]


def _shapes(item: TapInput) -> _Shapes:
    frames, cover = (
        None if seen is None else tuple(seen.data.shape) for seen in (item.frames, item.cover)
    )
    return frames, cover


def _noise(shape: tuple[int, ...] | None) -> Frames | None:
    if shape is None:
        return None
    import numpy as np

    from linkedout_lightning.video import Frames

    data = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Frames(data, np.arange(shape[0]) / 2, fps=2.0, duration=shape[0] / 2, backend="noise")
