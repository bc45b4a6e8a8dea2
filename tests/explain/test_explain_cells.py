"""From trained cells to figures: each held against the encoder's own surface, or a plain loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from explained_world import ITEMS, KINDS, LAYERS, change_setting, train_cells
from safetensors.torch import load_file

from linkedout_lightning.encoders import IDItemEncoder, LinkedOutItemEncoder
from linkedout_lightning.errors import ConfigError, DataError, StoreSpecError
from linkedout_lightning.evaluation.metrics import RankingMetrics
from linkedout_lightning.evaluation.ranks import target_ranks
from linkedout_lightning.explain import ExplainConfig, explain
from linkedout_lightning.explain.anatomy import dissect
from linkedout_lightning.explain.cells import find_cells, load_data, load_model
from linkedout_lightning.explain.without import (
    Without,
    can_leave_out,
    left_out,
    questions_of_test,
    rank_test_users,
    renormalised,
    targets_of,
)


@pytest.fixture(scope="module")
def cells(options):
    return find_cells(ExplainConfig(**options))


@pytest.fixture(scope="module")
def data(cells):
    return load_data(cells[0])


def encoder_of(features=None, **options):
    torch.manual_seed(0)
    features = torch.randn(30, 3, 2, 8) if features is None else features
    given = {"dim": 6, "rank": 5} | options
    return LinkedOutItemEncoder.from_features(features, layers=LAYERS, **given).eval()


# ---- taken apart ---------------------------------------------------------------------------------


@pytest.mark.parametrize("id_fusion", ["none", "add", "concat", "gate"])
@pytest.mark.parametrize("fuser", ["moe", "mean", "weighted-sum"])
def test_the_parts_make_the_whole_again(id_fusion, fuser):
    encoder = encoder_of(fuser=fuser, id_fusion=id_fusion, chunk_items=7)
    anatomy = dissect(encoder)
    index = torch.arange(1, 31)
    torch.testing.assert_close(anatomy.vectors, encoder.all_items()[1:])
    torch.testing.assert_close(anatomy.weights, encoder.gates(index))
    fused = torch.einsum("nl,lnh->nh", anatomy.weights, anatomy.experts) * encoder.scale
    torch.testing.assert_close(anatomy.content, fused)
    if id_fusion == "none":
        torch.testing.assert_close(anatomy.content, anatomy.vectors)
        return
    torch.testing.assert_close(anatomy.ids, encoder.ids(index))
    constant = encoder.id_fusion.linear.bias if id_fusion == "concat" else 0.0
    torch.testing.assert_close(sum(anatomy.parts) + constant, anatomy.vectors)
    assert not encoder.compressor._forward_pre_hooks  # nothing is left behind


def test_tokens_are_means_over_the_valid_slots():
    features, mask = torch.randn(30, 3, 2, 8), torch.ones(30, 2, dtype=torch.bool)
    mask[4, 1] = mask[9, 0] = False
    encoder = LinkedOutItemEncoder.from_features(features, mask, dim=6, rank=5).eval()
    tokens = dissect(encoder).tokens
    white = encoder.whitening(features, mask)  # (L, N, S, R)
    torch.testing.assert_close(tokens[:, 4], white[:, 4, 0])
    torch.testing.assert_close(tokens[:, 9], white[:, 9, 1])
    torch.testing.assert_close(tokens[:, 0], white[:, 0].mean(1))


def test_encoders_without_weights_a_layer_have_vectors_all_the_same():
    for encoder in (IDItemEncoder(5, dim=3), encoder_of(fuser="concat"), encoder_of(fuser="mlp")):
        anatomy = dissect(encoder.eval())
        assert anatomy.weights is None
        torch.testing.assert_close(anatomy.vectors, encoder.all_items()[1:])
        assert not can_leave_out(encoder)


# ---- one layer left out --------------------------------------------------------------------------


def test_weights_of_the_rest_by_hand():
    weights = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(
        renormalised(weights, 1), torch.tensor([[5 / 7, 0, 2 / 7], [0.5, 0, 0.5]])
    )
    # Of four layers with two kept, the third steps in for the one that is gone.
    dense = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    torch.testing.assert_close(renormalised(dense, 0, top_k=2), torch.tensor([[0, 0.6, 0.4, 0.0]]))
    alone = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert renormalised(alone, 0, top_k=2)[0, 0] == 0
    assert renormalised(alone, 0, top_k=2).sum() == 1


def test_a_layer_left_out_of_the_gate_is_one_with_a_logit_of_minus_infinity():
    encoder = encoder_of(id_fusion="concat")
    whole = encoder.all_items()
    experts = dissect(encoder).experts
    for position in range(3):
        with left_out(encoder, position):
            without = encoder.all_items()
            weights = encoder.gates(torch.arange(1, 31))
        normed = torch.nn.functional.layer_norm(experts, experts.shape[-1:])
        logits = encoder.fuser.gate(normed).sum(0) + encoder.fuser.bias
        logits[:, position] = -torch.inf
        torch.testing.assert_close(weights, logits.softmax(-1))
        content = torch.einsum("nl,lnh->nh", weights, experts) * encoder.scale
        ids = encoder.ids(torch.arange(1, 31))
        torch.testing.assert_close(without[1:], encoder.id_fusion(content, ids))
    torch.testing.assert_close(encoder.all_items(), whole)


def test_only_a_weighted_sum_can_leave_one_out():
    assert can_leave_out(encoder_of())
    assert not can_leave_out(encoder_of(fuser="layer:8"))
    assert not can_leave_out(encoder_of(fuser="dff"))
    with pytest.raises(ConfigError, match="weight a layer"):
        Without(encoder_of(fuser="concat").fuser, 0)(torch.randn(3, 4, 6))


def test_ranks_are_those_of_the_comparison_and_of_a_plain_loop(cells, data):
    cell = cells[-1]
    model = load_model(cell, data)
    questions = questions_of_test(data)
    found = rank_test_users(model, questions, accelerator="cpu")
    kept = load_file(cell.folder / "ranks.safetensors")
    assert torch.equal(found.users, kept["users"])
    assert torch.equal(found.ranks, kept["ranks"])
    with left_out(model.item_encoder, 1), torch.inference_mode():
        without = rank_test_users(model, questions, accelerator="cpu")
        metrics = RankingMetrics((10,), keep_ranks=True)
        for batch in questions:
            scores = model.scores(batch.inputs)
            metrics.update(
                target_ranks(scores, batch.target, batch.history), batch.target, batch.users
            )
    assert torch.equal(without.ranks, metrics.ranks().ranks)
    assert not torch.equal(without.ranks, found.ranks)
    assert len(targets_of(questions)) == len(found.users)


def test_some_users_are_the_same_users_each_time(data):
    some = questions_of_test(data, users=20, seed=5)
    again = questions_of_test(data, users=20, seed=5)
    users = torch.cat([batch.users for batch in some])
    assert len(set(users.tolist())) == 20
    assert users.tolist() == torch.cat([batch.users for batch in again]).tolist()
    whole = questions_of_test(data)
    assert (
        dict(zip(users.sort().values.tolist(), targets_of(some).tolist(), strict=True)).items()
        <= dict(enumerate(targets_of(whole).tolist())).items()
    )


# ---- the whole of it -----------------------------------------------------------------------------


def test_figures_are_those_of_the_cells(explained, cells, data):
    groups = explained["groups"]
    assert [g["kind"] for g in groups].count("category") == KINDS
    for name in ("linkedout", "linkedout+id"):
        encoder = explained["encoders"][name]
        mine = [cell for cell in cells if cell.encoder == name]
        models = [load_model(cell, data) for cell in mine]
        gates = [m.item_encoder.gates(torch.arange(1, data.num_items + 1)).double() for m in models]
        for n, group in enumerate(groups):
            inside = torch.ones(data.num_items, dtype=torch.bool)
            if group["kind"] == "category":
                number = sorted(g["name"] for g in groups if g["kind"] == "category")
                inside = torch.tensor(
                    [int(i[1:]) % KINDS == number.index(group["name"]) for i in data.item_ids]
                )
            elif group["kind"] != "all":
                inside = data.popularity_slices()[group["name"]][1:]
            assert group["items"] == int(inside.sum())
            expected = torch.stack([g[inside].mean(0) for g in gates]).mean(0)
            assert encoder["gates"]["mean"][n] == pytest.approx(expected.tolist(), rel=1e-4)
        assert encoder["gates"]["layers"] == list(LAYERS)
        recorded = [cell.result["metrics"]["HR@10"] for cell in mine]
        checks = encoder["leave_out"]["check"]
        assert [c["found"] for c in checks] == pytest.approx(recorded, rel=1e-5)
        assert encoder["leave_out"]["whole"][0] == pytest.approx(sum(recorded) / 2, rel=1e-5)
    assert explained["encoders"]["id"]["gates"] is None
    assert explained["encoders"]["id"]["leave_out"] is None


def test_neighbours_shown_are_the_nearest_by_brute_force(explained, cells, data):
    shown = explained["neighbours"]
    assert (shown["encoder"], shown["seed"]) == ("linkedout+id", 0)
    assert len(shown["queries"]) == 4
    [cell] = [c for c in cells if (c.encoder, c.seed) == ("linkedout+id", 0)]
    anatomy = dissect(load_model(cell, data).item_encoder)
    spaces = {
        "expert/8": anatomy.experts[1], "content": anatomy.content, "id": anatomy.ids,
        "item": anatomy.vectors,
    }  # fmt: skip
    warm = data.train_item_mask[1:].tolist()
    for query in shown["queries"]:
        at = data.item_ids.index(query["id"])
        for key, vectors in spaces.items():
            cosines = torch.nn.functional.cosine_similarity(vectors, vectors[at], dim=1)
            order = sorted(
                (i for i in range(len(warm)) if warm[i] and i != at), key=lambda i: -cosines[i]
            )
            assert [item for item, _ in query["lists"][key]] == [
                data.item_ids[i] for i in order[:3]
            ]


def test_the_layer_that_knows_the_kinds_is_seen_to(explained):
    same = {s["key"]: s["same_category"]["share"] for s in explained["frozen"]}
    assert same["raw/8"] > 0.9
    assert same["raw/4"] < 0.4
    chance = explained["frozen"][0]["same_category"]["chance"]
    assert chance == pytest.approx(1 / KINDS, abs=0.03)
    whitened = next(s for s in explained["frozen"] if s["key"] == "white/8")
    assert whitened["effective_rank"] > 7
    cold = [g for g in explained["groups"] if g["kind"] == "cold"]
    assert cold[0]["items"] == 3 == explained["protocol"]["cold_items"]


def test_queries_by_id_and_no_ranking(options, tmp_path):
    config = ExplainConfig(
        **options | {"queries": ("i7", "i3"), "leave_out": False, "encoders": ("linkedout",),
                     "seeds": (1,), "html": False}, out=str(tmp_path),
    )  # fmt: skip
    found = explain(config, progress=False)
    assert [query["id"] for query in found["neighbours"]["queries"]] == ["i7", "i3"]
    assert found["encoders"]["linkedout"]["seeds"] == [1]
    assert found["encoders"]["linkedout"]["leave_out"] is None
    assert "One seed only" in " ".join(found["findings"])
    assert json.loads((tmp_path / "explain.json").read_text())["kind"] == "explanation"
    assert not (tmp_path / "explain.html").exists()


# ---- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoders": ("linkedout", "dff")}, r"`encoders` has 'dff'.*id, linkedout\+id, linkedout"),
        ({"seeds": (0, 7)}, "`seeds` has 7.*0, 1"),
        ({"backbone": "gru4rec"}, "`backbone` has 'gru4rec'.*sasrec"),
        ({"queries": ("x1",)}, "`queries` has 'x1'.*no item of the catalogue"),
        ({"queries": (f"i{ITEMS - 1}",)}, f"`queries` has 'i{ITEMS - 1}', which training never"),
        ({"category_column": "colour"}, "`category_column` is 'colour'.*item_id, title, category"),
        ({"cells": ("nowhere",)}, "`cells` names 'nowhere'.*no finished cell"),
        ({"near": 0}, "`near` is 0; give at least 1"),
        ({"items": "none.csv"}, "`items` is 'none.csv'"),
        ({"covers": "none"}, "`covers` is 'none'"),
        ({"cells": (), "render": None}, "give `cells`"),
    ],
)
def test_one_sentence_names_what_is_wrong(options, tmp_path, changes, said):
    with pytest.raises((ConfigError, DataError), match=said):
        explain(ExplainConfig(**options | changes, out=str(tmp_path)), progress=False)


def test_tables_of_another_catalogue_are_refused(options, tmp_path):
    table = tmp_path / "others.csv"
    table.write_text("item_id,title\nx1,a\nx2,b\n")
    for option in ("items", "categories"):
        with pytest.raises(DataError, match=r"knows none of the catalogue's items.*x1, x2"):
            explain(ExplainConfig(**options | {option: str(table)}), progress=False)


def test_inputs_that_moved_or_changed(run, options, world, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    folder = copy / "cells" / "linkedout.sasrec.seed0"
    moved = options | {"cells": (str(copy),), "out": str(tmp_path / "out"), "html": False,
                       "encoders": ("linkedout",), "seeds": (0,), "leave_out": False}  # fmt: skip
    change_setting(folder, "store", "gone/features")
    with pytest.raises(ConfigError, match=r"'gone/features'.*name it in `store`"):
        explain(ExplainConfig(**moved), progress=False)
    explain(ExplainConfig(**moved, store=world["store"]), progress=False)
    change_setting(folder, "interactions", "gone.csv")
    with pytest.raises(ConfigError, match=r"'gone\.csv'.*`interactions`"):
        explain(ExplainConfig(**moved, store=world["store"]), progress=False)
    # With one item more, the table of ID vectors is one row short.
    other = tmp_path / "other.csv"
    other.write_text(Path(world["interactions"]).read_text() + "u1,new,11\n")
    of_ids = moved | {"encoders": ("id",), "interactions": str(other)}
    with pytest.raises(DataError, match="does not fit the model"):
        explain(ExplainConfig(**of_ids), progress=False)


def test_cells_of_different_data_are_not_mixed(run, options, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    change_setting(copy / "cells" / "linkedout.sasrec.seed1", "max_len", 5)
    with pytest.raises(ConfigError, match=r"`max_len` is 8.*and 5"):
        find_cells(ExplainConfig(**options | {"cells": (str(copy),)}))
    with pytest.raises(ConfigError, match="seed 0 twice"):
        find_cells(ExplainConfig(**options | {"cells": (str(run), str(copy))}))


def test_a_store_of_other_features_is_refused(options, world, tmp_path):
    from linkedout_lightning.store import FeatureStore, StoreSpec

    store = FeatureStore.open(world["store"])
    spec = StoreSpec(model="another", layers=LAYERS, slots=("visual", "text"), hidden_size=12)
    features, mask = store.get(store.item_ids)
    FeatureStore.create(tmp_path / "other", spec).append(store.item_ids, features, mask)
    with pytest.raises(StoreSpecError, match="another"):
        explain(ExplainConfig(**options, store=str(tmp_path / "other")), progress=False)


def test_controls_and_single_layers_are_explained_too(world, tmp_path):
    run = train_cells(
        world, tmp_path / "run", encoders=("last", "random", "layer:8", "dff"), seeds=(0,), epochs=1
    )
    config = ExplainConfig(
        cells=(str(run),), items=world["items"], out=str(tmp_path / "out"), sample=30, near=3,
        min_items=5, bootstrap=100, accelerator="cpu",
    )  # fmt: skip
    found = explain(config, progress=False)
    assert set(found["encoders"]) == {"last", "random", "layer:8", "dff"}
    assert found["encoders"]["last"]["gates"] is None  # one layer, three times
    assert found["encoders"]["layer:8"]["gates"] is None
    assert found["encoders"]["random"]["leave_out"] is not None
    assert found["encoders"]["dff"]["gates"]["layers"] == list(LAYERS)
    assert found["encoders"]["dff"]["leave_out"] is None
