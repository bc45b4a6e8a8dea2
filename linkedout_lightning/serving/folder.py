"""Folders that are whole or not there, and files read only where they belong."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from linkedout_lightning.errors import ConfigError
from linkedout_lightning.serving.manifest import MANIFEST, BundleError, FileEntry

_EXCHANGE, _HERE = 2, -100


def write_folder(out: Path, fill: Callable[[Path], None], *, overwrite: bool) -> None:
    """Make a folder that appears complete or not at all, also when the machine stops.

    Args:
        out: The folder.
        fill: Writes its files into the folder that it is given.
        overwrite: Replace a bundle that is there; readers of it keep what they have opened.

    Raises:
        ConfigError: It is there and may not be replaced, or cannot be written.
    """
    check_free(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"`out` is {str(out)!r}, which cannot be written: {error}") from error
    try:
        fill(unfinished)
        unfinished.chmod(0o755)
        force_tree(unfinished)
        _move(unfinished, out)
        force(out.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse a place for a bundle that holds something else.

    Raises:
        ConfigError: A bundle is there and may not be replaced, or something that is none.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"`out` is {str(out)!r}, which is there and no folder; give another")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / MANIFEST).is_file():
        raise ConfigError(
            f"`out` is {str(out)!r}, which holds files and no bundle; give another folder"
        )
    if not overwrite:
        raise ConfigError(f"`out` is {str(out)!r}, where a bundle is; give another, or `overwrite`")


def _move(new: Path, out: Path) -> None:
    try:
        os.rename(new, out)  # works where `out` is absent or empty
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not _exchange(new, out):
        # Without an exchange by the system there is an instant without the folder.
        old = new.with_name(f"{new.name}.old")
        os.rename(out, old)
        os.rename(new, out)
        os.rename(old, new)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    done: int = call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE)
    return done == 0


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by renaming a finished one into its place, and force it to the disk."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    force(path.parent)


def entry_of(path: Path) -> FileEntry:
    """Size and digest of a file just written."""
    with path.open("rb") as stream:
        return FileEntry(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    """A file's content, if it is what the manifest says.

    Args:
        folder: The bundle.
        name: Of the file in it, checked by :func:`~linkedout_lightning.serving.manifest.check_name`
            before.
        entry: What the manifest says of it.

    Raises:
        BundleError: It is absent, no plain file, of another size or content.
    """
    with opened(folder, name, entry) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        content = stream.read(entry.bytes + 1)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _damaged(folder, name)
    return content


def verify(folder: Path, name: str, entry: FileEntry) -> None:
    """Check a file without keeping it.

    Raises:
        BundleError: As :func:`read_checked`.
    """
    with opened(folder, name, entry) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
            raise _damaged(folder, name)


@contextmanager
def opened(folder: Path, name: str, entry: FileEntry) -> Iterator[int]:
    """A descriptor of a file inside the bundle, no step of the way there a link."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    path = folder
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise BundleError(
                f"{str(folder)!r}: {name!r} is a symbolic link, which may lead out of the bundle; "
                "put the file itself there"
            )
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise BundleError(
            f"{str(folder)!r} is damaged: {name!r} cannot be read ({error.strerror}); copy or "
            "export the bundle again"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.bytes:
            raise BundleError(
                f"{str(folder)!r} is damaged: {name!r} has {status.st_size} bytes, the manifest "
                f"says {entry.bytes}; copy or export the bundle again"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def force_tree(folder: Path) -> None:
    """Force all files below a folder to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        force(path)
    force(folder)


def force(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    with contextlib.suppress(PermissionError):  # folders cannot be opened everywhere
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damaged(folder: Path, name: str) -> BundleError:
    return BundleError(
        f"{str(folder)!r} is damaged: {name!r} is not what its checksum says; copy or export the "
        "bundle again"
    )
