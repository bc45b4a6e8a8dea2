"""Routes that ask: /recommend, /similar and what the page reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query

from linkedout_lightning.errors import ConfigError, UnknownItemError
from linkedout_lightning.serving.ranker import Ranker
from linkedout_lightning.serving.server import schemas
from linkedout_lightning.serving.server.clips import Clips
from linkedout_lightning.serving.server.config import ServeConfig
from linkedout_lightning.serving.server.deadline import in_time
from linkedout_lightning.serving.server.listing import Listing
from linkedout_lightning.serving.server.models import Asked, Found, Kind, Models
from linkedout_lightning.serving.server.problems import RefusedError, responses


def asking(models: Models, clips: Clips, config: ServeConfig) -> APIRouter:
    """The routes.

    Args:
        models: Who answers.
        clips: The items' clips.
        config: The limits.
    """
    router = APIRouter(tags=["ask"])
    listing = Listing()

    @router.post("/recommend", responses=responses(400, 404, 408, 413, 415, 422, 503))
    async def recommend(request: schemas.RecommendRequest) -> schemas.RecommendAnswer:
        """The best items for a user, given what the user had."""
        name, ranker = models.named(request.model)
        _check_k(request.k, config)
        _check_length("history", request.history, config.max_history)
        _check_length("deny", request.deny, config.max_list)
        _check_length("candidates", request.candidates or (), config.max_list)
        popular = request.if_unknown == "popular"
        if not request.history and not popular:
            raise RefusedError(
                422,
                "`history` is empty; give at least one item, or set `if_unknown` to 'popular' to "
                "get the most popular items",
            )
        # As tuples in one order, equal lists of two requests are equal kinds.
        kind = Kind(
            name,
            request.exclude_seen,
            None if request.candidates is None else tuple(sorted(set(request.candidates))),
            tuple(sorted(set(request.deny))),
        )
        asked = Asked(request.history, request.k)
        found: Found = await in_time(models.recommend(kind, asked), config.request_timeout)
        if found.fallback and not popular:
            error = UnknownItemError(found.unknown, f"the model {name!r}")
            raise RefusedError(
                404, f"{error}; it knows no item of `history` (`if_unknown`: 'popular' helps)"
            )
        return schemas.RecommendAnswer(
            model=name,
            fingerprint=found.fingerprint,
            items=_scored(ranker, found.ids, found.scores, columns=request.columns),
            unknown=found.unknown,
            fallback=found.fallback,
        )

    @router.post("/similar", responses=responses(400, 404, 408, 413, 415, 422, 503))
    async def similar(request: schemas.SimilarRequest) -> schemas.SimilarAnswer:
        """The items most like one item, by all layers or by one."""
        name, ranker = models.named(request.model)
        _check_k(request.k, config)
        found = await in_time(
            models.read(lambda: ranker.similar([request.item], request.k, layer=request.layer)),
            config.request_timeout,
        )
        return schemas.SimilarAnswer(
            model=name,
            fingerprint=found.fingerprint,
            items=_scored(ranker, found.ids[0], found.scores[0], columns=request.columns),
        )

    @router.get("/models")
    async def list_models() -> list[schemas.ModelAnswer]:
        """The models that this server answers with, the default first."""
        return [
            schemas.ModelAnswer(name=name, **models.named(name)[1].info()) for name in models.names
        ]

    @router.get("/items", responses=responses(404, 422, 503))
    async def list_items(
        q: Annotated[str, Query(max_length=200, description="Part of an id or a title.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        model: schemas.Model = None,
    ) -> schemas.ItemsAnswer:
        """Items by a part of their id or title, in the catalogue's order."""
        name, ranker = models.named(model)
        total, rows = await in_time(
            models.read(lambda: listing.find(name, ranker, q, limit=limit, offset=offset)),
            config.request_timeout,
        )
        items = [
            schemas.ListedItem(id=item, title=title, clip=clips.clip(item)) for item, title in rows
        ]
        return schemas.ItemsAnswer(model=name, total=total, items=items)

    @router.get("/items/{item_id:path}", responses=responses(404, 422))
    async def get_item(item_id: str, model: schemas.Model = None) -> schemas.ItemAnswer:
        """What is known of an item: its texts, its clip and the weights of its layers."""
        name, ranker = models.named(model)
        return schemas.ItemAnswer(
            model=name,
            id=item_id,
            columns=ranker.columns(item_id),
            gates=ranker.gates(item_id),
            clip=clips.clip(item_id),
        )

    return router


def _scored(
    ranker: Ranker, ids: Sequence[str], scores: Sequence[float], *, columns: bool
) -> list[schemas.Scored]:
    def texts(item: str) -> dict[str, str] | None:
        try:
            return ranker.columns(item) if columns else None
        except UnknownItemError:  # it was removed a moment ago
            return None

    pairs = zip(ids, scores, strict=True)
    return [schemas.Scored(id=item, score=score, columns=texts(item)) for item, score in pairs]


def _check_k(k: int, config: ServeConfig) -> None:
    if k > config.max_k:
        raise ConfigError(f"`k` is {k}; this server gives {config.max_k} at most")


def _check_length(name: str, values: Sequence[str], most: int) -> None:
    if len(values) > most:
        raise ConfigError(f"`{name}` holds {len(values)} items; this server takes {most} at most")
