"""Bundles are swapped and items come and go while others ask: each answer is of one state."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from served_world import DIM, HIDDEN, LAYERS, SLOTS, TOKEN, Served, ids

from linkedout_lightning import Ranker

_HISTORIES = [[f"v{place:03d}", f"v{place + 9:03d}"] for place in range(1, 41, 4)]


def _vector(ranker: Ranker) -> list[float]:
    """A vector that one of the histories likes best of all."""
    best = ranker.recommend([_HISTORIES[0]], 1).ids[0][0]
    snapshot = ranker._snapshot
    found: torch.Tensor = snapshot.take(torch.tensor([snapshot.row(best)]))[0]
    return [2 * number for number in found.tolist()]


def _answers(ranker: Ranker) -> list[list[str]]:
    return ranker.recommend(_HISTORIES, 8).ids


@pytest.fixture(scope="module")
def possible(bundles: Path) -> tuple[dict[str, list[list[list[str]]]], dict[str, list[float]]]:
    """By fingerprint: the answers without the new item and with it; and the item's vector."""
    answers, vectors = {}, {}
    for name in ("linkedout", "other"):
        ranker = Ranker.load(bundles / name)
        vector = _vector(ranker)
        states = [_answers(ranker)]
        ranker.add_items(["new"], torch.tensor([vector]))
        states.append(_answers(ranker))
        assert states[0] != states[1]
        answers[ranker.fingerprint], vectors[name] = states, vector
    return answers, vectors


def test_no_wrong_answer_while_everything_changes(
    served: Served,
    possible: tuple[dict[str, list[list[list[str]]]], dict[str, list[float]]],
) -> None:
    answers, vectors = possible
    done = threading.Event()

    def asks(worker: int) -> list[tuple[int, Any]]:
        found = []
        while not done.is_set():
            place = (worker + len(found)) % len(_HISTORIES)
            reply = served.recommend(_HISTORIES[place], 8)
            assert reply.status == 200, reply.body
            found.append((place, reply.json))
        return found

    def holds_new() -> bool:
        reply = served.recommend(_HISTORIES[0], 8).json
        return "new" in [item["id"] for item in reply["items"]]

    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(asks, worker) for worker in range(6)]
        try:
            for _ in range(4):
                for name in ("other", "linkedout"):
                    assert served.post("/swap", {"bundle": name}, token=TOKEN).status == 200
                    assert not holds_new()
                    body = {"items": [{"id": "new", "vector": vectors[name]}]}
                    assert served.post("/items", body, token=TOKEN).status == 200
                    assert holds_new()
                    assert served.ask("DELETE", "/items/new", token=TOKEN).status == 200
                    assert not holds_new()
        finally:
            done.set()
        found = [pair for worker in workers for pair in worker.result()]
    assert len(found) > 20
    assert len({reply["fingerprint"] for _, reply in found}) == 2
    for place, reply in found:
        got = [item["id"] for item in reply["items"]]
        assert got in [state[place] for state in answers[reply["fingerprint"]]]


def test_an_item_of_features_has_the_vector_that_the_ranker_makes(
    served: Served, bundles: Path
) -> None:
    torch.manual_seed(8)
    features = torch.randn(2, len(LAYERS), SLOTS, HIDDEN)
    mask = torch.tensor([[True, True], [True, False]])
    items = [
        {"id": "a/../b c", "features": features[0].tolist(), "columns": {"title": "Ä <i>"}},
        {"id": "w", "features": features[1].tolist(), "mask": mask[1].tolist()},
    ]
    assert served.post("/items", {"items": items}, token=TOKEN).json["items"] == 62
    ranker = Ranker.load(bundles / "linkedout")
    ranker.add_items(["a/../b c", "w"], features=features, mask=mask)
    expected = ranker.recommend([["a/../b c", "w"]], 62, exclude_seen=False)
    reply = served.recommend(["a/../b c", "w"], 62, exclude_seen=False).json["items"]
    assert [item["id"] for item in reply] == expected.ids[0]
    assert [item["score"] for item in reply] == pytest.approx(expected.scores[0], abs=1e-5)
    item = served.get("/items/a%2F..%2Fb%20c").json
    assert (item["columns"], set(item["gates"])) == ({"title": "Ä <i>"}, set(map(str, LAYERS)))
    for path in ("/items/a%2F..%2Fb%20c", "/items/w"):
        assert served.ask("DELETE", path, token=TOKEN).status == 200


def test_all_items_of_a_request_come_or_none(served: Served) -> None:
    body = {"items": [{"id": "fine", "vector": [0.0] * DIM}, {"id": "short", "vector": [0.0] * 3}]}
    assert served.post("/items", body, token=TOKEN).status == 422
    assert served.get("/items/fine").status == 404


def test_what_is_durable_is_there_after_the_bundle_is_read_again(
    strict: Served, folders: Path
) -> None:
    for name, durable in (("kept", True), ("lost", False)):
        body = {"items": [{"id": name, "vector": [1.0] * DIM}], "durable": durable}
        assert strict.post("/items", body, token=TOKEN).status == 200
    assert strict.post("/swap", {}, token=TOKEN).json["items"] == len(ids()) + 1
    assert (strict.get("/items/kept").status, strict.get("/items/lost").status) == (200, 404)
    assert "kept" in Ranker.load(folders / "bundles" / "id")
    assert strict.ask("DELETE", "/items/kept?durable=true", token=TOKEN).status == 200
    assert "kept" not in Ranker.load(folders / "bundles" / "id")
