"""`POST /p2pagent/v1/batch`: many questions of the owner, cleared together, told as one stream of JSON lines.

Rule 1: no query lives longer than its client; whoever hangs up leaves the block in which all were asked.
Rule 2: each question ends in exactly one line of type `answered` or `unanswered`.
"""

from typing import Annotated

import msgspec
import trio
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from p2pagent.api import faults
from p2pagent.api.chat import cancel_when_gone, next_update
from p2pagent.api.chat_request import NETWORK_MODEL, Worth, aimed, check_model
from p2pagent.api.faults import ApiError
from p2pagent.api.node import Node, Question
from p2pagent.api.tree import from_tree, to_tree
from p2pagent.errors import LocalError
from p2pagent.peer.messages import TEXT_CHARACTERS_MAX, TOKENS_MAX
from p2pagent.peer.updates import Answered, Restarted, Text, Unanswered, Update
from p2pagent.types import Sampling

PATH = "/p2pagent/v1/batch"
QUESTIONS_MAX = 256
"""Questions in a batch, and in all batches under way."""


_Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)]


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asks, what each answer is worth, what each has to be, to be rated at once, and who may answer.

    `expect` is empty, or has a text for every question, itself empty where nothing is said of its answer.
    """

    questions: Annotated[tuple[_Text, ...], Meta(min_length=1, max_length=QUESTIONS_MAX)]
    max_tokens: Annotated[int, Meta(ge=1, le=TOKENS_MAX)] | None = None
    worth: Worth = Worth()
    expect: tuple[_Text, ...] = ()
    model: str = NETWORK_MODEL

    def __post_init__(self) -> None:
        """Raises ValueError where `expect` does not go with `questions`."""
        if self.expect and len(self.expect) != len(self.questions):
            raise ValueError(f"{len(self.questions)} questions have {len(self.expect)} expected answers")


class Batches:
    """The endpoint. An ASGI application of its own, for it has to hear the client hang up while it answers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ApiError: it cannot be answered; nothing has been sent then.
        """
        try:
            request = msgspec.json.decode(await Request(scope, receive).body(), type=BatchRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(400, "invalid_request", f"the body is no batch: {error}") from error
        check_model(request.model)
        if self._running + len(request.questions) > QUESTIONS_MAX:
            raise ApiError(429, "too_many_questions", f"of all batches {QUESTIONS_MAX} questions may be under way")
        fault = None
        self._running += len(request.questions)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
                fault = await self._answer(request, send)
                nursery.cancel_scope.cancel()
        finally:
            self._running -= len(request.questions)
        if fault is not None:
            raise fault

    async def _answer(self, request: BatchRequest, send: Send) -> ApiError | None:
        """Answer; a fault is returned, so that it leaves the nursery as itself and not in an exception group."""
        sampling = Sampling() if request.max_tokens is None else Sampling(max_tokens=request.max_tokens)
        expect = request.expect or ("",) * len(request.questions)
        questions = tuple(map(Question, request.questions, expect))
        try:
            policy = aimed(request.worth.policy(self._node.preferences, raw=False), request.model, self._node)
            async with self._node.ask_all(questions, sampling, policy) as channels:
                await _stream(channels, send)
        except LocalError as error:
            return faults.of_local_error(error)
        return None


def from_line(line: str) -> tuple[int, Update]:
    """The place of a question and what is said of it, as a line of the stream tells."""
    tree = msgspec.json.decode(line)
    index: int = tree.pop("index")
    return index, from_tree(tree, Text | Restarted | Answered | Unanswered)  # type: ignore[arg-type]


def _line(index: int, update: Update) -> bytes:
    tree = to_tree(update)
    assert isinstance(tree, dict)
    return msgspec.json.encode({"index": index} | tree) + b"\n"


async def _stream(channels: tuple[trio.MemoryReceiveChannel[Update], ...], send: Send) -> None:
    opening = Response(headers={"cache-control": "no-cache"}, media_type="application/x-ndjson")
    del opening.headers["content-length"]
    await send({"type": "http.response.start", "status": 200, "headers": opening.raw_headers})
    one_at_a_time = trio.Lock()

    async def tell(index: int, updates: trio.MemoryReceiveChannel[Update]) -> None:
        over = begun = False
        while not over:
            update = await next_update(updates, partial=begun)
            over, begun = isinstance(update, Answered | Unanswered), True
            async with one_at_a_time:
                await send({"type": "http.response.body", "body": _line(index, update), "more_body": True})

    async with trio.open_nursery() as nursery:
        for index, updates in enumerate(channels):
            nursery.start_soon(tell, index, updates)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
