"""What may be opened: regular files only, as a FIFO or a device would block or never end."""

from __future__ import annotations

import errno
import os
import stat

from linkedout_lightning.errors import VideoDecodeError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
"""Files that are decoded as still images, by the end of their name (in any case)."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_image(path: str) -> bool:
    """Whether a file's name says that it is a still image."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def require_regular_file(path: str) -> None:
    """Refuse, without opening it, anything that is not a readable, non-empty regular file.

    Raises:
        VideoDecodeError: With the reason.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise VideoDecodeError(path, _why(error)) from None
    except ValueError:
        raise VideoDecodeError(path, "the path holds a null character") from None
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise VideoDecodeError(path, f"not a regular file but {_KINDS.get(kind, 'special')}")
    if status.st_size == 0:
        raise VideoDecodeError(path, "the file is empty")
    if not os.access(path, os.R_OK):
        raise VideoDecodeError(path, "permission denied")


def _why(error: OSError) -> str:
    known = {errno.ENOENT: "no such file", errno.ELOOP: "a loop of symbolic links"}
    return known.get(error.errno or 0, (error.strerror or str(error)).lower())
