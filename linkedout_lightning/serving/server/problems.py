"""What a client is told when a request is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from linkedout_lightning.errors import LinkedOutError, UnknownItemError
from linkedout_lightning.serving.server.schemas import Problem

_LOG = logging.getLogger("linkedout.serve")
_MOST_FAULTS = 8
_LONGEST = 400

NOT_JSON = "the body is no JSON"


class RefusedError(Exception):
    """A request that is refused.

    Args:
        status: Of the answer.
        detail: One sentence.
        headers: Further headers.
    """

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] = {}) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for the OpenAPI document."""
    return {status: {"model": Problem, "description": _MEANING[status]} for status in statuses}


_MEANING = {
    400: "The body is no JSON.",
    401: "The token is missing or wrong.",
    403: "Not allowed here.",
    404: "No such item or model.",
    408: "The request came too slowly.",
    409: "The item is there already.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "A value cannot be used.",
    503: "Too much to do; come again.",
}


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] = {},
) -> Response:
    """An answer that says what is wrong, in ASCII so that any text can stand in it."""
    body = json.dumps({"detail": _short(detail), "errors": list(errors)})
    return Response(body, status, headers=dict(headers), media_type="application/json")


def install(app: FastAPI) -> None:
    """Have an application answer its own errors with reasons."""
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(LinkedOutError, _linkedout)
    app.add_exception_handler(Exception, _unforeseen)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return problem(error.status, error.detail, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(fault["type"] == "json_invalid" for fault in found):
        fault = found[0]
        reason = fault.get("ctx", {}).get("error", "")
        return problem(400, f"{NOT_JSON}: {reason} at character {fault['loc'][-1]}")
    kind = request.headers.get("content-type", "")
    if any(fault["loc"] == ("body",) for fault in found):
        if any(fault["type"] == "missing" for fault in found):
            return problem(400, "the body is empty; send a JSON object")
        if "json" not in kind.lower():
            return problem(
                415,
                f"the body is declared as {kind or 'nothing'!r}; send JSON with the header "
                "'content-type: application/json'",
            )
    faults = [{"where": _place(f["loc"]), "reason": str(f["msg"])} for f in found[:_MOST_FAULTS]]
    detail = "; ".join(f"{fault['where']}: {fault['reason']}" for fault in faults)
    if len(found) > _MOST_FAULTS:
        detail += f"; and {len(found) - _MOST_FAULTS} more"
    return problem(422, detail, errors=faults)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path!r}; /docs lists what is"
    elif error.status_code == 405:
        detail = f"{request.method} is not taken at {request.url.path!r}; /docs lists what is"
    elif error.status_code == 400:
        detail = f"{NOT_JSON} that can be read"
    return problem(error.status_code, detail, headers=error.headers or {})


async def _linkedout(_: Request, error: Exception) -> Response:
    # Of UnknownItemError, a KeyError, `str` would be quoted.
    detail = str(error.args[0]) if error.args else str(error)
    return problem(404 if isinstance(error, UnknownItemError) else 422, detail)


async def _unforeseen(_: Request, error: Exception) -> Response:
    _LOG.error("a request failed", exc_info=error)
    return problem(500, "the server failed at this request; its log says where")


def _place(loc: Sequence[Any]) -> str:
    return ".".join(str(part) for part in loc) or "request"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
