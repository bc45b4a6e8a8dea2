"""The HTTP server over rankers: FastAPI on uvicorn, with a micro-batcher of its own.

LitServe was looked at first, as it has micro-batching built in. Its model lives in worker processes
behind a queue that only requests of one kind travel through, so an added item or another bundle
cannot be put in place for all workers at one instant, and it limits neither k nor slow clients nor
the requests in flight. Underneath it is FastAPI, too. Here the model is called in a thread of the
process that reads the requests: what would cross two process borders is a millisecond's work.
"""

from typing import Any

from linkedout_lightning.serving.server.command import serve
from linkedout_lightning.serving.server.config import ServeConfig

__all__ = ["ServeConfig", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    # The command's help needs no FastAPI.
    if name == "create_app":
        from linkedout_lightning.serving.server.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
