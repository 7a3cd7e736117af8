"""The HTTP API on 127.0.0.1: OpenAI's protocol for every program, and our own views for the command line."""

import errno
import re
import socket
from collections.abc import Awaitable
from functools import partial
from typing import TypeVar

import hypercorn.trio
import msgspec
import trio
from hypercorn.config import Config
from hypercorn.typing import Framework
from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from trio_typing import TaskStatus

from p2pagent.api.batch import PATH, Batches
from p2pagent.api.chat import ChatCompletions
from p2pagent.api.chat_request import MODELS
from p2pagent.api.faults import RETRY_AFTER_S, ApiError, of_local_error
from p2pagent.api.guard import Guard
from p2pagent.api.node import RECEIPT_PREFIX, DisputeRequest, Node, RateRequest, RatingView, ReceiptView
from p2pagent.api.tree import to_tree
from p2pagent.errors import Exit, LocalError

_BACKLOG = 100
_STALL_MAX_MS = 10_000
"""How long a client may take nothing of what it is sent. hypercorn shields its writes from cancellation: without an end
set by the kernel, a program that has stopped reading would keep the daemon from stopping."""
_RECEIPTS_DEFAULT = 100
_RECEIPTS_MAX = 1000

_T = TypeVar("_T", bound=Struct)


async def serve(node: Node, port: int, token: str, *, task_status: TaskStatus[int]) -> None:
    """Serve `node` to the programs of this device until cancelled; started with the port, also where `port` is 0.

    Raises:
        LocalError: the port is taken.
    """
    listener = _listener(port)
    actual_port: int = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = _BACKLOG
    config.loglevel = "WARNING"
    config.include_server_header = False
    application: Framework = application_of(node, token)  # type: ignore[assignment]  # two libraries' words for ASGI
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(hypercorn.trio.serve, application, config))
        task_status.started(actual_port)


def application_of(node: Node, token: str) -> Starlette:
    """The ASGI application that `serve` serves."""
    return Starlette(
        routes=[
            Route("/healthz", _healthz, methods=["GET"]),
            Route("/readyz", partial(_readyz, node), methods=["GET"]),
            Route("/v1/models", _models, methods=["GET"]),
            Route("/v1/chat/completions", ChatCompletions(node), methods=["POST"]),
            Route(PATH, Batches(node), methods=["POST"]),
            Route("/p2pagent/v1/status", partial(_status, node), methods=["GET"]),
            Route("/p2pagent/v1/peers", partial(_peers, node), methods=["GET"]),
            Route("/p2pagent/v1/ledger", partial(_ledger, node), methods=["GET"]),
            Route("/p2pagent/v1/ledger/{receipt}/dispute", partial(_dispute, node), methods=["POST"]),
            Route("/p2pagent/v1/ledger/{receipt}/refund", partial(_refund, node), methods=["POST"]),
            Route("/p2pagent/v1/ledger/{receipt}/rate", partial(_rate, node), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={ApiError: _on_fault, HTTPException: _on_http_exception, Exception: _on_bug},
    )


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # The port of a daemon that was just stopped is free again at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALL_MAX_MS)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        hint = "stop what uses it, or choose another: `p2pagent up --api-port N`, 0 for any"
        raise LocalError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}", hint, Exit.PORT_TAKEN) from error
    return listener


async def _healthz(_request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _readyz(node: Node, _request: Request) -> Response:
    status = node.status()
    if status.neighbours or any(agent.ready for agent in status.agents):
        return PlainTextResponse("ready\n")
    return PlainTextResponse("no agent is ready and no neighbour known\n", 503, {"retry-after": str(RETRY_AFTER_S)})


async def _models(_request: Request) -> Response:
    models = [{"id": model, "object": "model", "created": 0, "owned_by": "p2pagent"} for model in MODELS]
    return _json({"object": "list", "data": models})


async def _status(node: Node, _request: Request) -> Response:
    return _json(node.status())


async def _peers(node: Node, _request: Request) -> Response:
    return _json(await node.peers())


async def _ledger(node: Node, request: Request) -> Response:
    limit = request.query_params.get("limit", str(_RECEIPTS_DEFAULT))
    if not limit.isdecimal() or not 1 <= int(limit) <= _RECEIPTS_MAX:
        raise ApiError(400, "invalid_request", f"limit is a number from 1 to {_RECEIPTS_MAX}", param="limit")
    return _json(await node.ledger(int(limit)))


async def _dispute(node: Node, request: Request) -> Response:
    ours = _decoded(await request.body(), DisputeRequest, "dispute", "reason")
    return await _on_receipt(node.dispute(_receipt_in(request), ours.reason))


async def _refund(node: Node, request: Request) -> Response:
    return await _on_receipt(node.refund(_receipt_in(request)))


async def _rate(node: Node, request: Request) -> Response:
    ours = _decoded(await request.body(), RateRequest, "rating", "rating")
    return await _on_receipt(node.rate(_receipt_in(request), ours.rating))


def _decoded(body: bytes, kind: type[_T], what: str, param: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_request", f"the body is no {what}: {error}", param=param) from error


def _receipt_in(request: Request) -> str:
    prefix: str = request.path_params["receipt"]
    if re.fullmatch(RECEIPT_PREFIX, prefix) is None:
        raise ApiError(400, "invalid_request", "a receipt is named by 6 to 64 hex digits", param="receipt")
    return prefix


async def _on_receipt(done: Awaitable[ReceiptView | RatingView]) -> Response:
    try:
        return _json(await done)
    except LocalError as error:
        raise of_local_error(error) from error


def _json(value: Struct | tuple[Struct, ...] | dict[str, object]) -> Response:
    return Response(msgspec.json.encode(to_tree(value)), media_type="application/json")


async def _on_fault(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return ApiError(error.status_code, code, error.detail).response


async def _on_bug(_request: Request, _error: Exception) -> Response:
    return ApiError(500, "internal_error", "a bug in p2pagent; its log has the details").response
