"""The preset's options: recipes, and what a person asks for over them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from linkedout_lightning import cli
from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.presets import MicroLens100K
from linkedout_lightning.errors import ConfigError

TUNED = Path(__file__).parents[2] / "benchmarks/results/microlens50k/tune"


def test_the_paper_s_recipe() -> None:
    config = MicroLens100K(root="data", recipe="paper")
    extraction, comparison = config.extract_config(), config.compare_config("pairs.csv")
    assert extraction.layers == (8, 16, 24, 27)
    assert "generated:16" in extraction.groups
    assert extraction.prompt == "Describe this video."
    assert not config.wants_titles
    assert comparison.compressor == "mlp"
    assert (comparison.preset, comparison.split, comparison.loss) == (
        "microlens", "leave_one_out", "in_batch",
    )  # fmt: skip
    assert comparison.backbones == ("sasrec", "gru4rec", "nextitnet")
    # The MicroLens authors' table of settings.
    for backbone, lr, batch in (
        ("sasrec", 1e-5, 512),
        ("gru4rec", 1e-4, 512),
        ("nextitnet", 1e-3, 64),
    ):
        chosen = comparison.settings("id", backbone)
        assert (chosen["lr"], chosen["dim"], chosen["batch_size"]) == (lr, 2048, batch)
        chosen = comparison.settings("linkedout", backbone)
        assert (chosen["lr"], chosen["dim"], chosen["batch_size"]) == (1e-4, 512, 120)


def test_the_recommended_one_is_the_default_and_reads_titles() -> None:
    config = MicroLens100K(root="data")
    assert config.recipe == "recommended"
    assert config.wants_titles
    comparison = config.compare_config("pairs.csv")
    assert len(comparison.seeds) >= 5
    for row in comparison.encoders:
        assert comparison.settings(row, "sasrec")["loss"] == "full"
    assert config.folder == "runs/microlens-100k-recommended"
    assert config.features == f"{config.folder}/features"


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "nextitnet"])
def test_the_recommended_settings_are_those_that_the_tuning_chose(backbone: str) -> None:
    comparison = MicroLens100K(root="data").compare_config("pairs.csv")
    tuned = yaml.safe_load((TUNED / backbone / "tuned.yaml").read_text())
    for name, chosen in tuned["overrides"].items():
        row = name.removesuffix(f"/{backbone}")
        settings = comparison.settings(row, backbone)
        assert {setting: settings[setting] for setting in chosen} == chosen, name


def test_what_is_asked_for_wins_over_the_recipe_everywhere() -> None:
    config = MicroLens100K(
        root="data",
        recipe="paper",
        model="other",
        extraction={"layers": [2, 4], "groups": ["visual", "last"]},
        settings={
            "dim": 64,
            "seeds": [7],
            "compressor": "latent",
            "overrides": {"id/sasrec": {"lr": 0.5}, "sasrec": {"dropout": 0.3}},
        },
    )
    extraction, comparison = config.extract_config(), config.compare_config("pairs.csv")
    assert (extraction.model, extraction.layers) == ("other", (2, 4))
    assert comparison.seeds == (7,)
    of_id = comparison.settings("id", "sasrec")
    # Asked for by row, asked for in general, and the recipe's own, in this order.
    assert (of_id["lr"], of_id["dim"], of_id["batch_size"]) == (0.5, 64, 512)
    assert comparison.settings("linkedout", "sasrec")["dropout"] == 0.3


def test_rows_of_the_recipe_that_are_left_out_leave_no_override() -> None:
    config = MicroLens100K(
        root="data", recipe="paper", settings={"encoders": ("id",), "backbones": ("gru4rec",)}
    )
    assert set(config.compare_config("pairs.csv").overrides) == {"id/gru4rec"}


def test_views_take_the_place_of_the_recipe_s_prompt() -> None:
    views = {"read": {"prompt": "{title}", "sees": "nothing"}}
    config = MicroLens100K(root="data", recipe="paper", extraction={"views": views})
    assert config.extract_config().views == views
    assert config.wants_titles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": None}, "needs `root`"),
        ({"recipe": "best"}, "`recipe` has 'best'; give one of: recommended, paper"),
        ({"extraction": {"out": "x"}}, "`extraction` has 'out'"),
        ({"extraction": {"frame": 3}}, "`extraction` has 'frame'; give one of: .*frames"),
        ({"extraction": {"batch_size": 0}}, "`batch_size` is 0"),
        ({"settings": {"preset": "microlens"}}, "sets by itself"),
        ({"settings": {"engine": "recbole"}}, "sets by itself"),
        ({"settings": {"lr": -1}}, "`lr` is -1"),
        ({"settings": {"max_len": 7}}, "fixes it at 10"),
        ({"assume": {"speed": 3}}, "`assume` has 'speed'"),
        ({"assume": {"tflops": 0}}, "above 0"),
    ],
)
def test_what_is_not_usable_is_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MicroLens100K(**({"root": "data"} | options))


def test_python_s_plain_comparison_points_to_the_preset() -> None:
    with pytest.raises(ConfigError, match="MicroLens100K"):
        CompareConfig(preset="microlens-100k")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "microlens-100k"], "needs `root`"),
        (["--preset", "microlens-100k", "--root", "no/where"], "no/where', which is no folder"),
        (["--root", "data"], "`root` is given, which only --preset microlens-100k reads"),
        (
            ["--preset", "microlens-100k", "--root", "data", "--interactions", "x.csv"],
            "`interactions` is given, which the preset",
        ),
        (
            ["--preset", "microlens-100k", "--root", "data", "--extraction", "layer=[1]"],
            "`extraction` has 'layer'",
        ),
    ],
)
def test_on_the_command_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *arguments]) == cli.EXIT_USAGE
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_help_has_the_preset_s_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    printed = capsys.readouterr().out
    _, _, group = printed.partition("options of --preset microlens-100k:")
    assert re.findall(r"^  --(\w+)", group, re.M) == [
        "root", "recipe", "model", "extraction", "incomplete", "plan", "assume",
    ]  # fmt: skip
