"""Why an agent answered, in words that are true of the query."""

import pytest

from p2pagent.peer.choice import Option, worth_at
from p2pagent.peer.messages import Quote
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.telling import explained, why
from p2pagent.peer.wire import parsed
from p2pagent.routing.prototypes import Relevance, Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef
from tests.scenario import make_ask, make_option
from tests.strangers import ALICE, BOB, ME, make_call, make_quote

ASK = make_ask("q", 0)


def option(keys: SimKeys, worth: int) -> Option:
    return make_option(AgentRef(keys.peer, "agent"), worth, ASK, 0.9)


class Talk:
    """A query and what was said with each agent, the best first."""

    def __init__(self, space: Space, *worths: tuple[SimKeys, int]) -> None:
        self.space = space
        self.query = Query(ASK, b"", Relevance((0,), (1.0,), 1.0), 0)
        self.query.ranked = [option(keys, worth) for keys, worth in worths]

    def said(self, number: int, state: str, reason: str = "", **quote: object) -> Conversation:
        chosen = self.query.ranked[number]
        call = make_call(self.space, number)
        conversation = Conversation(call, "q", chosen, state, reason)  # type: ignore[arg-type]
        if quote:
            conversation.quote = parsed(make_quote(ALICE, call, **quote).body, Quote)  # type: ignore[assignment]
        self.query.conversations.append(conversation)
        return conversation


def test_the_winner_beat_the_next_best_by_what_both_quoted(space: Space) -> None:
    talk = Talk(space, (ALICE, 500_000), (BOB, 400_000))
    winner = talk.said(0, "awarded", ttft_ms=1_000, tpot_us=0)
    talk.said(1, "released", ttft_ms=0, tpot_us=0, slot_price_microcredits=7)
    told = why(talk.query, winner, ME.peer)
    # 20,000 for the second of waiting, 7 for the other's slot.
    assert told.endswith(f"worth 0.080007 credits more than the next best, agent@…{BOB.peer[-8:]}")
    first, second = explained(talk.query)
    assert first.worth_microcredits - second.worth_microcredits == 80_007
    assert second.slot_price_microcredits == 7


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        ("refused", "busy", "refused (busy)"),
        ("failed", "went away", "failed (went away)"),
        ("called", "", "had not quoted yet"),
        ("released", "", "its free slot went to another of your questions"),
    ],
)
def test_who_promised_more_and_why_it_did_not_answer(space: Space, state: str, reason: str, told: str) -> None:
    talk = Talk(space, (ALICE, 500_000), (BOB, 400_000))
    talk.said(0, state, reason)
    winner = talk.said(1, "awarded")
    assert why(talk.query, winner, ME.peer).endswith(f"{ALICE.peer[-8:]} promised 0.100000 credits more, but {told}")


def test_who_promised_more_was_not_asked(space: Space) -> None:
    talk = Talk(space, (ALICE, 500_000), (BOB, 400_000))
    winner = talk.said(1, "awarded")
    assert why(talk.query, winner, ME.peer).endswith("but was not among the first asked")


def test_the_own_agent_without_a_rival(space: Space) -> None:
    talk = Talk(space, (ME, 1))
    told = why(talk.query, talk.said(0, "awarded"), ME.peer)
    assert told == "your own agent was expected to answer well with probability 0.90; nobody else could be asked"


def test_a_hub_granted_the_slot(space: Space) -> None:
    talk = Talk(space, (ALICE, 500_000), (BOB, 600_000))
    winner = talk.said(0, "awarded", slot_price_microcredits=70_000)
    winner.epoch = 1_800_000_000
    told = why(talk.query, winner, ME.peer)
    assert "clearing of epoch 1800000000 gave your question one there, for 0.070000 credits above" in told


def test_a_hub_gave_none(space: Space) -> None:
    talk = Talk(space, (ALICE, 500_000))
    talk.query.denied = "others valued the slots more"
    told = why(talk.query, talk.said(0, "awarded"), ME.peer)
    assert told.endswith(". A hub was asked for a slot and gave none: others valued the slots more")


def test_an_agent_that_has_not_quoted_is_shown_as_it_was_ranked(space: Space) -> None:
    talk = Talk(space, (ALICE, 500_000), (BOB, 400_000))
    winner = talk.said(0, "awarded", ttft_ms=1_000)
    assert winner.quote is not None
    assert [c.worth_microcredits for c in explained(talk.query)] == [
        worth_at(winner.option, winner.quote, ASK),
        400_000,
    ]
