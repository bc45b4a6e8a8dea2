"""What goes wrong, as types that a caller can catch.

Every error subclasses :class:`LinkedOutError` and the built-in that a caller would expect, so
``except ValueError`` and ``except KeyError`` work without knowing this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath


class LinkedOutError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigError(LinkedOutError, ValueError):
    """An argument or a configuration value is not usable; the message says what is."""


class DataError(LinkedOutError, ValueError):
    """An input file or tensor does not hold what was expected of it."""


class NonFiniteError(DataError):
    """NaN or infinity stands where a finite number was needed."""


class VideoDecodeError(LinkedOutError, RuntimeError):
    """A video yields no frames.

    Args:
        path: The file as the caller named it.
        reason: Why, in one phrase, for example ``"no video stream"``.
    """

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        self.path = fspath(path)
        self.reason = reason
        super().__init__(f"cannot decode {self.path!r}: {reason}")

    def __reduce__(self) -> tuple[type[VideoDecodeError], tuple[str, str]]:
        # Exceptions cross process borders by their `args`, which hold the finished message only.
        return type(self), (self.path, self.reason)


class StoreError(LinkedOutError, RuntimeError):
    """A feature store cannot be created, opened or written."""


class StoreSpecError(StoreError, ValueError):
    """Features do not fit the store's specification; the message names each field."""


class UnknownItemError(LinkedOutError, KeyError):
    """Item ids that are not there.

    Args:
        item_ids: All the unknown ids; the message shows the first few.
        where: What was searched, for example ``"the feature store at features/"``.
    """

    def __init__(self, item_ids: Iterable[str], where: str) -> None:
        self.item_ids = list(item_ids)
        self.where = where
        shown = ", ".join(repr(i) for i in self.item_ids[:5])
        more = f" and {len(self.item_ids) - 5} more" if len(self.item_ids) > 5 else ""
        self.message = f"{len(self.item_ids)} item id(s) are not in {where}: {shown}{more}"
        super().__init__(self.message)

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote a whole sentence.
        return self.message

    def __reduce__(self) -> tuple[type[UnknownItemError], tuple[list[str], str]]:
        return type(self), (self.item_ids, self.where)


class MissingExtraError(LinkedOutError, ImportError):
    """An optional package is not installed.

    Args:
        package: The package that is missing.
        extra: The extra of linkedout-lightning that brings it.
        what_for: What it is needed for, completing "... needs it".
    """

    def __init__(self, package: str, extra: str, what_for: str) -> None:
        self.package, self.extra, self.what_for = package, extra, what_for
        super().__init__(
            f"{what_for} needs {package}, which is not installed: "
            f"pip install 'linkedout-lightning[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.what_for)
