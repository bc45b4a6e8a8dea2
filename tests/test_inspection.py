"""``linkedout inspect`` of stores: what was planted is found, what is said is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from linkedout_lightning import cli
from linkedout_lightning.errors import ConfigError, StoreError
from linkedout_lightning.inspection import InspectConfig, inspect
from linkedout_lightning.inspection.rows import RowSearch
from linkedout_lightning.inspection.statistics import layer_statistics, near_duplicates, pooled
from linkedout_lightning.store import FeatureStore, StoreSpec

LAYERS, SLOTS, WIDTH = (4, 8), ("visual", "text", "last"), 32


def make(path: Path, dtype: str = "float16") -> FeatureStore:
    spec = StoreSpec(
        model="tiny", layers=LAYERS, slots=SLOTS, hidden_size=WIDTH, dtype=dtype, prompt="{title}"
    )
    return FeatureStore.create(path, spec)


def rows(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 2, 3, WIDTH, generator=random)
    features[:, 1] *= 100  # the deeper layer is louder
    mask = torch.ones(count, 3, dtype=torch.bool)
    mask[: count // 4, 0] = False  # items without a video
    return features * mask[:, None, :, None], mask


@pytest.fixture(params=["float16", "bfloat16", "float32"])
def planted(request, tmp_path: Path) -> FeatureStore:
    """300 items in three appends, some of them bad."""
    store = make(tmp_path / "features", request.param)
    features, mask = rows(300)
    features[10], mask[10] = 0, False  # no slot
    features[20, 1, 2] = 0  # zeros where something is claimed to be
    features[30, 0, 1] = 3.25  # one number throughout
    features[40, 1] *= 50  # far too loud
    features[50, 0] /= 50  # far too quiet
    features[200], mask[200] = features[100], mask[100]
    features[290], mask[290] = features[100], mask[100]
    features[201], mask[201] = features[101], mask[101]
    features[202], mask[202] = features[102] * 1.01, mask[102]  # near, and not equal
    features = features.to(store.spec.torch_dtype)
    ids = [f"i{n}" for n in range(300)]
    for start in range(0, 300, 100):
        part = slice(start, start + 100)
        store.append(ids[part], features[part], mask[part])
    store.append(["i5"], features[6:7] * 2, mask[6:7], replace=True)
    store.record_failures({"bad": "no video stream", "i7": "truncated", "x": "truncated"})
    return store


def ids_of(finding: dict[str, object]) -> list[str]:
    return sorted(example["item_id"] for example in finding["examples"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("batch_bytes", [1, 5_000, 2**25])
def test_what_was_planted_is_found(
    planted: FeatureStore, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linkedout_lightning.inspection.store._BATCH", batch_bytes)
    facts = inspect(InspectConfig(path=planted.path), progress=False).to_json()

    assert facts["items"] == 300
    assert facts["failures"] == {
        "count": 3,
        "with_older_features": 1,
        "distinct_reasons": 2,
        "reasons": {"truncated": 2, "no video stream": 1},
    }
    assert facts["pieces"] == 5
    assert facts["bytes"]["superseded_rows"] == 1
    assert facts["bytes"]["on_disk"] == planted.disk_usage().total
    assert facts["versions"]["shown"] == facts["versions"]["newest"] == planted.version
    found = facts["rows"]
    assert (found["looked_at"], found["all"]) == (300, True)
    dead = found["dead"]
    assert {name: ids_of(finding) for name, finding in dead.items()} == {
        "no_slot": ["i10"],
        "zero": ["i20"],
        "constant": ["i30"],
        "norm": ["i40", "i50"],
    }
    layers = {e["item_id"]: e["layer"] for e in dead["norm"]["examples"]}
    assert layers == {"i40": 8, "i50": 4}
    assert found["duplicates"] == {
        "groups": 2,
        "items": 5,
        "examples": [["i100", "i200", "i290"], ["i101", "i201"]],
    }
    near = found["near_duplicates"]
    # One of each group of equal rows is left, and the item without a slot is not compared.
    assert (near["among"], near["pairs"]) == (296, 1)
    assert near["examples"][0]["items"] == ["i102", "i202"]
    assert facts["slots"]["text"] == pytest.approx(299 / 300)
    assert facts["slots"]["visual"] == pytest.approx(225 / 300, abs=0.01)


def test_statistics_equal_slow_ones(tmp_path: Path) -> None:
    features, mask = rows(60)
    vectors = pooled(features, mask)
    slow = torch.stack(
        [
            torch.stack([features[i, layer, mask[i]].mean(0) for layer in range(2)])
            for i in range(60)
        ]
    )
    assert torch.allclose(vectors, slow, atol=1e-5)
    for index, found in enumerate(layer_statistics(vectors, LAYERS)):
        some = slow[:, index]
        norms = some.norm(dim=1)
        assert found["layer"] == LAYERS[index]
        assert found["norm"]["mean"] == pytest.approx(norms.mean().item(), rel=1e-4)
        assert found["norm"]["median"] == pytest.approx(norms.quantile(0.5).item(), rel=1e-4)
        assert found["norm"]["max"] == pytest.approx(norms.max().item(), rel=1e-4)
        cosines = torch.nn.functional.cosine_similarity(some[:, None], some[None], dim=-1)
        others = cosines[~torch.eye(60, dtype=torch.bool)]
        assert found["mean_cosine"] == pytest.approx(others.mean().item(), abs=1e-4)
        values = torch.linalg.svdvals(some - some.mean(0)).square()
        shares = values / values.sum()
        assert found["first_direction"] == pytest.approx(shares[0].item(), rel=1e-3)
        entropy = -(shares * shares.clamp(min=1e-30).log()).sum()
        assert found["effective_rank"] == pytest.approx(entropy.exp().item(), rel=1e-3)
        assert found["rank_limit"] == 32


@pytest.mark.parametrize("width", [16, 3000])
def test_near_duplicates_equal_all_pairs(width: int) -> None:
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(80, 2, width, generator=random) + 5  # one cone, as hidden states are
    noise = torch.randn(20, 2, width, generator=random)
    vectors[60:] = vectors[:20] + noise * torch.linspace(0.001, 0.2, 20)[:, None, None]
    centred = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1).flatten(1)
    cosines = torch.nn.functional.cosine_similarity(centred[:, None], centred[None], dim=-1)
    wanted = {tuple(p) for p in (cosines >= 0.999).triu(1).nonzero().tolist()}
    assert 2 < len(wanted) < 20
    count, pairs = near_duplicates(vectors, cosine=0.999, listed=100)
    assert count == len(wanted)
    assert {(a, b) for a, b, _ in pairs} == wanted
    assert [value for *_, value in pairs] == sorted((v for *_, v in pairs), reverse=True)
    assert near_duplicates(vectors, cosine=0.999, listed=2) == (count, pairs[:2])


def test_thousands_of_equal_rows_make_one_group() -> None:
    features, mask = rows(8)
    many = torch.cat([features, features[7:].expand(2000, -1, -1, -1)])
    flags = torch.cat([mask, mask[7:].expand(2000, -1)])
    search = RowSearch(pooled(features, mask), LAYERS, listed=2)
    ids = [str(i) for i in range(2008)]
    for part in torch.arange(2008).split(700):
        search.add([ids[i] for i in part.tolist()], many[part].half(), flags[part])
    assert search.duplicates() == [list(range(7, 2008))]
    count, listed = near_duplicates(pooled(many, flags), cosine=0.999, listed=3)
    assert count == 2001 * 2000 // 2
    assert len(listed) == 3


def test_the_same_bits_under_another_mask_are_no_duplicates() -> None:
    features, mask = torch.zeros(2, 2, 3, WIDTH), torch.ones(2, 3, dtype=torch.bool)
    features[:, :, 1:] = 1.5 * torch.arange(WIDTH)
    mask[1, 0] = False
    search = RowSearch(pooled(features, mask), LAYERS, listed=2)
    search.add(["a", "b"], features, mask)
    assert search.duplicates() == []
    assert search.counts == {"no_slot": 0, "zero": 1, "constant": 0, "norm": 0}


def test_a_part_of_a_large_store_is_said_to_be_one(planted: FeatureStore) -> None:
    config = InspectConfig(path=planted.path, sample=40, rows=100, listed=1)
    outcome = inspect(config, progress=False)
    facts = outcome.to_json()
    assert facts["sample"] == 40
    assert (facts["rows"]["looked_at"], facts["rows"]["all"]) == (100, False)
    assert "rows, 100 of 300 looked at" in outcome.summary()
    assert all(len(d["examples"]) <= 1 for d in facts["rows"]["dead"].values())
    assert facts == inspect(config, progress=False).to_json()
    assert inspect(InspectConfig(path=planted.path, rows=0), progress=False).facts["rows"]["all"]


def test_a_past_version_may_be_looked_at(planted: FeatureStore) -> None:
    facts = inspect(InspectConfig(path=planted.path, version=2), progress=False).facts
    assert facts["items"] == 100
    assert facts["versions"]["shown"] == 2
    with pytest.raises(StoreError, match="no version 99"):
        inspect(InspectConfig(path=planted.path, version=99), progress=False)


def test_the_page_says_it_all(planted: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", planted.path, "--quiet"]) == 0
    page = capsys.readouterr().out
    for words in (
        "items       300, each 2 layers x 3 slots x 32",
        "failures    3, 1 of them with features of before",
        "2 x truncated",
        "at most in 1 replaced and 0 deleted rows",
        "1 where every slot is masked: i10",
        "1 where a slot holds only zeros: i20",
        "usual)",
        "5 equal in every bit to another, in 2 groups",
        "i100, i200, i290",
        "i102, i202 (",
    ):
        assert words in page, page
    assert max(map(len, page.splitlines())) < 200
    assert cli.main(["inspect", planted.path, "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_items(tmp_path: Path, count: int) -> None:
    store = make(tmp_path / "few")
    if count:
        features, mask = rows(count)
        store.append(list("ab")[:count], features.half(), mask)
    outcome = inspect(InspectConfig(path=store.path), progress=False)
    assert outcome.facts["items"] == count
    json.dumps(outcome.to_json(), allow_nan=False)
    assert f"items       {count}" in outcome.summary()


def test_nothing_but_dead_rows(tmp_path: Path) -> None:
    store = make(tmp_path / "dead")
    blank = torch.zeros(3, 2, 3, WIDTH).half()
    store.append(list("abc"), blank, torch.zeros(3, 3, dtype=torch.bool))
    outcome = inspect(InspectConfig(path=store.path), progress=False)
    assert outcome.facts["rows"]["dead"]["no_slot"]["count"] == 3
    assert outcome.facts["rows"]["duplicates"]["groups"] == 0
    json.dumps(outcome.to_json(), allow_nan=False)


@pytest.mark.parametrize("wrong", [{"sample": 1}, {"rows": -1}, {"near": 0}, {"listed": -1}])
def test_options_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        InspectConfig(path="x", **wrong)  # type: ignore[arg-type]
