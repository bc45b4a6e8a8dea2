"""The server answers what the ranker answers; the oracle is the ranker itself."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served_world import LAYERS, Reply, Served, ids

from linkedout_lightning import Ranker


def _pairs(reply: Reply) -> tuple[list[str], list[float]]:
    assert reply.status == 200, reply.body
    items = reply.json["items"]
    return [item["id"] for item in items], [item["score"] for item in items]


def _requests(count: int) -> list[dict[str, Any]]:
    chance = random.Random(3)
    found = []
    for _ in range(count):
        request: dict[str, Any] = {
            "history": chance.choices(ids(), k=chance.randint(1, 20)),
            "k": chance.choice([1, 3, 10, 59]),
            "exclude_seen": chance.random() < 0.7,
            "model": chance.choice(["linkedout", "id"]),
        }
        if chance.random() < 0.3:
            request["deny"] = chance.sample(ids(), 5)
        if chance.random() < 0.3:
            request["candidates"] = chance.sample(ids(), 12)
        found.append(request)
    return found


def _expected(ranker: Ranker, request: dict[str, Any]) -> tuple[list[str], list[float]]:
    found = ranker.recommend(
        [request["history"]],
        request["k"],
        exclude_seen=request["exclude_seen"],
        candidates=request.get("candidates"),
        deny=request.get("deny", ()),
    )
    return found.ids[0], found.scores[0]


def test_the_same_ids_and_scores_as_the_ranker_also_all_at_once(
    served: Served, bundles: Path
) -> None:
    rankers = {name: Ranker.load(bundles / name) for name in ("linkedout", "id")}
    requests = _requests(80)
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda request: served.post("/recommend", request), requests))
    for request, reply in zip(requests, replies, strict=True):
        got, scores = _pairs(reply)
        expected, values = _expected(rankers[request["model"]], request)
        assert got == expected
        assert scores == pytest.approx(values, abs=1e-5)
        assert reply.json["fingerprint"] == rankers[request["model"]].fingerprint
    sizes = served.get("/metrics").body.decode()
    assert 'linkedout_batch_size_bucket{le="+Inf"}' in sizes


def test_similar_items_by_all_layers_and_by_one(served: Served, bundles: Path) -> None:
    ranker = Ranker.load(bundles / "linkedout")
    for layer in (None, *LAYERS):
        found = ranker.similar(["v007"], 5, layer=layer)
        got = _pairs(served.post("/similar", {"item": "v007", "k": 5, "layer": layer}))
        assert got[0] == found.ids[0]
        assert got[1] == pytest.approx(found.scores[0], abs=1e-5)


def test_partly_unknown_histories_are_answered_from_what_is_known(served: Served) -> None:
    reply = served.recommend(["nobody", "v003", "nothing", "v004"], 5)
    assert reply.json["unknown"] == ["nobody", "nothing"]
    assert not reply.json["fallback"]
    assert _pairs(reply) == _pairs(served.recommend(["v003", "v004"], 5))


def test_unknown_users_get_popular_items_if_they_ask_for_them(served: Served) -> None:
    for history in ([], ["nobody"]):
        reply = served.recommend(history, 3, if_unknown="popular")
        assert _pairs(reply)[0] == ["v060", "v059", "v058"]
        assert reply.json["fallback"]
        assert reply.json["unknown"] == history


def test_what_is_known_of_an_item(served: Served, bundles: Path) -> None:
    ranker = Ranker.load(bundles / "linkedout")
    item = served.get("/items/v009").json
    assert item["columns"] == {"title": "Film 9 <b>&"}
    gates = ranker.gates("v009")
    assert gates is not None
    assert item["gates"] == {str(layer): pytest.approx(gate) for layer, gate in gates.items()}
    assert served.get("/items/v009?model=id").json["gates"] is None
    models = served.get("/models").json
    assert [(m["name"], m["layers"], m["similar_by_layer"]) for m in models] == [
        ("linkedout", list(LAYERS), True),
        ("id", [], False),
    ]


def test_items_are_found_by_their_titles(served: Served) -> None:
    found = served.get("/items?q=fIlM%2059").json
    assert (found["total"], found["items"]) == (
        1, [{"id": "v059", "title": "Film 59 <b>&", "clip": None}],
    )  # fmt: skip
    part = served.get("/items?limit=2&offset=58").json
    assert (part["total"], [item["id"] for item in part["items"]]) == (60, ["v059", "v060"])


def test_operating_routes(served: Served) -> None:
    assert served.get("/healthz").json == {"status": "ok", "models": {"linkedout": 60, "id": 60}}
    timing = served.recommend(["v001"]).headers["server-timing"]
    assert float(timing.removeprefix("total;dur=")) > 0
    text = served.get("/metrics").body.decode()
    assert 'linkedout_requests_total{method="POST",route="/recommend",status="200"}' in text
    assert 'linkedout_items{model="id"} 60.0' in text
    paths = served.get("/openapi.json").json["paths"]
    assert {"/recommend", "/similar", "/items", "/swap", "/healthz", "/metrics"} <= paths.keys()
