"""How often the own conversations are expected to go on, and where."""

import pytest

from p2pagent.routing.marks import Link, chain
from p2pagent.routing.regulars import CONVERSATIONS_MAX, CYCLE_MS, CYCLES, TOLD_APART, Regulars
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, ChatMessage

ALICE, BOB = (AgentRef(SimKeys(n).peer, "agent") for n in (1, 2))


def links(conversation: int, turns: int = 1) -> tuple[Link, ...]:
    said = [ChatMessage(("user", "assistant")[n % 2], f"{conversation} {n}") for n in range(2 * turns - 1)]
    return chain([ChatMessage("system", "the same for all"), *said])


def test_every_conversation_under_way_is_expected_once_per_cycle() -> None:
    regulars = Regulars()
    for conversation, agent in enumerate((ALICE, ALICE, BOB)):
        regulars.awarded(agent, links(conversation), 0)
    assert regulars.answers_per_s(1) == pytest.approx({ALICE: 2_000 / CYCLE_MS, BOB: 1_000 / CYCLE_MS})


def test_a_conversation_is_where_it_went_on_last_and_tells_how_often_they_do() -> None:
    regulars = Regulars()
    regulars.awarded(ALICE, links(0), 0)
    regulars.awarded(BOB, links(0, turns=2), 2_000)
    cycle_ms = TOLD_APART * CYCLE_MS + (1 - TOLD_APART) * 2_000
    assert regulars.answers_per_s(2_000) == pytest.approx({BOB: 1_000 / cycle_ms})


def test_a_prompt_that_another_agent_has_failed_is_no_further_turn() -> None:
    regulars = Regulars()
    regulars.awarded(ALICE, links(0), 0)
    regulars.awarded(BOB, links(0), 5)
    assert regulars.answers_per_s(5) == pytest.approx({BOB: 1_000 / CYCLE_MS})


def test_one_that_has_not_gone_on_for_long_has_ended() -> None:
    regulars = Regulars()
    regulars.awarded(ALICE, links(0), 0)
    assert regulars.answers_per_s(int(CYCLES * CYCLE_MS)) != {}
    assert regulars.answers_per_s(int(CYCLES * CYCLE_MS) + 1) == {}


def test_a_prompt_without_links_is_no_conversation_and_the_oldest_are_forgotten() -> None:
    regulars = Regulars()
    regulars.awarded(ALICE, (), 0)
    assert regulars.answers_per_s(0) == {}
    regulars.awarded(ALICE, links(0), 0)
    for conversation in range(CONVERSATIONS_MAX):
        regulars.awarded(BOB, links(1 + conversation), 0)
    assert list(regulars.answers_per_s(0)) == [BOB]
