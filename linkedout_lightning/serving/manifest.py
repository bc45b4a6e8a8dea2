"""What a bundle's ``manifest.json`` holds, and when it is believed.

The manifest names every file of the bundle with its size and SHA-256, and carries a SHA-256 of
itself. It is refused unless it is, byte for byte, what :func:`encode` makes of its content, so that
no byte of it can change unseen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from linkedout_lightning.errors import DataError

FORMAT, VERSION, OLDEST = "linkedout-bundle", 1, 1
MANIFEST = "manifest.json"
DTYPES = ("float32", "float16", "int8")

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleError(DataError):
    """A bundle cannot be read, or is not what its manifest says."""


@dataclass(frozen=True)
class FileEntry:
    """One file as the manifest vouches for it.

    Args:
        bytes: Its size.
        sha256: Digest of its content.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Segment:
    """Some of the items: those of the export, or those of one later addition.

    Args:
        count: How many.
        ids: File of their ids, a JSON list.
        tensors: File of their vectors, safetensors.
        columns: File of what is known of them, such as titles: a JSON object of lists.
    """

    count: int
    ids: str
    tensors: str
    columns: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a bundle says of itself.

    Args:
        bundle: Fingerprint of what was exported; later additions do not change it.
        generation: How often items were added or removed since the export.
        dim: H, the width of an item vector.
        dtype: Of the item vectors: one of :data:`DTYPES`.
        segments: The items, in the order of their rows.
        removed: File of the ids that were removed since, a JSON list; None: none.
        sequence: The sequence encoder: ``kind``, ``options``, ``max_len``, ``weights`` (a file) and
            ``exports`` (files in other formats).
        encoder: What makes vectors of new items: ``options``, ``layers``, ``slots``,
            ``hidden_size``, ``weights`` (a file); None for models of ids.
        features: Specification of the features that ``encoder`` reads; None where unknown.
        source: Where the weights came from.
        versions: Library versions, for the record.
        files: Every file of the bundle by name.
    """

    bundle: str
    generation: int
    dim: int
    dtype: str
    segments: tuple[Segment, ...]
    removed: str | None = None
    sequence: dict[str, Any]
    encoder: dict[str, Any] | None = None
    features: dict[str, Any] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileEntry]

    def __post_init__(self) -> None:
        self._check_types()
        for name in self.files:
            check_name(name)
        for name in self.named():
            if name not in self.files:
                raise BundleError(f"the manifest uses the file {name!r} and does not list it")

    def named(self) -> list[str]:
        """The files that are read by name."""
        names = [name for s in self.segments for name in (s.ids, s.tensors, s.columns)]
        names += [self.removed, self.sequence["weights"], (self.encoder or {}).get("weights")]
        names += list(self.sequence["exports"].values())
        return [name for name in names if name is not None]

    def changed(self, **values: Any) -> Manifest:
        """A copy of the next generation."""
        return replace(self, generation=self.generation + 1, **values)

    def _check_types(self) -> None:
        sequence = self.sequence
        sound = (
            isinstance(self.bundle, str)
            and all(type(v) is int and v >= 0 for v in (self.generation, self.dim))
            and self.dim > 0
            and self.dtype in DTYPES
            and all(type(s.count) is int and s.count > 0 for s in self.segments)
            and all(isinstance(n, str) for s in self.segments for n in (s.ids, s.tensors))
            and isinstance(sequence, dict)
            and isinstance(sequence.get("kind"), str)
            and isinstance(sequence.get("options"), dict)
            and type(sequence.get("max_len")) is int
            and sequence["max_len"] > 0
            and isinstance(sequence.get("weights"), str)
            and isinstance(sequence.get("exports"), dict)
            and isinstance(self.encoder, (dict, type(None)))
            and isinstance(self.features, (dict, type(None)))
            and isinstance(self.source, dict)
        )
        for entry in self.files.values():
            sound = sound and type(entry.bytes) is int and entry.bytes >= 0
            sound = sound and bool(_SHA256.fullmatch(str(entry.sha256)))
        if not sound:
            raise BundleError("the manifest's fields are not of the kinds that its format has")


def check_name(name: str) -> None:
    """Refuse a file name that could lead out of the bundle, whatever the operating system.

    Raises:
        BundleError: It is absolute, climbs, or is not plain.

    Example:
        >>> check_name("items/0.safetensors")
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or len(name) > 200 or not all(_PART.fullmatch(part) for part in parts):
        raise BundleError(
            f"the manifest names the file {name!r}, which is no plain name inside the bundle"
        )


def encode(manifest: Manifest) -> bytes:
    """The manifest as the bytes of its file."""
    value = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    value["sha256"] = hashlib.sha256(_text(value)).hexdigest()
    return _text(value)


def decode(raw: bytes, *, where: str) -> Manifest:
    """The opposite of :func:`encode`.

    Args:
        raw: The file's content.
        where: The bundle, for messages.

    Raises:
        BundleError: It is damaged, of another format, or of a version that this cannot read.
    """
    value = _parsed(raw, where)
    version = value.get("version")
    if type(version) is not int or not OLDEST <= version <= VERSION:
        readable = f"version {VERSION}" if OLDEST == VERSION else f"versions {OLDEST} to {VERSION}"
        later = type(version) is int and version > VERSION
        cure = "install a later linkedout-lightning" if later else "export it again"
        raise BundleError(
            f"{where} is a bundle of format version {version!r}, and this linkedout-lightning "
            f"reads {readable}: {cure}"
        )
    stated = value.pop("sha256", None)
    if hashlib.sha256(_text(value)).hexdigest() != stated or _text(value | {"sha256": stated}) != (
        raw
    ):
        raise BundleError(
            f"{where} is damaged: {MANIFEST} is not what its own checksum says; copy or export the "
            "bundle again"
        )
    try:
        return _from_json(value)
    except BundleError as error:
        raise BundleError(f"{where}: {error}; export the bundle again") from None
    except (TypeError, AttributeError, KeyError) as error:
        raise BundleError(
            f"{where}: the manifest lacks fields that its format has ({error}); export the bundle "
            "again"
        ) from None


def _parsed(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BundleError(
            f"{where} is no bundle: its {MANIFEST} is damaged or of something else; name a folder "
            "that `linkedout export` wrote"
        )
    return value


def _from_json(value: Mapping[str, Any]) -> Manifest:
    known = {f.name for f in fields(Manifest)}
    # A later writer of the same version may add fields that a reader can do without.
    given = {key: item for key, item in value.items() if key in known}
    given["files"] = {
        name: FileEntry(entry["bytes"], entry["sha256"]) for name, entry in value["files"].items()
    }
    given["segments"] = tuple(
        Segment(s["count"], s["ids"], s["tensors"], s.get("columns")) for s in value["segments"]
    )
    return Manifest(**given)


def _text(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text.encode() + b"\n"
