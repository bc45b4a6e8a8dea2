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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from linkedout_lightning.errors import ConfigError, LinkedOutError, MissingExtraError
from linkedout_lightning.typed import in_the_shell_s_way, positional_as_option

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a command does in its place for one value of its option ``preset``.

    Attributes:
        config: Module and name of a configuration class, whose ``settings`` take the command's
            own options as far as they are given.
        run: Module and name of its function.
    """

    config: str
    run: str


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
        presets: Values of the option ``preset`` for which something else is run.
    """

    summary: str
    config: str
    run: str
    example: str
    positional: str | None = None
    details: str | None = None
    own_config: bool = False
    presets: Mapping[str, Preset] = field(default_factory=dict)


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
        presets={
            "microlens-100k": Preset(
                config="linkedout_lightning.compare.presets:MicroLens100K",
                run="linkedout_lightning.compare.presets:microlens_100k",
            )
        },
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
    "explain": Command(
        summary="Say which layer serves which items in finished trainings; show neighbours.",
        config="linkedout_lightning.explain:ExplainConfig",
        run="linkedout_lightning.explain:explain",
        example=(
            "linkedout explain runs/compare --store features/ --items items.csv "
            "--categories tags.csv --out runs/explain"
        ),
        positional="cells",
    ),
    "render": Command(
        summary="Make a result's tables and page anew from its JSON.",
        config="linkedout_lightning.rendering:RenderConfig",
        run="linkedout_lightning.rendering:render",
        example="linkedout render benchmarks/results/microlens50k/untuned/sasrec",
        positional="path",
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
    "export": Command(
        summary="Turn a trained model into a bundle: one folder that serving needs, no pickle.",
        config="linkedout_lightning.serving.commands:ExportConfig",
        run="linkedout_lightning.serving.commands:export",
        example="linkedout export runs/fit/best.ckpt --items items.csv --out runs/bundle",
        positional="checkpoint",
    ),
    "recommend": Command(
        summary="Ask a bundle what comes next for a history of items.",
        config="linkedout_lightning.serving.commands:RecommendConfig",
        run="linkedout_lightning.serving.commands:recommend",
        example="linkedout recommend --bundle runs/bundle --history v12,v7 -k 10",
    ),
    "add": Command(
        summary="Put a new video into a bundle, recommendable at once, without training.",
        config="linkedout_lightning.serving.commands:AddConfig",
        run="linkedout_lightning.serving.commands:add",
        example="linkedout add --bundle runs/bundle --video new.mp4 --title 'A cat'",
    ),
    "serve": Command(
        summary="Answer over HTTP from a bundle, with a page to look at; add items and swap live.",
        config="linkedout_lightning.serving.server.config:ServeConfig",
        run="linkedout_lightning.serving.server.command:serve",
        example="linkedout serve runs/demo/bundle --media runs/demo/videos",
        positional="bundle",
    ),
    "inspect": Command(
        summary="Show what a feature store, a bundle or a video file holds.",
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
        summary="Remove items from a feature store or a bundle.",
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
    arguments = positional_as_option(arguments, command.positional)
    classes = [config_class, *(_load(preset.config) for preset in command.presets.values())]
    # Without defaults: a preset has others, and the class knows its own.
    parsed = parser.parse_args(in_the_shell_s_way(arguments, *classes), defaults=False)
    config, run = _configured(command, parsed.as_dict())
    as_json = bool(parsed.get("json"))
    outcome = run(config, progress=not (parsed.get("quiet") or as_json))
    document = outcome.to_json() if hasattr(outcome, "to_json") else outcome
    if as_json:
        print(json.dumps(document, indent=2, default=str, allow_nan=False))
    elif hasattr(outcome, "summary"):
        print(outcome.summary())
    return int(getattr(outcome, "exit_code", EXIT_DONE))


def _configured(command: Command, given: dict[str, Any]) -> tuple[Any, Callable[..., Any]]:
    """What is given as a configuration, and the function that takes it."""
    config_class: type[Any] = _load(command.config)
    options = {key: value for key, value in given.items() if key in _names(config_class)}
    for value, preset in command.presets.items():
        preset_class: type[Any] = _load(preset.config)
        own = {key: item for key, item in given.items() if key in _names(preset_class)}
        if value == given.get("preset"):
            others = {k: v for k, v in options.items() if k not in own and k != "preset"}
            own["settings"] = own.get("settings", {}) | others
            return preset_class(**own), _load(preset.run)
        if stray := sorted(own.keys() - _names(config_class)):
            raise ConfigError(
                f"`{stray[0]}` is given, which only --preset {value} reads; add that, or drop it"
            )
    return config_class(**options), _load(command.run)


def _names(config_class: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(config_class)}


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
    for value, preset in command.presets.items():
        preset_class: type[Any] = _load(preset.config)
        group = parser.add_argument_group(f"options of --preset {value}")
        taken = {*_names(config_class), "settings"}
        group.add_class_arguments(preset_class, as_group=False, skip=taken)
        hints = typing.get_type_hints(preset_class) | hints
    for action in parser._actions:
        if typing.get_origin(hints.get(action.dest)) is dict:
            action.metavar = "KEY=VALUE"
    return parser


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
