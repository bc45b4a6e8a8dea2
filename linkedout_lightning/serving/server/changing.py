"""Routes that change something, all behind the token: adding, removing, swapping."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from torch import Tensor

from linkedout_lightning.errors import ConfigError, DataError
from linkedout_lightning.serving.ranker import Ranker
from linkedout_lightning.serving.server import schemas
from linkedout_lightning.serving.server.auth import Gate
from linkedout_lightning.serving.server.clips import inside
from linkedout_lightning.serving.server.config import ServeConfig
from linkedout_lightning.serving.server.deadline import in_time
from linkedout_lightning.serving.server.models import Models
from linkedout_lightning.serving.server.problems import RefusedError, responses
from linkedout_lightning.serving.server.telemetry import Telemetry

_LOG = logging.getLogger("linkedout.serve")


def changing(
    models: Models, gate: Gate, telemetry: Telemetry, *, config: ServeConfig, bundles: Path
) -> APIRouter:
    """The routes.

    Args:
        models: What is changed.
        gate: Who may.
        telemetry: Where changes are counted.
        config: Limits, and the folder of videos.
        bundles: Folder whose bundles may be swapped in.
    """

    async def allowed(request: Request) -> None:
        gate.check(request.scope)

    # `auto_error` off: it is for the document, and the gate says more of what is wrong.
    scheme = HTTPBearer(auto_error=False, description="The token of --token-file.")
    router = APIRouter(tags=["change"], dependencies=[Depends(scheme), Depends(allowed)])

    def changed(name: str, ranker: Ranker, kind: str, what: str) -> schemas.ChangedAnswer:
        telemetry.changes.labels(name, kind).inc()
        _LOG.info("%s: %s", name, what)
        return schemas.ChangedAnswer(model=name, fingerprint=ranker.fingerprint, items=len(ranker))

    @router.post("/items", responses=responses(400, 401, 403, 404, 408, 409, 413, 415, 422, 503))
    async def add_items(request: schemas.AddRequest) -> schemas.ChangedAnswer:
        """Add items, all or none; they are recommended from the moment of the answer on."""
        name, ranker = models.named(request.model)
        kinds = {item.kind for item in request.items}
        if len(kinds) > 1:
            raise RefusedError(
                422, f"items by {' and '.join(sorted(kinds))}; give them one kind a time"
            )
        if len(request.items) > config.max_added:
            raise ConfigError(
                f"`items` holds {len(request.items)}; this server adds {config.max_added} at a time"
            )
        known = [item.id for item in request.items if item.id in ranker]
        if known and not request.replace:
            raise RefusedError(
                409, f"{known[0]!r} is there already; set `replace` to give a new vector"
            )
        kind = kinds.pop()
        work: dict[str, Any] = {
            "columns": _columns(request.items),
            "replace": request.replace,
            "durable": request.durable,
        }
        ids = [item.id for item in request.items]
        if kind == "video":
            videos = [_video(item.video or "", config.videos) for item in request.items]
            await in_time(
                models.change(
                    lambda: ranker.add_videos(
                        ids, videos, model=config.model, device=config.device, **work
                    )
                ),
                config.video_timeout,
                changes=True,
            )
        else:
            await in_time(
                models.change(lambda: ranker.add_items(ids, **_tensors(request.items), **work)),
                config.request_timeout,
                changes=True,
            )
        return changed(name, ranker, "add", f"{len(ids)} items added by {kind}")

    @router.delete("/items/{item_id:path}", responses=responses(401, 403, 404, 408, 422, 503))
    async def remove_item(
        item_id: str, durable: bool = False, model: schemas.Model = None
    ) -> schemas.ChangedAnswer:
        """Remove an item; no answer that begins after this one holds it."""
        name, ranker = models.named(model)
        await in_time(
            models.change(lambda: ranker.remove_items([item_id], durable=durable)),
            config.request_timeout,
            changes=True,
        )
        return changed(name, ranker, "remove", f"{item_id!r} removed")

    @router.post("/swap", responses=responses(400, 401, 403, 404, 408, 413, 415, 422, 503))
    async def swap(request: schemas.SwapRequest) -> schemas.ChangedAnswer:
        """Answer from another bundle, from one request to the next."""
        name, ranker = models.named(request.model)
        path = None
        if request.bundle is not None:
            path = inside(bundles, request.bundle)
            if path is None:
                raise RefusedError(
                    422, f"`bundle` is {request.bundle!r}, which is no folder in that of bundles"
                )
        await in_time(models.change(lambda: ranker.swap(path)), config.video_timeout, changes=True)
        return changed(name, ranker, "swap", f"now answers from {ranker.bundle.path}")

    return router


def _columns(items: Sequence[schemas.NewItem]) -> dict[str, list[str | None]]:
    names = dict.fromkeys(name for item in items for name in item.columns)
    return {name: [item.columns.get(name) for item in items] for name in names}


def _tensors(items: Sequence[schemas.NewItem]) -> dict[str, Any]:
    """Arguments of :meth:`Ranker.add_items`."""
    if items[0].vector is not None:
        return {"vectors": _tensor("vector", [item.vector for item in items])}
    found = {"features": _tensor("features", [item.features for item in items])}
    if any(item.mask is not None for item in items):
        slots = found["features"].shape[2] if found["features"].dim() == 4 else 0
        masks = [item.mask if item.mask is not None else [True] * slots for item in items]
        found["mask"] = _tensor("mask", masks).bool()
    return found


def _tensor(name: str, values: Any) -> Tensor:
    try:
        return torch.tensor(values, dtype=torch.float32)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        raise DataError(
            f"`{name}` of the items are of different lengths, or hold numbers beyond float32"
        ) from None


def _video(named: str, folder: str | None) -> Path:
    if folder is None:
        raise RefusedError(403, "this server takes no videos; it was started without --videos")
    path = inside(Path(folder), named)
    if path is None or not path.is_file():
        raise RefusedError(422, f"`video` is {named!r}, which is no file in the folder of videos")
    return path
