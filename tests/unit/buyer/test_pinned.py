"""A question for one named agent: it alone is asked, on the terms that hold for everybody."""

import pytest
from msgspec.structs import replace

from p2pagent.config import Preferences
from p2pagent.errors import Exit, LocalError
from p2pagent.market.receipts import price_cap
from p2pagent.peer.effects import Find, Generate, Post
from p2pagent.peer.events import Contest, Disputed, PeerDown
from p2pagent.peer.messages import Award, Call, Chunk, Dispute, Refuse
from p2pagent.peer.pinned import LISTED_MAX, find
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.peer.updates import Answered, Unanswered
from p2pagent.types import AgentRef, PeerId
from tests.marketplace import EXPERTS, SUBJECT, Market, answer
from tests.scenario import make_advert, make_ask
from tests.strangers import CAROL, ME, make_delta, make_final, make_peer, sent

ONLY_CAROL = AgentRef(CAROL.peer, "agent")
"""The worst of the experts."""


def called(market: Market) -> list[PeerId]:
    """Who has just been called."""
    return [k.peer for k in EXPERTS if any(isinstance(m, Call) for m in sent(market.effects, k))]


def told_at_last(market: Market) -> Unanswered:
    last = market.told[-1]
    assert isinstance(last, Unanswered)
    assert market.peer.buyer.running == 0
    return last


def test_it_alone_is_asked_though_others_are_better(market: Market) -> None:
    market.ask(only=ONLY_CAROL)
    assert called(market) == [CAROL.peer]
    assert not any(isinstance(e, Generate | Find) for e in market.effects)
    market.quote(CAROL)
    assert market.awarded == [CAROL]
    market.get(CAROL, Chunk(market.calls[CAROL].conversation, 0, "abc"))
    market.get(CAROL, make_final(CAROL, market.calls[CAROL], "abc"))
    assert any(isinstance(e, Post) for e in market.effects)
    answered = market.told[-1]
    assert isinstance(answered, Answered)
    assert [candidate.agent for candidate in answered.candidates] == [ONLY_CAROL]


def test_it_is_awarded_though_it_is_worth_less_than_nothing(market: Market) -> None:
    market.ask(only=ONLY_CAROL, value_microcredits=0, delay_microcredits_per_s=1_000_000)
    market.quote(CAROL, ttft_ms=900)
    assert market.awarded == [CAROL]


def test_it_is_waited_for_in_line_and_no_hub_is_asked(market: Market) -> None:
    market.ask(only=ONLY_CAROL)
    market.quote(CAROL, free_slots=0, queued=3, ttft_ms=60_000)
    assert market.awarded == [CAROL]
    assert not any(isinstance(e, Contest) for e in market.effects)


def test_the_own_agent_can_be_named_too(market: Market) -> None:
    market.ask(only=AgentRef(ME.peer, "agent"))
    assert called(market) == []
    assert any(isinstance(e, Generate) for e in market.effects)


def test_a_question_that_anybody_may_answer_still_goes_to_the_best(market: Market) -> None:
    market.ask()
    assert called(market) == [keys.peer for keys in EXPERTS]


@pytest.mark.parametrize("bad", ["refused", "late", "gone", "broke off"])
def test_nobody_takes_over(market: Market, bad: str) -> None:
    market.ask(only=ONLY_CAROL)
    if bad == "refused":
        market.get(CAROL, Refuse(market.calls[CAROL].conversation, "busy"))
    elif bad == "late":
        market.fire("quotes", QUOTES_MS)
    else:
        market.quote(CAROL)
        if bad == "gone":
            market.handle(PeerDown(CAROL.peer))
        else:
            answer(market, CAROL, price_microcredits=1)
    assert not any(isinstance(m, Call | Award) for keys in EXPERTS for m in sent(market.effects, keys))
    assert not any(isinstance(e, Generate) for e in market.effects)
    reason = told_at_last(market).reason
    assert reason.startswith(f"agent@…{CAROL.peer[-8:]} ")
    assert reason.endswith(", and nobody else was to be asked")
    assert {"refused": "refused (busy)", "late": "no quote in time", "gone": "went away"}.get(bad, "") in reason


def test_privacy_class_holds(market: Market) -> None:
    market.ask(only=ONLY_CAROL, privacy="local")
    assert called(market) == []
    assert "stays on yours" in told_at_last(market).reason
    market.ask(only=ONLY_CAROL, privacy="trusted")
    assert called(market) == []
    assert "trust" in told_at_last(market).reason


def test_who_is_trusted_may_be_asked_what_is_for_the_trusted(market: Market) -> None:
    market.peer = make_peer(market.space, preferences=Preferences(trusted=(CAROL.peer,)))
    market.get(CAROL, make_delta(CAROL, market.space, make_advert("agent", {SUBJECT: 0.5})))
    market.ask(only=ONLY_CAROL, privacy="trusted")
    assert called(market) == [CAROL.peer]


def test_the_price_limit_holds_before_the_call_and_after_the_quote(market: Market) -> None:
    ask = make_ask("q", SUBJECT)
    most = price_cap(make_advert("agent", {}).rates, ask.prompt_tokens, ask.sampling.max_tokens, 0)
    market.ask(only=ONLY_CAROL, price_max_microcredits=most - 1)
    assert called(market) == []
    assert "may charge more than you allow" in told_at_last(market).reason
    market.ask(only=ONLY_CAROL, price_max_microcredits=most)
    assert called(market) == [CAROL.peer]


def test_an_open_dispute_holds(market: Market) -> None:
    market.handle(Disputed(CAROL.peer, Dispute(bytes(32), "bad")))
    market.ask(only=ONLY_CAROL)
    assert called(market) == []
    assert "dispute" in told_at_last(market).reason


def test_what_is_unknown_too_long_or_gone_is_said(market: Market) -> None:
    market.ask(only=AgentRef(CAROL.peer, "other"))
    assert "is not offered now" in told_at_last(market).reason
    market.ask(only=AgentRef(PeerId("12D3KooWnobody"), "agent"))
    assert "cannot be reached now" in told_at_last(market).reason
    market.handle(replace(make_ask("q", SUBJECT, only=ONLY_CAROL), prompt_tokens=1 << 20))
    assert "takes no question of" in told_at_last(market).reason


# --- the name -------------------------------------------------------------------------------------------------------

ANN, ANT, BEE = (PeerId(f"12D3KooW{rest}") for rest in ("Annxxxx1", "Antxxxx2", "Beexxxx1"))
KNOWN = [AgentRef(ANN, "add"), AgentRef(ANT, "add"), AgentRef(ANT, "sort"), AgentRef(BEE, "a@b")]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (f"add@{ANN}", KNOWN[0]),
        ("add@12D3KooWAnt", KNOWN[1]),
        ("add@…xxxx2", KNOWN[1]),
        ("add@...nnxxxx1", KNOWN[0]),
        ("sort@12D3", KNOWN[2]),
        ("sort@", KNOWN[2]),
        ("a@b@12D3KooWB", KNOWN[3]),
    ],
)
def test_a_name_and_enough_of_an_id_are_one_agent(text: str, meant: AgentRef) -> None:
    assert find(text, KNOWN) == meant


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("add@12D3KooWAn", ("add@…Annxxxx1 or add@…Antxxxx2", "give more")),
        ("sort@12D3KooWAnn", ("no agent 'sort' is known at a peer '12D3KooWAnn'", "there is sort@…Antxxxx2")),
        ("mul@12D3KooWAnt", ("no agent 'mul'", "there is add@…Antxxxx2 or sort@…Antxxxx2")),
        ("mul@nowhere", ("no agent 'mul'", "add@…Annxxxx1 or add@…Antxxxx2 or sort@…Antxxxx2 or a@b@…Beexxxx1")),
    ],
)
def test_what_is_not_one_agent_is_said_with_who_is_there(text: str, says: tuple[str, str]) -> None:
    with pytest.raises(LocalError) as caught:
        find(text, KNOWN)
    assert says[0] in caught.value.cause
    assert says[1] in caught.value.hint
    assert caught.value.exit_code is Exit.NO_AGENT


def test_an_error_lists_a_few() -> None:
    many = [AgentRef(PeerId(f"12D3KooW{number:08}"), "add") for number in range(LISTED_MAX + 3)]
    with pytest.raises(LocalError, match=r"and 3 more$"):
        find("add@", many)


def test_where_nobody_is_known_that_is_said() -> None:
    with pytest.raises(LocalError) as caught:
        find("add@x", [])
    assert "nobody is yet" in caught.value.hint
