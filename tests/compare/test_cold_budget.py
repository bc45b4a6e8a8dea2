"""The calibration within a budget, from a setting to the report and to a served bundle."""

from __future__ import annotations

import pytest
import torch

from linkedout_lightning.compare.markdown import render_markdown
from linkedout_lightning.compare.report import render_html
from linkedout_lightning.compare.run import compare
from linkedout_lightning.compare.slices import mean_choice
from linkedout_lightning.compare.tables import cold_table
from linkedout_lightning.serving.exporting import take_apart


@pytest.fixture(scope="module")
def cold_run(inputs, tmp_path_factory):
    """Real trainings of two seeds whose catalogue has items that training never saw."""
    config = inputs.config(
        tmp_path_factory.mktemp("cold"),
        encoders=("id", "linkedout", "linkedout+id"),
        split="cold_items",
        seeds=(0, 1),
        cold_calibration="budget",
        cold_budget=0.1,
        jobs=2,
    )
    return compare(config, progress=False)


def test_the_row_with_an_id_alone_chooses_and_the_report_shows_its_price(cold_run):
    assert cold_run["failed"] == []
    chosen = {cell["encoder"] for cell in cold_run["cells"] if cell["cold_choice"]}
    assert chosen == {"linkedout+id"}
    choices = [c["cold_choice"] for c in cold_run["cells"] if c["cold_choice"]]
    for choice in choices:
        assert choice["budget"] == 0.1
        place = choice["strengths"].index(choice["strength"])
        assert choice["trained"][place] >= 0.9 * choice["trained"][0]
        assert choice["cold_users"] > 0
        assert choice["trained_users"] > choice["cold_users"]
    table = cold_table(cold_run, "sasrec")
    assert [row[0].text for row in table.rows] == [f"strength {i / 10:g}" for i in range(11)]
    bold = {i / 10 for i, row in enumerate(table.rows) if row[1].best}
    assert bold == {choice["strength"] for choice in choices}
    first = sum(choice["trained"][0] for choice in choices) / 2
    assert table.rows[0][1].text == f"{first:.4f}"
    strengths = ", ".join(f"{choice['strength']:g}" for choice in choices)
    assert f"the strength that the validation affords ({strengths}), 0." in render_markdown(
        cold_run
    )
    assert table.caption.partition("' ")[2] in render_html(cold_run)
    assert table.columns[1] == "ID + LinkedOut, at most 10 % lost: trained HR@10"


def test_a_run_without_it_says_nothing_of_it(trained):
    assert cold_table(trained, "sasrec") is None
    assert "calibration on the validation" not in render_markdown(trained)


def test_a_bundle_has_the_strength_of_its_checkpoint(cold_run):
    from linkedout_lightning.compare.files import read_json
    from linkedout_lightning.compare.names import parse_encoder
    from linkedout_lightning.compare.training import build_model, read_data

    [cell] = [c for c in cold_run["cells"] if c["encoder"] == "linkedout+id" and c["seed"] == 1]
    spec = read_json(cold_run.out / cell["folder"] / "cell.json")
    data = read_data(spec)
    model = build_model(parse_encoder("linkedout+id"), spec, data).eval()
    weights = torch.load(cold_run.out / cell["checkpoint"], weights_only=True)["state_dict"]
    weights["cold_step"].fill_(5)
    model.load_state_dict(weights)
    assert model.calibration_strength == 0.5
    parts = take_apart(model, data.item_ids)
    cold = ~data.train_item_mask[1:]
    assert (parts.candidates != parts.vectors).any(1).equal(cold)
    # What a new item is mapped by is what moved the cold ones.
    mapped = parts.newcomers.calibration(parts.vectors[cold])
    torch.testing.assert_close(mapped, parts.candidates[cold])


def test_seeds_without_a_choice_are_left_out_of_the_mean():
    choice = {
        "k": 10, "budget": 0.01, "strengths": [0.0, 1.0], "trained": [0.2, 0.1], "cold": None,
        "trained_users": 5, "cold_users": 0, "strength": 0.0,
    }  # fmt: skip
    assert mean_choice([None, None]) is None
    found = mean_choice([None, choice, choice | {"trained": [0.4, 0.3], "strength": 1.0}])
    assert found["trained"] == pytest.approx([0.3, 0.2])
    assert found["cold"] is None
    assert found["chosen"] == [0.0, 1.0]
