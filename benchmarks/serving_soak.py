"""Full load with bundles swapped and items added and removed; every answer is checked.

The slow reference ranks with float64 in NumPy, from the model's own state of a history and from the
vectors that the bundles were made of. An answer is right if it is that of a state that the server
may have been in between the question and the answer.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving_load import Client, Seen, Server, all_at_once, percentiles

from linkedout_lightning import Ranker
from linkedout_lightning.serving.sequence import build

K, NEAR = 10, 1e-3


@dataclass(frozen=True)
class World:
    """A bundle as the reference knows it.

    Args:
        folder: The bundle.
        fingerprint: Of it.
        ids: N item ids.
        table: ``(N, H)`` float64.
        states: ``(users, H)`` float64, of each history.
        extra: Vectors of the items that are added, by id.
    """

    folder: Path
    fingerprint: str
    ids: list[str]
    table: Any
    states: Any
    extra: dict[str, list[float]]


@dataclass
class State:
    """What the server answered from, and within which time."""

    fingerprint: str
    added: frozenset[str]
    start: float
    end: float = float("inf")


@dataclass
class Log:
    """What happened."""

    states: list[State]
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    changes: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)
    waiting: list[Seen] = field(default_factory=list)


def world(folder: Path, histories: Sequence[Sequence[str]], *, seed: int) -> World:
    """Read a bundle for the reference, past the ranker."""
    from linkedout_lightning.serving.bundle import Bundle

    bundle = Bundle.open(folder)
    items, sequence = bundle.items(), bundle.sequence()
    what = bundle.manifest.sequence
    del sequence
    model = build(
        what["kind"],
        dim=bundle.manifest.dim,
        max_len=what["max_len"],
        options=what["options"],
        state=bundle.sequence().backbone.state_dict(),
    )
    table, states = items.vectors.all(), []
    for history in histories:  # one at a time, without padding: no batch, no mask
        rows = [items.row_of[item] for item in history][-what["max_len"] :]
        mask = torch.ones(1, len(rows), dtype=torch.bool)
        with torch.inference_mode():
            states.append(model(table[rows][None], mask)[0].double().numpy())
    found = np.stack(states)
    chance = np.random.default_rng(seed)
    # Vectors that some of the users like very much.
    extra = {
        f"added{number}": (0.05 * found[chance.integers(len(found))]).tolist()
        for number in range(3)
    }
    return World(
        folder, bundle.manifest.bundle, list(items.ids), table.double().numpy(), found, extra
    )


class Reference:
    """Scores of all items for a history in a state, in float64."""

    def __init__(self, worlds: Sequence[World], histories: Sequence[Sequence[str]]) -> None:
        self._worlds = {one.fingerprint: one for one in worlds}
        self._histories = histories
        self._known: dict[tuple[str, frozenset[str], int], dict[str, float]] = {}

    def agrees(self, state: State, place: int, ids: Sequence[str], scores: Sequence[float]) -> bool:
        """Whether an answer is the best K of a state, up to scores that are equal in float32."""
        best = self._best(state, place)
        ranked = sorted(best.values(), reverse=True)
        if len(set(ids)) != K or list(scores) != sorted(scores, reverse=True):
            return False
        # Each has the score that it must have, and the score that its rank must have.
        return all(
            item in best and abs(best[item] - score) < NEAR and abs(right - score) < NEAR
            for item, score, right in zip(ids, scores, ranked, strict=False)
        )

    def _best(self, state: State, place: int) -> dict[str, float]:
        """Twice K items of the highest scores."""
        key = state.fingerprint, state.added, place
        if key not in self._known:
            one = self._worlds[state.fingerprint]
            user, seen = one.states[place], set(self._histories[place])
            scores = one.table @ user
            rows = np.argsort(-scores)[: 2 * K + len(seen)]
            found = {one.ids[row]: float(scores[row]) for row in rows if one.ids[row] not in seen}
            found |= {item: float(np.dot(one.extra[item], user)) for item in state.added}
            self._known[key] = found
        return self._known[key]


async def soak(
    server: Server,
    worlds: tuple[World, World],
    histories: Sequence[Sequence[str]],
    *,
    seconds: float,
    clients: int,
    pause: float,
) -> dict[str, Any]:
    """Load a server, change it, check it."""
    log = Log([State(worlds[0].fingerprint, frozenset(), 0.0)])
    reference = Reference(worlds, histories)
    end = time.perf_counter() + seconds

    async def change(path: str, body: Any, after: State, *, method: str = "POST") -> None:
        # From now on the server may be in the new state; from its answer on it must be.
        after.start = time.perf_counter()
        log.states.append(after)
        status, answer = await client.ask(method, path, body)
        log.states[-2].end = time.perf_counter()
        log.changes += 1
        if status != 200:
            log.failed.append(f"{path}: {status} {answer[:200]!r}")

    async def changes() -> None:
        turn = 0
        while time.perf_counter() < end:
            one = worlds[turn % 2]
            await change(
                "/swap", {"bundle": str(one.folder)}, State(one.fingerprint, frozenset(), 0)
            )
            added: frozenset[str] = frozenset()
            for name, vector in one.extra.items():
                await asyncio.sleep(pause)
                body = {"items": [{"id": name, "vector": vector}]}
                added = added | {name}
                await change("/items", body, State(one.fingerprint, added, 0))
            for name in one.extra:
                await asyncio.sleep(pause)
                added = added - {name}
                after = State(one.fingerprint, added, 0)
                await change(f"/items/{name}", None, after, method="DELETE")
            turn += 1

    async def watches() -> None:
        while time.perf_counter() < end:
            log.memory.append((time.perf_counter(), server.memory_mb))
            await asyncio.sleep(min(1.0, seconds / 20))
            _check(log, reference)

    client = Client(server.port)
    times_rate, *_ = await asyncio.gather(
        all_at_once(
            server.port, histories, clients=clients, seconds=seconds, k=K, seen=log.waiting.append
        ),
        changes(),
        watches(),
    )
    _check(log, reference)
    client.close()
    times, rate = times_rate
    memory = [value for _, value in log.memory]
    quarter = max(1, len(memory) // 4)
    return {
        "seconds": seconds,
        "clients": clients,
        "answers": log.answers,
        "answers_a_second": round(rate, 1),
        "changes": log.changes,
        "errors": len(log.failed),
        "wrong_answers": len(log.wrong),
        "first_faults": [*log.failed[:3], *log.wrong[:3]],
        **percentiles(times),
        "memory_mb": {
            "second_quarter": round(statistics.median(memory[quarter : 2 * quarter] or memory), 1),
            "last_quarter": round(statistics.median(memory[-quarter:]), 1),
            "largest": round(max(memory), 1),
            "over_time": [round(value, 1) for value in memory[:: max(1, len(memory) // 60)]],
        },
    }


def _check(log: Log, reference: Reference) -> None:
    """Check what has been answered since the last time."""
    seen, log.waiting[:] = list(log.waiting), []
    for one in seen:
        log.answers += 1
        if one.status != 200:
            log.failed.append(f"/recommend: {one.status} {one.body[:200]!r}")
            continue
        answer = json.loads(one.body)
        ids = [item["id"] for item in answer["items"]]
        scores = [item["score"] for item in answer["items"]]
        fit = (
            state
            for state in reversed(log.states)
            if state.fingerprint == answer["fingerprint"]
            and state.start <= one.answered
            and state.end >= one.asked
        )
        if not any(reference.agrees(state, one.place, ids, scores) for state in fit):
            log.wrong.append(f"history {one.place}: {one.body[:300]!r}")


def check_the_check(
    ranker: Ranker, reference: Reference, histories: Sequence[Sequence[str]]
) -> None:
    """Show that the reference agrees with a right answer and not with a wrong one."""
    state = State(ranker.fingerprint, frozenset(), 0.0)
    found = ranker.recommend([list(histories[0])], K)
    ids, scores = found.ids[0], found.scores[0]
    assert reference.agrees(state, 0, ids, scores)
    assert not reference.agrees(state, 0, ids[::-1], scores)
    worse = ranker.recommend([list(histories[0])], K + 5).ids[0][5:]
    assert not reference.agrees(state, 0, worse, scores)
