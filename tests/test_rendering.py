"""Tables and pages made anew from JSON are those that the run wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def result(interactions: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("compared")
    compare(
        CompareConfig(
            interactions=interactions, encoders=("popularity", "cooccurrence"), threads=1,
            baseline="popularity", bootstrap=100, out=str(out), html=False,
        ),
        progress=False,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def _put(result: dict[str, Any], folder: Path, title: str, finished: str) -> None:
    folder.mkdir(parents=True)
    told = result | {"title": title, "environment": result["environment"] | {"finished": finished}}
    (folder / "results.json").write_text(json.dumps(told))


def test_results_below_a_folder_become_one_page(result: dict[str, Any], tmp_path: Path) -> None:
    _put(result, tmp_path / "b", "the earlier one", "2026-01-01T00:00:00+00:00")
    _put(result, tmp_path / "a" / "inner", "the later one", "2026-01-02T00:00:00+00:00")
    written = render(RenderConfig(path=str(tmp_path)))
    assert list(written) == ["study.md", "study.html"]
    text, page = (Path(file).read_text() for file in written.values())
    assert text.startswith(f"# {tmp_path.name}\n")
    for told in (text, page):
        assert 0 < told.index("the earlier one") < told.index("the later one")
        assert "Item co-occurrence" in told
    assert "(a/inner/report.md)" in text
    assert 'href="a/inner/report.html"' in page
    assert "src=" not in page  # nothing is fetched

    (tmp_path / "study.yaml").write_text(
        "title: A study\nintroduction: [Of `two` <parts>.]\nparts: {a/inner: First}\n"
    )
    text, page = (
        Path(file).read_text() for file in render(RenderConfig(path=str(tmp_path))).values()
    )
    assert text.startswith("# A study\n\nOf `two` <parts>.\n\n## First\n")
    assert "Of <code>two</code> &lt;parts&gt;." in page
    assert "the earlier one" in text
    assert "the later one" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parts: {gone: Heading}", "names 'gone', where there is no result; there are a"),
        ("- a list", "it may have `title`"),
        ("titel: A study", "it may have `title`"),
        ("parts: [a]", "it may have `title`"),
        ("title: [", "is no YAML"),
    ],
)
def test_a_study_s_order_is_checked(
    text: str, message: str, result: dict[str, Any], tmp_path: Path
) -> None:
    _put(result, tmp_path / "a", "a", "2026-01-01T00:00:00+00:00")
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        render(RenderConfig(path=str(tmp_path)))
    assert not (tmp_path / "study.md").exists()


def test_two_results_in_one_folder_are_both_told(result: dict[str, Any], tmp_path: Path) -> None:
    _put(result, tmp_path / "a", "compared", "2026-01-01T00:00:00+00:00")
    results = Path(__file__).parents[1] / "benchmarks" / "results" / "microlens50k"
    explained = json.loads((results / "explain" / "sasrec" / "explain.json").read_text())
    (tmp_path / "a" / "explain.json").write_text(json.dumps(explained | {"title": "explained"}))
    text = Path(render(RenderConfig(path=str(tmp_path)))["study.md"]).read_text()
    assert "## compared" in text
    assert "(a/report.md)" in text
    assert "## explained" in text
    assert "(a/explain.md)" in text
    (tmp_path / "study.yaml").write_text("parts: {a/explain.json: Layers, a/results.json: Rows}")
    text = Path(render(RenderConfig(path=str(tmp_path)))["study.md"]).read_text()
    assert 0 < text.index("## Layers") < text.index("## Rows")


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"accuracy": 0.9}'])
def test_a_study_names_the_file_that_is_no_result(
    content: str, result: dict[str, Any], tmp_path: Path
) -> None:
    _put(result, tmp_path / "a", "compared", "2026-01-01T00:00:00+00:00")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results.json").write_text(content)
    with pytest.raises(ConfigError, match=r"b/results\.json is no result of compare"):
        render(RenderConfig(path=str(tmp_path)))


def test_every_kind_of_result_is_part_of_a_study(tmp_path: Path) -> None:
    results = Path(__file__).parents[1] / "benchmarks" / "results" / "microlens50k"
    written = render(RenderConfig(path=str(results), out=str(tmp_path)))
    text, page = (Path(file).read_text() for file in written.values())
    assert "Random search over NDCG@10 of the validation" in text
    assert "mean weight of each layer by category" in page
    for file in [*results.rglob("results.json"), *results.rglob("explain.json")]:
        for sentence in json.loads(file.read_text())["findings"]:
            assert sentence in text
