"""The rows of an ablation, its cells as processes, and what readers get."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re

import pytest
from made_up import write_result
from made_up_ablation import LAYERS, SLOTS, made_up_plan, write_spec
from pages import pictures_inside_their_frames, read_alone

from linkedout_lightning.compare.ablation import AblateConfig, ablate
from linkedout_lightning.compare.ablation.axes import AXES, Surroundings, build_axis
from linkedout_lightning.compare.ablation.markdown import render_markdown, render_terminal
from linkedout_lightning.compare.ablation.report import render_html
from linkedout_lightning.compare.ablation.results import collect
from linkedout_lightning.compare.ablation.rows import plan_ablation
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.errors import ConfigError

AROUND = Surroundings(
    layers=LAYERS, slots=SLOTS, hidden_size=512, rank=256, with_id=True, max_pairs=15
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(write_spec(tmp_path_factory.mktemp("spec") / "features"))


@pytest.fixture
def config(inputs, store, tmp_path):
    def make(**changes):
        given = {"interactions": inputs.interactions, "store": store, "out": str(tmp_path / "out")}
        return AblateConfig(**(given | changes))

    return make


def changes_of(name, **around):
    axis = build_axis(name, dataclasses.replace(AROUND, **around))
    return [dict(value.changes) for value in axis.values]


def test_layers_each_alone_then_all_and_all_sets_that_were_asked_for():
    assert [c["layers"] for c in changes_of("layers")] == [*((x,) for x in LAYERS), LAYERS]
    assert len(changes_of("pairs")) == 15
    assert [c["layers"] for c in changes_of("spread")] == [
        (24,), (12, 24), (8, 16, 24), (8, 12, 20, 24), LAYERS,
    ]  # fmt: skip
    assert changes_of("without")[2]["layers"] == (4, 8, 16, 20, 24)
    assert changes_of("without", layers=(3,)) == []


def test_pairs_of_a_deep_model_are_those_of_evenly_spaced_layers():
    pairs = changes_of("pairs", layers=tuple(range(1, 33)), max_pairs=10)
    assert len(pairs) == 10
    assert {layer for c in pairs for layer in c["layers"]} == {6, 13, 19, 26, 32}
    assert len(changes_of("pairs", max_pairs=1)) == 1


def test_groups_whitening_and_compressors_follow_from_the_store():
    assert changes_of("slots")[0] == {"slots": ("visual",)}
    assert {"slots": ("visual", "last")} in changes_of("slots")
    assert changes_of("slots", slots=("last",)) == []
    assert [c["rank"] for c in changes_of("whitening") if "rank" in c] == [64, 128, 512]
    # A rank beyond the features' width is their width, and no row of its own.
    narrow = [c["rank"] for c in changes_of("whitening", hidden_size=128) if "rank" in c]
    assert narrow == [64]
    assert {"compressor": "mlp"} in changes_of("compressors")
    assert {"compressor": "mlp"} not in changes_of("compressors", slots=("visual", "text"))
    assert changes_of("id_dropout", with_id=False) == []


def test_each_row_differs_from_the_base_in_its_change_alone(config):
    planned = plan_ablation(config(axes=tuple(AXES), seeds=(3, 5), epochs=7, dim=32))
    base = planned.rows[0]
    assert base.name == "base"
    assert len({row.name for row in planned.rows}) == len(planned.rows) > 50
    folders = [cell.folder for row in planned.rows for cell in row.cells]
    assert len(set(folders)) == len(folders)
    for row in planned.rows[1:]:
        assert [cell.seed for cell in row.cells] == [3, 5]
        for ours, theirs in zip(row.cells, base.cells, strict=True):
            assert ours.fingerprint != theirs.fingerprint
            different = {
                name
                for name in {*ours.settings, *theirs.settings}
                if ours.settings.get(name) != theirs.settings.get(name)
            }
            if not row.encoder.startswith("id"):  # which reads no store
                assert different <= set(row.changes), row.name
            assert ours.settings["epochs"] == 7


def test_the_base_is_the_cell_of_a_comparison(config, tmp_path):
    ours = config(axes=("fusers",), settings={"layers": [8, 16], "rank": 64})
    row = plan_ablation(ours).rows[0]
    [cell] = plan(dataclasses.replace(ours.base(), out=str(tmp_path / "elsewhere")))
    assert row.cells[0].fingerprint == cell.fingerprint
    assert row.cells[0].settings["layers"] == (8, 16)


def test_changes_that_come_to_the_same_are_one_row(config):
    planned = plan_ablation(config(axes=("layers", "spread", "fusers", "id_fusion", "losses")))
    places = {
        (axis.name, value.label): row
        for axis in planned.axes
        for value, row in zip(axis.values, planned.places[axis.name], strict=True)
    }
    for same in (
        ("layers", "all 6 layers"), ("fusers", "mixture of experts"),
        ("id_fusion", "concatenation"), ("losses", "full catalogue"),
    ):  # fmt: skip
        assert places[same] == "base"
    assert places["spread", "layer 24"] == "layers=layer 24"
    # A base that names all layers of the store is the base that names none.
    named = plan_ablation(config(axes=("layers",), settings={"layers": list(LAYERS)}))
    assert named.places["layers"][-1] == "base"


@pytest.mark.parametrize(
    ("base", "axis", "encoders"),
    [
        ("linkedout+id", "fusers",
         ["linkedout+id", "mean+id", "concat+id", "weighted-sum+id", "dff", "mlp+id"]),
        ("linkedout", "fusers", ["linkedout", "mean", "concat", "weighted-sum", "dff", "mlp"]),
        ("linkedout+id", "id_fusion", ["linkedout+id", "linkedout", "linkedout+id"]),
        ("linkedout", "id_fusion", ["linkedout", "linkedout+id", "linkedout+id"]),
        ("mlp+id", "controls", ["mlp+id", "id", "id-dropout", "random+id", "shuffled+id"]),
        ("dff", "id_fusion", ["dff", "dff"]),
    ],
)  # fmt: skip
def test_a_change_is_told_by_the_name_of_an_encoder(config, base, axis, encoders):
    planned = plan_ablation(config(encoder=base, axes=(axis,)))
    found = [row.encoder for row in planned.rows]
    assert found[: len(encoders)] == encoders
    if (base, axis) == ("linkedout", "fusers"):  # DFF without its ID, as the others are
        dff = next(row for row in planned.rows if row.encoder == "dff")
        assert dff.cells[0].settings["id_fusion"] == "none"


def test_a_grid_is_every_combination(config):
    planned = plan_ablation(
        config(axes=("losses",), values={"rank": [64, 256], "dim": [32]}, grid=True)
    )
    assert len(planned.places["grid"]) == 3 * 2 * 1
    settings = {
        (s["loss"], s["rank"], s["dim"])
        for row in planned.rows[1:]
        for s in (row.cells[0].settings,)
    }
    assert settings == {
        (loss, rank, 32) for loss in ("full", "in_batch", "sampled") for rank in (64, 256)
    }
    with pytest.raises(ConfigError, match="'layers' and 'pairs' both change `layers`"):
        plan_ablation(config(axes=("layers", "pairs"), grid=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ("layer",)}, "`axes` has 'layer'; give one of: layers, pairs"),
        ({"encoder": "id"}, "the base of an ablation reads layers"),
        ({"values": {"depth": [1]}}, "`values` has 'depth'; give one of: dim"),
        ({"values": {"rank": 64}}, r"give a list, such as rank=\[1,2\]"),
        ({"settings": {"encoders": ["id"]}}, "`settings` has 'encoders'"),
        ({"settings": {"rank": 0}}, "`rank` is 0"),
        ({"backbone": "bert4rec"}, "`backbones` has 'bert4rec'"),
        ({"max_rows": 0}, "`max_rows` is 0"),
    ],
)
def test_bad_value_gets_one_sentence_that_names_it(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_plans_that_cannot_be_are_refused_before_anything_runs(config):
    with pytest.raises(ConfigError, match="more than `max_rows` = 5"):
        plan_ablation(config(axes=("layers",), max_rows=5))
    with pytest.raises(ConfigError, match=r"no such file or folder: 'nowhere'"):
        plan_ablation(config(store="nowhere"))
    with pytest.raises(ConfigError, match="`rank` is -1"):
        plan_ablation(config(values={"rank": [-1]}))


def test_every_field_is_documented_for_the_command_line():
    documented = re.findall(r"^ {4}(\w+): ", inspect.getdoc(AblateConfig), re.MULTILINE)
    assert [f.name for f in dataclasses.fields(AblateConfig) if f.name not in documented] == []


def test_axes_are_those_of_the_values_or_the_named_ones(config):
    assert config(values={"rank": [4]}).axes == ("rank",)
    assert config(axes=("slots",), values={"rank": [4]}).axes == ("slots", "rank")
    assert config().axes[:3] == ("layers", "pairs", "spread")
    assert config(values={"id_dropout": [0.3]}).axes == ("id_dropout",)


@pytest.fixture(scope="module")
def document(inputs, tmp_path_factory):
    planned = made_up_plan(inputs.interactions, tmp_path_factory.mktemp("ablation"))
    failed = planned.rows[-1].cells[-1]
    (failed.folder / "result.json").unlink()
    return collect(planned, grid=False, failures={failed.folder: "DataError: <made> up"})


def test_the_page_stands_alone_and_its_pictures_are_inside_their_frames(document):
    html = render_html(document)
    page = read_alone(html)
    text = "".join(page.words)
    assert "<title>A made-up ablation (simulated)</title>" in html
    assert "DataError: <made> up" in text
    for axis in document["axes"]:
        assert axis["question"] in text
    # Overview, gates, costs; a curve or a field for three axes; two for each of the others.
    assert pictures_inside_their_frames(html) >= 3 + 3 + 2 * (len(document["axes"]) - 3)
    for table in re.findall(r"<caption>.*?</caption>", html, re.DOTALL):
        assert "Simulated" in table


def test_json_has_axes_rows_and_their_differences_to_the_base(document):
    checked = json.loads(json.dumps(document, allow_nan=False))
    rows = {row["encoder"] for row in checked["summary"]}
    tests = {(t["encoder"], t["metric"]): t for t in checked["comparisons"]}
    for axis in checked["axes"]:
        for value in axis["values"]:
            assert value["row"] in rows
            if value["row"] != "base":
                test = tests[value["row"], "HR@10"]
                assert test["reference"] == "base"
                assert test["low"] <= test["difference"] <= test["high"]
    random = tests["controls=random features", "HR@10"]
    assert random["high"] < 0
    assert random["seeds"] == 2


def test_findings_choose_by_the_validation_and_name_what_is_kept(document):
    findings = document["findings"]
    assert findings[0].startswith("The base, ID + LinkedOut with SASRec, has HR@10 0.0")
    [loss] = [sentence for sentence in findings if sentence.startswith("Loss")]
    assert "the validation chooses in-batch, corrected; in the test better than the base" in loss
    [kept] = [sentence for sentence in findings if "keeps the base" in sentence]
    assert "fusers (mixture of experts)" in kept
    assert "ID dropout (0.2)" in kept
    assert any("would by chance alone" in sentence for sentence in findings)
    assert any("last layer in every place" in sentence for sentence in findings)


def test_markdown_has_a_regular_table_an_axis_and_the_costs(document, tmp_path):
    markdown = render_markdown(document)
    tables = re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE)
    assert len(tables) == len(document["axes"]) + 1
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| base: mixture of experts |" in markdown
    assert "failed: controls=" in render_terminal(document, out=tmp_path)


def test_a_grid_has_one_table_of_all_combinations(inputs, tmp_path):
    planned = made_up_plan(
        inputs.interactions, tmp_path, axes=("losses", "id_fusion"), grid=True, seeds=(0,)
    )
    made = collect(planned, grid=True, failures={})
    markdown = render_markdown(made)
    assert "## All combinations" in markdown
    assert "| in-batch, corrected, gate |" in markdown
    assert any("Of all combinations: the validation chooses" in s for s in made["findings"])
    read_alone(render_html(made))


def test_nothing_finished_still_makes_a_page(config):
    planned = plan_ablation(config(axes=("losses",)))
    empty = collect(planned, grid=False, failures={})
    assert "The base was not finished" in empty["findings"][0]
    assert "The base was not finished" in render_markdown(empty)
    read_alone(render_html(empty))


def test_finished_cells_of_a_comparison_are_taken_over(config, inputs, tmp_path, monkeypatch):
    wanted = config(
        store=inputs.store, axes=("controls",), html=False, reuse=(str(tmp_path / "x"),)
    )
    comparison = dataclasses.replace(
        wanted.base(), out=str(tmp_path / "x"), encoders=("linkedout+id", "id", "random+id")
    )
    ours, of_id, of_noise = plan(comparison)
    write_result(ours, checkpoint="best.ckpt")
    write_result(of_id)
    write_result(of_noise, error="MemoryError: no")
    started = []
    monkeypatch.setattr(
        "linkedout_lightning.compare.run.run_cells",
        lambda cells, **options: started.extend(cell.name for cell in cells) or {},
    )
    done = ablate(wanted, progress=False)
    assert {cell["encoder"] for cell in done["cells"]} == {"base", "controls=ID alone"}
    assert len(started) == 4
    assert "controls=random features" in started
    assert all(cell["checkpoint"] is None for cell in done["cells"])
    base = tmp_path / "out" / done["cells"][0]["folder"] / "ranks.safetensors"
    assert base.read_bytes() == (ours.folder / "ranks.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"`reuse` names .*which holds no cells"):
        ablate(dataclasses.replace(wanted, reuse=(str(tmp_path / "y"),)), progress=False)


def test_cells_run_once_and_one_that_fails_stops_nobody(inputs, tmp_path, monkeypatch):
    config = AblateConfig(
        interactions=inputs.interactions, store=inputs.store, out=str(tmp_path / "out"),
        values={"heads": [3], "id_fusion": ["none"]}, epochs=1, dim=16, max_len=8,
        settings={"rank": 8, "batch_size": 64}, bootstrap=200, accelerator="cpu", threads=1,
        jobs=2,
    )  # fmt: skip
    done = ablate(config, progress=False)
    assert done.exit_code == 3
    assert {cell["encoder"] for cell in done["cells"]} == {"base", "id_fusion=none"}
    [failed] = done["failed"]
    assert failed["encoder"] == "heads=3"
    assert "`heads` must divide `dim`" in failed["error"]
    for name in ("ablation.json", "ablation.md", "ablation.html"):
        assert (tmp_path / "out" / name).exists()
        assert name in done.summary()
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == done.to_json()
    read_alone((tmp_path / "out" / "ablation.html").read_text())

    started = []
    monkeypatch.setattr(
        "linkedout_lightning.compare.run.run_cells",
        lambda cells, **options: started.extend(cell.name for cell in cells) or {},
    )
    ablate(config, progress=False)
    assert started == ["heads=3"]
    # Another axis trains its own rows and no others.
    started.clear()
    ablate(dataclasses.replace(config, axes=("slots", *config.axes)), progress=False)
    assert sorted(started) == ["heads=3", "slots=text alone", "slots=visual alone"]
