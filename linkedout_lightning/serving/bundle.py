"""A bundle on disk: opened, checked and read; items added and removed durably.

A bundle is never changed in place. An addition writes new files and then, in one step, a manifest
that names them; a reader sees the bundle before it or after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linkedout_lightning.errors import MissingExtraError
from linkedout_lightning.serving import folder as files
from linkedout_lightning.serving.items import Items
from linkedout_lightning.serving.manifest import (
    MANIFEST,
    BundleError,
    FileEntry,
    Manifest,
    Segment,
    decode,
    encode,
)
from linkedout_lightning.serving.newcomers import NewItemEncoder
from linkedout_lightning.serving.sequence import LastState, build
from linkedout_lightning.serving.table import VectorTable

_ATTEMPTS = 5
_MANY_SEGMENTS = 64


@dataclass(frozen=True)
class Bundle:
    """An exported model as it is on disk now.

    Args:
        path: The folder.
        manifest: What it says of itself.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Open a bundle.

        Args:
            path: Its folder; the folder itself may be a link, nothing inside it may.
            verify: Check every file's size and digest now; what is read is checked in any case.

        Raises:
            BundleError: There is none, it is damaged, or it is of another format version.
        """
        where = repr(os.fspath(path))
        folder = Path(path)
        try:
            folder = folder.resolve(strict=True)
            descriptor = os.open(folder / MANIFEST, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with open(descriptor, "rb") as stream:
                raw = stream.read()
        except (OSError, RuntimeError) as error:
            raise BundleError(
                f"{where} is no bundle: {MANIFEST} cannot be read there ({_reason(error)}); name a "
                "folder that `linkedout export` wrote"
            ) from None
        bundle = cls(folder, decode(raw, where=where))
        if verify:
            for name, entry in bundle.manifest.files.items():
                files.verify(folder, name, entry)
        return bundle

    @classmethod
    def read(
        cls, path: str | os.PathLike[str]
    ) -> tuple[Bundle, Items, LastState, NewItemEncoder | None]:
        """Open a bundle and read all of it, also while another process adds to it.

        Raises:
            BundleError: As :meth:`open`, or its files do not fit each other.
        """
        for attempt in range(_ATTEMPTS):
            bundle = cls.open(path, verify=False)
            try:
                for name in bundle.manifest.sequence["exports"].values():
                    files.verify(bundle.path, name, bundle.manifest.files[name])
                return bundle, bundle.items(), bundle.sequence(), bundle.newcomers()
            except BundleError:
                # A file that another process has merged away meanwhile is no damage.
                if attempt == _ATTEMPTS - 1 or cls.open(path, verify=False) == bundle:
                    raise
        raise AssertionError  # the last attempt returned or raised

    # ---- reading --------------------------------------------------------------------------------

    def content(self, name: str) -> bytes:
        """A file's content, checked."""
        return files.read_checked(self.path, name, self.manifest.files[name])

    def items(self) -> Items:
        """The items that were not removed.

        Raises:
            BundleError: A file is damaged or does not fit.
        """
        gone = set(self._json(self.manifest.removed, list) if self.manifest.removed else ())
        items: Items | None = None
        for segment in self.manifest.segments:
            part = self._segment(segment)
            if items is not None and (known := [i for i in part.ids if i in items.row_of]):
                items = _without(items, set(known))  # a later addition replaces
            items = part if items is None else items.joined(part)
        items = None if items is None else _without(items, gone)
        if items is None or not len(items):
            raise BundleError(f"{str(self.path)!r} holds no item; export it again")
        return items

    def sequence(self) -> LastState:
        """The sequence encoder, in evaluation mode."""
        what = self.manifest.sequence
        with self._fitting():
            return build(
                what["kind"],
                dim=self.manifest.dim,
                max_len=what["max_len"],
                options=what["options"],
                state=self._tensors(what["weights"]),
            )

    def newcomers(self) -> NewItemEncoder | None:
        """What makes vectors of new items; None for models of ids."""
        what = self.manifest.encoder
        if what is None:
            return None
        with self._fitting():
            return NewItemEncoder.build(what, self._tensors(what["weights"]))

    def _segment(self, segment: Segment) -> Items:
        ids = self._json(segment.ids, list)
        tensors = self._tensors(segment.tensors)
        columns = self._json(segment.columns, dict) if segment.columns else {}
        with self._fitting():
            vectors, other = _table(tensors, "vectors", self.manifest), None
            if "candidates" in tensors:
                other = _table(tensors, "candidates", self.manifest)
            items = Items(
                ids,
                vectors,
                other or vectors,
                tensors.get("popularity"),
                tensors.get("gates"),
                tensors.get("experts"),
                columns,
            )
            _check(items, segment.count)
        return items

    def _json(self, name: str, kind: type) -> Any:
        content = self.content(name)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise BundleError(
                f"{str(self.path)!r} is damaged: {name!r} holds no {kind.__name__} in JSON"
            )
        return value

    def _tensors(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        content = self.content(name)
        try:
            found: dict[str, Tensor] = load(content)
            return found
        except (SafetensorError, ValueError, KeyError) as error:
            raise BundleError(
                f"{str(self.path)!r} is damaged: {name!r} holds no tensors ({error})"
            ) from None

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        try:
            yield
        except MissingExtraError:
            raise
        except (BundleError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            if isinstance(error, BundleError) and str(self.path) in str(error):
                raise
            raise BundleError(
                f"{str(self.path)!r}: its parts do not fit each other: {error}; export it again"
            ) from None

    # ---- changing -------------------------------------------------------------------------------

    def append(self, items: Items) -> Bundle:
        """Add items, or replace those of the same ids, in one step that outlives a power failure.

        Args:
            items: The items.

        Returns:
            The bundle with them, and with what others added meanwhile.

        Raises:
            BundleError: The bundle is another one by now, or cannot be written.
        """

        def change(now: Bundle, generation: int) -> Manifest:
            manifest = now.manifest
            stored = items.as_dtype(manifest.dtype)
            if len(manifest.segments) >= _MANY_SEGMENTS:
                extra = Bundle(now.path, replace(manifest, segments=manifest.segments[1:])).items()
                both = _without(extra, set(items.ids)).joined(stored)
                kept, stored = manifest.segments[:1], both
            else:
                kept = manifest.segments
            segment, entries = write_segment(now.path, f"items/{generation}", stored)
            removed = manifest.removed
            if removed is not None:
                gone = [i for i in now._json(removed, list) if i not in items.row_of]
                removed, entry = _write_removed(now.path, generation, gone)
                entries |= entry
            return _with(manifest, entries, segments=(*kept, segment), removed=removed)

        return self._change(change)

    def remove(self, item_ids: Sequence[str]) -> Bundle:
        """Remove items, in one step that outlives a power failure.

        Args:
            item_ids: Their ids.

        Returns:
            The bundle without them.
        """

        def change(now: Bundle, generation: int) -> Manifest:
            before = now._json(now.manifest.removed, list) if now.manifest.removed else []
            gone = sorted({*before, *item_ids})
            removed, entries = _write_removed(now.path, generation, gone)
            return _with(now.manifest, entries, removed=removed)

        return self._change(change)

    def _change(self, change: Callable[[Bundle, int], Manifest]) -> Bundle:
        try:
            with _alone(self.path):
                now = Bundle.open(self.path, verify=False)
                if now.manifest.bundle != self.manifest.bundle:
                    raise BundleError(
                        f"{str(self.path)!r} holds another model than when it was opened; open it "
                        "again before items are added or removed"
                    )
                manifest = change(now, now.manifest.generation + 1)
                files.write_bytes(self.path / MANIFEST, encode(manifest))
                for name in now.manifest.files.keys() - manifest.files.keys():
                    (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise BundleError(f"{str(self.path)!r} cannot be changed: {error}") from error
        return Bundle(self.path, manifest)


def write_segment(path: Path, name: str, items: Items) -> tuple[Segment, dict[str, FileEntry]]:
    """Write items as files of a bundle.

    Args:
        path: The bundle.
        name: Start of the files' names.
        items: The items.

    Returns:
        The segment, and the entries of its files.
    """
    from safetensors.torch import save

    tensors = {"vectors": items.vectors.values, "vectors.scale": items.vectors.scale}
    if items.candidates is not items.vectors:
        tensors |= {
            "candidates": items.candidates.values, "candidates.scale": items.candidates.scale,
        }  # fmt: skip
    tensors |= {"popularity": items.popularity, "gates": items.gates, "experts": items.experts}
    segment = Segment(
        len(items),
        f"{name}.ids.json",
        f"{name}.safetensors",
        f"{name}.columns.json" if items.columns else None,
    )
    held = {key: value.contiguous() for key, value in tensors.items() if value is not None}
    (path / segment.ids).parent.mkdir(exist_ok=True)
    files.write_bytes(path / segment.ids, _json_bytes(list(items.ids)))
    files.write_bytes(path / segment.tensors, save(held))
    if segment.columns is not None:
        content = _json_bytes({key: list(column) for key, column in items.columns.items()})
        files.write_bytes(path / segment.columns, content)
    names = [n for n in (segment.ids, segment.tensors, segment.columns) if n is not None]
    return segment, {n: files.entry_of(path / n) for n in names}


def _write_removed(
    path: Path, generation: int, gone: list[str]
) -> tuple[str | None, dict[str, FileEntry]]:
    if not gone:
        return None, {}
    name = f"items/{generation}.removed.json"
    files.write_bytes(path / name, _json_bytes(gone))
    return name, {name: files.entry_of(path / name)}


def _with(manifest: Manifest, entries: dict[str, FileEntry], **values: Any) -> Manifest:
    """The next generation, its list of files without those that nothing names any more."""
    both = {**manifest.files, **entries}
    # Checked only once the files are those of the new generation.
    changed = manifest.changed(files=both, **values)
    named = set(changed.named())
    return replace(changed, files={name: entry for name, entry in both.items() if name in named})


def _table(tensors: dict[str, Tensor], name: str, manifest: Manifest) -> VectorTable:
    values, scale = tensors[name], tensors.get(f"{name}.scale")
    if str(values.dtype) != f"torch.{manifest.dtype}" or values.dim() != 2:
        raise ValueError(f"{name} are {values.dtype} of shape {tuple(values.shape)}")
    if values.shape[1] != manifest.dim or (scale is None) != (manifest.dtype != "int8"):
        raise ValueError(f"{name} have shape {tuple(values.shape)}, H is {manifest.dim}")
    if scale is not None and (scale.dtype != torch.float32 or scale.shape != (len(values),)):
        raise ValueError(f"the scales of {name} are {scale.dtype} of shape {tuple(scale.shape)}")
    return VectorTable(values, scale)


def _check(items: Items, count: int) -> None:
    if not all(isinstance(item, str) and item for item in items.ids):
        raise ValueError("an item id is no text, or empty")
    if len(items.ids) != count or len(items.row_of) != count:
        raise ValueError(f"{len(items.ids)} ids, {len(items.row_of)} different ones, of {count}")
    for table in (items.vectors, items.candidates):
        numbers = table.values if table.scale is None else table.scale
        if len(table) != count or not bool(torch.isfinite(numbers).all()):
            raise ValueError(f"{len(table)} vectors of {count}, or NaN or infinity in one")
    for extra in (items.popularity, items.gates, items.experts):
        if extra is not None and len(extra) != count:
            raise ValueError(f"{len(extra)} rows of {count}")
    for name, column in items.columns.items():
        sound = isinstance(column, list) and len(column) == count
        if not sound or not all(v is None or isinstance(v, str) for v in column):
            raise ValueError(f"the column {name!r} does not hold {count} texts")


def _without(items: Items, gone: set[str]) -> Items:
    if not any(item in items.row_of for item in gone):
        return items
    left = [row for row, item in enumerate(items.ids) if item not in gone]
    return items.kept(torch.tensor(left, dtype=torch.long))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time changes a bundle; another waits here."""
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except ImportError:  # pragma: no cover - no such lock on this system
            pass
        yield
    finally:
        os.close(descriptor)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
