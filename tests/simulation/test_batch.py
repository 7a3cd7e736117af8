"""Many questions of one owner asked at once: one clearing for all, each free slot used, nobody held up for long."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
import trio.testing
from numpy.typing import NDArray

from p2pagent.driver import Driver
from p2pagent.market.clearing import assign
from p2pagent.peer.batches import BATCH_OPEN_MAX
from p2pagent.peer.calling import GATHER_MS
from p2pagent.peer.effects import Effect, Generate, SetTimer, Tell
from p2pagent.peer.events import Ask, CancelAsk, Event, PeerUp, Received, Timer, TimerFired
from p2pagent.peer.hub_messages import Claim, Commit, SignedCommit
from p2pagent.peer.messages import Award, Call, Chunk, Quote, Refuse, SignedQuote
from p2pagent.peer.peer import Peer
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.rounds import Decision, decide
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.peer.together import most_free, read_together, served_at_once
from p2pagent.peer.updates import Unanswered
from p2pagent.peer.wire import parsed
from p2pagent.routing.game import PROBES_MAX
from p2pagent.routing.prototypes import Relevance, Space
from p2pagent.routing.qos_lengths import EXPECTED
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, PeerId
from tests.contended import ANSWER_MS, SUBJECT, Contended
from tests.scenario import START_MS, make_advert, make_ask, make_option
from tests.strangers import ALICE, make_call, make_delta, make_final, make_peer, make_quote, receive, sent

Wishes = list[dict[str, Any]]


class Batch(Contended):
    """One asker among experts whose links take `latencies_ms`; its questions go out in one millisecond."""

    def __init__(self, space: Space, latencies_ms: list[int], slots: int, seed: int = 1) -> None:
        super().__init__(space, seed, experts=len(latencies_ms), askers=1, bystanders=0, slots=slots)
        late = {device.name: ms for device, ms in zip(self.experts, latencies_ms, strict=True)}
        self.world._link = lambda source, target, _now: 1 + late.get(source, 0) + late.get(target, 0)
        (self.asker,) = self.askers
        self.world.run(self.world.now_ms + 2_000)
        self.start_ms, self.seen = self.world.now_ms, len(self.trace)

    def ask_batch(self, wishes: Wishes, batch: str = "b") -> None:
        for number, changes in enumerate(wishes):
            name = f"q{number:02}"
            self.queries[name] = self.asker
            ask = msgspec.structs.replace(make_ask(name, SUBJECT, f"w{number:02}", **changes), batch=batch)
            self.world.at(self.world.now_ms, self.asker.name, ask)

    def awards(self) -> list[tuple[int, PeerId, bool]]:
        """When and where awards and grants came in, and whether the answer was begun in the same moment."""
        return [
            (step.at_ms, step.peer, any(isinstance(effect, Generate) for effect in step.effects))
            for step in self.trace[self.seen :]
            if isinstance(step.event, Received) and isinstance(step.event.message, Award | Claim)
        ]

    def quotes(self) -> dict[PeerId, list[Quote]]:
        found: dict[PeerId, list[Quote]] = {device.name: [] for device in self.experts}
        for step in self.trace[self.seen :]:
            if isinstance(step.event, Received) and isinstance(step.event.message, SignedQuote):
                quote = parsed(step.event.message.body, Quote)
                assert isinstance(quote, Quote)
                found[step.event.peer].append(quote)
        return found

    def bids(self) -> list[int]:
        """Of each bid in a hub how many questions were in it."""
        commits = [parsed(message.body, Commit) for _, send in self.sent(SignedCommit) for message in [send.message]]  # type: ignore[union-attr]
        return [commit.wants for commit in commits if isinstance(commit, Commit)]


@pytest.fixture
def cleared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each clearing how many queries were in it."""
    seen: list[int] = []

    def spy(weights: NDArray[np.int64], capacities: list[int]) -> NDArray[np.int64]:
        if len(weights):
            seen.append(len(weights))
        return assign(weights, capacities)

    monkeypatch.setattr("p2pagent.peer.choice.assign", spy)
    return seen


def test_twelve_questions_get_the_twelve_free_slots_in_one_clearing(space: Space, cleared: list[int]) -> None:
    net = Batch(space, [5, 60, 250], slots=4)
    net.ask_batch([{}] * 12)
    net.run()
    assert cleared == [12]
    assert Counter(peer for _, peer, _ in net.awards()) == {device.name: 4 for device in net.experts}
    assert all(begun for _, _, begun in net.awards())
    assert net.bids() == []
    assert Counter(answer.agent.peer for answer in net.answers().values()) == {d.name: 4 for d in net.experts}
    net.assert_at_rest()


@pytest.mark.parametrize(("batch", "together"), [("b", True), ("", False)])
def test_questions_that_call_different_agents_wait_for_each_other(
    space: Space, cleared: list[int], batch: str, *, together: bool
) -> None:
    """Each calls three of seven equals, so that its last quote comes sooner or later; without a batch it goes first."""
    net = Batch(space, [1, 2, 3, 4, 5, 150, 400], slots=4)
    net.ask_batch([{}] * 12, batch)
    net.run()
    assert (cleared == [12]) == together
    assert sum(cleared) == 12
    if together:
        assert all(begun for _, _, begun in net.awards())
    assert len(net.answers()) == 12
    net.assert_at_rest()


def test_where_slots_are_few_each_is_used_and_the_rest_wait_or_bid(space: Space, cleared: list[int]) -> None:
    net = Batch(space, [5, 60], slots=2)
    net.ask_batch([{}] * 12)
    net.run(60_000)
    assert cleared[0] == 12
    at_once = [(at_ms, peer) for at_ms, peer, begun in net.awards() if begun and at_ms < net.start_ms + 500]
    assert Counter(peer for _, peer in at_once) == {device.name: 2 for device in net.experts}
    soon = [a for a in net.answers().values() if a.ttft_ms < 500]
    late = [a for a in net.answers().values() if a.ttft_ms > ANSWER_MS]
    assert (len(soon), len(late)) == (4, 8)
    assert not any("hub" in answer.why for answer in soon)
    assert all("hub" in answer.why for answer in late)
    net.assert_at_rest()


@pytest.mark.parametrize("seed", range(8))
def test_no_other_plan_is_worth_more(space: Space, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """By going through all plans, with what the sellers truly have free and not with what they quote each question."""
    random = Random(seed)
    slots = random.choice([1, 2])
    net = Batch(space, [5, 60], slots, seed)
    experts = [device.name for device in net.experts]
    worths: list[dict[PeerId, int]] = []
    chosen: list[PeerId | None] = []

    def spy(ready: list[Query], me: PeerId) -> list[Decision]:
        decisions = decide(ready, me)
        if not worths:
            worths.extend({c.option.agent.peer: c.option.worth_microcredits for c in q.quoted()} for q in ready)
            winners = (d.winner.option.agent.peer if d.winner else None for d in decisions)
            chosen.extend(peer if peer in experts else None for peer in winners)
        return decisions

    monkeypatch.setattr("p2pagent.peer.together.decide", spy)
    wishes: Wishes = [
        {
            "value_microcredits": random.randrange(60_000, 600_000),
            "delay_microcredits_per_s": random.randrange(2_000, 80_000),
        }
        for _ in range(6)
    ]
    net.ask_batch(wishes)
    net.run(60_000)
    assert len(net.answers()) == len(chosen) == 6
    first = {peer: quotes[0] for peer, quotes in net.quotes().items()}
    assert {quote.free_slots for quote in first.values()} == {slots}

    def delay(number: int, peer: PeerId) -> int:
        wait_ms = first[peer].ttft_ms + first[peer].tpot_us * EXPECTED // 1000
        return int(wishes[number]["delay_microcredits_per_s"]) * wait_ms // 1000

    def worth(plan: tuple[PeerId | None, ...]) -> int:
        """Of those who meet at one agent, the ones whom waiting costs least wait."""
        total = 0
        for peer in experts:
            delays = sorted(delay(number, peer) for number in range(6) if plan[number] == peer)
            total += sum(worths[number][peer] for number in range(6) if plan[number] == peer) - sum(delays)
            total -= sum(delays[: max(0, len(delays) - slots)])
        return total

    assert worth(tuple(chosen)) == max(worth(other) for other in product([None, *experts], repeat=6))


@pytest.mark.parametrize(("experts", "together"), [(1, 16), (3, 16)])
def test_what_is_more_than_a_seller_quotes_comes_later_and_to_no_worse_agent(
    space: Space, cleared: list[int], experts: int, together: int
) -> None:
    net = Batch(space, [5, 60, 250][:experts], slots=4)
    net.ask_batch([{}] * 60)
    net.run(120_000)
    assert cleared[0] == together
    assert {answer.agent.peer for answer in net.answers().values()} == {device.name for device in net.experts}
    assert net.received(Refuse, net.asker) == []
    net.assert_at_rest()


@pytest.mark.parametrize("leaving", [16, 60])
def test_what_comes_later_goes_with_the_rest_and_never_waits_for_what_was_cancelled(space: Space, leaving: int) -> None:
    net = Batch(space, [100], slots=4)
    net.ask_batch([{}] * 60)
    net.run(150)
    assert net.asker.peer.buyer.running == 60
    for name in [*net.queries][:leaving]:
        net.world.at(net.world.now_ms, net.asker.name, CancelAsk(name))
        del net.queries[name]
    net.run(120_000)
    assert len(net.answers()) == len(net.awards()) == 60 - leaving
    net.assert_at_rest()


def test_an_agent_that_never_quotes_holds_a_batch_up_no_longer_than_one_question(
    space: Space, cleared: list[int]
) -> None:
    net = Batch(space, [5, 60, 10, 20, 30], slots=4)
    net.freeze(net.experts[0])
    net.ask_batch([{}] * 12)
    net.run(QUOTES_MS - 1)
    assert net.awards() == []
    net.run(GATHER_MS + 100)
    assert cleared == [12]
    assert len(net.awards()) == 12
    assert all(begun for _, _, begun in net.awards())
    net.run()
    assert len(net.answers()) == 12


def test_a_batch_whose_user_leaves_keeps_nothing(space: Space) -> None:
    net = Batch(space, [5, 60, 250], slots=4)
    net.ask_batch([{}] * 12)
    net.run(120)
    for name in net.queries:
        net.world.at(net.world.now_ms, net.asker.name, CancelAsk(name))
    net.run()
    assert net.awards() == []
    net.assert_at_rest()


# --- through the peer -----------------------------------------------------------------------------------------------


class Market:
    """`ME` without an agent, and experts whose quotes come when the test says so."""

    def __init__(self, space: Space, experts: int = 2, skill: float = 0.95) -> None:
        self.experts = [SimKeys(10 + number) for number in range(experts)]
        self.peer: Peer = make_peer(space)
        self.calls: dict[tuple[str, SimKeys], Call] = {}
        self.awarded: list[str] = []
        self.told: dict[str, Unanswered] = {}
        self.timers: list[int] = []
        for keys in self.experts:
            receive(self.peer, keys, make_delta(keys, space, make_advert("agent", {SUBJECT: skill}, slots=64)))

    def take(self, effects: list[Effect], asked: str = "") -> None:
        for keys in self.experts:
            for message in sent(effects, keys):
                if isinstance(message, Call):
                    self.calls[asked, keys] = message
        self.timers = [e.at_ms - START_MS for e in effects if isinstance(e, SetTimer) and e.timer.kind == "clear"]
        self.told |= {e.query: e.update for e in effects if isinstance(e, Tell) and isinstance(e.update, Unanswered)}
        for message in sent(effects):
            if isinstance(message, Award):
                (name,) = [n for (n, _), c in self.calls.items() if c.conversation == message.conversation]
                self.awarded.append(name)

    def ask(self, name: str, batch: str = "b") -> None:
        ask = msgspec.structs.replace(make_ask(name, SUBJECT), batch=batch)
        self.take(self.peer.handle(ask, START_MS), name)

    def called(self, name: str) -> list[SimKeys]:
        return [keys for asked, keys in self.calls if asked == name]

    def quote(self, name: str) -> None:
        for keys in self.called(name):
            self.take(receive(self.peer, keys, make_quote(keys, self.calls[name, keys])))

    def refuse(self, name: str) -> None:
        for keys in self.called(name):
            self.take(receive(self.peer, keys, Refuse(self.calls[name, keys].conversation, "busy")), "again")

    def finish(self, name: str, following: str) -> None:
        """The one expert answers."""
        ((keys, call),) = [(k, c) for (asked, k), c in self.calls.items() if asked == name]
        receive(self.peer, keys, Chunk(call.conversation, 0, "abc"))
        self.take(receive(self.peer, keys, make_final(keys, call, "abc")), following)

    def cancel(self, name: str) -> None:
        self.take(self.peer.handle(CancelAsk(name), START_MS))

    def gathered(self, after_ms: int) -> None:
        self.take(self.peer.handle(TimerFired(Timer("clear")), START_MS + after_ms))


def test_a_batch_outlasts_the_gathering_and_goes_with_its_last_quote(space: Space) -> None:
    market = Market(space)
    for name in ("q0", "q1", "q2"):
        market.ask(name)
    market.quote("q0")
    assert market.timers == [GATHER_MS]
    for round_ in range(1, 4):
        market.gathered(round_ * GATHER_MS)
        assert market.timers == [(round_ + 1) * GATHER_MS]
    market.quote("q2")
    assert market.awarded == []
    market.quote("q1")
    assert market.awarded == ["q0", "q1", "q2"]
    market.gathered(5 * GATHER_MS)
    assert market.timers == []


@pytest.mark.parametrize("end", [Market.refuse, Market.cancel])
def test_a_question_that_ends_without_quotes_lets_its_batch_go(
    space: Space, end: Callable[[Market, str], None]
) -> None:
    market = Market(space)
    market.ask("q0")
    market.ask("q1")
    market.quote("q0")
    end(market, "q1")
    market.gathered(GATHER_MS)
    assert market.awarded == ["q0"]
    assert set(market.told) == ({"q1"} if end is Market.refuse else set())


def test_a_question_of_another_batch_or_of_none_is_not_kept_waiting(space: Space) -> None:
    market = Market(space)
    for name, batch in (("q0", "b"), ("q1", "b"), ("other", "c"), ("alone", "")):
        market.ask(name, batch)
    for name in ("q0", "other", "alone"):
        market.quote(name)
    market.gathered(GATHER_MS)
    assert market.awarded == ["other", "alone"]
    market.quote("q1")
    assert market.awarded == ["other", "alone", "q0", "q1"]


def test_a_question_in_its_second_round_is_not_waited_for(space: Space) -> None:
    market = Market(space, experts=PROBES_MAX + 2)
    market.ask("q0")
    market.ask("q1")
    market.quote("q0")
    market.refuse("q1")
    assert len(market.called("again")) == 2
    market.gathered(GATHER_MS)
    assert market.awarded == ["q0"]


def test_a_batch_waits_for_the_question_that_looks_for_somebody_better(space: Space) -> None:
    market = Market(space, skill=0.3)
    market.ask("q0")
    market.ask("q1")
    assert market.called("q0") == []
    market.quote("q1")
    assert (market.awarded, market.timers) == ([], [GATHER_MS])
    market.cancel("q0")
    market.gathered(GATHER_MS)
    assert market.awarded == ["q1"]


def test_questions_that_come_later_start_one_by_one_and_do_not_wait_for_each_other(space: Space) -> None:
    market = Market(space, experts=1)
    names = [f"q{number}" for number in range(BATCH_OPEN_MAX + 3)]
    for name in names:
        market.ask(name)
    assert {asked for asked, _ in market.calls} == set(names[:BATCH_OPEN_MAX])
    for name in names[:BATCH_OPEN_MAX]:
        market.quote(name)
    assert market.awarded == names[:BATCH_OPEN_MAX]
    market.finish("q3", names[-3])
    market.finish("q4", names[-2])
    assert market.called(names[-1]) == []
    market.quote(names[-3])
    market.gathered(GATHER_MS)
    assert market.awarded[BATCH_OPEN_MAX:] == [names[-3]]


def quoted(space: Space, number: int, free_slots: int, wait_ms: int) -> Query:
    ask, call = make_ask(f"q{number}", SUBJECT), make_call(space, number)
    ttft_ms = wait_ms + number
    quote = parsed(make_quote(ALICE, call, free_slots=free_slots, wait_ms=wait_ms, ttft_ms=ttft_ms).body, Quote)
    assert isinstance(quote, Quote)
    option = make_option(AgentRef(ALICE.peer, "agent"), 1, ask)
    conversation = Conversation(call, f"q{number}", option, "quoted", quote=quote)
    return Query(ask, b"", Relevance((0,), (1.0,), 1.0), START_MS, conversations=[conversation])


def test_what_is_free_to_one_question_is_free_as_soon_to_the_others(space: Space) -> None:
    ready = [quoted(space, 0, 0, 900), quoted(space, 1, 3, 50), quoted(space, 2, 2, 40), quoted(space, 3, 0, 30)]
    quotes = [query.conversations[0].quote for query in read_together(ready)]
    assert [(q.free_slots, q.wait_ms, q.ttft_ms) for q in quotes if q is not None] == [
        (3, 50, 50),
        (3, 50, 51),
        (2, 40, 42),
        (3, 30, 33),
    ]
    originals = [query.conversations[0].quote for query in ready]
    assert [q.free_slots for q in originals if q is not None] == [0, 3, 2, 0]


def test_whose_slot_is_held_is_served_before_others(space: Space) -> None:
    ready = [quoted(space, 0, 0, 900), quoted(space, 1, 2, 50), quoted(space, 2, 0, 900)]
    winners = [query.conversations[0] for query in ready]
    assert served_at_once(winners[::-1], most_free(ready)) == [winners[1], winners[2]]
    assert served_at_once(winners[:1], most_free(ready[:1])) == []


# --- through the driver ---------------------------------------------------------------------------------------------


class Hearer:
    """A peer that only keeps what it was told; at the first question of a batch news comes in."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.driver: Driver | None = None

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        assert self.driver is not None
        if isinstance(event, Ask) and not self.heard:
            self.driver.put(PeerUp(ALICE.peer))
        self.heard.append(event)
        if isinstance(event, Ask) and event.query == "q2":
            return [Tell(event.query, Unanswered("nobody is there", False, ()))]
        return []


async def test_a_batch_reaches_the_peer_before_anything_else_and_leaving_cancels_what_is_open(
    nursery: trio.Nursery,
) -> None:
    peer = Hearer()
    peer.driver = driver = Driver(peer, SimpleNamespace(provide=None), {}, None, lambda: START_MS)  # type: ignore[arg-type]
    await nursery.start(driver.run)

    def make(query: str) -> Ask:
        return make_ask(query, SUBJECT)

    async with driver.ask_all([make] * 3) as channels:
        assert isinstance(await channels[1].receive(), Unanswered)
        with pytest.raises(trio.EndOfChannel):
            await channels[1].receive()
        await trio.testing.wait_all_tasks_blocked()
        *asks, news = peer.heard
        assert [(e.query, e.batch) for e in asks if isinstance(e, Ask)] == [(f"q{n}", "b1") for n in (1, 2, 3)]
        assert news == PeerUp(ALICE.peer)
    async with driver.ask(make), driver.ask_all([make, make]):
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    asks = [e for e in peer.heard[4:] if isinstance(e, Ask)]
    assert [(e.query, e.batch) for e in asks] == [("q4", ""), ("q5", "b5"), ("q6", "b5")]
    cancelled = [e.query for e in peer.heard if isinstance(e, CancelAsk)]
    assert cancelled == ["q1", "q3", "q5", "q6", "q4"]
