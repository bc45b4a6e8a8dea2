"""Settings of a RecBole run before RecBole reads them: files, ``KEY=VALUE`` pairs and defaults."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import yaml

from linkedout_lightning.errors import ConfigError
from recbole_adapters.options import SECTION
from recbole_adapters.slots import find_model

_EVALUATION = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
"""RecBole's own `eval_args` of sequential models, which a single changed key leaves in force."""


class _Loader(yaml.SafeLoader):
    """YAML as RecBole reads it: ``1e-3`` is a number; no tag makes an object."""


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads: text that looks like such a number is quoted."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+|[0-9_]*\.[0-9_]+)$"),
        list("-+0123456789."),
    )


def find_files(names: Sequence[str]) -> tuple[str, ...]:
    """Paths of configuration files; a bare name may be that of a file that this package brings.

    Args:
        names: Paths, or names such as ``ml-100k``.

    Raises:
        ConfigError: Neither a file nor a name.
    """
    found = []
    for name in names:
        brought = ready_files().get(name)
        if not Path(name).is_file() and brought is None:
            raise ConfigError(
                f"no configuration file {name!r}; give a YAML file, or one that comes with this "
                f"package, by name: {', '.join(sorted(ready_files()))}"
            )
        found.append(name if Path(name).is_file() else str(brought))
    return tuple(found)


@cache
def ready_files() -> dict[str, str]:
    """Configuration files that come with the package, by name."""
    folder = Path(str(package_files("recbole_adapters"))) / "configs"
    return {path.stem: str(path) for path in sorted(folder.glob("*.yaml"))}


def read_files(paths: Sequence[str]) -> dict[str, Any]:
    """The settings of RecBole's YAML files, later files win.

    Args:
        paths: The files.

    Raises:
        ConfigError: A file that is no YAML, or holds no keys.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            where = " ".join(str(error).split())
            raise ConfigError(f"cannot read the configuration file {path!r}: {where}") from error
        if not isinstance(content, Mapping):
            raise ConfigError(
                f"the configuration file {path!r} holds no keys; give RecBole's settings, such as "
                "`epochs: 50`"
            )
        merged |= content
    return merged


def write_file(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings as a YAML file that RecBole reads."""
    from linkedout_lightning.compare.files import plain, write_text

    write_text(path, yaml.dump(plain(dict(settings)), Dumper=_Dumper, sort_keys=False))


def with_pairs(pairs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that win over files, where a dotted key changes one key of a section.

    Args:
        pairs: Settings, of which ``linkedout.store`` is the key ``store`` in the section
            ``linkedout``.
        given: What the files hold.

    Raises:
        ConfigError: A dotted key into something that is no section.

    Example:
        >>> with_pairs({"linkedout.store": "b"}, {"linkedout": {"store": "a", "rank": 8}})
        {'linkedout': {'store': 'b', 'rank': 8}}
    """
    result: dict[str, Any] = {}
    for key, value in pairs.items():
        if isinstance(value, Mapping):
            flat = {f"{key}.{inner}": v for inner, v in value.items()} if key == SECTION else None
            if flat is not None:
                result |= with_pairs(flat, {**given, **result})
                continue
        top, dot, rest = key.partition(".")
        if not dot:
            result[key] = value
            continue
        section = result.get(top, given.get(top))
        if section is None and top == "eval_args":
            section = _EVALUATION
        if section is not None and not isinstance(section, Mapping):
            raise ConfigError(
                f"`set` has {key!r}, but `{top}` is {section!r}, which is no section with keys"
            )
        section = copy.deepcopy(dict(section or {}))
        place, *parts = section, *rest.split(".")
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"`set` has {key!r}, but {part!r} in it is no section with keys")
        place[parts[-1]] = value
        result[top] = section
    return result


def check_keys(pairs: Mapping[str, Any], *, model: str) -> None:
    """Refuse keys that RecBole would ignore without a word and that look like one it has.

    Args:
        pairs: Settings from a command line.
        model: Name of the model, whose own keys count too.

    Raises:
        ConfigError: A key that is close to a known one and is none.
    """
    known = _known_keys(find_model(model).__name__)
    for key in pairs:
        top = key.partition(".")[0]
        close = difflib.get_close_matches(top, known, n=1, cutoff=0.75)
        if top not in known and close:
            raise ConfigError(
                f"`set` has {top!r}, which RecBole does not know and would ignore; did you mean "
                f"{close[0]!r}? If it is a key of your own, put it into a configuration file"
            )


def default_negatives(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """``train_neg_sample_args: ~`` for a model that wants it and a user who said nothing of it.

    RecBole's default samples negatives, and it refuses its own default for every model that has a
    choice of losses and takes cross-entropy, which most do by default.

    Args:
        model: Name of the model.
        given: The user's settings.
    """
    kind = find_model(model)
    if "train_neg_sample_args" in given or hasattr(kind, "input_type"):
        return {}
    loss = given.get("loss_type", _model_defaults(kind.__name__).get("loss_type"))
    return {"train_neg_sample_args": None} if loss == "CE" else {}


def width_key(model: str) -> str:
    """Which setting of a model is the width of its item vectors.

    Args:
        model: Name of the model.

    Example:
        >>> width_key("SASRec"), width_key("GRU4Rec")
        ('hidden_size', 'embedding_size')
    """
    # Models with both, such as GRU4Rec, mean the width of their inner states by `hidden_size`.
    defaults = _model_defaults(find_model(model).__name__)
    return "embedding_size" if "embedding_size" in defaults else "hidden_size"


@cache
def _model_defaults(model: str) -> dict[str, Any]:
    return _properties(f"model/{model}.yaml")


def _known_keys(model: str) -> set[str]:
    from recbole.utils import argument_list

    lists = (
        argument_list.general_arguments,
        argument_list.training_arguments,
        argument_list.evaluation_arguments,
        argument_list.dataset_arguments,
    )
    known = {key for names in lists for key in names} | {SECTION}
    for file in ("overall.yaml", "dataset/sample.yaml", f"model/{model}.yaml"):
        known |= set(_properties(file))
    return known


def _properties(file: str) -> dict[str, Any]:
    path = Path(str(package_files("recbole"))) / "properties" / file
    return read_files([str(path)]) if path.is_file() else {}
