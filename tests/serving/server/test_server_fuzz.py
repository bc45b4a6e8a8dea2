"""Requests made of the API's own description, right ones and wrong ones, find no 5xx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from served_world import TOKEN, Served, ids

schemathesis = pytest.importorskip("schemathesis", reason="the extra `dev` brings it")

from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

_CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def fuzzed(bundles: Path, clips: Path) -> Iterator[Served]:
    """A server that requests with the token may change as they like."""
    server = Served(
        *("--bundle", f"linkedout={bundles / 'linkedout'}", "--bundle", f"id={bundles / 'id'}"),
        *("--media", str(clips), "--videos", str(clips)),
    )
    yield server
    assert server.recommend([ids()[0]], if_unknown="popular").status == 200
    assert server.end() == 0
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_the_server_s_fault(fuzzed: Served, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{fuzzed.address}/openapi.json")
    statuses: dict[str, Counter[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        statuses[operation.label] = _try(operation, mode)
    assert len(statuses) == 11
    if mode is GenerationMode.NEGATIVE:
        assert all(400 <= status < 500 for status in statuses["POST /recommend"])
    else:
        assert {200, 404} <= statuses["POST /recommend"].keys()
        assert {200, 404} <= statuses["GET /items/{item_id}"].keys()


def _try(operation: Any, mode: GenerationMode) -> Counter[int]:
    """Statuses of some requests of one route."""
    seen: Counter[int] = Counter()
    known = st.lists(st.sampled_from(ids()), min_size=1, max_size=20)

    @seed(6)
    @settings(
        max_examples=30,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        history=st.none() | known,
        token=st.booleans(),
    )
    def once(case: Any, history: list[str] | None, token: bool) -> None:
        if mode is GenerationMode.POSITIVE and history is not None:
            # Texts made at random are ids of nothing; some requests must get further than that.
            for place, name in ((case.body, "history"), (case.path_parameters, "item_id")):
                if isinstance(place, dict) and name in place:
                    place[name] = history if name == "history" else history[0]
        headers = {"authorization": f"Bearer {TOKEN}"} if token else None
        reply = case.call_and_validate(headers=headers, checks=_CHECKS)
        seen[reply.status_code] += 1

    with suppress(Unsatisfiable):  # nothing about some routes can be wrong
        once()
    return seen
