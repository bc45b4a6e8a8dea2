"""The adapted classes by name: ``recbole_adapters.adapted.SASRec``.

RecBole pickles a model's class by module and name into its own checkpoints. These classes read
their options from the configuration, and are found here again in any process.
"""

from __future__ import annotations

from typing import Any

_MADE: dict[type[Any], type[Any]] = {}


def of(base: type[Any]) -> type[Any]:
    """The adapted class of a model, the same at each call.

    Args:
        base: The class of a sequential model.
    """
    from recbole_adapters.adapt import make

    if base not in _MADE:
        own = base.__module__.startswith("recbole.")
        _MADE[base] = make(base, module=__name__) if own else make(base)
    return _MADE[base]


def __getattr__(name: str) -> type[Any]:
    if name.startswith("_"):
        raise AttributeError(name)
    from linkedout_lightning.errors import ConfigError
    from recbole_adapters.slots import check_adaptable, find_model

    try:
        found = find_model(name)
        check_adaptable(found)
    except ConfigError as error:
        raise AttributeError(str(error)) from None
    return of(found)
