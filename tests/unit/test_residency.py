"""What is believed to be in an engine's cache, beside a small exact cache of the same size."""

from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import pytest

from p2pagent.routing.marks import Mark, Marker, chain
from p2pagent.routing.residency import BLOCK_TOKENS, MARKS_MAX, SHARE_KEPT, SHARE_MAX, Held, Shelf
from p2pagent.sim.keys import SimKeys
from p2pagent.types import ChatMessage, Usage

SELLER = SimKeys(1).peer
CAPACITY = 10_000
US, THEM = b"us", b"them"


class Called(NamedTuple):
    """A prompt under way."""

    prefix: Sequence[Mark]
    prompt_tokens: int


def marks(*ends_bytes: int, name: str = "a") -> list[Mark]:
    return [Mark(f"{name}{end}".encode(), end) for end in ends_bytes]


def serve(shelf: Shelf, domain: bytes, prefix: Sequence[Mark], usage: Usage, now_ms: int) -> None:
    """A prompt gets its slot and is answered, and nothing else meanwhile."""
    shelf.served(domain, prefix, usage, shelf.held_tokens(domain, prefix, usage.prompt_tokens), now_ms)


def make_call(*ends_bytes: int, prompt_tokens: int, name: str = "a") -> Called:
    return Called(marks(*ends_bytes, name=name), prompt_tokens)


def test_what_was_served_is_held_as_far_as_a_prompt_goes_on_from_it():
    shelf = Shelf(CAPACITY)
    assert shelf.held_tokens(US, marks(400, 800), 200) == 0
    serve(shelf, US, marks(400, 800), Usage(200, 0, 10), 0)
    assert shelf.held_tokens(US, marks(400, 800, 1_200), 300) == 200 // BLOCK_TOKENS * BLOCK_TOKENS
    assert shelf.held_tokens(US, marks(400, 900), 225) == 100 // BLOCK_TOKENS * BLOCK_TOKENS
    assert shelf.held_tokens(US, marks(400, 800, 1_200, name="b"), 300) == 0
    assert shelf.held_tokens(THEM, marks(400, 800), 200) == 0


def test_the_last_token_is_always_computed():
    shelf = Shelf(CAPACITY)
    serve(shelf, US, marks(256), Usage(2 * BLOCK_TOKENS, 0, 1), 0)
    assert shelf.held_tokens(US, marks(256), 2 * BLOCK_TOKENS) == BLOCK_TOKENS
    assert shelf.held_tokens(US, marks(256), 1) == 0
    assert shelf.held_tokens(US, marks(256), 0) == 0


def test_what_is_at_work_is_there_for_what_begins_alike():
    begun = [make_call(400, 800, prompt_tokens=200), make_call(256, prompt_tokens=100, name="other")]
    shelf = Shelf(CAPACITY)
    assert shelf.held_tokens(US, marks(400, 800, 1_200), 300, begun) == 200 // BLOCK_TOKENS * BLOCK_TOKENS
    assert shelf.held_tokens(US, marks(400, 900), 225, begun) == 100 // BLOCK_TOKENS * BLOCK_TOKENS
    assert shelf.held_tokens(US, marks(300), 75, begun) == 0
    assert Shelf(0).held_tokens(US, marks(400, 800), 200, begun) == 0


def test_of_a_prompt_at_work_that_was_called_longer_than_it_is_no_more_is_promised_than_text_of_that_length_has():
    shelf = Shelf(CAPACITY)
    begun = [make_call(4_000, prompt_tokens=2_008)]
    assert shelf.held_tokens(US, marks(4_000, 4_200), 2_108, begun) == 992
    for _ in range(50):
        serve(shelf, US, marks(4_000, name="b"), Usage(4_000, 0, 1), 0)
    assert shelf.held_tokens(US, marks(4_000, 4_200), 2_108, begun) == 1_984


def test_prompts_that_came_together_when_nothing_was_held_have_broken_no_promise():
    shelf = Shelf(CAPACITY)
    for number in range(50):
        for _ in range(4):
            shelf.served(US, marks(400, name=f"{number} "), Usage(100, 0, 1), 0, 0)
    assert shelf._share == SHARE_MAX


def test_an_engine_that_does_not_say_how_much_it_holds_is_believed_to_hold_nothing():
    shelf = Shelf(0)
    serve(shelf, US, marks(4_000), Usage(1_000, 0, 1), 0)
    assert shelf.held_tokens(US, marks(4_000), 1_000) == 0


def test_a_prompt_of_nothing_is_no_harm():
    shelf = Shelf(CAPACITY)
    serve(shelf, US, marks(0), Usage(3, 0, 1), 0)
    serve(shelf, US, [], Usage(3, 0, 1), 0)
    assert shelf.held_tokens(US, [], 3) == 0


def test_whose_promises_do_not_hold_promises_less_and_regains_trust_slowly():
    shelf = Shelf(CAPACITY)
    fills = int(SHARE_KEPT * SHARE_MAX * CAPACITY)
    serve(shelf, US, marks(fills), Usage(fills + 1, 0, 1), 0)
    assert shelf.held_tokens(US, marks(fills), fills + 1)
    serve(shelf, US, marks(fills), Usage(fills + 1, 0, 1), 0)
    assert not shelf.held_tokens(US, marks(fills), fills + 1), "others must have pushed it out"
    for _ in range(200):
        serve(shelf, US, marks(8, name="small"), Usage(2, 0, 1), 0)
    serve(shelf, US, marks(fills), Usage(fills + 1, 0, 1), 0)
    assert shelf.held_tokens(US, marks(fills), fills + 1)


def test_no_more_is_remembered_than_there_is_room_for():
    shelf = Shelf(1 << 30)
    for number in range(MARKS_MAX):
        serve(shelf, US, marks(100, 200, name=f"{number} "), Usage(100, 0, 1), 0)
    assert len(shelf._entries) == MARKS_MAX
    assert shelf._held_tokens == sum(entry.added_tokens for entry in shelf._entries.values())


def test_an_engine_that_tells_what_it_holds_is_believed_and_nothing_else():
    shelf = Shelf(CAPACITY)
    serve(shelf, US, marks(400, 800), Usage(200, 0, 1), 0)
    assert shelf.held_tokens(US, marks(400, 800), 200)
    long, short = marks(400, 800)
    shelf.told(Held(US, ((long.tag, 96), (short.tag, 64))))
    assert shelf.held_tokens(US, marks(400, 800), 200) == 96
    assert shelf.held_tokens(THEM, marks(400, 800), 200) == 0
    shelf.told(Held(US, ((long.tag, 0),)))
    assert shelf.held_tokens(US, marks(400, 800), 200) == 64
    serve(shelf, US, marks(400, 800), Usage(200, 0, 1), 0)
    assert shelf.held_tokens(US, marks(400, 800), 200) == 64
    shelf.told(Held(US, ((short.tag, 0),)))
    assert shelf.held_tokens(US, marks(400, 800), 200) == 0
    assert not shelf._told


def test_nothing_is_displaced_while_there_is_room():
    shelf = Shelf(CAPACITY)
    room = int(SHARE_MAX * CAPACITY)
    serve(shelf, US, marks(4_000), Usage(1_000, 0, 1), 0)
    assert shelf.displaced_tokens(THEM, [], room - 1_000, 0) == 0
    assert shelf.displaced_tokens(THEM, [], room - 999, 0) > 0


def test_what_was_used_last_and_what_the_prompt_itself_goes_on_from_is_not_displaced_first():
    shelf = Shelf(CAPACITY)
    room = int(SHARE_MAX * CAPACITY)
    old, new = marks(4_000, name="old"), marks(4_000, name="new")
    serve(shelf, US, old, Usage(room // 2, 0, 1), 0)
    serve(shelf, US, new, Usage(room // 2, 0, 1), 600_000)
    one = shelf.displaced_tokens(THEM, [], 100, 600_000)
    both = shelf.displaced_tokens(THEM, [], room, 600_000)
    assert 0 < one < both - one < room // 2, "the old one is the less likely to be used again"
    assert shelf.displaced_tokens(US, old, 100, 600_000) == both - one
    assert shelf.displaced_tokens(US, [*old, *new], room, 600_000) == 0


def test_a_cache_whose_content_always_returns_is_dearer_to_displace():
    def displaced(returns: bool) -> int:
        shelf = Shelf(CAPACITY)
        for number in range(200):
            name = "same" if returns else f"{number} "
            cached = 6_976 if returns and number else 0
            serve(shelf, US, marks(4_000, name=name), Usage(7_000, cached, 1), 10_000 * number)
        return shelf.displaced_tokens(THEM, [], 7_000, 10_000 * 199)

    assert displaced(returns=True) > 6_000 > 1_000 > displaced(returns=False)


class ExactCache:
    """Conversations in pieces of one turn; the one used least recently gives way, its last turn first."""

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.held: OrderedDict[tuple[int, int], int] = OrderedDict()

    def use(self, conversation: int, turns: list[int]) -> int:
        """Compute a prompt of turns of so many tokens; how many of them were there."""
        names = [(conversation, number) for number in range(len(turns))]
        hit = next((n for n, name in enumerate(names) if name not in self.held), len(names))
        for name, tokens in zip(names, turns, strict=True):
            self.held[name] = tokens
        for name in reversed(names):
            self.held.move_to_end(name)
        while sum(self.held.values()) > self.capacity_tokens:
            self.held.popitem(last=False)
        return sum(turns[:hit])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_promises_are_kept_and_most_of_what_is_there_is_promised(seed: int, share: float):
    """Conversations that grow and end, in a cache that holds `share` of what is going on."""
    rng, marker = Random(seed), Marker(b"key")
    turn_tokens, turns_max, open_ = 4 * BLOCK_TOKENS, 6, 20
    capacity = round(share * open_ * turns_max // 2 * turn_tokens)
    exact, shelf = ExactCache(capacity), Shelf(capacity)

    def turn(text: str) -> ChatMessage:
        return ChatMessage("user", text.ljust(4 * turn_tokens, "x"))

    names = list(range(open_))
    texts = {name: [turn(f"{name}")] for name in names}
    promised = there = broken = 0
    for step in range(500):
        place = rng.randrange(open_)
        name = names[place]
        prompt = texts[name]
        told, tokens = marker.tell(chain(prompt), SELLER), turn_tokens * len(prompt)
        expected = shelf.held_tokens(told.domain, told.marks, tokens)
        found = min(exact.use(name, [turn_tokens] * len(prompt)), tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        serve(shelf, told.domain, told.marks, Usage(tokens, found, 1), 0)
        promised, there, broken = promised + expected, there + found, broken + max(0, expected - found)
        prompt.append(turn(f"{name} {step}"))
        if len(prompt) > turns_max:
            names[place] = open_ + step
            texts[open_ + step] = [turn(f"{open_ + step}")]
    assert broken <= 0.02 * there
    assert promised >= (0.9 if share > 1 else 0.75 if share == 1 else 0.6) * there
