"""`extract --plan` on a small catalogue: what it says, and that it writes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from clips import write_catalogue

from linkedout_lightning.cli import main
from linkedout_lightning.errors import ConfigError, StoreSpecError
from linkedout_lightning.store import FeatureStore
from linkedout_lightning.tap.extract import ExtractConfig, ExtractReport, extract
from linkedout_lightning.tap.planned import ExtractPlan


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> tuple[Path, Path]:
    return write_catalogue(tmp_path_factory.mktemp("planned"), videos=9, texts=5)


@pytest.fixture
def config(catalogue, tiny_video_llm, tmp_path: Path) -> ExtractConfig:
    return ExtractConfig(
        model=str(tiny_video_llm("idefics3")),
        out=str(tmp_path / "features"),
        items=str(catalogue[0]),
        videos=str(catalogue[1]),
        frames=2,
        workers=2,
        batch_size=2,
        device="cpu",
        plan=True,
    )


def planned(config: ExtractConfig) -> ExtractPlan:
    plan = extract(config, progress=False)
    assert isinstance(plan, ExtractPlan)
    return plan


def extracted(config: ExtractConfig) -> ExtractReport:
    report = extract(replace(config, plan=False), progress=False)
    assert isinstance(report, ExtractReport)
    return report


def contents(folder: str) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in Path(folder).parent.rglob("*") if f.is_file()}


def test_a_plan_says_what_it_costs_and_writes_nothing(config: ExtractConfig) -> None:
    plan = planned(config)
    assert contents(config.out) == {}
    assert not Path(config.out).exists()

    assert (plan.items, plan.todo, plan.skipped) == (15, 15, 0)
    assert 15 >= plan.sampled >= 14
    low, high = plan.interval
    assert 0 < low <= plan.seconds <= high
    assert set(plan.parts) == {"decode", "prepare", "model", "write", "cores"}
    assert all(spent > 0 for spent in plan.parts.values())
    assert plan.bottleneck == max(plan.parts, key=plan.parts.__getitem__)
    assert plan.reasons["no video, no cover and no text that the prompt uses"] == 1
    assert plan.failed == sum(plan.reasons.values()) >= 2
    assert plan.memory > plan.memory_by_formula > 0
    assert plan.store_now == 0
    assert plan.exit_code == 0
    assert plan.tokens[1] >= plan.tokens[0] > 0
    assert plan.flops_per_item > 0
    assert 0 < plan.share_of_peak < 1
    assert json.loads(json.dumps(plan.to_json()))["tokens"]["mean"] == plan.tokens[0]
    for words in ("nothing was written", "items/s", "bottleneck", "time = loading", "tokens"):
        assert words in plan.summary()


def test_what_it_says_of_the_store_comes_true(config: ExtractConfig) -> None:
    # All are sampled, so that the share of failures is exact.
    plan = planned(replace(config, plan=15))
    report = extracted(config)
    assert plan.failed == report.failed
    assert plan.reasons == report.reasons
    store = FeatureStore.open(config.out)
    features = store.get(store.item_ids)
    exact = features.features.numpy().nbytes + len(store)  # three flags fit a byte
    assert len(store) * plan.bytes_per_item == exact
    assert exact < plan.store_end < exact + 150 * len(store)
    assert plan.tokens[0] * (report.done + 1) == pytest.approx(report.tokens, rel=0.1)

    before = contents(config.out)
    again = planned(config)
    assert contents(config.out) == before
    assert (again.todo, again.skipped, again.sampled) == (0, report.done, 0)
    assert again.store_now == again.store_end > exact
    assert "0 to do" in again.summary()
    retried = planned(replace(config, retry_failed=True))
    assert (retried.todo, retried.failed) == (report.failed, report.failed)
    assert contents(config.out) == before


def test_a_store_of_other_features_is_refused(config: ExtractConfig) -> None:
    extracted(replace(config, limit=2))
    with pytest.raises(StoreSpecError, match="frames"):
        planned(replace(config, frames=3))


def test_a_model_that_only_reads(config: ExtractConfig, tiny_video_llm) -> None:
    plan = planned(replace(config, model=str(tiny_video_llm("llama")), batch_size=None))
    assert plan.parts["decode"] == 0
    assert plan.failed >= 1
    assert plan.bottleneck in ("prepare", "model", "cores", "write")


def test_on_the_command_line(config: ExtractConfig, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["extract", "--model", config.model, "--out", config.out, "--items", str(config.items)]
    line += ["--videos", str(config.videos), "--frames", "2", "--workers", "1", "--device", "cpu"]
    assert main([*line, "--plan", "6", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert 6 <= plan["sampled"] <= 8
    assert plan["todo"] == 15
    assert plan["formula"].startswith("time = loading")
    assert main([*line, "--plan", "--quiet"]) == 0
    assert "a plan, nothing was written" in capsys.readouterr().out
    assert not Path(config.out).exists()


def test_a_sample_of_less_than_none() -> None:
    with pytest.raises(ConfigError, match="`plan` is -1"):
        ExtractConfig(model="m", out="o", plan=-1)
