"""`POST /v1/chat/completions`: one question to the node, told to the client in OpenAI's words.

Rule 1: the query lives no longer than its client; whoever hangs up leaves the `ask` block.
Rule 2: the status line waits for the first update, so that "nobody can answer" is a status and not a broken stream.
"""

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from p2pagent.api import faults
from p2pagent.api.chat_request import ChatRequest, parse
from p2pagent.api.chat_response import Shapes, unanswered
from p2pagent.api.faults import ApiError
from p2pagent.api.node import Node
from p2pagent.errors import LocalError
from p2pagent.peer.updates import Answered, Restarted, Text, Unanswered, Update

_ASKS_MAX = 256
"""Questions under way at a time; a program that asks more is told to come back."""


class ChatCompletions:
    """The endpoint. An ASGI application of its own, for it has to hear the client hang up while it answers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ApiError: it cannot be answered; nothing has been sent then.
        """
        request = parse(await Request(scope, receive).body())
        if self._running >= _ASKS_MAX:
            raise ApiError(429, "too_many_questions", f"{_ASKS_MAX} questions are under way already")
        fault = None
        self._running += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
                fault = await self._answer(request, scope, receive, send)
                nursery.cancel_scope.cancel()
        finally:
            self._running -= 1
        if fault is not None:
            raise fault

    async def _answer(self, request: ChatRequest, scope: Scope, receive: Receive, send: Send) -> ApiError | None:
        """Answer; a fault is returned, so that it leaves the nursery as itself and not in an exception group."""
        shapes = Shapes(request)
        headers = {"x-request-id": shapes.ident}
        try:
            policy = request.policy(self._node)
            async with self._node.ask(request.turns, request.sampling, policy, request.expect) as updates:
                if request.stream:
                    await _stream(updates, shapes, headers, send)
                else:
                    content = msgspec.json.encode(shapes.completion(await _whole(updates)))
                    await Response(content, 200, headers, "application/json")(scope, receive, send)
        except LocalError as error:
            return faults.of_local_error(error)
        except ApiError as fault:
            return fault
        return None


async def _whole(updates: trio.MemoryReceiveChannel[Update]) -> Answered:
    while True:
        match await next_update(updates):
            case Answered() as answered:
                return answered
            case Unanswered() as update:
                raise unanswered(update)
            case Text() | Restarted():
                pass


async def _stream(
    updates: trio.MemoryReceiveChannel[Update], shapes: Shapes, headers: dict[str, str], send: Send
) -> None:
    async def say(data: bytes) -> None:
        await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

    update = await next_update(updates)
    if isinstance(update, Unanswered):
        raise unanswered(update)
    opening = Response(headers=headers | {"cache-control": "no-cache"}, media_type="text/event-stream")
    del opening.headers["content-length"]
    await send({"type": "http.response.start", "status": 200, "headers": opening.raw_headers})
    await say(msgspec.json.encode(shapes.opening()))
    while True:
        match update:
            case Text(text):
                await say(msgspec.json.encode(shapes.piece(text)))
            case Restarted():
                await say(msgspec.json.encode(shapes.restarted(update)))
            case Answered():
                for chunk in shapes.closing(update):
                    await say(msgspec.json.encode(chunk))
                break
            case Unanswered():
                await say(msgspec.json.encode(unanswered(update).body))
                break
        update = await next_update(updates, partial=True)
    await say(b"[DONE]")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def next_update(updates: trio.MemoryReceiveChannel[Update], *, partial: bool = False) -> Update:
    """The next update; where the daemon has given up, an `Unanswered` that says so."""
    try:
        return await updates.receive()
    except trio.EndOfChannel:
        return Unanswered("the daemon stopped working on this question", partial, ())


async def cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel `scope` once the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
