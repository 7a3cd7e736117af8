"""The simulated engine with a cache of blocks."""

import pytest

from p2pagent.peer.effects import Generate
from p2pagent.peer.events import Generated, GenerationEnded
from p2pagent.sim.engine_blocks import BLOCK_TOKENS, BlockModel, Blockwise, names
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN
from p2pagent.types import ChatMessage, Sampling

OUTPUT = 8


def engine(blocks: int, slots: int = 2) -> Blockwise:
    """One token a millisecond, or ten milliseconds of a step."""
    return BlockModel(lambda _: "word" * OUTPUT, slots, 1_000.0, 10.0, 0.0, blocks=blocks).open()


def text(name: str, tokens: int) -> str:
    return (name * tokens)[: CHARACTERS_PER_TOKEN * tokens].ljust(CHARACTERS_PER_TOKEN * tokens, "-")


def start(at: Blockwise, job: str, *turns: str, now_ms: int = 0, salt: str = "s") -> None:
    said = tuple(ChatMessage("user", turn) for turn in turns)
    at.start(Generate(job.encode(), "", said, Sampling(max_tokens=OUTPUT), salt, 1), now_ms)


def run(at: Blockwise) -> dict[str, tuple[int, int, int]]:
    """Per job when its first piece came, when it ended, and how many tokens were cached."""
    first: dict[str, int] = {}
    found: dict[str, tuple[int, int, int]] = {}
    while (now_ms := at.due_ms()) is not None:
        for output in at.take(now_ms):
            job = output.job.decode()
            if isinstance(output, Generated):
                first.setdefault(job, now_ms)
            elif isinstance(output, GenerationEnded):
                found[job] = first[job], now_ms, output.usage.cached_tokens
    return found


def test_names_are_of_whole_blocks_and_of_all_text_before() -> None:
    one, other = text("one ", 40), text("two ", 40)
    assert len(names("s", (one,))) == 1
    assert len(names("s", (one, other))) == 2
    assert names("s", (one, other))[0] == names("s", (one,))[0]
    assert names("s", (one, one))[1] != names("s", (other, one))[1]
    assert not set(names("s", (one, other))) & set(names("t", (one, other)))


def test_a_turn_that_goes_on_computes_only_what_is_new() -> None:
    at = engine(blocks=20)
    start(at, "first", text("doc ", 4 * BLOCK_TOKENS))
    assert run(at)["first"] == (4 * BLOCK_TOKENS + 10, 4 * BLOCK_TOKENS + 10 * OUTPUT, 0)
    start(at, "second", text("doc ", 4 * BLOCK_TOKENS), text("more", 10), now_ms=1_000)
    assert run(at)["second"] == (1_000 + 10 + 10, 1_000 + 10 + 10 * OUTPUT, 4 * BLOCK_TOKENS)
    start(at, "theirs", text("doc ", 4 * BLOCK_TOKENS), text("more", 10), now_ms=2_000, salt="t")
    assert run(at)["theirs"][2] == 0


def test_what_was_used_long_ago_gives_way_its_tail_first() -> None:
    at = engine(blocks=10)
    for turn, name in enumerate(("old ", "new ", "last")):
        start(at, name, text(name, 4 * BLOCK_TOKENS), now_ms=1_000 * turn)
        run(at)
    start(at, "again", text("new ", 4 * BLOCK_TOKENS), text("more", 10), now_ms=5_000)
    assert run(at)["again"][2] == 4 * BLOCK_TOKENS
    start(at, "gone", text("old ", 4 * BLOCK_TOKENS), text("more", 10), now_ms=6_000)
    assert run(at)["gone"][2] == BLOCK_TOKENS


@pytest.mark.parametrize("stop", [False, True])
def test_an_answer_without_room_waits_until_another_has_ended_or_is_stopped(stop: bool) -> None:
    at = engine(blocks=6)
    start(at, "one", text("one ", 4 * BLOCK_TOKENS))
    start(at, "two", text("two ", 4 * BLOCK_TOKENS))
    if stop:
        at.stop(b"one", 50)
    done = run(at)
    begun_ms = 50 if stop else done["one"][1]
    assert done["two"][0] == begun_ms + 4 * BLOCK_TOKENS + 10
