"""What people type, in the words of the parser."""

from __future__ import annotations

import json
import typing
from types import UnionType
from typing import Any


def in_the_shell_s_way(arguments: list[str], *config_classes: type[Any]) -> list[str]:
    """Translate what people type to what the parser reads.

    ``--seeds 0 1 2`` and ``--seeds 0,1,2`` stand for ``--seeds=[0,1,2]``, ``--retry-failed`` for
    ``--retry_failed=true``, ``--set a=1 b.c=2`` for ``--set={"a": 1, "b.c": 2}``; a mapping or a
    list that is given twice keeps what both have.

    Args:
        arguments: As they were typed.
        *config_classes: Whose fields the options are; where two have one, the first counts.
    """
    hints = {
        f"--{name}": hint
        for config_class in reversed(config_classes)
        for name, hint in typing.get_type_hints(config_class).items()
    }
    result: list[str] = []
    pairs: dict[str, list[str]] = {}
    lists: dict[str, tuple[list[str], int]] = {}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        option, equals, attached = word.partition("=")
        if len(option) == 2 and f"-{option}" in hints:
            option = f"-{option}"  # -k for --k
        if option.replace("-", "_")[2:] in (known[2:] for known in hints):
            option = f"--{option[2:].replace('-', '_')}"
        hint = hints.get(option)
        alone = position == len(arguments) or _is_option(arguments[position])
        if hint is None:
            result.append(word)
        elif (hint is bool or bool in _union_members(hint)) and not equals and alone:
            result.append(f"{option}=true")
        elif _takes_tuple(hint):
            values = [attached] if equals else []
            while not equals and position < len(arguments) and not _is_option(arguments[position]):
                values.append(arguments[position])
                position += 1
            before, place = lists.get(option, ([], len(result)))
            if before and values and not (before[0].startswith("[") or values[0].startswith("[")):
                values = before + values
            lists[option] = values, place
            as_yaml = _as_yaml(values, only_tuple=_only_tuple(hint), text=_of_texts(hint))
            result[place : place + 1] = [f"{option}={as_yaml}"]
        elif typing.get_origin(hint) is dict and not alone and "=" in arguments[position]:
            while position < len(arguments) and not _is_option(arguments[position]):
                pairs.setdefault(option, []).append(arguments[position])
                position += 1
        elif typing.get_origin(hint) is dict and equals and "=" in attached:
            pairs.setdefault(option, []).append(attached)
        else:
            result.append(f"{option}{equals}{attached}")
    for option, found in pairs.items():
        result.append(f"{option}={_as_mapping(found, typing.get_args(hints[option])[1])}")
    return result


def _as_mapping(pairs: list[str], hint: Any) -> str:
    """JSON of ``key=value`` words; of ``outer.key=value`` words for a mapping of mappings.

    Args:
        pairs: The words.
        hint: Type of the mapping's values. Where these are texts (or lists of them) a word such
            as ``{title}`` or ``Title: x`` is one, though YAML has a mapping there.

    Example:
        >>> _as_mapping(["prompt=Title: {title}", "layers=[2, 4]"], Any)
        '{"prompt": "Title: {title}", "layers": [2, 4]}'
    """
    from yaml import YAMLError, safe_load

    of_mappings = typing.get_origin(hint) is dict
    innermost = typing.get_args(hint)[1] if of_mappings else hint
    members = _union_members(innermost)
    texts = innermost is str or (str in members and int not in members)
    mapping: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            value = safe_load(text)
        except YAMLError:
            value = text
        if (texts and (innermost is str or not isinstance(value, list))) or _is_prompt(value):
            value = text
        outer, dot, inner = key.rpartition(".")
        if of_mappings and dot:
            mapping.setdefault(outer, {})[inner] = value
        else:
            mapping[key] = value
    return json.dumps(mapping, default=str)


def _is_prompt(value: Any) -> bool:
    """Whether YAML read a prompt's ``{title}`` as a mapping, which has a name without a value."""
    return isinstance(value, dict) and any(v is None or _is_prompt(v) for v in value.values())


def _as_yaml(values: list[str], *, only_tuple: bool, text: bool) -> str:
    lone_word = len(values) == 1 and "," not in values[0] and not only_tuple
    if lone_word or not values or values[0].startswith("["):
        return " ".join(values)
    items = [item for value in values for item in value.split(",") if item]
    # Quoted, an item's id such as 007 stays what was typed.
    return json.dumps(items, ensure_ascii=False) if text else f"[{','.join(items)}]"


def _is_option(word: str) -> bool:
    # A negative layer such as -1 is a value.
    return word.startswith("-") and not word.lstrip("-").replace(".", "", 1).isdigit()


def _takes_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple or any(_takes_tuple(a) for a in _union_members(hint))


def _only_tuple(hint: Any) -> bool:
    members = [m for m in _union_members(hint) if m is not type(None)] or [hint]
    return all(typing.get_origin(member) is tuple for member in members)


def _of_texts(hint: Any) -> bool:
    """Whether an option is a list of texts, or of texts and nothing else that is a list."""
    if typing.get_origin(hint) is tuple:
        return set(typing.get_args(hint)) <= {str, Ellipsis}
    tuples = [member for member in _union_members(hint) if typing.get_origin(member) is tuple]
    return bool(tuples) and all(map(_of_texts, tuples))


def _union_members(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, UnionType)
    return typing.get_args(hint) if is_union else ()


def positional_as_option(arguments: list[str], positional: str | None) -> list[str]:
    """Let one option be given as the first word."""
    if positional and arguments and not arguments[0].startswith("-"):
        return [f"--{positional}={arguments[0]}", *arguments[1:]]
    return arguments
