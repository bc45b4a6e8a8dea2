"""Tuning: what is drawn, what is chosen, and what readers get."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from made_up import write_result

from linkedout_lightning.compare.config import CompareConfig
from linkedout_lightning.compare.plan import plan
from linkedout_lightning.compare.run import compare
from linkedout_lightning.compare.tuning import TuneConfig, tune
from linkedout_lightning.compare.tuning.markdown import render_markdown, render_terminal
from linkedout_lightning.compare.tuning.results import collect, tuned_settings
from linkedout_lightning.compare.tuning.space import OF_ALL, OF_BOTH, OF_FEATURES, OF_IDS
from linkedout_lightning.compare.tuning.trials import plan_trials
from linkedout_lightning.errors import ConfigError

QUICK = {"dim": 16, "batch_size": 64, "lr": 0.01}
VALUES = {"dim": [8, 16], "rank": [4, 8], "lr": [0.003, 0.01, 0.03]}


@pytest.fixture
def config(inputs, tmp_path):
    def make(**changes):
        given = {
            "interactions": inputs.interactions, "store": inputs.store,
            "out": str(tmp_path / "out"), "settings": QUICK, "values": VALUES,
            "max_len": 8, "epochs": 2,
            "accelerator": "cpu", "threads": 1,
        }  # fmt: skip
        return TuneConfig(**(given | changes))

    return make


def settings_of(trials, row):
    return [trial.settings for trial in trials if trial.row == row]


def test_every_row_has_the_same_budget_and_the_same_luck(config) -> None:
    trials = plan_trials(config(trials=9))
    rows = [settings_of(trials, row) for row in ("id", "linkedout", "linkedout+id")]
    assert [len(row) for row in rows] == [9, 9, 9]
    for numbered in zip(*rows, strict=True):
        shared = [{name: settings[name] for name in OF_ALL} for settings in numbered]
        assert shared[0] == shared[1] == shared[2]
    own = [set(row[0]) - set(OF_ALL) for row in rows]
    assert own == [set(OF_IDS), set(OF_FEATURES), {*OF_FEATURES, *OF_BOTH}]
    assert [t.number for t in trials] == sorted(t.number for t in trials)
    fingerprints = {trial.cell.fingerprint for trial in trials}
    assert len(fingerprints) == len(trials)


def test_the_first_trial_is_the_base(config) -> None:
    first = {t.row: t.settings for t in plan_trials(config(trials=1))}
    assert first["id"]["lr"] == 0.01
    assert first["id"]["item_dropout"] == 0
    assert first["linkedout"]["rank"] == 4  # the base's 256 is not among the values
    assert first["linkedout+id"]["id_dropout"] == CompareConfig.id_dropout


def test_draws_hold_still_and_another_seed_draws_others(config) -> None:
    one, again = (settings_of(plan_trials(config(trials=6)), "id") for _ in range(2))
    assert one == again
    more = settings_of(plan_trials(config(trials=9)), "id")
    assert more[:6] == one
    other = settings_of(plan_trials(config(trials=6, seed=1)), "id")
    assert other[1:] != one[1:]


def test_item_dropout_trains_the_row_that_has_it(config) -> None:
    trials = plan_trials(config(encoders=("id",), trials=12))
    for trial in trials:
        dropout = trial.settings["item_dropout"]
        assert trial.encoder == ("id-dropout" if dropout else "id")
        if dropout:
            assert trial.cell.settings["item_dropout"] == dropout
    assert {trial.encoder for trial in trials} == {"id", "id-dropout"}


def test_values_of_the_user_replace_those_of_a_row_and_one_fixes(config) -> None:
    values = {"lr": [0.5], "dim": [8, 16], "rank": [4], "gradient_clip": [1.0, 5.0]}
    trials = plan_trials(config(trials=6, values=values))
    assert all(trial.cell.settings["lr"] == 0.5 for trial in trials)
    assert all("lr" not in trial.settings for trial in trials)
    assert {trial.cell.settings["dim"] for trial in trials} == {8, 16}
    assert all(t.cell.settings["rank"] == 4 for t in trials if t.row != "id")
    assert {t.settings["gradient_clip"] for t in trials} == {1.0, 5.0}


def test_one_row_alone_may_have_values_of_its_own(config) -> None:
    plain, own = (
        plan_trials(config(trials=6, values=VALUES | more))
        for more in ({"id/output_norm": ["none"]}, {"id/output_norm": ["layer"]})
    )
    for before, after in zip(plain, own, strict=True):
        if before.row == "id":
            assert after.cell.settings["output_norm"] == "layer"
            # Nothing else was drawn anew, and what was given reaches `tuned.yaml`.
            assert after.settings == before.settings | {"output_norm": "layer"}
        else:
            assert after.cell.fingerprint == before.cell.fingerprint
    tuning = config(trials=1, values={"id/output_norm": ["layer"]})
    document = collect(tuning, plan_trials(tuning), failures={})
    assert document["space"]["id"]["output_norm"] == ["layer"]
    assert document["space"]["linkedout"]["output_norm"] == ["none", "layer"]
    assert "id/output_norm" not in document["base"]


def test_where_every_setting_is_fixed_the_page_says_so(config) -> None:
    space = OF_ALL | OF_IDS
    tuning = config(encoders=("id",), trials=3, values={name: [space[name][0]] for name in space})
    (trial,) = plan_trials(tuning)
    write_result(trial.cell, strength=0.5, best_val={"NDCG@10": 0.05})
    page = render_markdown(collect(tuning, [trial], failures={}))
    assert "trial 0 of 1, validation NDCG@10 0.0500 (median 0.0500), nothing was drawn.\n" in page


def test_a_small_space_ends_before_the_budget(config) -> None:
    values = {name: [members[0]] for name, members in (OF_ALL | OF_IDS).items()} | {"lr": [1, 2]}
    trials = plan_trials(config(encoders=("id",), trials=50, values=values))
    assert [trial.settings["lr"] for trial in trials] == [1, 2]  # the first is not drawn again


def test_the_validation_chooses_and_the_test_is_not_told(config) -> None:
    tuning = config(trials=3, encoders=("id", "linkedout+id"))
    trials = plan_trials(tuning)
    figures = {"id": (0.02, 0.05, 0.03), "linkedout+id": (0.04, 0.01, 0.02)}
    for trial in trials:
        value = figures[trial.row][trial.number]
        write_result(trial.cell, strength=1 - value, best_val={"NDCG@10": value})
    document = collect(tuning, trials, failures={})
    assert [(t["row"], t["number"], t["validation"]) for t in document["chosen"]] == [
        ("id", 1, 0.05),
        ("linkedout+id", 0, 0.04),
    ]
    assert "metrics" not in document["trials"][0]
    chosen = document["chosen"][0]
    overrides = tuned_settings(document)["overrides"]
    assert overrides[f"{chosen['encoder']}/sasrec"].items() <= chosen["settings"].items()
    page = render_markdown(document)
    assert "id with SASRec: trial 1 of 3, validation NDCG@10 0.0500 (median 0.0300)" in page
    assert "linkedout+id with SASRec: trial 0 of 3" in render_terminal(
        document, out=Path(tuning.out)
    )


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        (
            (0.001, 0.002, 0.004),
            "This lr is the highest that was tried: a higher one may do better.",
        ),
        ((0.008, 0.004, 0.016), "This lr is the lowest that was tried: a lower one may do better."),
        ((0.002, 0.004, 0.008), None),
        ((0.004, 0.004, 0.004), None),
    ],
)
def test_a_best_rate_at_the_end_of_what_was_tried_is_told(config, tried, said) -> None:
    tuning = config(trials=3, encoders=("id",))
    trials = plan_trials(tuning)
    best = tried.index(0.004)
    for trial in trials:
        value = 0.05 if trial.number == best else 0.01
        write_result(trial.cell, strength=0.5, best_val={"NDCG@10": value})
    document = collect(tuning, trials, failures={})
    for made, lr in zip(document["trials"], tried, strict=True):
        made["settings"]["lr"] = lr
    document["chosen"][0]["settings"]["lr"] = 0.004
    for page in (render_markdown(document), render_terminal(document, out=Path(tuning.out))):
        assert ("that was tried" in page) is (said is not None)
        assert said is None or said in page


def test_what_was_chosen_can_be_compared(config, inputs, tmp_path, capsys) -> None:
    tuning = config(trials=2, encoders=("id", "linkedout+id"), jobs=2)
    document = tune(tuning)
    assert document.exit_code == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tune: [")]
    assert len(told) == 4
    assert all(": validation HR@10 " in line for line in told)
    again = tune(tuning, progress=False)
    assert again["trials"] == document["trials"]
    tuned = yaml.safe_load((tmp_path / "out" / "tuned.yaml").read_text())
    comparison = CompareConfig(
        interactions=inputs.interactions, store=inputs.store, accelerator="cpu", **tuned
    )
    assert comparison.epochs == 2
    wanted = {cell.encoder: cell for cell in plan(comparison)}
    for trial in plan_trials(tuning):
        chosen = next(t for t in document["chosen"] if t["row"] == trial.row)
        if chosen["number"] == trial.number:
            assert wanted[trial.encoder].fingerprint == trial.cell.fingerprint
    taken = compare(
        dataclasses.replace(comparison, reuse=(tuning.out,), out=str(tmp_path / "compare")),
        progress=False,
    )
    folders = {t["encoder"]: t["folder"] for t in document["chosen"]}
    for encoder, folder in folders.items():
        result = json.loads((tmp_path / "out" / folder / "result.json").read_text())
        (cell,) = (c for c in taken["cells"] if c["encoder"] == encoder)
        assert cell["metrics"] == result["metrics"]
        assert cell["seconds"] == result["seconds"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials": 0}, "`trials` is 0; give at least 1"),
        ({"encoders": ("popularity",)}, "'popularity', which has nothing to tune"),
        ({"encoders": ()}, "`encoders` is empty"),
        ({"values": {"size": [1]}}, "`values` has 'size'"),
        ({"values": {"id/size": [1]}}, "`values` has 'size'"),
        ({"values": {"random/output_norm": ["none"]}}, "`values` has 'random'"),
        ({"values": {"id/rank": [4]}}, r"`values\['id/rank'\]` has 'rank'; .*: item_dropout"),
        ({"values": {"id/lr": [0.1]}}, "the k-th trials of all rows share lr; give lr for all"),
        ({"values": {"lr": 1}}, r"`values\['lr'\]` is 1; give a list"),
        ({"settings": {"out": "x"}}, "`settings` has 'out'"),
        ({"backbones": ("bert",)}, "`backbones` has 'bert'"),
    ],
)
def test_what_is_refused(config, changes, said) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**changes)
