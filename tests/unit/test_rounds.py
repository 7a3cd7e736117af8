"""An owner's queries cleared together: one exact assignment of questions to slots and places to wait."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from p2pagent.market.clearing import assign
from p2pagent.peer.calling import GATHER_MS
from p2pagent.peer.effects import Effect, Generate, Send, SetTimer, Tell
from p2pagent.peer.events import CancelAsk, PeerDown, Timer, TimerFired
from p2pagent.peer.messages import Award, Call, Fail, Quote, Refuse, Release
from p2pagent.peer.peer import Peer
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.rounds import Decision, Place, decide
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.peer.wire import parsed
from p2pagent.routing import exploration, game
from p2pagent.routing.prototypes import Relevance, Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, PeerId
from tests.scenario import START_MS, make_advert, make_ask, make_option
from tests.strangers import (
    ALICE,
    BOB,
    CAROL,
    ME,
    make_call,
    make_delta,
    make_peer,
    make_quote,
    receive,
    sent,
    three_best,
)

SUBJECT = 1
DAVE = SimKeys(4)
WAIT = 20_000 * (50 + 5 * 64) // 1000
"""What the answer that `make_quote` predicts costs the waiting user of `make_policy`."""

DECODE = 20_000 * 5 * 64 // 1000
"""What it costs without its first token: a quote of a wait has no other in it."""

Offers = dict[SimKeys, tuple[int, int]]
"""Per agent, its worth before the delay and the slots that it quotes as free."""


# --- the decision alone ---------------------------------------------------------------------------------------------


def query(space: Space, number: int, offers: Offers) -> Query:
    ask = make_ask(f"q{number}", SUBJECT)
    found = Query(ask, b"", Relevance((0,), (1.0,), 1.0), START_MS, state="clearing")
    for keys, (worth, free) in offers.items():
        call = make_call(space, number)
        quote = parsed(make_quote(keys, call, free_slots=free).body, Quote)
        assert isinstance(quote, Quote)
        option = make_option(AgentRef(keys.peer, "agent"), worth, ask)
        found.conversations.append(Conversation(call, ask.query, option, "quoted", quote=quote))
    return found


def decided(space: Space, *offers: Offers) -> list[Decision]:
    return decide([query(space, number, offer) for number, offer in enumerate(offers)], ME.peer)


def peers(decisions: list[Decision]) -> list[PeerId | None]:
    return [d.winner.option.agent.peer if d.winner else None for d in decisions]


def test_a_place_to_wait_comes_after_a_free_one_of_the_same_agent() -> None:
    agent = AgentRef(ALICE.peer, "agent")
    assert Place(agent, 0) < Place(agent, 1) < Place(agent, 2)


def test_each_free_slot_is_given_once_and_the_rest_go_to_the_slightly_worse_agent(space: Space) -> None:
    offers: Offers = {ALICE: (100_000, 2), BOB: (100_000 - WAIT // 2, 4)}
    assert sorted(map(str, peers(decided(space, offers, offers, offers)))) == sorted([ALICE.peer, ALICE.peer, BOB.peer])


def test_it_is_better_to_wait_for_a_good_agent_than_to_go_to_a_much_worse_one(space: Space) -> None:
    offers: Offers = {ALICE: (100_000, 2), BOB: (100_000 - 2 * WAIT, 4)}
    assert peers(decided(space, offers, offers, offers)) == [ALICE.peer] * 3


def test_the_query_that_loses_least_goes_elsewhere(space: Space) -> None:
    losses = [WAIT // 2, WAIT // 4, WAIT // 3]
    decisions = decided(space, *({ALICE: (100_000, 2), BOB: (100_000 - loss, 1)} for loss in losses))
    assert peers(decisions) == [ALICE.peer, BOB.peer, ALICE.peer]
    assert [d.runner_up.option.agent.peer for d in decisions if d.runner_up] == [BOB.peer, ALICE.peer, BOB.peer]


def test_an_agent_with_no_slot_free_is_a_place_to_wait_at_its_quoted_delay(space: Space) -> None:
    assert peers(decided(space, {ALICE: (100_000, 0)}, {ALICE: (100_000, 0)})) == [ALICE.peer] * 2
    assert peers(decided(space, {ALICE: (WAIT + 1, 0)})) == [ALICE.peer]
    assert peers(decided(space, {ALICE: (WAIT, 0)})) == [None]


def test_a_query_that_gains_nowhere_goes_to_the_local_agent_or_to_nobody(space: Space) -> None:
    assert peers(decided(space, {ALICE: (WAIT, 1), BOB: (-5, 1)})) == [None]
    (local,) = decided(space, {ALICE: (WAIT, 1), ME: (-1_000_000, 1)})
    assert peers([local]) == [ME.peer]
    assert local.runner_up is not None


def test_nobody_is_its_own_runner_up(space: Space) -> None:
    (alone,) = decided(space, {ALICE: (100_000, 3)})
    assert alone.winner is not None
    assert alone.runner_up is None


def test_no_queries_are_no_decisions() -> None:
    assert decide([], ME.peer) == []


def test_no_other_plan_gains_more(space: Space) -> None:
    """By going through all plans of small markets."""
    random = np.random.default_rng(7)
    for _ in range(40):
        free = {keys: int(random.integers(0, 3)) for keys in (ALICE, BOB, CAROL)}
        offers: list[Offers] = [
            {keys: (int(random.integers(-WAIT, 6 * WAIT)), slots) for keys, slots in free.items()} for _ in range(3)
        ]

        def gain(plan: tuple[SimKeys | None, ...], offers: list[Offers] = offers) -> int:
            """Where more go to an agent than it has slots free, two wait for each further answer."""
            total = 0
            taken: dict[SimKeys, int] = {}
            for keys, offer in zip(plan, offers, strict=True):
                if keys is not None:
                    worth, slots = offer[keys]
                    before = taken.get(keys, 0)
                    taken[keys] = before + 1
                    longer = WAIT * (max(0, before - slots + 2) // 2) if slots else DECODE * (before // 2)
                    total += worth - WAIT - longer
            return total

        of = {keys.peer: keys for keys in free}
        chosen = tuple(of[peer] if peer else None for peer in peers(decided(space, *offers)))
        assert gain(chosen) == max(gain(plan) for plan in product([None, *free], repeat=3))


# --- through the peer -----------------------------------------------------------------------------------------------


class Market:
    """`ME` among experts; every call is kept by question and seller."""

    def __init__(self, space: Space, skills: dict[SimKeys, float], *, local: bool = False) -> None:
        self.peer: Peer = make_peer(space, *([make_advert("agent", {0: 0.95})] if local else []))
        self.sellers = [*skills]
        self.calls: dict[tuple[str, SimKeys], Call] = {}
        self.awards: dict[str, SimKeys] = {}
        self.timers: list[tuple[int, Timer]] = []
        for keys, skill in skills.items():
            self.get(keys, make_delta(keys, space, make_advert("agent", {SUBJECT: skill})))

    def take(self, effects: list[Effect], asked: str = "") -> list[Effect]:
        self.timers += [(e.at_ms - START_MS, e.timer) for e in effects if isinstance(e, SetTimer)]
        for keys in self.sellers:
            for message in sent(effects, keys):
                if isinstance(message, Call):
                    self.calls[asked, keys] = message
                if isinstance(message, Award):
                    (of,) = [q for (q, _), c in self.calls.items() if c.conversation == message.conversation]
                    self.awards[of] = keys
        return effects

    def get(self, keys: SimKeys, message: object, after_ms: int = 0) -> list[Effect]:
        return self.take(receive(self.peer, keys, message, after_ms))  # type: ignore[arg-type]

    def ask(self, *names: str, **changes: object) -> None:
        for name in names:
            self.take(self.peer.handle(make_ask(name, SUBJECT, **changes), START_MS), name)

    def quote(self, name: str, *sellers: SimKeys, after_ms: int = 0, **changes: object) -> list[Effect]:
        return [
            effect
            for keys in sellers or self.sellers
            for effect in self.get(keys, make_quote(keys, self.calls[name, keys], **changes), after_ms)
        ]

    def gathered(self, after_ms: int = GATHER_MS, asked: str = "") -> list[Effect]:
        return self.take(self.peer.handle(TimerFired(Timer("clear")), START_MS + after_ms), asked)

    @property
    def gatherings(self) -> list[int]:
        return [at_ms for at_ms, timer in self.timers if timer.kind == "clear"]


@pytest.fixture(autouse=True)
def _three_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game, "choose", three_best)
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 0)


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """Of each assignment made: the number of queries and the capacities."""
    seen: list[tuple[int, list[int]]] = []

    def spy(weights: NDArray[np.int64], capacities: list[int]) -> list[int | None]:
        seen.append((weights.shape[0], capacities))
        return assign(weights, capacities)

    monkeypatch.setattr("p2pagent.peer.choice.assign", spy)
    return seen


Shapes = list[tuple[int, list[int]]]
ALIKE = {ALICE: 0.95, BOB: 0.9451}
"""BOB is one step of a capability's byte worse: less than what waiting for one answer costs."""


def test_one_query_alone_is_not_delayed(space: Space, shapes: Shapes) -> None:
    market = Market(space, ALIKE)
    market.ask("q")
    market.quote("q")
    assert market.awards == {"q": ALICE}
    assert market.gatherings == []
    assert [rows for rows, _ in shapes] == [1]


def test_three_queries_that_have_their_quotes_are_cleared_in_one_assignment(space: Space, shapes: Shapes) -> None:
    market = Market(space, ALIKE)
    market.ask("q0", "q1", "q2")
    for name in ("q0", "q1"):
        market.quote(name, free_slots=2)
        assert market.awards == {}
    assert market.gatherings == [GATHER_MS]
    market.quote("q2", free_slots=2)  # no quote is awaited any more, so nothing is gained by waiting longer
    assert [rows for rows, _ in shapes] == [3]
    assert (
        sorted(capacity for _, capacities in shapes for capacity in capacities) == [2] * 6
    )  # of each agent two now, two after an answer, two after another
    assert sorted(keys.peer for keys in market.awards.values()) == sorted([ALICE.peer, ALICE.peer, BOB.peer])
    assert market.gathered() == []
    assert market.peer.buyer.running == 3


@pytest.mark.parametrize("order", [("q0", "q1", "q2"), ("q2", "q1", "q0"), ("q1", "q0", "q2")])
def test_the_query_that_values_the_better_agent_least_goes_to_the_other(
    space: Space, shapes: Shapes, order: tuple[str, ...]
) -> None:
    market = Market(space, ALIKE)
    for name, value in (("q0", 1_200_000), ("q1", 600_000), ("q2", 1_000_000)):
        market.ask(name, value_microcredits=value)
    for name in order:
        market.quote(name, free_slots=2)
    assert market.awards == {"q0": ALICE, "q1": BOB, "q2": ALICE}
    assert len(shapes) == 1


def test_three_queries_wait_for_the_good_agent_if_the_other_is_much_worse(space: Space, shapes: Shapes) -> None:
    market = Market(space, {ALICE: 0.95, BOB: 0.6})
    market.ask("q0", "q1", "q2")
    for name in ("q0", "q1", "q2"):
        market.quote(name, free_slots=2)
    assert set(market.awards.values()) == {ALICE}
    assert len(shapes) == 1


def test_quotes_that_take_longer_are_waited_for_a_moment_only(space: Space, shapes: Shapes) -> None:
    market = Market(space, ALIKE)
    market.ask("q0", "q1", "slow")
    market.quote("q0", free_slots=1)
    market.quote("q1", free_slots=1, after_ms=GATHER_MS - 1)
    assert market.gatherings == [GATHER_MS]
    market.gathered()
    assert sorted(market.awards) == ["q0", "q1"]
    assert {keys.peer for keys in market.awards.values()} == {ALICE.peer, BOB.peer}
    market.quote("slow", after_ms=GATHER_MS + 5)
    assert sorted(market.awards) == ["q0", "q1", "slow"]
    assert [rows for rows, _ in shapes] == [2, 1]


def test_what_nobody_else_asks_for_is_not_waited_with(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    market = Market(space, ALIKE)
    for name, place in (("q0", 0), ("q1", 1)):
        monkeypatch.setattr(game, "choose", lambda *_, place=place, **__: [place])
        market.ask(name)
    monkeypatch.setattr(game, "choose", lambda *_, **__: [])
    (first,) = [keys for name, keys in market.calls if name == "q0"]
    market.quote("q0", first)
    assert market.awards == {"q0": first}
    assert market.gatherings == []


def test_queries_gather_anew_after_each_clearing(space: Space) -> None:
    market = Market(space, ALIKE)
    market.ask("q0", "q1", "slow")
    market.quote("q0")
    market.gathered()
    market.quote("q1", after_ms=100)
    assert market.gatherings == [GATHER_MS, 100 + GATHER_MS]
    assert sorted(market.awards) == ["q0"]
    market.gathered(100 + GATHER_MS)
    assert sorted(market.awards) == ["q0", "q1"]


def refuse(market: Market, name: str) -> None:
    for keys in market.sellers:
        market.get(keys, Refuse(market.calls[name, keys].conversation, "busy"))


def cancel(market: Market, name: str) -> None:
    market.take(market.peer.handle(CancelAsk(name), START_MS))


@pytest.mark.parametrize("end", [refuse, cancel])
def test_a_query_that_ends_otherwise_keeps_nobody_waiting_beyond_the_gathering(
    space: Space, end: Callable[[Market, str], None]
) -> None:
    market = Market(space, ALIKE)
    market.ask("q0", "other")
    market.quote("q0")
    assert market.awards == {}
    end(market, "other")
    market.gathered()
    assert market.awards == {"q0": ALICE}


def test_a_query_that_is_cancelled_while_it_gathers_releases_its_quotes(space: Space, shapes: Shapes) -> None:
    market = Market(space, ALIKE)
    market.ask("q0", "q1")
    market.quote("q0")
    released = sent(market.take(market.peer.handle(CancelAsk("q0"), START_MS)))
    assert released == [Release(market.calls["q0", keys].conversation) for keys in market.sellers]
    assert market.gathered() == []
    assert shapes in ([], [(0, [])])
    market.quote("q1")
    assert market.awards == {"q1": ALICE}


def test_a_query_whose_quotes_all_vanish_while_it_gathers_starts_another_round(space: Space) -> None:
    market = Market(space, {ALICE: 0.95, BOB: 0.9, CAROL: 0.85, DAVE: 0.8})
    market.ask("q0", "q1")
    market.quote("q0", ALICE, BOB, CAROL)
    for keys in (ALICE, BOB, CAROL):
        assert market.get(keys, Fail(market.calls["q0", keys].conversation, "expired")) == []
    effects = market.gathered(asked="q0")
    calls = [(e.peer, type(e.message)) for e in effects if isinstance(e, Send)]
    assert calls == [(DAVE.peer, Call)]
    assert market.peer.buyer.running == 2
    market.quote("q0", DAVE)
    market.gathered(2 * GATHER_MS)
    assert market.awards == {"q0": DAVE}


def test_sellers_that_go_away_while_queries_gather_leave_nobody_hanging(space: Space) -> None:
    market = Market(space, ALIKE, local=True)
    market.ask("q0", "q1")
    market.quote("q0")
    effects = [e for keys in ALIKE for e in market.take(market.peer.handle(PeerDown(keys.peer), START_MS))]
    effects += market.gathered()
    assert len([e for e in effects if isinstance(e, Generate)]) == 2
    assert market.awards == {}


def test_late_quotes_of_one_query_do_not_hold_up_the_gathering(space: Space, shapes: Shapes) -> None:
    market = Market(space, ALIKE)
    market.ask("q0", "q1")
    market.quote("q0", ALICE)
    market.quote("q1", BOB)
    assert market.gatherings == []
    for at_ms, timer in [entry for entry in market.timers if entry[1].kind == "quotes" and entry[0] == QUOTES_MS]:
        market.take(market.peer.handle(TimerFired(timer), START_MS + at_ms))
    assert market.awards == {"q0": ALICE, "q1": BOB}
    assert [rows for rows, _ in shapes] == [2]


def test_nobody_is_told_anything_while_queries_gather(space: Space) -> None:
    market = Market(space, ALIKE)
    market.ask("q0", "q1")
    assert not any(isinstance(e, Tell | Send) for e in market.quote("q0"))
