"""What a buyer believes of the caches of those that it has asked."""

from p2pagent.routing.marks import PIECE_BYTES, chain
from p2pagent.routing.residency import Recall
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, ChatMessage, Usage

AGENT = AgentRef(SimKeys(1).peer, "agent")
CAPACITY = 10_000
TOKENS = 1_000
LINKS = chain([ChatMessage("user", "x" * (PIECE_BYTES * 10))])


def expected(recall: Recall, computed_tokens: int = 0) -> int:
    return recall.expected_tokens(AGENT, LINKS, CAPACITY, computed_tokens, TOKENS)


def served() -> Recall:
    recall = Recall()
    recall.served(AGENT, LINKS, Usage(TOKENS, 0, 10), 50_000)
    return recall


def test_what_was_answered_is_held_until_much_else_was_computed() -> None:
    recall = served()
    assert expected(recall, 50_000) == TOKENS
    assert expected(recall, 50_000 + CAPACITY) == TOKENS // 2
    assert expected(recall, 50_000 + 10 * CAPACITY) == 0


def test_who_starts_anew_has_forgotten() -> None:
    assert expected(served(), 49_999) == 0


def test_who_says_that_it_holds_less_is_believed() -> None:
    recall = served()
    recall.told(AGENT, LINKS, 512, TOKENS, 50_000)
    assert 512 <= expected(recall, 50_000) <= 640
    recall.told(AGENT, LINKS, 0, TOKENS, 50_000)
    assert expected(recall, 50_000) <= 128
    recall.told(AGENT, LINKS, TOKENS, TOKENS, 50_000)
    assert expected(recall, 50_000) == TOKENS
