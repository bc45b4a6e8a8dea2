"""How the items of a dataset meet those of a store, and what is said where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import ITEM_IDS, ITEMS, USERS, World, write_store

from linkedout_lightning.errors import ConfigError, DataError, LinkedOutError
from recbole_adapters.catalogue import Catalogue, align
from recbole_adapters.launcher import Request
from recbole_adapters.running import Outcome, run_here
from recbole_adapters.table import Projected


def _run(world: World, folder: Path, section: dict[str, Any], **changes: Any) -> Outcome:
    settings = world.settings(linkedout={"rank": 8} | section, epochs=1, **changes)
    return run_here(Request("SASRec", "tiny", config_dict=settings, folder=folder, verbose=False))


def _catalogue(*item_ids: str) -> Catalogue:
    return Catalogue(item_ids, torch.ones(len(item_ids) + 1, dtype=torch.bool), "item_id")


def test_the_catalogue_is_what_training_has_seen(world: World, tmp_path: Path) -> None:
    catalogue = _run(world, tmp_path, {"encoder": "identity"}).catalogue
    assert sorted(catalogue.item_ids) == sorted(ITEM_IDS)
    # Oracle: each user's items but the last two, which validation and test are about.
    seen: set[str] = set()
    lines = (world.folder / "tiny" / "tiny.inter").read_text().splitlines()[1:]
    for user in range(USERS):
        mine = [line.split("\t")[1] for line in lines if line.startswith(f"u{user}\t")]
        seen |= set(mine[:-2])
    assert not catalogue.train_items[0]
    known = catalogue.train_items[1:].nonzero().flatten().tolist()
    assert {catalogue.item_ids[row] for row in known} == seen


def test_each_item_shows_its_own_features(world: World, tmp_path: Path) -> None:
    # RecBole numbers items by their first occurrence, the store by its own order.
    outcome = _run(world, tmp_path, {"store": str(world.store)})
    encoder = outcome.model.item_tables["item_embedding"].encoder.eval()
    assert outcome.catalogue.item_ids != ITEM_IDS
    with torch.no_grad():
        vectors = encoder.all_items()[1:]
        for row in (0, 7, ITEMS - 1):
            features, mask = world.open().get([outcome.catalogue.item_ids[row]])
            torch.testing.assert_close(vectors[row], encoder.encode_features(features, mask)[0])


def test_everything_is_there(world: World, tmp_path: Path) -> None:
    found = _run(world, tmp_path, {"store": str(world.store)}).run["alignment"]
    assert (found["items"], found["with_features"]) == (ITEMS, ITEMS)
    assert (found["without_features"], found["unused"], found["examples"]) == (0, 0, [])
    assert found["summary"] == f"{ITEMS} of {ITEMS} items have features"


@pytest.mark.parametrize("rule", ["zero", "mean"])
def test_absent_items_follow_the_rule_and_are_counted(
    rule: str, world: World, tmp_path: Path
) -> None:
    write_store(tmp_path / "some", (*ITEM_IDS[5:], "elsewhere1", "elsewhere2"))
    outcome = _run(world, tmp_path, {"store": str(tmp_path / "some"), "missing": rule})
    found = outcome.run["alignment"]
    assert (found["with_features"], found["without_features"]) == (ITEMS - 5, 5)
    assert found["unused"] == 2
    assert set(found["examples"]) == set(ITEM_IDS[:5])
    assert f"5 have none (rule: {rule})" in found["summary"]
    assert "2 items of the store are not in the dataset" in found["summary"]
    # All absent items look alike, and like no other.
    with torch.no_grad():
        rows = outcome.model.item_tables["item_embedding"].weight[1:]
    absent = torch.tensor([item in ITEM_IDS[:5] for item in outcome.catalogue.item_ids])
    assert (rows[absent] == rows[absent][0]).all()
    assert not (rows[~absent] == rows[absent][0]).all(1).any()
    assert rows.isfinite().all()


def test_absent_items_are_an_error_unless_a_rule_is_given(world: World, tmp_path: Path) -> None:
    write_store(tmp_path / "some", ITEM_IDS[3:])
    with pytest.raises(
        DataError, match=rf"3 of {ITEMS} items .*no features.*missing: zero"
    ) as error:
        _run(world, tmp_path, {"store": str(tmp_path / "some")})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", ["error", "zero", "mean"])
def test_a_store_of_other_items(rule: str, world: World, tmp_path: Path) -> None:
    write_store(tmp_path / "others", tuple(f"video-{n}" for n in range(9)))
    with pytest.raises(DataError) as raised:
        _run(world, tmp_path, {"store": str(tmp_path / "others"), "missing": rule})
    message = str(raised.value)
    assert "no item of the dataset has features in the store" in message
    assert "'item_id' holds items such as 'm" in message
    assert "the store such as 'video-0'" in message
    assert "ITEM_ID_FIELD" in message
    assert "\n" not in message


def test_another_column_for_items(world: World, tmp_path: Path) -> None:
    # The users' column holds tokens too; the store has none of them.
    swapped = {"USER_ID_FIELD": "item_id", "ITEM_ID_FIELD": "user_id"}
    with pytest.raises(DataError, match="column 'user_id' holds items such as 'u"):
        _run(world, tmp_path, {"store": str(world.store)}, **swapped)
    with pytest.raises(LinkedOutError, match="`ITEM_ID_FIELD` is 'movie', which is no column"):
        _run(world, tmp_path, {"store": str(world.store)}, ITEM_ID_FIELD="movie")


@pytest.mark.parametrize(
    ("tokens", "stored", "hint"),
    [
        (("30", "1"), ("0001", "0030"), "'0030' is written '30'"),
        (("30.0", "1.0"), ("1", "30"), "'30' is written '30.0'"),
        (("a", "b"), ("a.mp4", "b.mp4"), "'a.mp4' is written 'a'"),
        (("A", "B"), ("a", "b"), "'a' is written 'A'"),
        (("a", "b"), (" a", "b "), "' a' is written 'a'"),
    ],
)
def test_the_same_items_in_another_spelling(
    tokens: tuple[str, ...], stored: tuple[str, ...], hint: str
) -> None:
    store = _Ids(stored)
    with pytest.raises(DataError, match=hint):
        align(_catalogue(*tokens), store, where="the store", missing="zero")  # type: ignore[arg-type]


def test_tokens_that_look_like_numbers_are_text() -> None:
    found = align(_catalogue("7", "10", "8"), _Ids(["10", "7"]), where="the store", missing="zero")  # type: ignore[arg-type]
    assert (found.with_features, found.examples) == (2, ("8",))


class _Ids:
    def __init__(self, item_ids: Any) -> None:
        self.item_ids = list(item_ids)


def test_another_width_gets_a_linear_map(world: World, tmp_path: Path) -> None:
    outcome = _run(world, tmp_path, {"store": str(world.store), "dim": 10})
    encoder = outcome.model.item_tables["item_embedding"].encoder
    assert isinstance(encoder, Projected)
    assert (encoder.encoder.dim, encoder.dim) == (10, 16)
    with torch.no_grad():
        rows = encoder.eval().all_items()
        assert rows.shape == (ITEMS + 1, 16)
        assert not rows[0].any()
        torch.testing.assert_close(encoder(torch.tensor([0, 5])), rows[[0, 5]])


def test_a_copy_of_the_table_has_no_other_width(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`linkedout\.dim` is 10, but encoder 'identity'"):
        _run(world, tmp_path, {"encoder": "identity", "dim": 10})


@pytest.mark.parametrize(
    "section",
    [
        {"encoder": "random"}, {"encoder": "shuffled"}, {"encoder": "last+id"}, {"encoder": "dff"},
        {"encoder": "layer:8"}, {"encoder": "linkedout+id"}, {"encoder": "id-dropout"},
        {"fuser": "concat"}, {"layers": [4, 12]}, {"id_fusion": "gate"}, {"top_k": 1},
        {"compressor": "mean", "output_norm": "layer"}, {"fuser": "dff"},
        {"encoder": "id-dropout", "output_norm": "layer"},
    ],
)  # fmt: skip
def test_every_encoder_of_a_comparison_trains(
    section: dict[str, Any], world: World, tmp_path: Path
) -> None:
    outcome = _run(world, tmp_path, {"store": str(world.store)} | section)
    assert outcome.run["encodings"]["item_embedding"] > 0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"layers": [5]}, r"layers.*5"),
        ({"fuser": "sum"}, "'sum'"),
        ({"encoder": "random", "fuser": "mean"}, "fixes `fuser`"),
        ({"top_k": 9}, "`top_k` is 9"),
        ({"store": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_options_that_do_not_fit_the_store(
    section: dict[str, Any], message: str, world: World, tmp_path: Path
) -> None:
    with pytest.raises(LinkedOutError, match=message):
        _run(world, tmp_path, {"store": str(world.store)} | section)
