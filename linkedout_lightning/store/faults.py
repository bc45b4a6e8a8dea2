"""Lance's errors as this package's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from re import sub

from linkedout_lightning.errors import LinkedOutError, StoreError

_MEANINGS = {
    "No space left": "the disk is full",
    "os error 28": "the disk is full",
    "File too large": "a file may not grow any more",
    "Read-only file system": "the file system is read-only",
    "Permission denied": "no permission to write there",
    "credentials": "no credentials for the object store; set AWS_ACCESS_KEY_ID and the like",
    "NoSuchBucket": "there is no such bucket",
}


@contextmanager
def as_store_errors(doing: str, path: str) -> Iterator[None]:
    """Raise :class:`StoreError` for what Lance raises inside the block.

    Lance raises OSError, ValueError or RuntimeError for the same cause, depending on the path of
    the code.
    """
    try:
        yield
    except LinkedOutError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"cannot {doing} the feature store at {path!r}: {reason(error)}"
        ) from error


def reason(error: BaseException) -> str:
    """Lance's message without the places in its own sources, and what it means where known."""
    text = sub(r",?\s*/[^\s,]+\.rs:\d+:\d+", "", str(error)).strip()
    for sign, meaning in _MEANINGS.items():
        if sign in text:
            return f"{meaning} ({text[:200]})"
    return text[:500]
