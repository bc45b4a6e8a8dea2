"""The sweep over all model types of transformers: the committed table is what the program finds."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sweep() -> Any:
    spec = importlib.util.spec_from_file_location("sweep", ROOT / "benchmarks/models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["sweep"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks/results/models.json").read_text(encoding="utf-8"))


def test_the_table_is_rendered_from_the_results(sweep: Any, results: dict[str, Any]) -> None:
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    table = text.partition(sweep.BEGIN)[2].partition(sweep.END)[0]
    assert table.strip() == sweep.render(results)
    assert results["proven"] == sweep.proven()
    for family in sweep.proven():
        assert f"`{family}`" in text.partition(sweep.BEGIN)[0]


@pytest.mark.parametrize(
    "model_type",
    ["aria", "blip-2", "gemma4", "glm5_next", "instructblipvideo", "qwen2_5_omni", "qwen2_audio"],
)
def test_findings(sweep: Any, results: dict[str, Any], model_type: str) -> None:
    _compare(sweep, results, [model_type])


@pytest.mark.slow
def test_all_findings(sweep: Any, results: dict[str, Any]) -> None:
    assert [f["model_type"] for f in results["findings"]] == sweep.model_types()
    _compare(sweep, results, sweep.model_types())


def _compare(sweep: Any, results: dict[str, Any], model_types: list[str]) -> None:
    if version("transformers") != results["transformers"]:
        pytest.skip(f"the table is of transformers {results['transformers']}")
    known = {finding["model_type"]: finding for finding in results["findings"]}
    for model_type in model_types:
        found = sweep.look_at(model_type)
        assert asdict(found) == known[model_type]
        if model_type in sweep.proven():
            assert found.verdict == "by structure"
