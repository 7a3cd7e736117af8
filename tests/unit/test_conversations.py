"""The trace of conversations: what it says of prompts against the prompts, as the shipped experts read them."""

import json
from collections import Counter, defaultdict
from itertools import combinations
from random import Random
from statistics import mean, pstdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jinja2 import Template
from tokenizers import Tokenizer

from p2pagent import experts
from p2pagent.sim.conversations import MARKS_TURN, Shape, Turn, ceiling, document_of, draw, messages

FOLDER = experts.path("sort")
TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
TEMPLATE = Template(json.loads((FOLDER / "tokenizer_config.json").read_text())["chat_template"])

NO_BLOCKS = 1_000_000
"""Tokens of a block that no prompt fills: where only times are looked at."""

SHAPES = st.builds(
    Shape,
    documents=st.integers(1, 3),
    conversations=st.integers(1, 6),
    turns=st.integers(1, 4),
    domains=st.integers(1, 2),
    document_tokens=st.integers(10, 40),
    first_tokens=st.integers(10, 25),
    reply_tokens=st.integers(5, 9),
    turn_tokens=st.integers(20 + MARKS_TURN, 30),
    popularity=st.sampled_from((0.0, 1.2)),
)


def read(turn: Turn, shape: Shape) -> list[int]:
    """A prompt in tokens."""
    turns = [{"role": m.role, "content": m.content} for m in messages(shape, turn.conversation, turn.number, seed=7)]
    prompt = TEMPLATE.render(messages=turns, add_generation_prompt=True)
    return TOKENIZER.encode(prompt, add_special_tokens=False).ids


def in_common(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@st.composite
def traces(draws: st.DrawFn) -> tuple[Shape, int, tuple[Turn, ...]]:
    """A shape, the tokens of a block, and the turns.

    Texts are drawn at random, so two that differ may begin with the same letter: no block ends in the first few letters
    of a text.
    """
    shape, block_tokens = draws(SHAPES), draws(st.integers(8, 12))
    assume(-(shape.document_tokens + 1) % block_tokens not in range(1, 6))
    return shape, block_tokens, draw(shape, block_tokens, Random(draws(st.integers(0, 99))))


@given(traces())
@settings(deadline=None, max_examples=60)
def test_chains_and_lengths_are_those_of_the_texts(trace: tuple[Shape, int, tuple[Turn, ...]]) -> None:
    shape, block_tokens, turns = trace
    prompts = [(turn, read(turn, shape)) for turn in turns]
    for turn, prompt in prompts:
        assert turn.prompt_tokens == len(prompt)
        assert len(set(turn.chain)) == len(turn.chain) == len(prompt) // block_tokens
    for (one, first), (other, second) in combinations(prompts, 2):
        alike = in_common(first, second) // block_tokens
        assert one.chain[:alike] == other.chain[:alike]
        assert not set(one.chain[alike:]) & set(other.chain[alike:])


@given(traces())
@settings(deadline=None, max_examples=60)
def test_the_ceiling_is_the_longest_prefix_ever_asked_before(trace: tuple[Shape, int, tuple[Turn, ...]]) -> None:
    shape, block_tokens, turns = trace
    asked: dict[int, list[list[int]]] = defaultdict(list)
    spared = total = 0
    for turn in turns:
        prompt = read(turn, shape)
        longest = max((in_common(prompt, before) for before in asked[turn.domain]), default=0)
        spared += min(longest, len(prompt) - 1) // block_tokens * block_tokens
        total += len(prompt)
        asked[turn.domain].append(prompt)
    assert ceiling(turns, block_tokens) == spared / total


def test_what_is_asked_again_is_spared_but_for_its_last_token() -> None:
    turn = Turn(0, 0, 0, 0.0, 8, 1, (1, 2))
    assert ceiling([turn, turn], 4) == 4 / 16
    assert ceiling([turn, turn._replace(prompt_tokens=9)], 4) == 8 / 17
    assert ceiling([turn, turn._replace(prompt_tokens=9, domain=1)], 4) == 0


def test_the_usual_trace_is_the_one_that_the_targets_ask_for() -> None:
    turns = draw(Shape(), 32, Random(0))
    numbers: dict[int, list[int]] = defaultdict(list)
    for turn in turns:
        numbers[turn.conversation].append(turn.number)
    assert len(numbers) >= 40
    assert all(order == sorted(order) and len(order) >= 6 for order in numbers.values())
    assert all(turn.prompt_tokens >= 1_500 for turn in turns if turn.number == 5)
    assert ceiling(turns, 32) >= 0.85


def test_popular_documents_are_asked_about_more() -> None:
    def counts(popularity: float) -> list[int]:
        shape = Shape(documents=8, popularity=popularity)
        counted = Counter(document_of(shape, conversation) for conversation in range(shape.conversations))
        return [counted[document] for document in range(shape.documents)]

    assert counts(0.0) == [5] * 8
    assert counts(1.0)[0] == round(40 / sum(1 / rank for rank in range(1, 9)))
    assert counts(1.2) == sorted(counts(1.2), reverse=True)


def test_few_conversations_go_on_quickly() -> None:
    pauses: dict[int, list[float]] = defaultdict(list)
    for turn in draw(Shape(conversations=4, turns=2_000, pace=1.0), NO_BLOCKS, Random(1)):
        if turn.number:
            pauses[turn.conversation].append(turn.pause)
    assert sorted(mean(own) for own in pauses.values()) == pytest.approx([0.4, 0.8, 1.2, 1.6], rel=0.1)


@pytest.mark.parametrize("gathering", [0.0, 0.6])
def test_a_run_is_as_long_as_its_slowest_conversation(gathering: float) -> None:
    ends: dict[int, float] = defaultdict(float)
    for turn in draw(Shape(conversations=20, turns=2_000, pace=1.0, gathering=gathering), NO_BLOCKS, Random(1)):
        ends[turn.conversation] += turn.pause
    slowest = 2_000 * 20 / mean(range(1, 21))
    assert max(ends.values()) == pytest.approx(slowest, rel=0.1)
    assert min(ends.values()) < 0.5 * slowest


def test_conversations_on_one_document_start_together() -> None:
    def spread(gathering: float, documents: int = 1) -> float:
        shape = Shape(documents=documents, popularity=0, turns=100, pace=0.1, gathering=gathering)
        starts = [[t.pause for t in draw(shape, NO_BLOCKS, Random(seed)) if t.number == 0] for seed in range(8)]
        return mean(pstdev(times) for times in starts)

    assert spread(1.0) < spread(0.5) < spread(0.0)
    assert spread(1.0, documents=40) == pytest.approx(spread(0.0), rel=0.2)


def test_the_same_seed_gives_the_same_trace_and_texts() -> None:
    shape = Shape()
    assert draw(shape, 32, Random(3)) == draw(shape, 32, Random(3)) != draw(shape, 32, Random(4))
    assert messages(shape, 5, 2, seed=3) == messages(shape, 5, 3, seed=3)[:6]
    assert messages(shape, 5, 2, seed=3)[0] != messages(shape, 5, 2, seed=4)[0]
