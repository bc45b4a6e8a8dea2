"""Whatever is wrong with a request is said in a 4xx, and the server goes on."""

from __future__ import annotations

from typing import Any

import pytest
from served_world import HIDDEN, LAYERS, SLOTS, TOKEN, Served

_FEATURES = [[[0.5] * HIDDEN] * SLOTS] * len(LAYERS)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"history": ["v001"', 400, "no JSON"),
        (b"", 400, "empty"),
        (b"\xff\xfe\x00", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b'{"history": ["v001"], "k": ' + b"9" * 5000 + b"}", 400, "no JSON"),
        (b'["v001"]', 422, "body"),
        (b"null", 4, ""),
        ({"history": ["v001"], "k": 0}, 422, "greater than or equal to 1"),
        ({"history": ["v001"], "k": -1}, 422, "greater than or equal to 1"),
        ({"history": ["v001"], "k": 10**9}, 422, "1000 at most"),
        ({"history": ["v001"], "k": 2.5}, 422, "integer"),
        ({"history": ["v001"], "k": True}, 422, "integer"),
        ({"history": ["v001"], "k": "3"}, 422, "integer"),
        ({"history": ["v001"], "k": float("nan")}, 422, "integer"),
        ({"history": ["v001"], "k": float("inf")}, 422, "integer"),
        ({"history": []}, 422, "empty"),
        ({"history": ["nobody"]}, 404, "'nobody'"),
        ({"history": "v001"}, 422, "list"),
        ({"history": [1]}, 422, "string"),
        ({"history": [""]}, 422, "at least 1 character"),
        ({"history": ["x" * 600]}, 422, "at most 512"),
        ({"history": ["v001"] * 1001}, 422, "1000 at most"),
        ({"history": ["v001"], "deny": ["v001"] * 10_001}, 422, "10000 at most"),
        (b'{"history": ["\\ud800"]}', 422, "string"),
        ({"history": ["v001"], "historie": 1}, 422, "not permitted"),
        ({"history": ["v001"], "model": "nobody"}, 404, "linkedout, id"),
    ],
)
def test_bad_questions(served: Served, body: Any, status: int, words: str) -> None:
    reply = served.post("/recommend", body)
    assert reply.status == status or (status == 4 and 400 <= reply.status < 500), reply.body
    assert words in reply.json["detail"]
    assert served.recommend(["v001"]).status == 200


def test_a_body_that_is_not_declared_as_json(served: Served) -> None:
    reply = served.post("/recommend", b'{"history": ["v001"]}', headers={"content-type": "text/x"})
    assert (reply.status, "text/x" in reply.json["detail"]) == (415, True)


def test_a_hundred_megabytes(served: Served) -> None:
    reply = served.post("/recommend", b"x" * 100_000_000)
    assert (reply.status, "above 1 MB" in reply.json["detail"]) == (413, True)
    assert served.recommend(["v001"]).status == 200


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"items": []}, 422, "at least 1 item"),
        ({"items": [{"id": "n"}]}, 422, "one of `vector`"),
        ({"items": [{"id": "n", "vector": [0.0], "video": "x"}]}, 422, "one of `vector`"),
        ({"items": [{"id": "n", "vector": [0.0]}]}, 422, "expected (n, 16)"),
        ({"items": [{"id": "n", "vector": [float("nan")] * 16}]}, 422, "finite"),
        ({"items": [{"id": "n", "vector": [1e39] * 16}]}, 422, "infinity"),
        (b'{"items": [{"id": "n", "vector": [1' + b"0" * 400 + b"]}]}", 422, "number"),
        ({"items": [{"id": "v001", "vector": [0.0] * 16}]}, 409, "there already"),
        ({"items": [{"id": "n", "features": []}]}, 422, "features"),
        ({"items": [{"id": "n", "features": [[[1.0], [1.0, 2.0]]]}]}, 422, "different lengths"),
        ({"items": [{"id": "n", "features": _FEATURES, "mask": [True]}]}, 422, "mask"),
        ({"items": [{"id": "n", "features": _FEATURES}], "model": "id"}, 422, "by their ids"),
        ({"items": [{"id": "n", "video": "../x.mp4"}]}, 403, "without --videos"),
        ({"items": [{"id": "n", "vector": [0.0] * 16}] * 2}, 422, "each once"),
        (
            {"items": [{"id": "n", "vector": [0.0] * 16}, {"id": "m", "features": _FEATURES}]},
            422,
            "one kind",
        ),
    ],
)
def test_bad_items(served: Served, body: Any, status: int, words: str) -> None:
    reply = served.post("/items", body, token=TOKEN)
    assert (reply.status, words in reply.json["detail"]) == (status, True), reply.body
    assert served.get("/healthz").json["models"]["linkedout"] == 60


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "é" * 20])
def test_changes_need_the_right_token(served: Served, token: str | None) -> None:
    body = {"items": [{"id": "n", "vector": [0.0] * 16}]}
    headers = (
        {} if token is None else {"authorization": f"Bearer {token}".encode().decode("latin1")}
    )
    for reply in (
        served.post("/items", body, headers=headers),
        served.ask("DELETE", "/items/v001", headers=headers),
        served.post("/swap", {}, headers=headers),
    ):
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
    assert served.get("/healthz").json["models"]["linkedout"] == 60


@pytest.mark.parametrize("bundle", ["../..", "/etc", "..", "linkedout/../../x", "nothing", "\0"])
def test_bundles_from_outside_the_folder(served: Served, bundle: str) -> None:
    reply = served.post("/swap", {"bundle": bundle}, token=TOKEN)
    assert reply.status == 422, reply.body
    assert served.recommend(["v001"]).status == 200


def test_what_is_not_there(served: Served) -> None:
    assert served.get("/nothing").status == 404
    assert served.ask("PUT", "/recommend").status == 405
    assert served.get("/items/nobody").status == 404
    assert served.get("/items?limit=0").status == 422
    assert served.get("/items?limit=1001").status == 422
    assert served.get("/media/v050").status == 404
    assert served.ask("DELETE", "/items/nobody", token=TOKEN).status == 404
    assert served.post("/similar", {"item": "v001", "layer": 4}).status == 422
    assert served.post("/similar", {"item": "v001", "layer": 5, "model": "id"}).status == 422
    assert served.post("/similar", {"item": "nobody"}).status == 404
