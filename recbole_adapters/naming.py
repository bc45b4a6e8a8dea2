"""Classes by name, as other processes find them."""

from __future__ import annotations

import importlib
from typing import Any

from linkedout_lightning.errors import ConfigError


def name_of(model: type[Any]) -> str:
    """The name by which another process can import a class, as ``module:Class``.

    Raises:
        ConfigError: No other process can import it.
    """
    name = f"{model.__module__}:{model.__qualname__}"
    try:
        found = None if model.__module__ == "__main__" else imported(name)
    except (ImportError, AttributeError):
        found = None
    if found is not model:
        raise ConfigError(
            f"`model` is the class {name}, which another process cannot import by that name; put "
            "it into a module of its own, or give the model's name and a `linkedout:` section"
        )
    return name


def imported(name: str) -> Any:
    """What a name of the form ``module:Class`` stands for."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
