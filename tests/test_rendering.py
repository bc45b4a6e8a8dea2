"""Tables and pages made anew from JSON are those that the run wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from linkedout_lightning.compare import CompareConfig, compare
from linkedout_lightning.compare.tuning import TuneConfig, tune
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.rendering import RenderConfig, render


@pytest.fixture(scope="module")
def interactions(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("data") / "interactions.csv"
    rows = [f"u{u},i{(u + 3 * t) % 17},{t}" for u in range(40) for t in range(5)]
    file.write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    return str(file)


def test_a_comparison_and_a_tuning_are_made_anew(interactions: str, tmp_path: Path) -> None:
    floors = ("popularity", "cooccurrence")
    compare(
        CompareConfig(
            interactions=interactions, encoders=floors, baseline="popularity", bootstrap=100,
            out=str(tmp_path / "compared"), threads=1,
        ),
        progress=False,
    )  # fmt: skip
    tune(
        TuneConfig(
            interactions=interactions, encoders=("id",), trials=1, epochs=1, threads=1,
            accelerator="cpu", values={"dim": [8]}, out=str(tmp_path / "tuned"),
        ),
        progress=False,
    )  # fmt: skip
    for folder, files in (("compared", ("report.md", "report.html")), ("tuned", ("tune.md",))):
        written = render(RenderConfig(path=str(tmp_path / folder), out=str(tmp_path / "anew")))
        assert tuple(written) == files
        for name in files:
            anew = (tmp_path / "anew" / name).read_text()
            assert anew == (tmp_path / folder / name).read_text()


def test_the_library_s_own_results_can_be_rendered(tmp_path: Path) -> None:
    results = Path(__file__).parents[1] / "benchmarks" / "results"
    kinds = [*results.rglob("results.json"), *results.rglob("ablation.json")]
    assert kinds
    for file in [*kinds, *results.rglob("tune.json")]:
        assert render(RenderConfig(path=str(file), out=str(tmp_path), html=False))


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`path` is '.*nowhere'; give one of results.json"):
        render(RenderConfig(path=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match="it holds none"):
        render(RenderConfig(path=str(tmp_path)))
    for content in ("[]", "{}", "not JSON", json.dumps({"cells": []})):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(ConfigError, match="which is no result of compare, ablate or tune"):
            render(RenderConfig(path=str(tmp_path)))


def test_on_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "linkedout_lightning.cli", "render", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("linkedout render: `path` is ")
