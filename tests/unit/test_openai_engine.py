"""The OpenAI engine against a real HTTP server on loopback that behaves, and misbehaves, like such an endpoint."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from p2pagent.engine.base import Delta, GenerateRequest
from p2pagent.engine.openai import OpenAIEngine
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.types import ChatMessage, Sampling, Usage

HELLO = GenerateRequest((ChatMessage("user", "hello"),), Sampling(max_tokens=8))
STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}}


def piece(text: str, **more: object) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": None, **more}]}


@dataclass
class Endpoint:
    """What the server does; a test changes it after the engine has connected."""

    url: str = ""
    models: list[dict[str, object]] = field(default_factory=lambda: [{"id": "m", "owned_by": "someone"}])
    events: list[object] = field(default_factory=lambda: [piece("Hel"), piece("lo"), STOP, USAGE])
    refusal: tuple[int, object] | None = None
    refused_fields: frozenset[str] = frozenset()
    raw: bytes | None = None
    key: str = ""
    hangs: bool = False
    has_tokeniser: bool = False
    asked: list[dict[str, object]] = field(default_factory=list)
    models_asked: trio.Event = field(default_factory=trio.Event)
    reached: trio.Event = field(default_factory=trio.Event)
    abandoned: trio.Event = field(default_factory=trio.Event)

    async def list_models(self, request: Request) -> Response:
        self.models_asked.set()
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return JSONResponse({"object": "list", "data": self.models})

    async def next_models_asked(self) -> None:
        self.models_asked = trio.Event()
        await self.models_asked.wait()

    async def tokenize(self, request: Request) -> Response:
        if not self.has_tokeniser:
            return Response("no such page", 404)
        return JSONResponse({"count": 7, "max_model_len": 512})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if refused := self.refused_fields & body.keys():
            return JSONResponse({"error": {"message": f"unknown {sorted(refused)}"}}, 400)
        if self.refusal:
            return JSONResponse(self.refusal[1], self.refusal[0])
        return StreamingResponse(self.stream(), media_type="text/event-stream")

    async def stream(self) -> AsyncIterator[bytes]:
        if self.raw is not None:
            yield self.raw
            return
        for event in self.events:
            yield b"data: " + json.dumps(event).encode() + b"\n\n"
        if self.hangs:
            self.reached.set()
            try:
                await trio.sleep_forever()
            finally:
                self.abandoned.set()
        yield b"data: [DONE]\n\n"


@pytest.fixture
async def endpoint(nursery: trio.Nursery) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = Starlette(
        routes=[
            Route("/v1/models", endpoint.list_models),
            Route("/v1/chat/completions", endpoint.chat, methods=["POST"]),
            Route("/tokenize", endpoint.tokenize, methods=["POST"]),
        ]
    )
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.graceful_timeout = 0
    (address,) = await nursery.start(partial(serve, app, config, mode="asgi"))
    endpoint.url = f"{address}/v1"
    return endpoint


async def answer(engine: OpenAIEngine, request: GenerateRequest = HELLO) -> tuple[str, Usage, str]:
    pieces: list[Delta] = []
    completion = await engine.generate(request, pieces.append)
    return "".join(delta.text for delta in pieces), completion.usage, completion.finish_reason


async def test_streams_an_answer_in_order_with_its_usage(endpoint: Endpoint) -> None:
    engine = OpenAIEngine(endpoint.url, "m", context_tokens=1000, slots=3)
    async with engine.connected():
        assert await answer(engine) == ("Hello", Usage(5, 0, 2), "stop")
        assert engine.statistics().ready
        assert engine.statistics().completed == 1
        capabilities = engine.capabilities()
    assert (capabilities.context_tokens, capabilities.slots) == (1000, 3)
    assert not capabilities.reports_token_ids
    assert not capabilities.reports_cached_tokens
    assert not engine.statistics().ready


async def test_what_only_vllm_knows_is_sent_to_vllm_only(endpoint: Endpoint) -> None:
    request = GenerateRequest(HELLO.messages, HELLO.sampling, cache_salt="s", priority=3)
    foreign = OpenAIEngine(endpoint.url, "m")
    async with foreign.connected():
        await answer(foreign, request)
    assert not any({"cache_salt", "priority", "return_token_ids"} & body.keys() for body in endpoint.asked)

    endpoint.models = [{"id": "m", "owned_by": "vllm", "max_model_len": 512}]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    endpoint.events = [piece("", token_ids=[7]), STOP, {"choices": [], "usage": usage}]
    engine = OpenAIEngine(endpoint.url, "m")
    async with engine.connected():
        pieces: list[Delta] = []
        completion = await engine.generate(request, pieces.append)
        assert pieces == [Delta("", (7,))]
        assert completion.usage == Usage(5, 4, 2)
        assert (endpoint.asked[-1]["cache_salt"], endpoint.asked[-1]["priority"]) == ("s", 3)
        await answer(engine)
        assert "cache_salt" not in endpoint.asked[-1]
        capabilities = engine.capabilities()
    assert capabilities.context_tokens == 512
    assert capabilities.reports_token_ids
    assert capabilities.reports_cached_tokens


@pytest.mark.parametrize(
    ("refused", "kept"), [({"priority"}, {"cache_salt", "return_token_ids"}), ({"return_token_ids"}, set())]
)
async def test_a_vllm_that_refuses_an_extra_is_asked_without_it(
    endpoint: Endpoint, refused: set[str], kept: set[str]
) -> None:
    endpoint.models = [{"id": "m", "owned_by": "vllm"}]
    endpoint.refused_fields = frozenset(refused)
    engine = OpenAIEngine(endpoint.url, "m")
    async with engine.connected():
        await answer(engine, GenerateRequest(HELLO.messages, HELLO.sampling, cache_salt="s", priority=3))
    assert {"cache_salt", "priority", "return_token_ids"} & endpoint.asked[-1].keys() == kept


async def test_counts_tokens_where_the_endpoint_can_and_estimates_elsewhere(endpoint: Endpoint) -> None:
    estimating = OpenAIEngine(endpoint.url, "m")
    async with estimating.connected():
        assert await estimating.count_tokens((ChatMessage("user", "x" * 300),)) == 108
    endpoint.has_tokeniser = True
    counting = OpenAIEngine(endpoint.url, "m")
    async with counting.connected():
        assert await counting.count_tokens(HELLO.messages) == 7


async def test_usage_is_estimated_where_the_endpoint_keeps_none(endpoint: Endpoint) -> None:
    endpoint.events = [piece("Hel"), piece("lo"), STOP]
    engine = OpenAIEngine(endpoint.url, "m")
    async with engine.connected():
        assert await answer(engine) == ("Hello", Usage(9, 0, 2), "stop")


async def test_cancelling_stops_the_work_at_the_endpoint(endpoint: Endpoint) -> None:
    engine = OpenAIEngine(endpoint.url, "m")
    async with engine.connected():
        endpoint.hangs = True
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, engine)
                await endpoint.reached.wait()
                assert engine.statistics().running == 1
                nursery.cancel_scope.cancel()
            await endpoint.abandoned.wait()
        statistics = engine.statistics()
        assert (statistics.running, statistics.completed, statistics.failed) == (0, 0, 0)
        endpoint.hangs = False
        assert (await answer(engine))[0] == "Hello"


@pytest.mark.parametrize(
    "raw",
    [
        b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n',
        b"data: {not json}\n\n",
        b'data: {"choices": "none"}\n\n',
        b'data: {"error": {"message": "engine died"}}\n\n',
        b"data: " + b"x" * (2 << 20),
        b"",
    ],
    ids=["cut off", "no json", "wrong shape", "error event", "endless line", "empty"],
)
async def test_a_broken_stream_is_unavailability_and_the_next_question_is_answered(
    endpoint: Endpoint, raw: bytes
) -> None:
    engine = OpenAIEngine(endpoint.url, "m")
    async with engine.connected():
        endpoint.raw = raw
        with pytest.raises(EngineUnavailableError):
            await answer(engine)
        assert engine.statistics().failed == 1
        endpoint.raw = None
        assert (await answer(engine))[0] == "Hello"


@dataclass
class Relay:
    """A way to the endpoint that breaks off, before anything is passed on, as many requests as `cuts`."""

    port: int
    cuts: int = 0

    async def __call__(self, client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream("127.0.0.1", self.port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, server, client)
            async for data in client:
                if self.cuts:
                    self.cuts -= 1
                    break
                await server.send_all(data)
            nursery.cancel_scope.cancel()

    async def _pass(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        async for data in server:
            await client.send_all(data)


@pytest.mark.parametrize("cuts", [1, 2])
async def test_a_request_on_a_connection_that_is_closed_just_then_is_sent_once_more(
    endpoint: Endpoint, nursery: trio.Nursery, cuts: int
) -> None:
    relay = Relay(int(endpoint.url.rpartition(":")[2].removesuffix("/v1")))
    (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
    engine = OpenAIEngine(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1", "m")
    async with engine.connected():
        relay.cuts = cuts
        if cuts == 1:
            assert (await answer(engine))[0] == "Hello"
            return
        with pytest.raises(EngineUnavailableError):
            await answer(engine)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_a_refusal_is_unavailability_in_few_words(endpoint: Endpoint, status: int) -> None:
    engine = OpenAIEngine(endpoint.url, "m")
    async with engine.connected():
        endpoint.refusal = (status, {"error": "no " * 10_000})
        with pytest.raises(EngineUnavailableError, match=f"HTTP {status}") as caught:
            await answer(engine)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "too many tokens"},
        {"message": "This model's maximum context length is 512 tokens. However, ...", "param": "input_tokens"},
        {"type": "exceed_context_size_error", "message": "the request exceeds the available context size"},
    ],
    ids=["openai", "vllm", "llama.cpp"],
)
async def test_a_prompt_too_long_is_told_as_such(endpoint: Endpoint, error: dict[str, str]) -> None:
    engine = OpenAIEngine(endpoint.url, "m")
    async with engine.connected():
        endpoint.refusal = (400, {"error": error})
        with pytest.raises(LocalError) as caught:
            await answer(engine)
        assert caught.value.exit_code is Exit.TOO_LONG
        assert engine.statistics().failed == 0


async def test_an_endpoint_that_does_not_answer_is_a_missing_engine() -> None:
    with trio.socket.socket() as unheard:
        await unheard.bind(("127.0.0.1", 0))
        engine = OpenAIEngine(f"http://127.0.0.1:{unheard.getsockname()[1]}/v1", "m")
        with pytest.raises(LocalError) as caught:
            await engine.run()
    assert caught.value.exit_code is Exit.ENGINE_MISSING


async def test_a_refused_key_is_a_missing_engine(endpoint: Endpoint) -> None:
    endpoint.key = "right"
    with pytest.raises(LocalError, match="401") as caught:
        await OpenAIEngine(endpoint.url, "m", api_key="wrong").run()
    assert caught.value.exit_code is Exit.ENGINE_MISSING
    engine = OpenAIEngine(endpoint.url, "m", api_key="right")
    async with engine.connected():
        assert engine.statistics().ready


async def test_an_unknown_model_names_those_there_are(endpoint: Endpoint) -> None:
    with pytest.raises(LocalError) as caught:
        await OpenAIEngine(endpoint.url, "other").run()
    assert caught.value.exit_code is Exit.MODEL
    assert caught.value.hint == "it has: m"


async def test_a_model_that_cannot_chat_is_told_at_the_start(endpoint: Endpoint) -> None:
    endpoint.refusal = (400, {"error": {"message": "no chat template"}})
    with pytest.raises(LocalError, match="no chat template") as caught:
        await OpenAIEngine(endpoint.url, "m").run()
    assert caught.value.exit_code is Exit.MODEL


async def test_before_the_start_nothing_is_answered() -> None:
    with pytest.raises(EngineUnavailableError):
        await answer(OpenAIEngine("http://127.0.0.1:9/v1", "m"))


async def test_readiness_follows_the_endpoint(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pagent.engine.openai._LIVENESS_INTERVAL_S", 0.01)
    engine = OpenAIEngine(endpoint.url, "m", api_key="k")
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for key in ("other", "k"):
            endpoint.key = key
            with trio.fail_after(5):
                # Once it asks for the second time, it has understood the first answer.
                await endpoint.next_models_asked()
                await endpoint.next_models_asked()
            assert engine.statistics().ready is (key == "k")
        nursery.cancel_scope.cancel()
