"""How fast an engine is as it starts, measured on one whose speed is known."""

from collections.abc import Callable
from random import Random

import pytest
import trio
from trio.testing import MockClock

from p2pagent.engine.base import Capabilities, Completion, Delta, GenerateRequest
from p2pagent.engine.benchmark import ANSWER_TOKENS, DEADLINE_S, measure
from p2pagent.errors import EngineUnavailableError
from p2pagent.types import ChatMessage, Usage
from tests.scripted_engine import ScriptedEngine

VLLM_REFUSES = set("@/\\\0")
"""In a salt: `validate_cache_salt` of vLLM 0.32.0, entrypoints/generate/base/protocol.py."""

OVERHEAD_S, PREFILL_S, STEP_S = 0.01, 0.001, 0.02


class Timed(ScriptedEngine):
    """A token is a word; uncached ones take `PREFILL_S`, all prompts under way one after another.

    It knows no salts, and finds in its cache what begins like an earlier prompt.
    """

    def __init__(self, context_tokens: int = 4_096, slots: int = 3, fails_after: int = 100) -> None:
        super().__init__(lambda _: "", slots)
        self.context_tokens = context_tokens
        self.left = fails_after
        self.prompts: list[int] = []
        self.cached: set[str] = set()
        self.prefill = trio.Lock()

    async def generate(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        self.left -= 1
        if self.left < 0 or set(request.cache_salt) & VLLM_REFUSES:
            raise EngineUnavailableError("gone")
        text = request.messages[-1].content
        tokens, name = len(text.split()), text.split()[0]
        self.prompts.append(tokens)
        hit = tokens - 1 if name in self.cached else 0
        await trio.sleep(OVERHEAD_S)
        async with self.prefill:
            await trio.sleep(PREFILL_S * (tokens - hit))
        self.cached.add(name)
        for place in range(request.sampling.max_tokens):
            await trio.sleep(STEP_S if place else 0)
            emit(Delta("x"))
        return Completion(Usage(tokens, hit, request.sampling.max_tokens), "length")

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        return len(messages[0].content.split())

    def capabilities(self) -> Capabilities:
        return Capabilities(
            "timed", self.context_tokens, self.slots, reports_cached_tokens=True, reports_token_ids=False
        )


async def test_misses_hits_and_answers_side_by_side_are_measured(autojump_clock: MockClock) -> None:
    samples = await measure(Timed(), Random(1))
    alone, two, three = samples[:6], samples[6:8], samples[8:]
    assert [sample.task.prompt_tokens for sample in alone] == [64, 64, 256, 256, 1_024, 1_024]
    assert [sample.task.cached_tokens for sample in alone] == [0, 63, 0, 255, 0, 1_023]
    for sample in alone:
        task, outcome = sample.task, sample.outcome
        assert outcome.ttft_us == pytest.approx(1e6 * (OVERHEAD_S + PREFILL_S * task.uncached_tokens))
        assert (outcome.tpot_us, outcome.output_tokens) == (round(1e6 * STEP_S), ANSWER_TOKENS)
        assert (task.running, task.prefilling_tokens, task.max_tokens) == (0, 0, ANSWER_TOKENS)
    assert [(s.task.running, s.task.prefilling_tokens) for s in (*two, *three)] == [(1, 256)] * 2 + [(2, 512)] * 3
    assert max(s.outcome.ttft_us for s in three) == pytest.approx(1e6 * (OVERHEAD_S + 3 * 256 * PREFILL_S))


async def test_an_engine_that_runs_on_has_nothing_of_an_earlier_measurement_in_its_cache(
    autojump_clock: MockClock,
) -> None:
    engine = Timed()
    first, second = [await measure(engine, Random(seed)) for seed in (1, 2)]
    assert [s.task.cached_tokens for s in first] == [s.task.cached_tokens for s in second]
    assert [s.task.cached_tokens for s in await measure(engine, Random(1))] == [
        63,
        63,
        255,
        255,
        1_023,
        1_023,
        *[255] * 5,
    ]


async def test_no_prompt_is_longer_than_half_the_context(autojump_clock: MockClock) -> None:
    engine = Timed(context_tokens=200, slots=1)
    samples = await measure(engine, Random(1))
    assert {sample.task.prompt_tokens for sample in samples} == {64, 100}
    assert max(engine.prompts) == 100


async def test_a_slow_engine_is_measured_as_far_as_it_gets(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.test_benchmark.OVERHEAD_S", 2.5)
    start_s = trio.current_time()
    samples = await measure(Timed(), Random(1))
    assert 0 < len(samples) < 4
    assert trio.current_time() - start_s == pytest.approx(DEADLINE_S)


@pytest.mark.parametrize(("answers", "samples"), [(0, 0), (1, 0), (4, 3), (8, 6)])
async def test_of_an_engine_that_fails_stands_what_was_measured(
    autojump_clock: MockClock, answers: int, samples: int
) -> None:
    assert len(await measure(Timed(fails_after=answers), Random(1))) == samples
