"""What stands before every endpoint: who may ask, under which name, and how much they may send.

A web page can make a browser send requests to 127.0.0.1 under a name of its own (DNS rebinding): hence the check of the
name. It cannot read our token file: hence the token. The body is read whole before the endpoint sees the request, for
hypercorn never lets go of a connection whose request nobody has read to its end.
"""

import hmac

import trio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from trio_typing import TaskStatus

from p2pagent.api.faults import ApiError

BODY_BYTES_MAX = 1 << 20

_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_HOST_NAMES = frozenset({"127.0.0.1", "localhost"})
_DISCARDED_BYTES_MAX = 16 << 20
"""Read of a refused body before the refusal is sent; not all systems deliver it to a client that still writes."""


class Guard:
    """ASGI middleware that lets only the owner's requests through, each with its body complete."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._authorization = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        fault = self._refusal(scope)
        more = True
        while more and fault is None:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > BODY_BYTES_MAX:
                fault = ApiError(
                    413, "request_too_large", f"a request may have {BODY_BYTES_MAX} bytes", hint="shorten it"
                )
        if fault is None:
            await self._app(scope, _replay(bytes(body), receive), send)
            return
        async with trio.open_nursery() as nursery:
            if more:
                await nursery.start(_discard, receive)
            await fault.response(scope, receive, send)
            nursery.cancel_scope.cancel()

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        name = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        if name.lower() not in _HOST_NAMES:
            return ApiError(421, "misdirected_request", "this API is 127.0.0.1 or localhost, nothing else")
        if scope["path"] in _OPEN_PATHS:
            return None
        given = headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._authorization):
            return ApiError(
                401, "invalid_api_key", "the bearer token is not this device's: see the file `token` in its home"
            )
        return None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read already, and then what comes after it: the client hanging up."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _discard(receive: Receive, *, task_status: TaskStatus[None]) -> None:
    """Read on till the client is gone; started once its body has ended, or enough of it has come."""
    discarded_bytes = 0
    told = False
    while True:
        message = await receive()
        discarded_bytes += len(message.get("body", b""))
        if not told and (not message.get("more_body", False) or discarded_bytes > _DISCARDED_BYTES_MAX):
            task_status.started()
            told = True
        if message["type"] == "http.disconnect":
            return
