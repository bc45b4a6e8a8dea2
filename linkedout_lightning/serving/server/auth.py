"""Who may change things: whoever has the token."""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import Scope

from linkedout_lightning.serving.server.problems import RefusedError


class Gate:
    """Lets requests with the right ``Authorization: Bearer`` through.

    Args:
        token: The token; None: nobody may change anything.
    """

    def __init__(self, token: str | None) -> None:
        # Digests are of one length, so that not even the token's length shows in the time taken.
        self._digest = None if token is None else _digest(token.encode())

    def admits(self, scope: Scope) -> bool:
        """Whether a request carries the token."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if self._digest is None or len(given) != 1:
            return False
        kind, _, token = given[0].partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(_digest(token), self._digest)

    def check(self, scope: Scope) -> None:
        """Refuse a request that does not carry the token.

        Raises:
            RefusedError: 403 where the server has no token, 401 where the request's is not that.
        """
        if self._digest is None:
            raise RefusedError(
                403,
                "this server changes nothing: it was started without a token (--token-file, or "
                "LINKEDOUT_TOKEN in its environment)",
            )
        if not self.admits(scope):
            raise RefusedError(
                401,
                "the token is missing or wrong; send 'authorization: Bearer TOKEN'",
                headers={"www-authenticate": "Bearer"},
            )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
