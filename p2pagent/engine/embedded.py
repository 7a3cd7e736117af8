"""The engine inside the package: a small byte-level Llama in NumPy, for devices without vLLM and for tests.

It reads the folder that vLLM reads and answers alike. Its arithmetic is cut into steps of milliseconds between
which other tasks run.
"""

import codecs
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import trio
from safetensors import SafetensorError
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits
from trio_typing import TaskStatus

from p2pagent.engine.base import Capabilities, Completion, Delta, EngineStatistics, GenerateRequest
from p2pagent.engine.llama import Cache, Floats, Llama, LlamaConfig, softmax
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.tokeniser import Tokeniser, read
from p2pagent.types import ChatMessage, Sampling, Usage

PREFILL_TOKENS = 32
"""Tokens of a prompt computed at once: nearly as fast as more, and the loop waits for ten milliseconds or so only."""

INLINE_CHARACTERS = 4_000
"""What is tokenised at once, in some ten milliseconds; longer texts go to a thread, for a megabyte takes a second."""

_BYTES = 256


class _Expert(NamedTuple):
    """A loaded folder."""

    llama: Llama
    tokeniser: Tokeniser


class EmbeddedEngine:
    """An `Engine` that computes the model in `folder` in this process, at most `slots` answers at a time.

    Requests beyond that wait, those of lower `priority` first. There is no prefix cache for `cache_salt` to part.
    Loading sets the whole process to one BLAS thread.
    """

    def __init__(self, folder: Path, slots: int = 4) -> None:
        self._folder = folder
        self._slots = slots
        self._places = _Places(slots)
        self._reading = trio.Lock()
        self._expert: _Expert | None = None
        self._running = self._completed = self._failed = 0

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load the model, report readiness, answer until cancelled.

        Raises:
            LocalError: the folder is not one of a byte-level Llama.
        """
        self._expert = await trio.to_thread.run_sync(_load, self._folder)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self._expert = None

    async def generate(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        """Answer `request`. The end mark is among the output tokens, as vLLM counts it, and has no text.

        Raises:
            EngineUnavailableError: `run` is not running, or was cancelled in the middle.
            LocalError: the prompt leaves no room for an answer in the model's context.
        """
        async with self._places.taken(request.priority):
            self._running += 1
            try:
                completion = await self._answer(request, emit)
            except Exception:
                self._failed += 1
                raise
            finally:
                self._running -= 1
            self._completed += 1
            return completion

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        """Tokens of the prompt that `messages` become.

        Raises:
            EngineUnavailableError: `run` is not running.
        """
        return len(await self._encode(messages))

    def capabilities(self) -> Capabilities:
        """What it can do, once `run` has reported readiness."""
        return Capabilities(
            model=self._folder.name,
            context_tokens=self._ready().llama.config.max_position_embeddings,
            slots=self._slots,
            reports_cached_tokens=False,
            reports_token_ids=True,
            tokeniser=self._ready().tokeniser.digest,
        )

    def statistics(self) -> EngineStatistics:
        """What it has done so far."""
        return EngineStatistics(
            ready=self._expert is not None,
            running=self._running,
            completed=self._completed,
            failed=self._failed,
            restarts=0,
        )

    async def _answer(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        config, sampling = self._ready().llama.config, request.sampling
        prompt = await self._encode(request.messages)
        room = config.max_position_embeddings - len(prompt)
        if room <= 0:
            raise LocalError(
                f"the question has {len(prompt)} tokens, and the model reads fewer than {len(prompt) + room}",
                "shorten the question or name a model with a longer context",
                Exit.TOO_LONG,
            )
        output_max = max(0, min(sampling.max_tokens, room))
        cache = Cache(config, len(prompt) + output_max)
        logits = await self._read(prompt, cache)
        randomness = np.random.default_rng(sampling.seed % 2**64)
        # What is left in the decoder at the end is a character cut short by the limit: not worth showing.
        text = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for output_tokens in range(1, output_max + 1):
            token = _choose(logits, sampling, randomness)
            emit(Delta(text.decode(bytes([token]) if token < _BYTES else b""), (token,)))
            if token == config.eos_token_id:
                return Completion(Usage(len(prompt), 0, output_tokens), "stop")
            await trio.lowlevel.checkpoint()
            logits = self._ready().llama.forward([token], cache)
        return Completion(Usage(len(prompt), 0, output_max), "length")

    async def _encode(self, messages: tuple[ChatMessage, ...]) -> list[int]:
        encode = self._ready().tokeniser.encode
        try:
            if sum(len(message.content) for message in messages) <= INLINE_CHARACTERS:
                return encode(messages)
            return await trio.to_thread.run_sync(encode, messages)
        except ValueError as error:
            raise EngineUnavailableError(str(error)) from error

    async def _read(self, prompt: list[int], cache: Cache) -> Floats:
        """Logits after `prompt`. One prompt at a time, for steps of several in a row would hold up the loop."""
        async with self._reading:
            for start in range(0, len(prompt), PREFILL_TOKENS):
                await trio.lowlevel.checkpoint()
                logits = self._ready().llama.forward(prompt[start : start + PREFILL_TOKENS], cache)
        return logits

    def _ready(self) -> _Expert:
        if self._expert is None:
            raise EngineUnavailableError("the embedded engine is not running")
        return self._expert


def _choose(logits: Floats, sampling: Sampling, randomness: np.random.Generator) -> int:
    if sampling.temperature_milli <= 0:
        return int(logits.argmax())
    shares = softmax(logits.astype(np.float64) * 1000 / sampling.temperature_milli)
    return int(randomness.choice(len(shares), p=shares))


class _Places:
    """Room for a number of tasks at a time. Who waits enters by lower priority, then in order of arrival."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[int, int, trio.Event]] = []
        self._arrivals = count()

    @asynccontextmanager
    async def taken(self, priority: int) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        if self._free:
            self._free -= 1
        else:
            turn = (priority, next(self._arrivals), trio.Event())
            heapq.heappush(self._waiting, turn)
            try:
                await turn[2].wait()
            except trio.Cancelled:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    heapq.heapify(self._waiting)
                else:  # the place came after the cancellation and before this task ran
                    self._leave()
                raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._waiting:
            heapq.heappop(self._waiting)[2].set()
        else:
            self._free += 1


def _load(folder: Path) -> _Expert:
    """Read a model folder and try it with a short prompt, so that what does not fit shows now.

    Raises:
        LocalError: a file is missing, does not parse, or is not that of a byte-level Llama.
    """
    # For matrices this small, handing work to BLAS threads costs more than the work, and seconds on busy cores.
    threadpool_limits(1, user_api="blas")
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=LlamaConfig)
        llama = Llama(config, load_file(folder / "model.safetensors"))
        expert = _Expert(llama, _byte_level(Tokeniser(read(folder))))
        greeting = expert.tokeniser.encode((ChatMessage("user", "Hello"),))
        llama.forward(greeting, Cache(config, len(greeting)))
    except (OSError, ValueError, KeyError, IndexError, msgspec.MsgspecError, SafetensorError) as error:
        raise LocalError(
            f"cannot load the model in {folder}: {error}",
            "name a folder with config.json, model.safetensors, tokenizer.json and tokenizer_config.json"
            " of a byte-level Llama, such as a shipped expert",
            Exit.MODEL,
        ) from error
    return expert


def _byte_level(tokeniser: Tokeniser) -> Tokeniser:
    """The tokeniser itself.

    Raises:
        ValueError: its ids are not the bytes of the text.
    """
    sample = " aé€\n"
    if tokeniser.encode_text(sample) != list(sample.encode()):
        raise ValueError("the tokeniser is not byte-level")
    return tokeniser
