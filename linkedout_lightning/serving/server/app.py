"""The application: routes, limits and numbers put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Scope

from linkedout_lightning.serving.ranker import Ranker
from linkedout_lightning.serving.server import problems, schemas
from linkedout_lightning.serving.server.asking import asking
from linkedout_lightning.serving.server.auth import Gate
from linkedout_lightning.serving.server.changing import changing
from linkedout_lightning.serving.server.clips import Clips
from linkedout_lightning.serving.server.config import ServeConfig
from linkedout_lightning.serving.server.limits import BodyLimit, ConcurrencyLimit
from linkedout_lightning.serving.server.models import Models
from linkedout_lightning.serving.server.telemetry import Measured, Telemetry

_PAGES = Path(__file__).parent / "pages"
_FREE = ("/healthz", "/metrics", "/media/")
_HELD = 256 * 1_000_000
# The pages load nothing from anywhere else, and nothing of them may be put into another page.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)


def create_app(
    rankers: dict[str, Ranker], config: ServeConfig, *, token: str | None = None
) -> FastAPI:
    """An ASGI application over rankers.

    Args:
        rankers: By name; the first answers where a request names none.
        config: Limits and folders; which bundles and which port is not read here.
        token: Without which nothing can be changed; None: nothing can be changed at all.
    """
    from linkedout_lightning import __version__

    telemetry, clips, gate = Telemetry(), Clips(config.media), Gate(token)
    models = Models(rankers, batch=config.batch, observe=telemetry.batch.observe)
    first = next(iter(rankers.values()))
    bundles = Path(config.bundles) if config.bundles is not None else first.bundle.path.parent
    telemetry.watch(
        "linkedout_items",
        "Items that can be recommended.",
        {n: r.__len__ for n, r in rankers.items()},
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await models.close()

    app = FastAPI(
        title="linkedout serve",
        version=__version__,
        description="Recommendations from precomputed item vectors.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.include_router(asking(models, clips, config))
    app.include_router(changing(models, gate, telemetry, config=config, bundles=bundles))

    @app.get("/healthz", tags=["operate"])
    async def healthz() -> schemas.HealthAnswer:
        """That the server answers, and with how many items."""
        return schemas.HealthAnswer(
            status="ok", models={name: len(models.named(name)[1]) for name in models.names}
        )

    @app.get("/metrics", tags=["operate"], response_class=Response)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(generate_latest(telemetry.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get(
        "/media/{item_id:path}",
        tags=["ask"],
        response_class=Response,
        responses=problems.responses(404),
    )
    async def media(item_id: str) -> Response:
        """An item's clip; ranges of it, too."""
        found = clips.find(item_id)
        if found is None:
            raise problems.RefusedError(404, f"there is no clip of {item_id!r}")
        path, kind = found
        headers = {"cache-control": "max-age=60", "x-content-type-options": "nosniff"}
        return FileResponse(path, media_type=kind, headers=headers)

    for route, name in (("/", "index.html"), ("/docs", "docs.html")):
        app.add_api_route(route, _page(name), include_in_schema=False)

    most, with_token = _bytes(config.max_body_mb), _bytes(config.max_items_body_mb)

    def limit(scope: Scope) -> int:
        return with_token if scope["path"] == "/items" and gate.admits(scope) else most

    # The last that is added is the first that a request meets.
    app.add_middleware(ConcurrencyLimit, most=config.concurrency, free=_FREE)
    app.add_middleware(
        BodyLimit, limit=limit, seconds=config.receive_timeout, together=max(_HELD, with_token)
    )
    app.add_middleware(Measured, telemetry=telemetry)
    return app


def _page(name: str) -> Callable[[], Awaitable[HTMLResponse]]:
    content = (_PAGES / name).read_text(encoding="utf-8")

    async def page() -> HTMLResponse:
        headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
        return HTMLResponse(content, headers=headers)

    return page


def _bytes(mb: float) -> int:
    return int(mb * 1_000_000)
