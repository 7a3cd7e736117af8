"""vLLM as a managed child process: started, asked over HTTP on loopback, watched, restarted when it goes."""

import secrets
from collections.abc import Callable
from pathlib import Path

import httpx
import trio
from msgspec import structs
from trio_typing import TaskStatus

from p2pagent.engine import blocks, vllm_metrics
from p2pagent.engine.base import Capabilities, Completion, Delta, EngineStatistics, GenerateRequest
from p2pagent.engine.model_files import located, model_type
from p2pagent.engine.openai import OpenAIEngine
from p2pagent.engine.resident import Resident
from p2pagent.engine.tally import Tally
from p2pagent.engine.vllm_events import RecordReader
from p2pagent.engine.vllm_metrics import PrefixCache
from p2pagent.engine.vllm_process import Build, EngineLog, command, environment, find_build, free_port, running
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.routing.residency import Held
from p2pagent.tokeniser import digest_of
from p2pagent.types import ChatMessage, Usage

_START_DEADLINE_CPU_S = 300.0
_START_DEADLINE_GPU_S = 1800.0  # may download the model, and compiles it
_START_POLL_S = 0.25
_HEALTH_INTERVAL_S = 2.0
_HEALTH_TIMEOUT_S = 10.0
_HEALTH_FAILURES = 3
_PORT_ATTEMPTS = 3
_BACK_OFF_FIRST_S = 1.0
_BACK_OFF_LAST_S = 60.0
_OTHER_TOKENS = (
    *("--chat-template", "--config", "--default-chat-template", "--hf-", "--reasoning", "--revision", "--tokenizer"),
)
"""So begin arguments by which prompts are written, or answers shown, otherwise than the model's files say."""

_HIDING_TYPES = {"gpt_oss"}
"""Types of models whose thoughts vLLM keeps from the answer unasked (0.32, model_executor/models/config.py)."""


class VllmEngine:
    """A vLLM server of its own for `model`, a folder or a name on the Hugging Face hub.

    `python` is the interpreter that has vLLM and need not be ours; what the engine prints is kept in `log_folder`, at
    most 2 MiB of it. `slots` answers are worked on at the same time. `args` are vLLM's own and outrank our defaults,
    as do environment variables of the daemon such as `OMP_NUM_THREADS`.
    """

    def __init__(
        self, model: str, *, python: Path, log_folder: Path, slots: int = 4, args: tuple[str, ...] = ()
    ) -> None:
        folder = Path(model)
        self._is_local = folder.is_dir()
        self._model = str(folder.resolve()) if self._is_local else model
        # A peer may learn what the model is called, not where this device keeps it.
        self._name = folder.resolve().name if self._is_local else model
        self._python = python
        self._log = EngineLog(log_folder / "vllm.log")
        self._slots = slots
        self._args = args
        self._http: OpenAIEngine | None = None
        self._capabilities: Capabilities | None = None
        self._tally = Tally()
        self._restarts = 0
        self._cache = PrefixCache()
        self._resident = Resident()
        self._cache_changed = trio.Event()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Engine.run`; once it has served, an engine that ends for whatever reason is started again."""
        build = await find_build(self._python)
        ports_left = _PORT_ATTEMPTS
        back_off_s = _BACK_OFF_FIRST_S
        while True:
            started_s = trio.current_time()
            failure = await self._live(build, task_status)
            if failure is not None and self._capabilities is None:
                ports_left -= failure.exit_code is Exit.PORT_TAKEN
                if failure.exit_code is Exit.PORT_TAKEN and ports_left:
                    continue
                raise failure
            if trio.current_time() - started_s > _BACK_OFF_LAST_S and failure is None:
                back_off_s = _BACK_OFF_FIRST_S
            await trio.sleep(back_off_s)
            back_off_s = min(2 * back_off_s, _BACK_OFF_LAST_S)
            self._restarts += 1

    async def generate(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        """See `Engine.generate`.

        Raises:
            LocalError: the prompt does not fit into the model's context.
            EngineUnavailableError: vLLM is starting or has gone.
        """
        expected_tokens = self._resident.held_tokens(request.domain, request.prefix)
        prompt: list[int] = []

        def read(delta: Delta) -> None:
            prompt.extend(delta.prompt_token_ids)
            emit(delta)

        with self._tally.counted():
            done = await self._serving().generate(request, read)
        await self._follow(request, prompt, done.usage, expected_tokens)
        return done

    async def cache_changes(self) -> tuple[Held | None, ...]:
        """See `Caching.cache_changes`."""
        while not (changes := self._resident.changes()):
            self._cache_changed = trio.Event()
            await self._cache_changed.wait()
        return changes

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        """See `Engine.count_tokens`."""
        return await self._serving().count_tokens(messages)

    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        assert self._capabilities is not None, "asked before it was ready"
        return self._capabilities

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`."""
        return self._tally.statistics(
            ready=self._http is not None,
            restarts=self._restarts,
            prompt_tokens=self._cache.queries_tokens,
            cached_tokens=self._cache.hits_tokens,
        )

    async def _follow(self, request: GenerateRequest, prompt: list[int], usage: Usage, expected_tokens: int) -> None:
        """Keep an eye on the blocks of a prompt that was answered."""
        if not (prompt and request.prefix):
            return
        names, block_tokens = b"", self._resident.block_tokens
        if block_tokens:
            names = await trio.to_thread.run_sync(blocks.names, prompt, block_tokens, request.cache_salt)
        self._resident.on_prompt(request.domain, request.prefix, names, len(prompt))
        self._resident.on_answer(names, len(prompt), usage.cached_tokens, expected_tokens)
        self._cache_changed.set()

    def _serving(self) -> OpenAIEngine:
        if self._http is None:
            raise EngineUnavailableError("vLLM is starting")
        return self._http

    async def _live(self, build: Build, task_status: TaskStatus[None]) -> LocalError | None:
        """Live through one process from its start to its end, which nobody asked for; returns why it never served."""
        port = free_port()
        key = secrets.token_urlsafe(32)
        arguments = command(build, self._model, name=self._name, port=port, slots=self._slots, args=self._args)
        http = OpenAIEngine(f"http://127.0.0.1:{port}/v1", self._name, api_key=key, slots=self._slots)
        failure: LocalError | None = self._did_not_load("vLLM ended without a word")
        self._log.cause = ""
        self._resident.on_start()
        reader = RecordReader()

        def hear(data: bytes) -> None:
            for record in reader.feed(data):
                self._resident.on_record(record)
            self._cache_changed.set()

        async with (
            running(arguments, environment(build, key, is_local=self._is_local), self._log, hear) as process,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_cancel_at_end, process, nursery.cancel_scope)
            try:
                async with _health_client(port, key) as health:
                    with trio.fail_after(_START_DEADLINE_CPU_S if build.is_cpu else _START_DEADLINE_GPU_S):
                        await _until_healthy(health)
                    async with http.connected():
                        failure = None
                        self._cache = await _cache(health) or PrefixCache()
                        self._resident.capacity_tokens = self._cache.capacity_tokens
                        self._http = http
                        if self._capabilities is None:
                            self._capabilities = structs.replace(
                                http.capabilities(),
                                cache_tokens=self._cache.capacity_tokens,
                                tokeniser=await trio.to_thread.run_sync(_tokeniser, self._model, self._args),
                            )
                            task_status.started()
                        await self._watch(health)
            except trio.TooSlowError:
                failure = self._did_not_load("vLLM did not become ready in time")
            except LocalError as error:
                failure = error
            finally:
                self._http = None
            nursery.cancel_scope.cancel()
        if failure is None or not self._log.cause:
            return failure
        if "Address already in use" in self._log.cause:
            return LocalError(self._log.cause, "another process took the engine's port; try again", Exit.PORT_TAKEN)
        return self._did_not_load(self._log.cause)

    async def _watch(self, client: httpx.AsyncClient) -> None:
        """Return when vLLM has failed several checks in a row: one may fall into a long step of its scheduler."""
        failures = 0
        while failures < _HEALTH_FAILURES:
            await trio.sleep(_HEALTH_INTERVAL_S)
            failures = 0 if await _is_healthy(client) else failures + 1
            self._cache = await _cache(client) or self._cache

    def _did_not_load(self, cause: str) -> LocalError:
        hint = f"name another model or mend its folder and the engine's args; all it said is in {self._log.path}"
        return LocalError(f"vLLM does not serve {self._model}: {cause}", hint, Exit.MODEL)


def _tokeniser(model: str, args: tuple[str, ...]) -> bytes:
    """The digest of a model's own tokeniser; empty where vLLM may not use that, or shows less than it counts."""
    folder = located(model)
    is_told_other = any(arg.replace("_", "-").startswith(_OTHER_TOKENS) for arg in args)
    if folder is None or is_told_other or model_type(folder) in _HIDING_TYPES:
        return b""
    return digest_of(folder)


async def _cancel_at_end(process: trio.Process, scope: trio.CancelScope) -> None:
    await process.wait()
    scope.cancel()


def _health_client(port: int, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {key}"},
        timeout=_HEALTH_TIMEOUT_S,
        trust_env=False,
    )


async def _is_healthy(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).is_success
    except httpx.HTTPError:
        return False


async def _until_healthy(client: httpx.AsyncClient) -> None:
    while True:
        if await _is_healthy(client):
            return
        await trio.sleep(_START_POLL_S)


async def _cache(client: httpx.AsyncClient) -> PrefixCache | None:
    """How its prefix cache fares, or None if it does not tell: nobody depends on that."""
    try:
        response = (await client.get("/metrics")).raise_for_status()
        return vllm_metrics.read(response.text)
    except (httpx.HTTPError, ValueError):
        return None
