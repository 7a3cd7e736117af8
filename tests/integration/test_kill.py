"""Whoever was chosen to answer is killed in the middle of its answer, time and again: nothing is lost or paid twice.

Real daemons, whose engines all stand behind one endpoint of this process. It runs the shipped experts and keeps the
pace that the test sets, so that a daemon dies exactly between the first piece of its answer and the second.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from itertools import chain, cycle
from pathlib import Path

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from p2pagent import experts
from p2pagent.api.chat_request import Extension
from p2pagent.api.client import Client
from p2pagent.config import Agent, Engine
from p2pagent.engine.base import Delta, GenerateRequest
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.experts.families import Family, Question, check, questions
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import audit
from p2pagent.peer.events import Answered, Restarted, Text, Update
from p2pagent.testnet.fleet import POLL_S, Daemon, fleet
from p2pagent.types import ChatMessage, Sampling

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FAMILIES: tuple[Family, ...] = ("reverse", "add", "count", "minutes")
DAEMONS = 2 * len(FAMILIES)
ROUNDS = 20

CALIBRATION_QUESTIONS = 8
"""Per family: enough for each prototype near its questions to see one, and for a start of seconds."""

ANSWER_TOKENS = 32
LIMIT_S = 400
ROUND_LIMIT_S = 60


class Endpoint:
    """The shipped experts behind OpenAI's protocol. The first answer to `stall_at` stops for good after its first piece.

    An answer is computed once and then kept, for those that host the same expert ask it the same calibration questions.
    Who asks is told by its API key.
    """

    def __init__(self) -> None:
        self.url = ""
        self.stall_at = ""
        self.stalled = ""
        self._experts = {family: EmbeddedEngine(experts.path(family)) for family in FAMILIES}
        self._answers: dict[tuple[str, str, int], list[bytes]] = {}

    async def run(self, *, task_status: "trio.TaskStatus[None]") -> None:
        chat = Route("/v1/chat/completions", self._chat, methods=["POST"])
        app = Starlette(routes=[Route("/v1/models", self._models), chat])
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.graceful_timeout = 0
        async with trio.open_nursery() as nursery:
            for expert in self._experts.values():
                await nursery.start(expert.run)
            (address,) = await nursery.start(partial(serve, app, config, mode="asgi"))
            self.url = f"{address}/v1"
            task_status.started()

    async def known(self, family: Family, number: int) -> list[Question]:
        """Held-out questions that the family's expert answers rightly: what is tested here is not the expert."""
        found = []
        for question in questions(family, "test", 2 * number, seed=0):
            pieces, _ = await self._answer(family, question.prompt, ANSWER_TOKENS)
            if check(question, "".join(pieces)):
                found.append(question)
        return found[:number]

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"data": [{"id": family} for family in FAMILIES]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        asked = (body["model"], prompt, body["max_tokens"])
        if asked not in self._answers:
            pieces, end = await self._answer(*asked)
            events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
            self._answers[asked] = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in [*events, end]]
        stalls = prompt == self.stall_at
        if stalls:
            self.stall_at = ""
            self.stalled = request.headers["authorization"].removeprefix("Bearer ")
        return StreamingResponse(self._stream(self._answers[asked], stalls=stalls), media_type="text/event-stream")

    async def _stream(self, events: list[bytes], *, stalls: bool) -> AsyncIterator[bytes]:
        for event in events:
            yield event
            if stalls:
                await trio.sleep_forever()

    async def _answer(self, family: str, prompt: str, max_tokens: int) -> tuple[list[str], dict[str, object]]:
        pieces: list[str] = []

        def emit(delta: Delta) -> None:
            if delta.text:
                pieces.append(delta.text)

        request = GenerateRequest((ChatMessage("user", prompt),), Sampling(max_tokens=max_tokens))
        done = await self._experts[family].generate(request, emit)
        usage = {"prompt_tokens": done.usage.prompt_tokens, "completion_tokens": done.usage.output_tokens}
        return pieces, {"choices": [{"delta": {}, "finish_reason": done.finish_reason}], "usage": usage}


@pytest.fixture
async def endpoint(nursery: trio.Nursery) -> Endpoint:
    endpoint = Endpoint()
    await nursery.start(endpoint.run)
    return endpoint


def agents(endpoint: Endpoint, calibration: Path) -> list[Agent]:
    """Two holders of each family; each daemon's key to the endpoint is its index."""
    asked = [q for family in FAMILIES for q in questions(family, "calibration", CALIBRATION_QUESTIONS, seed=7)]
    calibration.write_text(json.dumps([{"prompt": q.prompt, "answer": q.answer} for q in asked]))
    engine = partial(Engine, kind="openai", url=endpoint.url)
    return [
        Agent(name=family, engine=engine(model=family, api_key=str(index)), calibration=str(calibration))
        for index, family in zip(range(DAEMONS), cycle(FAMILIES))
    ]


async def meets(daemon: Daemon, others: list[Daemon]) -> None:
    """Wait until `daemon` is connected to `others`, and knows their agents."""
    wanted = {other.peer for other in others}
    while not wanted <= {view.peer for view in await daemon.peers() if view.connected and view.agents}:
        await trio.sleep(POLL_S)


async def ready(daemon: Daemon) -> None:
    await daemon.until(lambda status: bool(status.agents))


def ask(daemon: Daemon, question: str, tell: Callable[[Update], None]) -> None:
    """Ask as `p2pagent ask` does; blocks until the answer is whole."""
    with Client(daemon.folder) as client, closing(client.ask(question, Extension(raw=False), ANSWER_TOKENS)) as updates:
        for update in updates:
            trio.from_thread.run_sync(tell, update)


async def kill_the_winner(endpoint: Endpoint, daemons: list[Daemon], asker: Daemon, question: Question) -> Daemon:
    """Ask, kill whoever begins to answer, and see another holder answer in its place; returns the one killed."""
    send, updates = trio.open_memory_channel[Update](256)
    endpoint.stall_at = question.prompt
    async with trio.open_nursery() as nursery:
        asking = partial(trio.to_thread.run_sync, ask, asker, question.prompt, send.send_nowait)
        nursery.start_soon(partial(asking, abandon_on_cancel=True))
        assert isinstance(await updates.receive(), Text)
        victim = daemons[int(endpoint.stalled)]
        await victim.kill()
    send.close()
    told = [update async for update in updates]
    assert [update.lost.peer for update in told if isinstance(update, Restarted)] == [victim.peer]
    answered = told[-1]
    assert isinstance(answered, Answered)
    assert answered.agent.peer != victim.peer
    assert answered.agent.name == question.family
    assert answered.delegated
    assert answered.restarts == 1
    assert check(question, answered.text)
    return victim


async def test_the_winner_is_killed_in_mid_answer(endpoint: Endpoint, tmp_path: Path) -> None:
    asked = [await endpoint.known(family, ROUNDS // len(FAMILIES)) for family in FAMILIES]
    with trio.fail_after(LIMIT_S):
        async with fleet(tmp_path, agents(endpoint, tmp_path / "calibration.json")) as daemons:
            longest_up = daemons.copy()
            for question in chain(*zip(*asked, strict=True)):
                holders = [daemon for daemon in daemons if daemon.config.agents[0].name == question.family]
                asker = next(daemon for daemon in longest_up if daemon not in holders)
                with trio.fail_after(ROUND_LIMIT_S):
                    for daemon in (asker, *holders):
                        await ready(daemon)
                    await meets(asker, holders)
                    victim = await kill_the_winner(endpoint, daemons, asker, question)
                longest_up.remove(victim)
                longest_up.append(victim)
                await victim.start()
            for daemon in daemons:
                await settled(daemon)
            ledgers = [await daemon.ledger() for daemon in daemons]
            books = {daemon.peer: daemon.receipts() for daemon in daemons}
    report = audit(books, Ed25519Keys(bytes(32)))
    assert report.receipts == ROUNDS
    assert (report.bad_signatures, report.one_sided, report.residue_microcredits) == ((), (), 0)
    assert sum(map(len, books.values())) == 2 * ROUNDS
    assert sum(sum(ledger.balances.values()) for ledger in ledgers) == 0


async def settled(daemon: Daemon) -> None:
    """Wait until all that `daemon` owes has been acknowledged."""
    await ready(daemon)
    while any(r.role == "buyer" and not r.acknowledged for r in (await daemon.ledger()).receipts):
        await trio.sleep(POLL_S)
