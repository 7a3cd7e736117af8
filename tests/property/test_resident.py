"""What an engine is known to hold, beside a pool that holds it."""

from hashlib import blake2b
from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.engine.resident import Resident
from p2pagent.engine.vllm_events import Ended, Lost
from p2pagent.routing.marks import Mark
from tests.block_pool import BlockPool, Request, short

BLOCK_TOKENS = 4
PIECE_TOKENS = 3
WORDS = ([0] * 5, [1] * 5, [2] * 7)
"""Prompts are made of these, so that many begin alike; neither they nor pieces end where blocks do."""

salts = st.sampled_from(["a", "b"])
tokens = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(lambda words: [*chain.from_iterable(words)])
places = st.integers(0, 3)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), salts, tokens),
        st.tuples(st.just("serve"), salts, tokens),
        st.tuples(st.just("feed"), places, st.integers(0, 2)),
        st.tuples(st.just("answer"), places),
        st.tuples(st.just("abort"), places),
        st.tuples(st.just("abort unheard"), places),
        st.tuples(st.just("clear")),
        st.tuples(st.just("wait")),
        st.tuples(st.just("lose")),
        st.tuples(st.just("fall silent")),
        st.tuples(st.just("start")),
    ),
    max_size=60,
)


def marks_of(prompt: list[int]) -> list[Mark]:
    ends = [*range(PIECE_TOKENS, len(prompt), PIECE_TOKENS), len(prompt)]
    return [Mark(blake2b(bytes(prompt[:end]), digest_size=8).digest(), end) for end in ends]


class Engine:
    """A pool, and a resident that hears of it after a while; a token is a byte."""

    def __init__(self, blocks: int) -> None:
        self.pool = BlockPool(blocks, BLOCK_TOKENS)
        self.blocks = blocks
        self.is_silent = False
        self.resident = Resident()
        self.resident.capacity_tokens = (blocks - 1) * BLOCK_TOKENS
        self.resident.block_tokens = BLOCK_TOKENS
        self.running: list[tuple[Request, list[int], int]] = []
        self.followed: set[tuple[str, tuple[int, ...]]] = set()

    def hear(self) -> None:
        for record in () if self.is_silent else self.pool.records:
            self.resident.on_record(record)
        self.pool.records.clear()

    def lose(self) -> None:
        self.pool.records.clear()
        self.resident.on_record(Lost())

    def fall_silent(self) -> None:
        self.is_silent = True
        self.resident.on_record(Ended())

    def start(self) -> None:
        self.pool = BlockPool(self.blocks, BLOCK_TOKENS)
        self.running.clear()
        self.is_silent = False
        self.resident.on_start()

    def ask(self, salt: str, prompt: list[int]) -> None:
        expected = self.resident.held_tokens(salt.encode(), marks_of(prompt))
        if request := self.pool.admit(salt, prompt):
            self.running.append((request, prompt, expected))

    def names(self, request: Request, prompt: list[int]) -> bytes:
        return b"".join(short(request.name(end)) for end in range(BLOCK_TOKENS, len(prompt) + 1, BLOCK_TOKENS))

    def end(self, place: int, how: str) -> None:
        if not self.running:
            return
        request, prompt, expected = self.running.pop(place % len(self.running))
        if how != "abort unheard":
            self.tell(request, prompt)
        self.pool.end(request)
        if how == "answer":
            names = self.names(request, prompt)
            self.resident.on_answer(names, len(prompt), request.cached_tokens, expected)

    def tell(self, request: Request, prompt: list[int]) -> None:
        self.resident.on_prompt(request.salt.encode(), marks_of(prompt), self.names(request, prompt), len(prompt))
        self.followed |= {(request.salt, tuple(prompt[: mark.end_bytes])) for mark in marks_of(prompt)}

    def feed(self, place: int, token: int) -> None:
        if self.running and not self.pool.feed(self.running[place % len(self.running)][0], token):
            self.pool.end(self.running.pop(place % len(self.running))[0])

    def differences(self) -> list[int]:
        """By how many blocks more is believed of each prefix that is followed than is there."""
        found = []
        for salt, prefix in self.followed:
            held = self.resident.held_tokens(salt.encode(), marks_of(list(prefix))[-1:])
            assert held % BLOCK_TOKENS == 0
            found.append(held // BLOCK_TOKENS - self.pool.present(salt, list(prefix)))
        return found


def run(engine: Engine, steps: list[tuple], *, lag: bool, gaps: bool) -> None:
    for step in steps:
        match step:
            case "ask", salt, prompt:
                engine.ask(salt, prompt)
            case "serve", salt, prompt:
                engine.ask(salt, prompt)
                engine.end(-1, "answer")
            case "feed", place, token:
                engine.feed(place, token)
            case ("answer" | "abort" | "abort unheard") as how, place:
                engine.end(place, how)
            case ("clear",):
                engine.pool.clear()
            case ("wait",):
                engine.hear()
            case ("lose",) if gaps:
                engine.lose()
            case ("fall silent",) if gaps:
                engine.fall_silent()
            case ("start",):
                engine.start()
        if not lag:
            engine.hear()
            check(engine, gaps=gaps)
    engine.hear()
    check(engine, gaps=gaps)


def check(engine: Engine, *, gaps: bool) -> None:
    differences = engine.differences()
    assert max(differences, default=0) <= 0
    if not gaps and not engine.resident.mispredictions:
        assert not any(differences)


@settings(max_examples=300, deadline=None)
@given(st.integers(6, 24), operations)
def test_what_is_held_is_exactly_what_is_there(blocks, steps):
    engine = Engine(blocks)
    run(engine, steps, lag=False, gaps=False)
    assert engine.resident.mispredictions == 0


@settings(max_examples=300, deadline=None)
@given(st.integers(6, 24), operations)
def test_once_all_is_heard_what_is_held_is_there_however_late_it_was(blocks, steps):
    run(Engine(blocks), steps, lag=True, gaps=False)


@settings(max_examples=300, deadline=None)
@given(st.integers(6, 24), operations)
def test_nothing_is_held_that_is_not_there_after_gaps(blocks, steps):
    run(Engine(blocks), steps, lag=False, gaps=True)


@settings(deadline=None)
@given(st.integers(6, 24), operations)
def test_whoever_takes_in_the_changes_knows_as_much(blocks, steps):
    engine, known = Engine(blocks), {}
    for step in [*steps, ("wait",)]:
        run(engine, [step], lag=False, gaps=True)
        for told in engine.resident.changes():
            if told is None:
                assert engine.is_silent
                known.clear()
                continue
            domain, entries = told
            assert len({tag for tag, _ in entries}) == len(entries)
            for tag, held in entries:
                assert held == 0 or known.get((domain, tag)) != held
                known[domain, tag] = held
    for salt, prefix in engine.followed:
        (mark,) = marks_of(list(prefix))[-1:]
        assert known.get((salt.encode(), mark.tag), 0) == engine.resident.held_tokens(salt.encode(), [mark])
