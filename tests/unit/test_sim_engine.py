"""Simulated engines: times worked out by hand, and a slow engine that goes from millisecond to millisecond."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.peer.effects import Generate
from p2pagent.peer.events import Generated, GenerationEnded
from p2pagent.sim.engine import BatchingModel, Engine, EngineModel, Output
from p2pagent.sim.prefixes import PrefixCache, tokens_of
from p2pagent.types import ChatMessage, Sampling, Usage


def job(number: int, prompt_tokens: int = 100, max_tokens: int = 256, salt: str = "me", *before: str) -> Generate:
    turns = (*before, f"{number}".ljust(4 * prompt_tokens, "?"))
    messages = tuple(ChatMessage("user", turn) for turn in turns)
    return Generate(bytes([number]), "agent", messages, Sampling(max_tokens=max_tokens), salt, 1)


def model(answer_tokens: int = 10, slots: int = 4, cache_tokens: int = 0) -> BatchingModel:
    """Ten milliseconds per step and two more per answer; a prompt token a millisecond."""
    return BatchingModel(lambda _: "word" * answer_tokens, slots, 1_000.0, 10.0, 2.0, cache_tokens)


def drained(engine: Engine, starts: dict[int, list[Generate]]) -> list[tuple[int, Output]]:
    """All that an engine says, with its times, when jobs come at these."""
    said: list[tuple[int, Output]] = []
    while True:
        due = engine.due_ms()
        moments = [at for at in (due, min(starts, default=None)) if at is not None]
        if not moments:
            return said
        now = min(moments)
        if now == due:
            said += [(now, output) for output in engine.take(now)]
        for one in starts.pop(now, []):
            engine.start(one, now)


def ends(said: list[tuple[int, Output]]) -> dict[int, int]:
    return {output.job[0]: at for at, output in said if isinstance(output, GenerationEnded)}


def test_alone_an_answer_takes_its_prefill_and_a_step_per_token() -> None:
    said = drained(model().open(), {0: [job(1)]})
    assert ends(said) == {1: 100 + 10 * 12}
    assert next(at for at, output in said if isinstance(output, Generated)) == 100 + 12
    assert "".join(output.text for _, output in said if isinstance(output, Generated)) == "word" * 10
    assert said[-1][1] == GenerationEnded(b"\1", Usage(100, 0, 10), "stop")
    assert len(said) <= 5


def test_two_answers_share_the_prefill_and_slow_each_other_down() -> None:
    said = drained(model().open(), {0: [job(1), job(2)]})
    assert ends(said) == {1: 200 + 10 * 14, 2: 200 + 10 * 14}


def test_who_is_left_alone_speeds_up() -> None:
    said = drained(model().open(), {0: [job(1)], 160: [job(2, 1)]})
    # 5 of 10 tokens by 160, then one millisecond of prefill beside them, then both decode.
    first = 160 + 5 * 14
    assert ends(said)[1] == first
    decoded = (first - 161) / 14
    assert ends(said)[2] == pytest.approx(first + (10 - decoded) * 12, abs=1)


def test_what_exceeds_the_slots_waits_and_is_not_forgotten() -> None:
    said = drained(model(slots=1).open(), {0: [job(1), job(2), job(3)]})
    assert ends(said) == {1: 220, 2: 440, 3: 660}


def test_a_stopped_job_says_nothing_more_and_makes_room() -> None:
    engine = model(slots=1).open()
    engine.start(job(1), 0)
    engine.start(job(2), 0)
    assert engine.take(100) == []
    assert len(engine.take(112)) == 1
    engine.stop(b"\1", 120)
    said = drained(engine, {})
    assert {output.job for _, output in said} == {b"\2"}
    assert ends(said) == {2: 120 + 220}
    engine.stop(b"\1", 500)
    assert engine.due_ms() is None


@pytest.mark.parametrize(("max_tokens", "reason", "tokens"), [(9, "length", 9), (10, "stop", 10), (1, "length", 1)])
def test_an_answer_is_cut_where_it_was_to_be(max_tokens: int, reason: str, tokens: int) -> None:
    said = drained(model().open(), {0: [job(1, max_tokens=max_tokens)]})
    assert said[-1][1] == GenerationEnded(b"\1", Usage(100, 0, tokens), reason)  # type: ignore[arg-type]
    assert "".join(output.text for _, output in said if isinstance(output, Generated)) == "word" * tokens


def test_a_conversation_that_goes_on_is_cached_for_its_own_salt_only() -> None:
    engine = model(cache_tokens=1_000).open()
    first = job(1)
    said = drained(engine, {0: [first]})
    before = (first.turns[0].content, "word" * 10)
    start = ends(said)[1]
    again = drained(engine, {start: [job(2, 50, 256, "me", *before)]})
    assert again[-1][1] == GenerationEnded(b"\2", Usage(160, 110, 10), "stop")
    assert ends(again)[2] == start + 50 + 120
    other = drained(engine, {1_000: [job(3, 50, 256, "you", *before)]})
    assert other[-1][1] == GenerationEnded(b"\3", Usage(160, 0, 10), "stop")


def test_the_cache_forgets_what_was_used_longest_ago_and_extensions_first() -> None:
    cache = PrefixCache(30)
    a, b, c = "a" * 40, "b" * 40, "c" * 40
    cache.put("", (a, b))
    cache.put("", (c,))
    assert cache.tokens("", (a, b, "new")) == 20
    cache.put("", ("d" * 40,))  # c was used longest ago
    assert cache.tokens("", (c,)) == 0
    cache.put("", ("e" * 40,))
    assert cache.tokens("", (a, b)) == 10
    assert tokens_of("abcde") == 2


def test_the_steady_engine_says_what_its_model_describes() -> None:
    steady = EngineModel(lambda prompt: prompt.upper(), 2, 7)
    turns = (ChatMessage("user", "hello"),)
    pieces, usage = steady.pieces(turns, 3)
    said = drained(steady.open(), {50: [Generate(b"\1", "agent", turns, Sampling(max_tokens=3), "", 0)]})
    assert [(at - 50, output.text) for at, output in said if isinstance(output, Generated)] == pieces
    assert said[-1] == (50 + pieces[-1][0], GenerationEnded(b"\1", usage, "stop"))


Jobs = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 200), st.integers(1, 40)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(Jobs, st.integers(1, 4))
def test_ends_are_those_of_an_engine_that_goes_step_by_step(jobs: list[tuple[int, int, int]], slots: int) -> None:
    """The slow engine knows no events: in each tenth of a millisecond everybody gets what the rates say."""
    lengths = {number: output for number, (_, _, output) in enumerate(jobs)}
    model = BatchingModel(lambda prompt: "word" * lengths[int(prompt.rstrip("?"))], slots, 1_000.0, 10.0, 2.0, 0)
    starts: dict[int, list[Generate]] = {}
    for number, (at, prompt, _) in enumerate(jobs):
        starts.setdefault(at, []).append(job(number, prompt))
    found = ends(drained(model.open(), starts))
    expected = slowly(jobs, slots)
    assert found.keys() == expected.keys()
    # Each start and end of another is rounded to a millisecond.
    assert all(abs(found[number] - at) <= 3 * len(jobs) + 1 for number, at in expected.items())


def slowly(jobs: list[tuple[int, int, int]], slots: int, tick_ms: float = 0.1) -> dict[int, float]:
    coming = sorted((at, number) for number, (at, _, _) in enumerate(jobs))
    waiting: list[int] = []
    running: dict[int, list[float]] = {}
    done: dict[int, float] = {}
    now = 0.0
    while len(done) < len(jobs):
        while coming and coming[0][0] <= now:
            waiting.append(coming.pop(0)[1])
        while waiting and len(running) < slots:
            number = waiting.pop(0)
            running[number] = [float(jobs[number][1]), float(jobs[number][2])]
        prompts = sum(prompt > 0 for prompt, _ in running.values())
        step = 10.0 + 2.0 * len(running)
        for number, left in list(running.items()):
            if left[0] > 0:
                left[0] -= tick_ms / prompts
            else:
                left[1] -= tick_ms / step
                if left[1] <= 1e-9:
                    done[number] = now
                    del running[number]
        now += tick_ms
    return done
