"""The whole preset on a miniature of the official layout: from mp4 files to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from official_layout import NOTE, VIDEOS, write_layout

from linkedout_lightning import cli
from linkedout_lightning.compare.presets import MicroLens100K, microlens_100k
from linkedout_lightning.compare.presets.planned import PresetPlan
from linkedout_lightning.compare.run import Comparison
from linkedout_lightning.demo import WEIGHTS
from linkedout_lightning.errors import ConfigError, StoreSpecError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.extract import ExtractConfig, extract
from linkedout_lightning.tap.report import ExtractReport

SMALL = {"layers": [2, 4, 6, 8], "frames": 2, "dtype": "float32", "workers": 1}
QUICK = {
    "seeds": [0],
    "backbones": ["sasrec"],
    "encoders": ["id", "linkedout"],
    "epochs": 1,
    "patience": 0,
    "dim": 8,
    "rank": 8,
    "bootstrap": 100,
    "accelerator": "cpu",
    "threads": 1,
    "simulated": True,
    "simulation_note": NOTE,
}


def of(root: Path, out: Path, **changes: Any) -> MicroLens100K:
    """The preset as small as it can be, with changes."""
    given: dict[str, Any] = {"model": str(WEIGHTS), "extraction": SMALL} | changes
    given["settings"] = QUICK | given.get("settings", {})
    return MicroLens100K(root=str(root), out=str(out), **given)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official files with one video that is broken."""
    root = write_layout(tmp_path_factory.mktemp("official") / "data", items=24, users=60)
    (root / VIDEOS / "5.mp4").write_bytes(b"cut off")
    return root


@pytest.fixture(scope="module")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The command, run once."""
    out = tmp_path_factory.mktemp("run")
    arguments = ["compare", "--preset", "microlens-100k", "--root", str(root), "--out", str(out)]
    arguments += ["--model", str(WEIGHTS), "--quiet", "--extraction", "layers=[2,4,6,8]"]
    arguments += ["frames=2", "dtype=float32", "workers=1"]
    for name, value in QUICK.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        arguments += [f"--{name}", text]
    # 3: all ran, and one item has no features.
    assert cli.main(arguments) == cli.EXIT_SOME_FAILED
    return Comparison(json.loads((out / "results.json").read_text()), out=out)


def test_one_command_goes_from_videos_to_the_table(root: Path, done: Comparison) -> None:
    assert [cell["encoder"] for cell in done["cells"]] == ["id", "linkedout"]
    assert not done["failed"]
    assert done["protocol"]["preset"] == "microlens"
    store = FeatureStore.open(done.out / "features")
    assert len(store) == 23
    assert list(store.failures) == ["5"]
    assert store.spec.layers == (2, 4, 6, 8)
    assert done["preset"]["recipe"] == "recommended"
    assert done["preset"]["failed"] == 1
    assert {p.name for p in done.out.iterdir()} >= {
        "results.json", "report.md", "report.html", "items.csv", "extract.yaml",
    }  # fmt: skip


def test_the_paper_s_figures_stand_apart_from_what_was_measured(done: Comparison) -> None:
    report = (done.out / "report.md").read_text()
    measured, _, cited = report.partition("## Cited for comparison, not measured here")
    assert "| LinkedOut (arXiv 2512.16891) | 0.1015 | 0.0548 |" in cited
    assert "2512.16891" not in measured.partition("## SASRec")[2]
    assert "None of them was measured here" in cited
    # Those are of other data, and it says so.
    assert "cannot be compared" in cited
    assert "not 100,000 users" in cited
    assert not done["cited"]["comparable"]
    assert not any("arXiv" in str(cell) for cell in done["cells"])
    page = (done.out / "report.html").read_text()
    assert page.index('id="sasrec"') < page.index('id="cited"') < page.index("0.1015")
    caption = page[page.index('id="cited"') :].partition("</caption>")[0]
    assert "Simulated" not in caption


def test_the_report_says_what_was_done(done: Comparison) -> None:
    report = (done.out / "report.md").read_text()
    for said in (
        "Recipe recommended", "extraction", "layers 2, 4, 6, 8", "23 of 24 items have them",
        "Prompt: `Describe this video. Title: {title}`", "These are not the official data",
        "1 failed", "**Simulated data.** A miniature",
    ):  # fmt: skip
        assert said in report, said


def test_again_nothing_is_done_twice(root: Path, done: Comparison) -> None:
    before = [cell["seconds"] for cell in done["cells"]]
    again = microlens_100k(of(root, done.out), progress=False)
    assert isinstance(again, Comparison)
    assert [cell["seconds"] for cell in again["cells"]] == before
    assert again["preset"]["extraction"]["done"] == 0
    assert again["preset"]["extraction"]["skipped"] == 23


def test_others_help_with_the_options_beside_the_report(done: Comparison) -> None:
    options: dict[str, Any] = yaml.safe_load((done.out / "extract.yaml").read_text())
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    report = extract(ExtractConfig(**options), progress=False)
    assert isinstance(report, ExtractReport)
    assert (report.done, report.skipped, report.failed) == (0, 23, 1)


def test_a_store_of_other_settings_is_refused(root: Path, done: Comparison) -> None:
    with pytest.raises(StoreSpecError, match="layers"):
        microlens_100k(of(root, done.out, extraction=SMALL | {"layers": [1, 2]}), progress=False)


def test_a_store_that_is_named_and_complete_needs_no_model(
    root: Path, done: Comparison, tmp_path: Path
) -> None:
    config = of(
        root, tmp_path, store=str(done.out / "features"), model=None, extraction={},
        settings={"reuse": [str(done.out)], "html": False},
    )  # fmt: skip
    results = microlens_100k(config, progress=False)
    assert isinstance(results, Comparison)
    assert results["preset"]["extraction"] is None
    assert "extracted before" in (tmp_path / "report.md").read_text()


def test_a_plan_writes_nothing(root: Path, tmp_path: Path) -> None:
    config = of(root, tmp_path / "out", plan=True)
    plan = microlens_100k(config, progress=False)
    assert isinstance(plan, PresetPlan)
    assert not (tmp_path / "out").exists()
    assert "a plan" in plan.summary()
    assert json.loads(json.dumps(plan.to_json()))["exit_code"] == 0
    assert plan.store_bytes == 24 * (4 * 3 * 192 * 2 + 1 + 80)


def test_a_plan_says_what_is_wrong_with_the_model(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds 14, but the model has 8 decoder layers"):
        microlens_100k(of(root, tmp_path, plan=True, extraction={}), progress=False)


def test_a_plan_with_a_sample_runs_it(root: Path, tmp_path: Path) -> None:
    plan = microlens_100k(of(root, tmp_path / "out", plan=3), progress=False)
    assert isinstance(plan, PresetPlan)
    assert plan.sample is not None
    assert plan.sample["sampled"] == 3
    assert not (tmp_path / "out").exists()
    assert "items were run here" in plan.summary()


@pytest.mark.slow
def test_the_paper_s_recipe_on_real_clips(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hundreds of items with real clips under their names, tokens generated, three backbones."""
    clips = sorted((shared_data / "noto").glob("*.mp4"))
    clips += sorted((shared_data / "microlens" / "videos").glob("*.mp4"))
    root = write_layout(tmp_path / "data", items=len(clips), users=600, clips=clips)
    config = of(
        root,
        tmp_path / "out",
        recipe="paper",
        extraction={"layers": [2, 4, 6, 8], "frames": 4, "size": 112},
        settings={"backbones": ["sasrec", "gru4rec", "nextitnet"], "dim": 16, "jobs": 2},
    )
    results = microlens_100k(config, progress=False)
    assert isinstance(results, Comparison)
    assert results.exit_code == 0
    assert {cell["backbone"] for cell in results["cells"]} == {"sasrec", "gru4rec", "nextitnet"}
    store = FeatureStore.open(tmp_path / "out" / "features")
    assert len(store) == len(clips)
    assert "generated:16" in store.spec.slots
