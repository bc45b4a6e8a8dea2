"""Decoders behind one signature: ``decode(path, settings) -> Frames``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from linkedout_lightning.errors import ConfigError, MissingExtraError
from linkedout_lightning.video.frames import Frames
from linkedout_lightning.video.settings import DecodeSettings

Decode = Callable[[str, DecodeSettings], Frames]


@dataclass(frozen=True)
class Backend:
    """A decoder by name.

    Attributes:
        name: What the user calls it.
        function: Where it is, as ``module:function``; imported only where it runs.
        packages: What must be installed for it.
        always_isolated: It is known to crash or to hang, so it never runs in the caller's process.
        fallback: Name of the backend that decodes what this one cannot.
    """

    name: str
    function: str
    packages: tuple[str, ...] = ()
    always_isolated: bool = False
    fallback: str | None = None


_HERE = "linkedout_lightning.video.backends"

BACKENDS = {
    "pyav": Backend("pyav", f"{_HERE}.pyav:decode", ("av",)),
    "decord": Backend("decord", f"{_HERE}.decord:decode", ("decord", "av"), True, "pyav"),
    "torchcodec": Backend(
        "torchcodec", f"{_HERE}.torchcodec:decode", ("torchcodec", "av"), True, "pyav"
    ),
}

STILLS = Backend("pillow", f"{_HERE}.stills:decode", ("pillow",))
# Packages whose module is called otherwise.
_MODULES = {"pillow": "PIL"}


def find_backend(name: str) -> Backend:
    """Look a backend up and see that it is installed.

    Args:
        name: ``auto`` (PyAV), ``pyav``, ``decord``, ``torchcodec``, or ``package.module:function``
            for a decoder of your own with the signature of this package's.

    Raises:
        ConfigError: If there is no such backend.
        MissingExtraError: If what it needs is not installed.
    """
    module, colon, function = name.partition(":")
    if colon and module and function.isidentifier():
        return Backend(name, name)
    if name != "auto" and name not in BACKENDS:
        known = ", ".join(["auto", *BACKENDS])
        raise ConfigError(f"`backend` is {name!r}; give one of {known}, or 'module:function'")
    backend = BACKENDS["pyav" if name == "auto" else name]
    require_installed(backend, f"decoding videos with {backend.name}")
    return backend


def require_installed(backend: Backend, what_for: str) -> None:
    """See that the packages of a backend are there, without importing them.

    Raises:
        MissingExtraError: If one is not.
    """
    for package in backend.packages:
        if find_spec(_MODULES.get(package, package)) is None:
            raise MissingExtraError(package, "video", what_for)


def load(function: str) -> Decode:
    """Import the decoder at ``module:function``."""
    module, _, attribute = function.partition(":")
    decode: Decode = getattr(import_module(module), attribute)
    return decode
