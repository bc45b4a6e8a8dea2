"""What readers get: JSON that is complete, Markdown, and a page that needs nothing else."""

from __future__ import annotations

import copy
import json
import re

import pytest
from made_up import write_result
from pages import pictures_inside_their_frames, read_alone

from linkedout_lightning.compare.charts import accuracy_chart, slices_chart
from linkedout_lightning.compare.findings import find
from linkedout_lightning.compare.markdown import render_markdown, render_terminal
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.compare.report import render_html
from linkedout_lightning.compare.results import collect
from linkedout_lightning.compare.svg import nice_ticks
from linkedout_lightning.compare.tables import rows_of, slices_table


def test_results_have_what_others_read(trained):
    document = json.loads((trained.out / "results.json").read_text(), parse_constant=pytest.fail)
    assert {"environment", "protocol", "simulated", "cells"} <= set(document)
    assert document["simulated"] is False
    fields = {
        "encoder": str, "backbone": str, "engine": str, "seed": int, "metrics": dict,
        "slices": dict, "parameters": int, "seconds": float, "peak_mb": float,
    }  # fmt: skip
    for cell in document["cells"]:
        for name, kind in fields.items():
            assert isinstance(cell[name], kind), name
        assert cell["engine"] == "native"
        assert {"HR@10", "NDCG@10", "HR@20", "NDCG@20"} <= set(cell["metrics"])
        assert {"cold", *(f"decile_{i}" for i in range(1, 11))} == set(cell["slices"])
        assert all(isinstance(part["users"], int) for part in cell["slices"].values())
    for name in ("cpu", "cores", "python", "versions", "command"):
        assert document["environment"][name]
    assert (trained.out / "report.html").exists()
    assert (trained.out / "report.md").read_text().startswith("# ID against LinkedOut\n")


def test_summary_is_mean_and_deviation_over_seeds(made_up):
    row = next(
        r for r in made_up["summary"] if (r["encoder"], r["backbone"]) == ("linkedout", "gru4rec")
    )
    values = [
        cell["metrics"]["HR@10"]
        for cell in made_up["cells"]
        if (cell["encoder"], cell["backbone"]) == ("linkedout", "gru4rec")
    ]
    mean = sum(values) / 3
    assert row["metrics"]["HR@10"]["mean"] == pytest.approx(mean)
    deviation = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
    assert row["metrics"]["HR@10"]["std"] == pytest.approx(deviation)
    interval = row["intervals"]["HR@10"]
    assert interval["low"] < mean < interval["high"]


def test_comparisons_are_paired_and_point_the_right_way(made_up):
    tests = {
        (t["encoder"], t["reference"], t["backbone"], t["metric"]): t
        for t in made_up["comparisons"]
    }
    means = {
        (r["encoder"], r["backbone"]): r["metrics"]["HR@10"]["mean"] for r in made_up["summary"]
    }
    test = tests["linkedout+id", "id", "sasrec", "HR@10"]
    difference = means["linkedout+id", "sasrec"] - means["id", "sasrec"]
    assert test["difference"] == pytest.approx(difference, abs=1e-6)
    assert test["low"] < test["difference"] < test["high"]
    assert test["relative"] == pytest.approx(difference / means["id", "sasrec"], rel=1e-4)
    assert (test["users"], test["seeds"]) == (4000, 3)
    # A row whose last seed failed is compared over the seeds that both have.
    assert tests["oracle", "id", "gru4rec", "HR@10"]["seeds"] == 2
    assert ("linkedout+id", "random+id", "sasrec", "HR@10") in tests
    assert ("linkedout+id", "id-dropout", "sasrec", "HR@10") in tests
    assert ("linkedout", "random", "sasrec", "HR@10") in tests
    assert ("linkedout", "id-dropout", "sasrec", "HR@10") not in tests
    assert ("popularity", "id", "gru4rec", "HR@10") in tests


def test_findings_say_who_won_whoever_it_was(made_up):
    won = made_up["findings"]
    assert won[0].startswith("With SASRec, ID + LinkedOut beats ID: HR@10 0.")
    assert any("One cell failed" in sentence for sentence in won)

    def with_interval(low, high):
        changed = copy.deepcopy(made_up)
        for test in changed["comparisons"]:
            test["low"], test["high"] = low, high
        return find(changed)[0]

    assert "ID beats ID + LinkedOut" in with_interval(-0.02, -0.01)
    assert "no difference between ID + LinkedOut and ID can be claimed" in with_interval(
        -0.02, 0.01
    )


def test_cold_items_are_told_of_where_the_split_is_about_them(made_up):
    results = copy.deepcopy(made_up)
    assert not any("cold items" in sentence for sentence in find(results))
    results["protocol"]["split"] = "cold_items"
    [row] = [r for r in rows_of(results, "sasrec") if r["encoder"] == "linkedout"]
    for name, part in row["slices"].items():
        part |= {"users": 10, "HR@10": {"mean": 0.02 if name == "decile_10" else 0.04}}
    row["slices"]["cold"] |= {"HR@10": {"mean": 0.03}}
    [told] = [s for s in find(results) if "of cold items" in s and "SASRec" in s]
    assert "LinkedOut 0.0300 (trained items 0.0380, their least popular tenth 0.0200)" in told
    row["slices"]["cold"] |= {"HR@10": None}
    assert "LinkedOut – (trained items 0.0380" in " ".join(find(results))


def test_a_baseline_below_the_floor_is_told(made_up):
    weak = copy.deepcopy(made_up)
    for row in weak["summary"]:
        if row["encoder"] == "cooccurrence":
            row["metrics"]["HR@10"]["mean"] = 0.9
    assert any("Floor check not passed" in sentence for sentence in find(weak))
    assert not any("Floor check" in sentence for sentence in made_up["findings"])


def test_page_parses_and_asks_for_nothing_from_outside(made_up):
    html = render_html(made_up)
    page = read_alone(html)
    assert "DataError: <made> up" in "".join(page.words)
    assert "<made>" not in html


def test_pictures_are_xml_and_stay_inside_their_frame(made_up):
    assert pictures_inside_their_frames(render_html(made_up)) > 20


def test_simulated_stands_in_title_tables_and_pictures(made_up):
    html, markdown = render_html(made_up), render_markdown(made_up)
    assert "<title>A made-up world (simulated)</title>" in html
    for table in re.findall(r"<caption>.*?</caption>", html, re.S):
        assert "Simulated" in table
    assert html.count(">simulated</text>") >= 14
    assert markdown.startswith("# A made-up world (simulated)\n")
    for caption in re.findall(r"^\*[^*].*\*$", markdown, re.M):
        assert caption.endswith("Simulated.*")
    assert "simulated" in render_terminal(made_up, out=__import__("pathlib").Path("x"))
    real = made_up | {"simulated": False}
    assert "imulated" not in render_html(real).replace("A made-up world", "")


def test_markdown_tables_are_regular_and_mark_the_best(made_up):
    markdown = render_markdown(made_up)
    tables = re.findall(r"(?:^\|.*\|\n)+", markdown, re.M)
    assert len(tables) == 10  # accuracy, tests, slices, gates, costs for two backbones
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    best = [line for line in tables[0].splitlines() if "**" in line]
    assert [line.split("|")[1].strip() for line in best] == ["ID + LinkedOut"]
    for floor in ("Popularity", "Item co-occurrence"):
        assert all(f"| {floor} |" in table for table in (tables[0], tables[2], tables[5]))


def test_trained_and_cold_users_together_make_the_whole(trained):
    table = slices_table(trained, "sasrec")
    assert table.columns[-2:] == ["trained", "cold"]
    *_, warm, cold = (int(cell.text.replace(",", "")) for cell in table.rows[-1][1:])
    assert warm + cold == trained["data"]["test_users"]
    for line, row in zip(table.rows, rows_of(trained, "sasrec"), strict=False):
        of_warm, of_cold = (float(cell.text.replace("–", "0")) for cell in line[-2:])
        whole = (of_warm * warm + of_cold * cold) / (warm + cold)
        assert whole == pytest.approx(row["metrics"]["HR@10"]["mean"], abs=1e-4)


def test_nothing_finished_still_makes_a_report(made_up):
    empty = made_up | {"cells": [], "summary": [], "comparisons": [], "data": None}
    empty["findings"] = find(empty)
    assert "Nothing was compared" in render_markdown(empty)
    assert "Nothing was compared" in render_html(empty)


def test_rows_without_any_gain_or_hit_can_be_drawn(made_up):
    zero = copy.deepcopy(made_up)
    for row in zero["summary"]:
        for value in row["metrics"].values():
            value["mean"] = 0.0
        row["intervals"] = {}
        row["slices"] = {name: {"users": 0} for name in row["slices"]}
    assert accuracy_chart(zero, "sasrec", "HR@10")
    assert slices_chart(zero, "sasrec")
    assert render_html(zero)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.0317), (-0.004, 0.011), (5.2, 7.1), (3, 3)]
)
def test_ticks_cover_their_range(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1] or low == high
    assert 2 <= len(ticks) <= 9


def test_of_single_layers_the_validation_chooses_and_the_others_are_passed_over(inputs, tmp_path):
    config = inputs.config(
        tmp_path, encoders=("id", "linkedout", "layer:4", "layer:8", "layer:12", "layer:4+id")
    )
    cells = plan(config)
    for cell in cells:
        write_result(cell)  # of the layers, 8 is made up to be the best
    findings = collect(config, cells, failures={})["findings"]
    [chosen] = [sentence for sentence in findings if "single layers" in sentence]
    assert chosen.startswith("Of 3 single layers with SASRec, the validation chooses layer 8 only")
    [controls] = [sentence for sentence in findings if sentence.startswith("Controls")]
    assert "layer 8 only" in controls
    assert "layer 4" not in controls
    assert "layer 12" not in controls
