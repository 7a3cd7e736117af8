"""How fast an engine is as it starts: a few answers that nobody asked for, from which its predictors begin.

Prompts of several lengths, each again while it is cached, and then as many at once as there are slots. What the engine
does otherwise while it starts, such as compiling, is no part of it: the first answer is thrown away.

No prompt begins like another, nor like one of an earlier measurement: an endpoint that runs on, such as Ollama, may
still have those in its cache.
"""

from random import Random

import trio

from p2pagent.engine.base import Delta, Engine, GenerateRequest
from p2pagent.errors import EngineUnavailableError
from p2pagent.routing.qos import Outcome, Sample, Task
from p2pagent.types import ChatMessage, Sampling

PROMPT_TOKENS = (64, 256, 1_024)
CONTEXT_SHARE = 2
"""No prompt is longer than the context over this."""

ANSWER_TOKENS = 12
DEADLINE_S = 10.0
"""What has not been measured by then is not waited for."""

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")


async def measure(engine: Engine, rng: Random) -> tuple[Sample, ...]:
    """What `engine` takes for tasks of several kinds, as many as it gets done within `DEADLINE_S`; none if it fails."""
    bench = _Bench(engine, rng)
    try:
        with trio.move_on_after(DEADLINE_S):
            await bench.run()
    except* EngineUnavailableError:
        pass  # its supervisor says so; whatever was measured stands
    return tuple(bench.samples)


class _Bench:
    def __init__(self, engine: Engine, rng: Random) -> None:
        self.samples: list[Sample] = []
        self._engine = engine
        self._rng = rng
        self._words_per_token = 1.0

    async def run(self) -> None:
        can = self._engine.capabilities()
        text = _text(256, self._salt())
        tokens = await self._engine.count_tokens((ChatMessage("user", text),))
        self._words_per_token = len(text.split()) / max(1, tokens)
        longest = can.context_tokens // CONTEXT_SHARE
        sizes = sorted({min(size, longest) for size in PROMPT_TOKENS})
        await self._answer(sizes[0], self._salt())
        self.samples.clear()
        for size in sizes:
            salt = self._salt()
            await self._answer(size, salt)
            await self._answer(size, salt)
        for together in sorted({2, can.slots} if can.slots > 1 else ()):
            async with trio.open_nursery() as nursery:
                for _ in range(together):
                    nursery.start_soon(self._answer, sizes[len(sizes) // 2], self._salt(), together - 1)

    def _salt(self) -> str:
        return self._rng.randbytes(8).hex()

    async def _answer(self, prompt_tokens: int, salt: str, beside: int = 0) -> None:
        """Measure one answer while as many others as `beside` start at the same time."""
        turns = (ChatMessage("user", _text(round(prompt_tokens * self._words_per_token), salt)),)
        request = GenerateRequest(turns, Sampling(max_tokens=ANSWER_TOKENS), f"p2pagent benchmark {salt}")
        start_s, first_s = trio.current_time(), 0.0

        def emit(_: Delta) -> None:
            nonlocal first_s
            first_s = first_s or trio.current_time()

        usage = (await self._engine.generate(request, emit)).usage
        end_s = trio.current_time()
        first_s = first_s or end_s
        uncached = usage.prompt_tokens - usage.cached_tokens
        task = Task(usage.prompt_tokens, usage.cached_tokens, ANSWER_TOKENS, beside, beside * uncached)
        outcome = Outcome.timed(round(1e6 * (first_s - start_s)), round(1e6 * (end_s - first_s)), usage)
        self.samples.append(Sample(task, outcome))


def _text(words: int, salt: str) -> str:
    """Text of so many words that begins like no other: engines without salts are not to find it in their caches."""
    return " ".join([salt, *(WORDS[place % len(WORDS)] for place in range(max(1, words - 1)))])
