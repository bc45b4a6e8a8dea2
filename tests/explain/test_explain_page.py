"""Words, tables and the page: what they say, and that they stand alone."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pages import pictures_inside_their_frames, read_alone

from linkedout_lightning import cli
from linkedout_lightning.errors import ConfigError
from linkedout_lightning.explain import ExplainConfig, explain
from linkedout_lightning.explain.findings import find
from linkedout_lightning.explain.markdown import render_markdown
from linkedout_lightning.explain.report import render_html
from linkedout_lightning.explain.tables import leave_out_table, stability_table


def test_page_stands_alone_and_escapes(explained):
    html = (explained.out / "explain.html").read_text()
    page = read_alone(html)
    assert pictures_inside_their_frames(html) > 10
    words = " ".join(page.words)
    for query in explained["neighbours"]["queries"]:
        assert explained["items"][query["id"]]["title"] in words  # with its <b>&
    assert "<b>&" not in html
    assert "without training anew" in words


def test_every_finding_stands_in_markdown_and_page(explained):
    text = (explained.out / "explain.md").read_text()
    assert text == render_markdown(explained)
    for sentence in explained["findings"]:
        assert sentence in text
    assert "linkedout ablate --axes without" in text
    assert text.count("## ") >= 5


def test_rendered_again_from_its_json_it_is_the_same(explained, tmp_path):
    config = ExplainConfig(render=str(explained.out / "explain.json"), out=str(tmp_path))
    again = explain(config, progress=False)
    assert dict(again) == json.loads((explained.out / "explain.json").read_text())
    for name in ("explain.html", "explain.md"):
        assert (tmp_path / name).read_text() == (explained.out / name).read_text()


def test_no_title_where_none_is_wanted(explained, tmp_path):
    config = ExplainConfig(
        render=str(explained.out / "explain.json"), out=str(tmp_path), titles=False
    )
    explain(config, progress=False)
    for name in ("explain.html", "explain.md", "explain.json"):
        text = (tmp_path / name).read_text()
        assert "title 1" not in text
        assert explained["neighbours"]["queries"][0]["id"] in text


def test_covers_are_small_pictures_in_the_page(options, tmp_path):
    image = pytest.importorskip("PIL.Image")
    covers = tmp_path / "covers"
    covers.mkdir()
    image.new("RGB", (400, 300), (200, 30, 30)).save(covers / "i7.png")
    (covers / "i3.jpg").write_bytes(b"no image")
    config = ExplainConfig(
        **options | {"queries": ("i7", "i3"), "leave_out": False}, covers=str(covers),
        out=str(tmp_path / "out"),
    )  # fmt: skip
    found = explain(config, progress=False)
    kind, _, data = found["items"]["i7"]["image"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(data)[:2] == b"\xff\xd8"
    assert "image" not in found["items"]["i3"]
    assert found["protocol"]["broken_pictures"] == 1
    read_alone((tmp_path / "out" / "explain.html").read_text())


def test_words_follow_the_figures(document):
    gates = document["encoders"]["linkedout"]["gates"]
    gates["agreement"] |= {"correlation": 0.95}
    assert "is the same whatever the seed" in find(document)[0]
    gates["agreement"] |= {"correlation": 0.05}
    assert "mostly an accident of the seed" in find(document)[0]
    known = {"within": 0.07, "between": 0.06, "over_seeds": 0.02, "by_chance": 0.01}
    known["correlation"] = 0.9
    for verdict, ratio, words in (
        ("above", 3.0, "agree on is 0.060, 3.0 times the spread over seeds: more than an accident"),
        ("similar", 1.5, "1.5 times the spread over seeds: a tendency"),
        ("below", 0.5, "less than the spread over seeds (0.020)"),
        ("chance", 0.5, "no more than twice the 0.010"),
    ):
        gates["between"]["category"] = known | {"verdict": verdict, "ratio": ratio}
        assert words in " ".join(find(document))
    document["encoders"]["linkedout"]["leave_out"]["check"][0]["found"] += 0.01
    assert "Beware: LinkedOut does not give the HR@10" in " ".join(find(document))


def test_tables_colour_only_what_is_sure(document):
    encoder = document["encoders"]["linkedout"]
    test = encoder["leave_out"]["layers"][0]["metrics"]["HR@10"]
    for low, high, tone in ((-0.2, -0.1, "worse"), (-0.1, 0.1, ""), (0.1, 0.2, "better")):
        test |= {"low": low, "high": high, "difference": (low + high) / 2}
        assert leave_out_table(encoder).rows[0][2].tone == tone
    assert len(stability_table(document).rows) == 2


def test_simulated_data_are_called_so_everywhere(document):
    document |= {"simulated": True, "simulation_note": "Drawn from rules."}
    html = render_html(document)
    page = read_alone(html)
    assert "(simulated)" in page.words[0] + " ".join(page.words)
    pictures = html.count("<svg") - html.count('viewBox="0 0 14 14"')
    assert html.count(">simulated</text>") == pictures
    assert "> **Simulated data.** Drawn from rules." in render_markdown(document)


def test_another_json_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match="no explain"):
        explain(ExplainConfig(render=str(tmp_path / "other.json")), progress=False)


def test_command_line(
    explained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    rendered = ["explain", "--render", str(explained.out / "explain.json"), "--out", str(tmp_path)]
    assert cli.main(rendered) == 0
    assert str(tmp_path / "explain.html") in capsys.readouterr().out
    assert cli.main([*rendered, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "explanation"
    assert cli.main(["explain", str(run), "--encoders", "id", "dff"]) == cli.EXIT_USAGE
    assert "`encoders` has 'dff'" in capsys.readouterr().err
