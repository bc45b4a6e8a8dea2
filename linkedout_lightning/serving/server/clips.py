"""The items' clips, out of one folder."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from linkedout_lightning.serving.server.schemas import Clip

_SUFFIXES = {
    ".mp4": "video/mp4", ".webm": "video/webm", ".m4v": "video/mp4", ".mov": "video/quicktime",
    ".ogv": "video/ogg", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png",
    ".webp": "image/webp", ".gif": "image/gif",
}  # fmt: skip


class Clips:
    """Files named by items' ids.

    Args:
        folder: Where they lie; None: there are none.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder).resolve()

    def find(self, item_id: str) -> tuple[Path, str] | None:
        """File and media type of an item's clip; None where there is none.

        An id is a file's name and never a way to another folder: it holds no separator, and what
        is found must lie in the folder itself, also behind links.
        """
        if self._folder is None or not is_plain_name(item_id):
            return None
        for suffix, kind in _SUFFIXES.items():
            path = self._folder / f"{item_id}{suffix}"
            try:
                if path.is_file() and path.resolve().parent == self._folder:
                    return path, kind
            except (OSError, ValueError):
                return None
        return None

    def clip(self, item_id: str) -> Clip | None:
        """Where an item's clip is served; None where there is none."""
        found = self.find(item_id)
        if found is None:
            return None
        # Relative to the page, which may stand below a proxy's path.
        return Clip(address=f"media/{quote(item_id, safe='')}", type=found[1])


def is_plain_name(text: str) -> bool:
    """Whether a text is the name of a file and not a path, a hidden file or no name at all."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return bool(text) and not text.startswith(".") and not any(c in text for c in "/\\\0:")


def inside(folder: Path, named: str) -> Path | None:
    """What a client names in a folder, links followed; None where that is not in the folder.

    Args:
        folder: The folder.
        named: Relative to it, or absolute.
    """
    try:
        root = folder.resolve(strict=True)
        path = (root / named).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    return path if path.is_relative_to(root) else None
