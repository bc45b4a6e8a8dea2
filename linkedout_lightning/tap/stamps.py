"""What an item was made from, as a short text that tells whether it has changed since.

A stamp has one part a source: ``video:<size>:<mtime>:<digest>``, ``cover:…`` alike, and
``text:<digest>`` of the columns that are used. Size and time cost one ``stat`` and decide nearly
always. Only where the size is the same and the time is not (a dataset that was copied, restored or
downloaded again) a digest of the content decides, so that nothing is watched twice for a new date.

The digest is over the size and ten evenly spaced blocks, the first and the last among them. A
video that was encoded, cut or tagged anew differs in them; a few bytes changed in place between
them, with the size kept, may not be seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from typing import BinaryIO

from linkedout_lightning.tap.items import Item

_BLOCK, _BLOCKS = 16 * 2**10, 10
_NOTHING, _UNREADABLE = "nothing", "unreadable"


def stamp(item: Item, *, columns: Collection[str], sources: Collection[str]) -> str:
    """What an item is made from now.

    Costs a ``stat`` and the reading of at most 160 KiB a file.

    Args:
        item: The item.
        columns: Columns that are used; a change in others does not matter.
        sources: Which of its files are used, of ``"video"`` and ``"cover"``.

    Returns:
        The stamp, to be kept with the features.

    Example:
        >>> from linkedout_lightning.tap.items import Item
        >>> stamp(Item("a", columns={"title": "x"}), columns=["title"], sources=["video"])
        'text:343612edd5f73686d4d0e5ad'
    """
    parts = [f"{name}:{_file_stamp(path)}" for name, path in _files(item, sources)]
    return " ".join([*parts, *_text_part(item, columns)]) or _NOTHING


def unchanged(
    stored: str, item: Item, *, columns: Collection[str], sources: Collection[str]
) -> bool:
    """Whether an item is still what it was.

    Costs a ``stat`` a file. Content is read only where the size is the same and the time is not;
    stamps without a digest, as earlier versions made them, then count as changed.

    Args:
        stored: What :func:`stamp` said when the features were made.
        item: The item as it is now.
        columns: As for :func:`stamp`.
        sources: As for :func:`stamp`.
    """
    parts = [] if stored == _NOTHING else stored.split(" ")
    files = list(_files(item, sources))
    if parts[len(files) :] != _text_part(item, columns):
        return False
    # With the texts equal there are as many parts left as files, or too few of them.
    if len(parts) < len(files):
        return False
    return all(
        part.startswith(f"{name}:") and _same_file(part.removeprefix(f"{name}:"), path)
        for part, (name, path) in zip(parts, files, strict=False)
    )


def _files(item: Item, sources: Collection[str]) -> Iterator[tuple[str, str]]:
    for name in ("video", "cover"):
        path = getattr(item, name, None)
        if name in sources and path is not None:
            yield name, path


def _text_part(item: Item, columns: Collection[str]) -> list[str]:
    texts = {name: item.columns[name] for name in sorted(columns) if item.columns.get(name)}
    if not texts:
        return []
    content = json.dumps(texts, ensure_ascii=True).encode()
    return [f"text:{hashlib.sha256(content).hexdigest()[:24]}"]


def _file_stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return _UNREADABLE
    digest = _digest(path, status)
    return f"{status.st_size}:{status.st_mtime_ns}" + (f":{digest}" if digest else "")


def _same_file(stored: str, path: str) -> bool:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return stored == _UNREADABLE
    size, _, rest = stored.partition(":")
    if size != str(status.st_size):
        return False
    time, _, digest = rest.partition(":")
    if time == str(status.st_mtime_ns):
        return True
    return bool(digest) and digest == _digest(path, status)


def _digest(path: str, status: os.stat_result) -> str:
    """Digest of a file's size and samples of its content; empty where it cannot be read."""
    if not stat.S_ISREG(status.st_mode):
        return ""  # Opening a pipe would wait for its writer, for ever.
    content = hashlib.blake2b(str(status.st_size).encode(), digest_size=12)
    try:
        with open(path, "rb", buffering=0) as file:
            for block in _samples(file, status.st_size):
                content.update(block)
    except OSError:
        return ""
    return content.hexdigest()


def _samples(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The whole of a small file, or evenly spaced blocks from the first byte to the last."""
    if size <= _BLOCK * _BLOCKS:
        yield file.read()
        return
    for index in range(_BLOCKS):
        file.seek((size - _BLOCK) * index // (_BLOCKS - 1))
        yield file.read(_BLOCK)
