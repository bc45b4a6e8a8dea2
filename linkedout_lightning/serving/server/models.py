"""The server's models: a ranker by name, and how it is asked and changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from linkedout_lightning.serving.ranker import Ranker
from linkedout_lightning.serving.server.batching import MicroBatcher
from linkedout_lightning.serving.server.problems import RefusedError

Result = TypeVar("Result")


class Kind(NamedTuple):
    """What requests must have in common to share a pass of the model."""

    model: str
    exclude_seen: bool
    candidates: tuple[str, ...] | None
    deny: tuple[str, ...]


class Asked(NamedTuple):
    """What differs between them."""

    history: Sequence[str]
    k: int


@dataclass(frozen=True)
class Found:
    """The answer to one request.

    Args:
        ids: Item ids, the best first.
        scores: Their scores.
        unknown: Ids of the history that the model does not have.
        fallback: Whether none of the history was known.
        fingerprint: Of the bundle that answered.
    """

    ids: list[str]
    scores: list[float]
    unknown: list[str]
    fallback: bool
    fingerprint: str


class Models:
    """Rankers by name.

    Args:
        rankers: The first is the one that answers where none is named.
        batch: Most requests in one pass.
        observe: Told how many were answered in one pass.
    """

    def __init__(
        self, rankers: dict[str, Ranker], *, batch: int, observe: Callable[[int], object]
    ) -> None:
        self._rankers = rankers
        self._batcher: MicroBatcher[Kind, Asked, Found] = MicroBatcher(
            self._recommend, most=batch, observe=observe
        )
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="reads")
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="changes")

    @property
    def names(self) -> list[str]:
        """Their names, the default first."""
        return list(self._rankers)

    def named(self, name: str | None) -> tuple[str, Ranker]:
        """A model, and its name.

        Raises:
            RefusedError: There is none of that name.
        """
        if name is None:
            name = next(iter(self._rankers))
        if name not in self._rankers:
            raise RefusedError(
                404, f"there is no model {name!r}; give one of {', '.join(self.names)}"
            )
        return name, self._rankers[name]

    async def recommend(self, kind: Kind, asked: Asked) -> Found:
        """Ask a model, together with others that ask at this time."""
        return await self._batcher.ask(kind, asked)

    async def read(self, work: Callable[[], Result]) -> Result:
        """Do a longer piece of reading, one at a time, beside the answers."""
        return await asyncio.get_running_loop().run_in_executor(self._reads, work)

    async def change(self, work: Callable[[], Result]) -> Result:
        """Do a change, one at a time, beside the answers."""
        return await asyncio.get_running_loop().run_in_executor(self._changes, work)

    async def close(self) -> None:
        """Finish what was begun."""
        await self._batcher.close()
        self._reads.shutdown(wait=True)
        self._changes.shutdown(wait=True)

    def _recommend(self, kind: Kind, asked: Sequence[Asked]) -> list[Found]:
        found = self._rankers[kind.model].recommend(
            [one.history for one in asked],
            max(one.k for one in asked),
            exclude_seen=kind.exclude_seen,
            candidates=kind.candidates,
            deny=kind.deny,
        )
        return [
            Found(
                found.ids[row][: one.k],
                found.scores[row][: one.k],
                found.unknown[row],
                found.fallback[row],
                found.fingerprint,
            )
            for row, one in enumerate(asked)
        ]
