"""The command line: one schema with Python and YAML.

Every command is a frozen configuration dataclass and a function that takes it. The parser, its
help and the YAML keys are all derived from that dataclass, so there is one place to document an
option. Only the module of the command that was asked for is imported.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from linkedout_lightning.errors import LinkedOutError, MissingExtraError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: where its configuration and its function live, and what it says of itself.

    Attributes:
        summary: One sentence.
        config: Module and name of its configuration class.
        run: Module and name of its function.
        example: A line to copy.
        positional: Option that may be given as the first word.
        details: Module and name of a function that says more for ``--help``.
        own_config: ``--config`` is a field of its configuration and not a file of all options.
    """

    summary: str
    config: str
    run: str
    example: str
    positional: str | None = None
    details: str | None = None
    own_config: bool = False


COMMANDS = {
    "demo": Command(
        summary="Run the whole way of the data on a small simulated world, without any download.",
        config="linkedout_lightning.demo.run:DemoConfig",
        run="linkedout_lightning.demo.run:demo",
        example="linkedout demo --out runs/demo",
    ),
    "extract": Command(
        summary="Watch each item's video once with a frozen LLM and keep its layers in a store.",
        config="linkedout_lightning.tap.config:ExtractConfig",
        run="linkedout_lightning.tap.extract:extract",
        example=(
            "linkedout extract --items items.csv --videos videos/ --out features/ "
            "--model HuggingFaceTB/SmolVLM2-256M-Video-Instruct"
        ),
    ),
    "fit": Command(
        summary="Train one recommender and keep its best checkpoint.",
        config="linkedout_lightning.fitting:FitConfig",
        run="linkedout_lightning.fitting:fit",
        example=(
            "linkedout fit --interactions interactions.parquet --store features/ "
            "--encoder linkedout+id --out runs/fit"
        ),
    ),
    "compare": Command(
        summary="Train and rank every encoder x backbone x seed; write a table and a report.",
        config="linkedout_lightning.compare:CompareConfig",
        run="linkedout_lightning.compare:compare",
        example=(
            "linkedout compare --interactions interactions.parquet --store features/ "
            "--encoders id,linkedout,linkedout+id --seeds 0,1,2 --out runs/compare"
        ),
    ),
    "ablate": Command(
        summary="Change a recipe one thing at a time, layers to loss; plot what each is worth.",
        config="linkedout_lightning.compare.ablation:AblateConfig",
        run="linkedout_lightning.compare.ablation:ablate",
        example=(
            "linkedout ablate --interactions interactions.parquet --store features/ "
            "--axes layers,fusers,whitening --values rank=[64,256] --out runs/ablate"
        ),
    ),
    "tune": Command(
        summary="Try settings of each row with an equal budget; the validation chooses.",
        config="linkedout_lightning.compare.tuning:TuneConfig",
        run="linkedout_lightning.compare.tuning:tune",
        example=(
            "linkedout tune --interactions interactions.parquet --store features/ "
            "--encoders id,linkedout,linkedout+id --trials 16 --out runs/tune"
        ),
    ),
    "recbole": Command(
        summary="Train and test a RecBole model, its item table replaced by three lines of YAML.",
        config="recbole_adapters.command:RecBoleConfig",
        run="recbole_adapters.command:recbole",
        example=(
            "linkedout recbole --model SASRec --dataset ml-100k --config ml-100k linkedout "
            "--set linkedout.store=features epochs=20"
        ),
        details="recbole_adapters.command:details",
        own_config=True,
    ),
    "inspect": Command(
        summary="Show what a feature store or a video file holds.",
        config="linkedout_lightning.inspection:InspectConfig",
        run="linkedout_lightning.inspection:inspect",
        example="linkedout inspect features/",
        positional="path",
    ),
    "compact": Command(
        summary="Merge a feature store's small pieces and free what nothing shows any more.",
        config="linkedout_lightning.upkeep:CompactConfig",
        run="linkedout_lightning.upkeep:compact",
        example="linkedout compact features/ --keep 7d",
        positional="path",
    ),
    "delete": Command(
        summary="Remove items from a feature store.",
        config="linkedout_lightning.upkeep:DeleteConfig",
        run="linkedout_lightning.upkeep:delete",
        example="linkedout delete features/ --items v17 v18",
        positional="path",
    ),
    "doctor": Command(
        summary="Say what is installed, what is missing, and the command that adds it.",
        config="linkedout_lightning.doctor:DoctorConfig",
        run="linkedout_lightning.doctor:doctor",
        example="linkedout doctor",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``linkedout``.

    Args:
        argv: Arguments after the program's name; ``None`` takes those of the process.

    Returns:
        The exit code: 0 all was done, 1 nothing could be done, 2 the arguments or the input are
        unusable, 3 some items or cells failed and were recorded, 130 interrupted, 141 nobody read
        the output to its end.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return EXIT_DONE if arguments else EXIT_USAGE
    if arguments[0] in ("-V", "--version"):
        from linkedout_lightning import __version__

        print(f"linkedout-lightning {__version__}")
        return EXIT_DONE
    name, *rest = arguments
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"linkedout: {name!r} is not a command; give one of: {known}", file=sys.stderr)
        return EXIT_USAGE
    try:
        code = _run(name, rest)
        sys.stdout.flush()
        return code
    except LinkedOutError as error:
        print(f"linkedout {name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print(f"linkedout {name}: interrupted; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has enough; Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNREAD


def _run(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    config_class: type[Any] = _load(command.config)
    parser = _parser(name, command, config_class)
    arguments = _positional_as_option(arguments, command.positional)
    parsed = parser.parse_args(_in_the_shell_s_way(arguments, config_class))
    names = {field.name for field in dataclasses.fields(config_class)}
    config = config_class(**{key: value for key, value in parsed.as_dict().items() if key in names})
    run: Callable[..., Any] = _load(command.run)
    outcome = run(config, progress=not (parsed.quiet or parsed.json))
    document = outcome.to_json() if hasattr(outcome, "to_json") else outcome
    if parsed.json:
        print(json.dumps(document, indent=2, default=str, allow_nan=False))
    elif hasattr(outcome, "summary"):
        print(outcome.summary())
    return int(getattr(outcome, "exit_code", EXIT_DONE))


def _parser(name: str, command: Command, config_class: type[Any]) -> Any:
    try:
        from jsonargparse import ArgumentParser, DefaultHelpFormatter
    except ImportError as error:
        raise MissingExtraError("jsonargparse", "cli", "the linkedout command") from error

    class Wide(DefaultHelpFormatter):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["max_help_position"], kwargs["width"] = 34, 100
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

        def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002
            return "\n".join(indent + line for line in text.splitlines())

    usage = f"linkedout {name} [--config FILE.yaml] [options]"
    if command.positional:
        usage = f"linkedout {name} {command.positional.upper()} [options]"
    elif command.own_config:
        usage = (
            f"linkedout {name} --model NAME [--dataset NAME] [--config FILE.yaml ...] "
            "[--set KEY=VALUE ...] [options]"
        )
    parser = ArgumentParser(
        prog=f"linkedout {name}",
        usage=usage,
        description=f"{command.summary}\n\nExample: {command.example}",
        epilog=_load(command.details)() if command.details else None,
        formatter_class=Wide,
    )
    if not command.own_config:
        parser.add_argument(
            "--config", action="config", help="YAML file with any of the options below as keys."
        )
    parser.add_argument("--json", action="store_true", help="Print the summary as JSON only.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress bar.")
    parser.add_class_arguments(config_class, as_group=False)
    hints = typing.get_type_hints(config_class)
    for action in parser._actions:
        if typing.get_origin(hints.get(action.dest)) is dict:
            action.metavar = "KEY=VALUE"
    return parser


def _in_the_shell_s_way(arguments: list[str], config_class: type[Any]) -> list[str]:
    """Translate what people type to what the parser reads.

    ``--seeds 0 1 2`` and ``--seeds 0,1,2`` stand for ``--seeds=[0,1,2]``, ``--retry-failed`` for
    ``--retry_failed=true``, ``--set a=1 b.c=2`` for ``--set={"a": 1, "b.c": 2}``; a mapping that
    is given twice keeps the pairs of both.
    """
    hints = {f"--{name}": hint for name, hint in typing.get_type_hints(config_class).items()}
    result: list[str] = []
    pairs: dict[str, list[str]] = {}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        option, equals, attached = word.partition("=")
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
            text = _of_texts(hint)
            result.append(f"{option}={_as_yaml(values, only_tuple=_only_tuple(hint), text=text)}")
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
    """
    from yaml import YAMLError, safe_load

    of_mappings = typing.get_origin(hint) is dict
    innermost = typing.get_args(hint)[1] if of_mappings else hint
    texts = str in (innermost, *_union_members(innermost))
    mapping: dict[str, Any] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        try:
            value = safe_load(text)
        except YAMLError:
            value = text
        if texts and (innermost is str or not isinstance(value, list)):
            value = text
        outer, dot, inner = key.rpartition(".")
        if of_mappings and dot:
            mapping.setdefault(outer, {})[inner] = value
        else:
            mapping[key] = value
    return json.dumps(mapping, default=str)


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
    from types import UnionType

    is_union = typing.get_origin(hint) in (typing.Union, UnionType)
    return typing.get_args(hint) if is_union else ()


def _positional_as_option(arguments: list[str], positional: str | None) -> list[str]:
    if positional and arguments and not arguments[0].startswith("-"):
        return [f"--{positional}={arguments[0]}", *arguments[1:]]
    return arguments


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "linkedout: video understanding inside recommenders.",
        "",
        "usage: linkedout COMMAND [options]",
        "",
        "commands:",
        *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "From a folder of videos and a table of interactions to the comparison:",
        "  linkedout extract --items items.csv --videos videos/ --model NAME --out features/",
        "  linkedout compare --interactions interactions.csv --store features/ --out runs/first",
        "",
        "linkedout COMMAND --help explains every option; each is also a key of --config FILE.yaml.",
        "(`linkedout recbole --config` takes RecBole's own YAML files instead.)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
