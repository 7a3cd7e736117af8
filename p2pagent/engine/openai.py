"""An engine behind any endpoint that speaks OpenAI's chat completions: a hosted API, Ollama, llama.cpp, vLLM."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
import trio
from trio_typing import TaskStatus

from p2pagent.engine.base import Capabilities, Completion, Delta, EngineStatistics, GenerateRequest
from p2pagent.engine.openai_wire import (
    BODY_LIMIT_BYTES,
    MESSAGE_LIMIT,
    AnswerReader,
    MalformedStreamError,
    Model,
    Models,
    TokenCount,
    decode,
    estimate_tokens,
    refusal,
    turns,
)
from p2pagent.engine.tally import Tally
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.types import ChatMessage, Sampling

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_TIMEOUT_S = 120.0
_LIVENESS_INTERVAL_S = 10.0
_PROBE = (ChatMessage("user", "probe"),)
_VLLM_EXTRAS: tuple[dict[str, Any], ...] = (
    {"return_token_ids": True, "cache_salt": "probe", "priority": 1},
    {"return_token_ids": True, "cache_salt": "probe"},  # its scheduler may not be the one with priorities
)

_Reply = TypeVar("_Reply", Models, TokenCount)


class OpenAIEngine:
    """A model at an OpenAI-compatible endpoint; what it can do is found out when the connection is made.

    `base_url` ends in the version, as in `https://host/v1`. `context_tokens` holds where the endpoint does not tell its
    own; `slots` is how many answers the owner lets it work on at the same time.
    """

    def __init__(
        self, base_url: str, model: str, *, api_key: str = "", context_tokens: int = 4096, slots: int = 4
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._api_key = api_key
        self._context_tokens = context_tokens
        self._slots = slots
        self._client: httpx.AsyncClient | None = None
        self._extras: dict[str, Any] = {}
        self._has_tokeniser = False
        self._capabilities: Capabilities | None = None
        self._ready = False
        self._tally = Tally()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Engine.run`; asks every ten seconds whether the endpoint still answers."""
        async with self.connected():
            task_status.started()
            while True:
                await trio.sleep(_LIVENESS_INTERVAL_S)
                try:
                    await self._models()
                    self._ready = True
                except EngineUnavailableError:
                    self._ready = False

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Hold the connection for the length of the block, having found out what the endpoint can do.

        Raises:
            LocalError: nothing answers there, the key is refused, or it has no such model that can chat.
        """
        # A proxy named in the environment must not get between us and an engine on this very device.
        is_remote = urlsplit(self._base_url).hostname not in {"127.0.0.1", "::1", "localhost"}
        headers = {"Accept-Encoding": "identity"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        timeout = httpx.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        async with httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=is_remote) as client:
            self._client = client
            try:
                self._capabilities = await self._probe()
                self._ready = True
                yield
            finally:
                self._ready = False
                self._client = None

    async def generate(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        """See `Engine.generate`.

        Raises:
            LocalError: the prompt does not fit into the model's context.
            EngineUnavailableError: the endpoint does not answer, refuses or breaks off.
        """
        told = {"priority": request.priority, "cache_salt": request.cache_salt}
        extras = {name: told.get(name, value) for name, value in self._extras.items()}
        # vLLM refuses an empty salt; without any, requests share one cache.
        if not request.cache_salt:
            extras.pop("cache_salt", None)
        with self._tally.counted():
            return await self._complete(request.messages, request.sampling, extras, AnswerReader(emit))

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        """See `Engine.count_tokens`; an estimate unless the endpoint has vLLM's `/tokenize`."""
        if not self._has_tokeniser:
            return estimate_tokens(messages)
        url = self._base_url.rpartition("/")[0] + "/tokenize"
        reply = await self._fetch("POST", url, TokenCount, {"model": self._model, "messages": turns(messages)})
        return reply.count

    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        assert self._capabilities is not None, "asked before it was ready"
        return self._capabilities

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`."""
        return self._tally.statistics(ready=self._ready, restarts=0)

    async def _probe(self) -> Capabilities:
        try:
            models = {model.id: model for model in await self._models()}
        except EngineUnavailableError as error:
            cause = f"no model endpoint answers at {self._base_url} ({error})"
            hint = "start it, or mend the engine's URL and key in the configuration"
            raise LocalError(cause, hint, Exit.ENGINE_MISSING) from error
        if self._model not in models:
            hint = f"it has: {', '.join(sorted(models)) or 'none'}"[:MESSAGE_LIMIT]
            raise LocalError(f"{self._base_url} has no model {self._model!r}", hint, Exit.MODEL)
        model = models[self._model]
        answer = await self._probe_answer((*_VLLM_EXTRAS, {}) if model.owned_by == "vllm" else ({},))
        self._has_tokeniser = True
        try:
            await self.count_tokens(_PROBE)
        except EngineUnavailableError:
            self._has_tokeniser = False
        return Capabilities(
            model=self._model,
            context_tokens=model.max_model_len or self._context_tokens,
            slots=self._slots,
            reports_cached_tokens=answer.told_cached_tokens,
            reports_token_ids=answer.told_token_ids,
        )

    async def _probe_answer(self, candidates: tuple[dict[str, Any], ...]) -> AnswerReader:
        """Ask for an answer of one token, to see which extras the endpoint takes and what it tells."""
        causes = []
        for self._extras in candidates:
            reader = AnswerReader(lambda _: None)
            try:
                await self._complete(_PROBE, Sampling(max_tokens=1), self._extras, reader)
            except EngineUnavailableError as error:
                causes.append(str(error))
            else:
                return reader
        hint = "name a model that can chat; to vLLM it must bring a chat template"
        raise LocalError(f"{self._model} does not answer ({causes[-1]})", hint, Exit.MODEL)

    async def _complete(
        self, messages: tuple[ChatMessage, ...], sampling: Sampling, extras: dict[str, Any], reader: AnswerReader
    ) -> Completion:
        body = {
            "model": self._model,
            "messages": turns(messages),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature_milli / 1000,
            "seed": sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **extras,
        }
        async with self._streamed("POST", f"{self._base_url}/chat/completions", body) as response:
            await _read(response, reader.feed)
        return reader.completion(messages)

    async def _models(self) -> list[Model]:
        return (await self._fetch("GET", f"{self._base_url}/models", Models)).data

    async def _fetch(self, method: str, url: str, kind: type[_Reply], body: Any = None) -> _Reply:
        async with self._streamed(method, url, body) as response:
            return decode(await _bounded_body(response), kind)

    @asynccontextmanager
    async def _streamed(self, method: str, url: str, body: Any) -> AsyncIterator[httpx.Response]:
        """Hold the good response to a request; leaving the block early closes it, which stops the work over there."""
        if self._client is None:
            raise EngineUnavailableError("the engine is not connected")
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            request = self._client.build_request(method, url, content=content, headers=headers)
            async with aclosing(await _send(self._client, request)) as response:
                if response.status_code != HTTPStatus.OK:
                    raise refusal(response.status_code, await _bounded_body(response))
                yield response
        except (httpx.HTTPError, httpx.InvalidURL, MalformedStreamError) as error:
            raise EngineUnavailableError(f"{type(error).__name__}: {error}"[:MESSAGE_LIMIT]) from error


async def _send(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send it until the head of the response is there; once more if the connection goes before.

    An endpoint closes connections that rest, vLLM after five seconds (`VLLM_HTTP_TIMEOUT_KEEP_ALIVE`), and may do so
    just as a request goes out on one (RFC 9112, section 9.3.1).
    """
    try:
        return await client.send(request, stream=True)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        return await client.send(request, stream=True)


async def _bounded_body(response: httpx.Response) -> bytes:
    body = bytearray()

    def take(chunk: bytes) -> None:
        body.extend(chunk)
        if len(body) > BODY_LIMIT_BYTES:
            raise MalformedStreamError(f"a body of more than {BODY_LIMIT_BYTES} bytes")

    await _read(response, take)
    return bytes(body)


async def _read(response: httpx.Response, take: Callable[[bytes], None]) -> None:
    """Give `take` each chunk of the body until it raises.

    httpx reads through generators inside generators, which nothing closes but their own end; so the end is waited for,
    which comes at once when the response is closed.
    """
    failure: Exception | None = None
    try:
        async for chunk in response.aiter_raw():
            try:
                if failure is None:
                    take(chunk)
            except Exception as error:
                failure = error
                await response.aclose()
    except httpx.HTTPError:
        if failure is None:
            raise
    if failure is not None:
        raise failure
