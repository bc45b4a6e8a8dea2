"""RecBole's sequential models with LinkedOut's item vectors in place of their ID table.

Importing this package imports neither RecBole nor torch; its names are loaded at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_adapters.adapt import with_item_encoder as with_item_encoder
    from recbole_adapters.atomic import write_inter as write_inter
    from recbole_adapters.launcher import run as run
    from recbole_adapters.options import ItemEncoderOptions as ItemEncoderOptions
    from recbole_adapters.saving import load as load
    from recbole_adapters.saving import save as save

_HOMES = {
    "with_item_encoder": "adapt",
    "write_inter": "atomic",
    "run": "launcher",
    "load": "saving",
    "save": "saving",
    "ItemEncoderOptions": "options",
}

__all__ = ["ItemEncoderOptions", "load", "run", "save", "with_item_encoder", "write_inter"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
