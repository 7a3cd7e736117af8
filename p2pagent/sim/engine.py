"""Simulated engines: how long an answer takes while others run beside it, and which answer.

A model describes an engine; `open` gives one at work. Between two calls an engine does nothing but let time pass, so
the world asks it when it will next have something to say (`due_ms`), and takes that then.
"""

import heapq
from collections.abc import Callable
from math import ceil
from typing import Literal, Protocol

from msgspec import Struct

from p2pagent.peer.effects import Generate
from p2pagent.peer.events import Generated, GenerationEnded
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN, PrefixCache, tokens_of
from p2pagent.types import ChatMessage, Usage

PIECES = 4
"""In how many pieces an answer comes: one per token would be most of the events of a run, and decide nothing."""

ALMOST = 1e-6
"""Tokens by which sums of floats may fall short."""

Output = Generated | GenerationEnded


class Engine(Protocol):
    """One engine at work. Calls come in order of time, and no time that it named as due is passed over."""

    def start(self, job: Generate, now_ms: int) -> None:
        """Take on a job."""

    def stop(self, job: bytes, now_ms: int) -> None:
        """Drop a job if it is still at work; nothing more comes of it."""

    def due_ms(self) -> int | None:
        """When there will be something to take, as things stand; None while there is no work."""

    def take(self, now_ms: int) -> list[Output]:
        """What has been decoded and finished by now."""


class Model(Protocol):
    """What an engine is like."""

    def open(self) -> Engine:
        """An engine of this kind, with nothing to do."""


class EngineModel(Struct, frozen=True):
    """Prefill and decode at constant speed, whatever else runs; `answer` says what the model answers."""

    answer: Callable[[str], str]
    prefill_ms_per_token: int = 1
    decode_ms_per_token: int = 5

    def pieces(self, turns: tuple[ChatMessage, ...], max_tokens: int) -> tuple[list[tuple[int, str]], Usage]:
        """The pieces of an answer, each with the ms after the start at which it is decoded, and the usage in all.

        A token is a character, as for the shipped experts.
        """
        prompt_tokens = sum(len(turn.content) for turn in turns)
        answer = self.answer(turns[-1].content)[:max_tokens]
        first_ms = self.prefill_ms_per_token * prompt_tokens
        pieces = [(first_ms + self.decode_ms_per_token * (i + 1), text) for i, text in enumerate(answer)]
        return pieces, Usage(prompt_tokens, 0, len(answer))

    def open(self) -> "Steady":
        """An engine that runs everything it is given at once."""
        return Steady(self)


class Steady:
    """An engine whose every answer takes as long as if it were alone."""

    def __init__(self, model: EngineModel) -> None:
        self._model = model
        self._said: list[tuple[int, int, Output]] = []
        self._count = 0

    def start(self, job: Generate, now_ms: int) -> None:
        """See `Engine`."""
        pieces, usage = self._model.pieces(job.turns, job.sampling.max_tokens)
        for after_ms, text in pieces:
            self._say(now_ms + after_ms, Generated(job.job, text))
        end_ms = pieces[-1][0] if pieces else 0
        self._say(now_ms + end_ms, GenerationEnded(job.job, usage, "stop"))

    def stop(self, job: bytes, now_ms: int) -> None:  # noqa: ARG002
        """See `Engine`."""
        self._said = [said for said in self._said if said[2].job != job]
        heapq.heapify(self._said)

    def due_ms(self) -> int | None:
        """See `Engine`."""
        return self._said[0][0] if self._said else None

    def take(self, now_ms: int) -> list[Output]:
        """See `Engine`."""
        taken = []
        while self._said and self._said[0][0] <= now_ms:
            taken.append(heapq.heappop(self._said)[2])
        return taken

    def _say(self, at_ms: int, output: Output) -> None:
        self._count += 1
        heapq.heappush(self._said, (at_ms, self._count, output))


class BatchingModel(Struct, frozen=True):
    """Continuous batching, as in vLLM: all answers at work advance together, one token each in every step.

    A step takes `step_ms + step_ms_per_answer x answers at work`. Prompts share the prefill rate; what is in the prefix
    cache (`cache_tokens` in all, 0 for none) is not computed. A token is `CHARACTERS_PER_TOKEN` characters.

    The form of the step time is that of Orca's iterations (Yu et al. 2022, OSDI, section 3), a constant for reading the
    weights and a term per sequence.
    """

    answer: Callable[[str], str]
    slots: int = 4
    prefill_tokens_per_s: float = 2_000.0
    step_ms: float = 12.0
    step_ms_per_answer: float = 1.0
    cache_tokens: int = 0

    def open(self) -> "Batching":
        """An engine with an empty cache."""
        return Batching(self)


class Job(Struct, eq=False):
    """One answer under way: what is left of its prefill, and how far it is decoded."""

    job: bytes
    prompt: tuple[str, ...]
    salt: str
    text: str
    usage: Usage
    finish_reason: Literal["stop", "length"]
    ends: list[int]
    """Tokens at which its pieces end."""
    prefill_tokens: float
    decoded_tokens: float = 0.0
    pieces: int = 0


class Batching:
    """An engine of a `BatchingModel`. What exceeds its slots waits in the order in which it came."""

    def __init__(self, model: BatchingModel) -> None:
        self._model = model
        self._cache = PrefixCache(model.cache_tokens)
        self._running: list[Job] = []
        self._waiting: list[Job] = []
        self._then_ms = 0

    def start(self, job: Generate, now_ms: int) -> None:
        """See `Engine`."""
        self._pass(now_ms)
        text = self._model.answer(job.turns[-1].content)
        tokens = tokens_of(text)
        limit = job.sampling.max_tokens
        output = min(tokens, limit)
        turns = tuple(turn.content for turn in job.turns)
        usage = Usage(sum(tokens_of(turn) for turn in turns), 0, output)
        cut = text[: output * CHARACTERS_PER_TOKEN]
        reason: Literal["stop", "length"] = "stop" if tokens <= limit else "length"
        self._waiting.append(Job(job.job, turns, job.cache_salt, cut, usage, reason, _ends(output), 0.0))
        self._fill()

    def stop(self, job: bytes, now_ms: int) -> None:
        """See `Engine`."""
        self._pass(now_ms)
        for one in self._running:
            if one.job == job:
                self.leave(one, whole=False)
        self._running = [one for one in self._running if one.job != job]
        self._waiting = [one for one in self._waiting if one.job != job]
        self._fill()

    def due_ms(self) -> int | None:
        """See `Engine`."""
        if not self._running:
            return None
        per_prompt, step_ms = self._speeds()
        left_ms = (
            job.prefill_tokens * per_prompt
            if job.prefill_tokens
            else ((job.ends[job.pieces] if job.ends else 0) - job.decoded_tokens) * step_ms
            for job in self._running
        )
        return self._then_ms + max(0, ceil(min(left_ms) - ALMOST))

    def take(self, now_ms: int) -> list[Output]:
        """See `Engine`."""
        self._pass(now_ms)
        taken: list[Output] = []
        for job in list(self._running):
            if job.prefill_tokens:
                continue
            while job.pieces < len(job.ends) and job.decoded_tokens >= job.ends[job.pieces] - ALMOST:
                start = job.ends[job.pieces - 1] if job.pieces else 0
                end = job.ends[job.pieces]
                job.pieces += 1
                taken.append(Generated(job.job, job.text[start * CHARACTERS_PER_TOKEN : end * CHARACTERS_PER_TOKEN]))
            if job.pieces == len(job.ends):
                self._running.remove(job)
                self.leave(job, whole=True)
                taken.append(GenerationEnded(job.job, job.usage, job.finish_reason))
        self._fill()
        return taken

    def enter(self, job: Job) -> int | None:
        """How many tokens of a job's prompt are cached as it begins; None where it has to wait for room."""
        return self._cache.tokens(job.salt, job.prompt)

    def leave(self, job: Job, *, whole: bool) -> None:
        """A job has ended, or was stopped before it was `whole`."""
        if whole:
            self._cache.put(job.salt, (*job.prompt, job.text))

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._model.slots:
            cached = self.enter(self._waiting[0])
            if cached is None:
                return
            job = self._waiting.pop(0)
            job.usage = Usage(job.usage.prompt_tokens, cached, job.usage.output_tokens)
            job.prefill_tokens = float(job.usage.prompt_tokens - cached)
            self._running.append(job)

    def _speeds(self) -> tuple[float, float]:
        """Milliseconds per token of each prompt under way, and per token of each answer."""
        prompts = sum(job.prefill_tokens > 0 for job in self._running)
        step_ms = self._model.step_ms + self._model.step_ms_per_answer * len(self._running)
        return 1000 * prompts / self._model.prefill_tokens_per_s, step_ms

    def _pass(self, now_ms: int) -> None:
        """Let the time until now pass; nobody's prefill or piece ends within it, but for fractions of a millisecond."""
        per_prompt, step_ms = self._speeds()
        past_ms, self._then_ms = now_ms - self._then_ms, now_ms
        for job in self._running:
            if job.prefill_tokens:
                left = job.prefill_tokens - past_ms / per_prompt
                job.prefill_tokens = left if left > ALMOST else 0.0
            else:
                job.decoded_tokens += past_ms / step_ms


def _ends(tokens: int) -> list[int]:
    """Where the pieces of so many tokens end: the first token alone, so that its time is seen, the rest evenly."""
    rest = range(1, PIECES)
    return sorted({min(tokens, 1), *(1 + (tokens - 1) * piece // (PIECES - 1) for piece in rest)}) if tokens else []
