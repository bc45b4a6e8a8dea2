"""Numbers for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Telemetry:
    """What is counted of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "linkedout_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "linkedout_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "linkedout_in_flight", "Requests that are being answered.", registry=self.registry
        )
        self.batch = Histogram(
            "linkedout_batch_size",
            "Requests answered in one pass of the model.",
            buckets=_BATCHES,
            registry=self.registry,
        )
        self.changes = Counter(
            "linkedout_changes",
            "Changes of the catalogue.",
            ("model", "kind"),
            registry=self.registry,
        )

    def watch(self, name: str, description: str, values: Mapping[str, Callable[[], float]]) -> None:
        """A gauge that is read when it is asked for.

        Args:
            name: Of the gauge.
            description: One sentence.
            values: By model.
        """
        gauge = Gauge(name, description, ("model",), registry=self.registry)
        for model, value in values.items():
            gauge.labels(model).set_function(value)


class Measured:
    """Counts and times what passes.

    Args:
        app: What is behind.
        telemetry: Where it is counted.
    """

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "none"  # the client went before there was an answer

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                took = f"total;dur={1e3 * (time.perf_counter() - start):.2f}".encode()
                message["headers"] = [*message.get("headers", ()), (b"server-timing", took)]
            await send(message)

        telemetry, start = self._telemetry, time.perf_counter()
        telemetry.in_flight.inc()
        try:
            await self._app(scope, receive, noted)
        finally:
            telemetry.in_flight.dec()
            route = _route(scope)
            telemetry.requests.labels(route, _method(scope), status).inc()
            telemetry.seconds.labels(route).observe(time.perf_counter() - start)


def _route(scope: Scope) -> str:
    """The route's pattern: paths are the clients' and without number."""
    return getattr(scope.get("route"), "path", "other")


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
    return scope["method"] if scope["method"] in known else "other"
