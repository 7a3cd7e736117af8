"""Whom to ask: what is believed of waits decides, and the own agent is what strangers have to beat."""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from p2pagent.config import Preferences
from p2pagent.keys import Keys
from p2pagent.peer.choice import patience_ms, utility
from p2pagent.peer.credit import Credit
from p2pagent.peer.directory import Directory
from p2pagent.peer.disputes import Disputes
from p2pagent.peer.events import Ask
from p2pagent.peer.gossip_messages import Heartbeat, Load, Record, SignedHeartbeat, SignedRecord
from p2pagent.peer.loads import Prospect
from p2pagent.peer.memory import Memory
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.scout import BARRED_MAX, BARRED_MS, CANDIDATES, HELD_UP, Scout, bound_for
from p2pagent.peer.stall import OwnLoad
from p2pagent.routing import game
from p2pagent.routing.marks import chain
from p2pagent.routing.prototypes import Space
from p2pagent.routing.qos import WAIT_MS_MAX, Task
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, ChatMessage, PeerId
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, ME, make_call

SUBJECT = 1
IDLE, BUSY = Load(0, 0, 900, 900, 900_000), Load(2, 10, 912, 900, 900_000)
FREE = OwnLoad(IDLE, 0, 100)


class Own(NamedTuple):
    """What is known of the own agents."""

    now: OwnLoad

    def load(self, _agent: str) -> Load:
        return self.now.load

    def own_load(self, _agent: str, _task: Task, _now_ms: int) -> OwnLoad:
        return self.now


class Ground:
    """`ME` and the strangers that its directory holds."""

    def __init__(self, space: Space, keys: Keys = ME, own: OwnLoad = FREE, skill: float = 0.05) -> None:
        self.space = space
        self.directory = Directory(keys.peer, "test")
        self.neighbours: set[PeerId] = set()
        disputes = Disputes(keys, Credit(0, {}), [], [])
        advert = make_advert("agent", {SUBJECT: skill})
        self.scout = Scout(
            keys.peer,
            space,
            Preferences(),
            self.directory,
            disputes,
            Random(1),
            Own(own),
            Memory(space, {}),
            self.neighbours,
            (advert,),
        )

    def add(
        self,
        keys: SimKeys,
        skill: float,
        load: Load = IDLE,
        slots: int = 2,
        at_ms: int = START_MS,
        cache_tokens: int = 0,
    ) -> None:
        advert = replace(make_advert("agent", {SUBJECT: skill}, slots), cache_tokens=cache_tokens)
        record = Record(keys.peer, "test", self.space.name, 1, at_ms, ("/ip4/127.0.0.1/tcp/4001",), (advert,))
        beat = Heartbeat(keys.peer, 1, at_ms, 0, at_ms, 600_000, (load,))
        assert self.directory.learn(record, SignedRecord(b"", b""), beat, SignedHeartbeat(b"", b""))

    def query(self, seed: int = 0, **changes: object) -> Query:
        ask: Ask = make_ask("q", SUBJECT, **changes)
        embedding = self.space.embed(ask.turns[-1].content)
        query = Query(ask, embedding, self.space.nearest(embedding), START_MS, seed=seed)
        query.ranked = self.scout.rank(query, START_MS)
        return query

    def called(
        self, bound: Mapping[AgentRef, Sequence[tuple[int, float]]] | None = None, **changes: object
    ) -> list[PeerId]:
        chosen = self.scout.to_call(self.query(**changes), bound or {}, START_MS)
        return [option.agent.peer for option, _ in chosen]

    def first(self, times: int, **changes: object) -> Counter[PeerId]:
        return Counter(self.called(**changes)[0] for _ in range(times))


@pytest.fixture
def ground(space: Space) -> Ground:
    return Ground(space)


def test_the_local_agent_is_always_asked_and_last(ground: Ground) -> None:
    assert ground.called() == [ME.peer]
    ground.add(ALICE, 0.95)
    assert ground.called() == [ALICE.peer, ME.peer]


def test_no_stranger_is_asked_that_the_local_agent_beats(space: Space) -> None:
    ground = Ground(space, skill=0.95)
    ground.add(ALICE, 0.95)
    assert ground.called() == [ME.peer]


def test_a_busy_local_agent_lets_strangers_in(space: Space) -> None:
    ground = Ground(space, own=OwnLoad(BUSY, 30_000, 100), skill=0.95)
    ground.add(ALICE, 0.95)
    assert ground.called() == [ALICE.peer, ME.peer]


def test_without_a_local_agent_somebody_is_asked_whatever_is_believed_of_waits(ground: Ground) -> None:
    ground.scout.local = ()
    ground.add(ALICE, 0.95, Load(2, 90, 900, 900, 90_000_000))
    assert ground.called() == [ALICE.peer]
    assert ground.called(value_microcredits=0) == []


def test_no_stranger_is_asked_whose_wait_is_believed_to_cost_more_than_it_gains(ground: Ground) -> None:
    ground.add(ALICE, 0.95, Load(2, 90, 900, 900, 90_000_000))
    assert ground.called() == [ME.peer]
    assert ground.called(delay_microcredits_per_s=10) == [ALICE.peer, ME.peer]


def test_of_equals_who_is_connected_is_rather_asked_than_who_has_to_be_dialled(ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.95)
    strange = ground.first(100)[BOB.peer]
    ground.neighbours.add(BOB.peer)
    assert ground.first(100)[BOB.peer] > strange + 10


def test_who_is_far_better_is_asked_alone(ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.4)
    assert ground.first(20) == {ALICE.peer: 20}
    assert ground.called() == [ALICE.peer, ME.peer]


def test_who_is_believed_busy_is_passed_over_for_who_is_a_little_worse(ground: Ground) -> None:
    ground.add(ALICE, 0.95, BUSY)
    ground.add(BOB, 0.94)
    assert ground.first(20) == {BOB.peer: 20}
    assert ground.first(20, delay_microcredits_per_s=0) == {ALICE.peer: 20}


def test_the_older_the_news_the_more_alike_are_the_chances(space: Space) -> None:
    spread = []
    for age_ms in (0, 5_000, 60_000):
        ground = Ground(space)
        ground.add(ALICE, 0.95, at_ms=START_MS - age_ms)
        ground.add(BOB, 0.946, at_ms=START_MS - age_ms)
        query = ground.query()
        ground.scout.to_call(query, {}, START_MS)
        best, worse = (option.chance or 0.0 for option in query.ranked[:2])
        spread.append(best - worse)
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > spread[-1] > 0


def test_own_questions_that_go_there_make_an_agent_busier(ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.94)
    bound = {AgentRef(ALICE.peer, "agent"): [(START_MS, 1.0)] * 12}
    assert ground.called()[0] == ALICE.peer
    assert ground.called(bound)[0] == BOB.peer


def test_what_was_believed_and_how_likely_it_was_to_be_drawn_is_kept_for_the_user(ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.94)
    query = ground.query()
    ground.scout.to_call(query, {}, START_MS)
    options = {option.agent.peer: option for option in query.ranked}
    assert all(option.prospect is not None for option in options.values())
    assert options[ME.peer].chance is None
    chances = [options[keys.peer].chance or 0.0 for keys in (ALICE, BOB)]
    assert sum(chances) == pytest.approx(1.0)
    assert chances[0] > chances[1] >= 0


def test_no_more_strangers_than_the_game_allows_are_asked(ground: Ground) -> None:
    for number in range(10, 10 + 2 * CANDIDATES):
        ground.add(SimKeys(number), 0.95, Load(1, 0, 900, 900, 1_800_000), at_ms=START_MS - 60_000)
    assert 2 <= len(ground.called()) <= 1 + game.PROBES_MAX


def test_a_stranger_is_told_how_late_a_slot_is_of_use(ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    query = ground.query()
    (stranger, deadline_ms), (local, own_ms) = ground.scout.to_call(query, {}, START_MS)
    assert local.prospect is not None
    floor = utility(local, local.prospect, query.ask)
    assert floor < local.worth_microcredits
    assert (deadline_ms, own_ms) == (patience_ms(stranger, floor, query.ask), WAIT_MS_MAX)


def test_the_best_that_is_left_is_one_that_was_not_tried(space: Space, ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.6)
    query = ground.query()
    (stranger, _), _ = ground.scout.to_call(query, {}, START_MS)
    called = Conversation(make_call(space, 1), "q", stranger)
    query.conversations.append(called)
    best = ground.scout.best_left(query, {}, START_MS)
    called.state = "quoted"
    left = ground.scout.best_left(query, {}, START_MS)
    bob = next(option for option in query.ranked if option.agent.peer == BOB.peer)
    assert left is not None
    assert best is not None
    assert left < best, "who is called may quote yet"
    assert 0 <= bob.worth_microcredits - left < 50_000
    query.failed.add(bob.agent)
    assert ground.scout.best_left(query, {}, START_MS) is None


def test_others_are_asked_where_they_are_believed_to_be_worth_more_than_what_was_quoted(
    space: Space, ground: Ground
) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.9)
    query = ground.query()
    (alice, _), _ = ground.scout.to_call(query, {}, START_MS)
    query.conversations.append(Conversation(make_call(space, 1), "q", alice))
    bob = next(option for option in query.ranked if option.agent.peer == BOB.peer)
    assert bob.prospect is not None
    worth = utility(bob, bob.prospect, query.ask)

    def besides(quoted: int) -> list[tuple[PeerId, int]]:
        return [(o.agent.peer, ms) for o, ms in ground.scout.to_call_besides(query, quoted, {}, START_MS)]

    assert besides(worth - 10_000) == [(BOB.peer, patience_ms(bob, worth - 10_000, query.ask))]
    assert besides(worth + 100_000) == []
    query.ask = replace(query.ask, batch="b")
    assert besides(worth - 10_000) == []


def test_where_a_question_goes_the_prompt_is_believed_to_be_from_then_on(space: Space, ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.95)
    query = ground.query()
    entry = ground.directory.get(ALICE.peer)
    assert entry is not None
    alice = next(option for option in query.ranked if option.agent.peer == ALICE.peer)
    query.links = chain([ChatMessage("system", "x" * 4_000), ChatMessage("user", "why?")])
    call = replace(make_call(space, 1), prompt_tokens=1_000)
    ground.scout.on_awarded(query, Conversation(call, "q", alice), START_MS)
    assert ground.scout.recall.expected_tokens(alice.agent, query.links, 100_000, 0, 1_000) == 1_000


def test_a_conversation_that_begins_counts_our_own_that_go_on_there(ground: Ground) -> None:
    for keys in (ALICE, BOB):
        ground.add(keys, 0.95, cache_tokens=10_000)
    alice, bob = (AgentRef(keys.peer, "agent") for keys in (ALICE, BOB))
    assert later_ms_of(ground) == {alice: 0, bob: 0}
    for n in range(4):
        ground.scout.regulars.awarded(alice, chain([ChatMessage("user", f"{n}")]), START_MS)
    costs_ms = later_ms_of(ground)
    assert costs_ms[alice] > 0 == costs_ms[bob]


def later_ms_of(ground: Ground) -> dict[AgentRef, int]:
    """What it is believed to cost a conversation that begins to go on with each stranger, in ms."""
    query = ground.query()
    ground.scout.to_call(query, {}, START_MS)
    return {o.agent: o.prospect.later_ms for o in query.ranked if o.prospect and o.agent.peer != ME.peer}


def test_a_long_prompt_costs_others_what_it_holds_them_up(ground: Ground) -> None:
    usual = Prospect(wait_ms=0, answer_ms=200, toll_ms=40, inside=3.0)
    scout = ground.scout
    assert scout._prospect(usual, 5_000) == usual
    for tokens in (1_000, 3_000, 5_000):
        scout.speeds.learn(tokens, tokens // 10, 200)
    short, long = (scout._prospect(usual, tokens) for tokens in (100, 10_000))
    assert short.answer_ms < 200 < long.answer_ms
    assert long.toll_ms == pytest.approx(40 * long.answer_ms / 200 + HELD_UP * 3 * 1_000, rel=0.01)


def test_who_is_gone_or_barred_is_not_left(space: Space, ground: Ground) -> None:
    """A good runner-up must not be let go for a peer that cannot be called."""
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.9)
    query = ground.query()
    assert ground.scout.best_left(query, {}, START_MS) is not None
    query.failed.add(AgentRef(ALICE.peer, "agent"))
    ground.scout.bar(AgentRef(BOB.peer, "agent"), START_MS)
    assert ground.scout.best_left(query, {}, START_MS) is None
    assert ground.scout.best_left(query, {}, START_MS + BARRED_MS) is not None
    ground.directory.down(BOB.peer)
    assert ground.scout.best_left(query, {}, START_MS + BARRED_MS) is None


def test_who_is_barred_is_asked_only_where_there_is_nobody_else(ground: Ground) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.9)
    ground.scout.bar(AgentRef(ALICE.peer, "agent"), START_MS)
    assert ground.called() == [BOB.peer, ME.peer]
    ground.scout.local = ()
    assert ground.called() == [BOB.peer]
    ground.scout.bar(AgentRef(BOB.peer, "agent"), START_MS)
    assert ALICE.peer in ground.called()
    ground.scout.bar(AgentRef(ALICE.peer, "agent"), START_MS - BARRED_MS)
    assert ground.called() == [ALICE.peer]


def test_the_barred_are_bounded(ground: Ground) -> None:
    agents = [AgentRef(ALICE.peer, f"agent {number}") for number in range(BARRED_MAX + 5)]
    for agent in agents:
        ground.scout.bar(agent, START_MS)
    assert list(ground.scout.barred) == agents[5:]


def test_the_ceiling_on_load_and_the_chances_hold_for_a_batch_too(ground: Ground) -> None:
    """Only that the local agent's wait is no reason to ask, and that as many are asked as may be."""
    peers = [SimKeys(number) for number in range(10, 16)]
    for rank, keys in enumerate(peers):
        ground.add(keys, 0.95 - rank / 100)
        full = [Load(2, 8, 900 + 40 * beat, 900, 900_000) for beat in (0, 1, 2)] if rank < 3 else []
        for beat, load in enumerate(full):
            at_ms = START_MS - 4_000 + 2_000 * beat
            ground.scout.loads.heard(AgentRef(keys.peer, "agent"), load, 2, at_ms, at_ms)
    query = ground.query()
    query.ask = replace(query.ask, batch="b")
    chosen = [option for option, _ in ground.scout.to_call(query, {}, START_MS)]
    assert [option.agent.peer for option in chosen[:-1]] == [keys.peer for keys in peers[3:]]
    chances = {option.agent.peer: option.chance or 0.0 for option in query.ranked}
    assert [chances[keys.peer] for keys in peers[:3]] == [0.0] * 3
    assert sum(chances.values()) == pytest.approx(1.0)


def test_whom_the_local_agent_beats_has_no_chance_in_a_batch(space: Space) -> None:
    ground = Ground(space, skill=0.9)
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.4)
    query = ground.query()
    query.ask = replace(query.ask, batch="b")
    assert [option.agent.peer for option, _ in ground.scout.to_call(query, {}, START_MS)] == [ALICE.peer, ME.peer]
    assert {option.agent.peer: option.chance for option in query.ranked} == {
        ALICE.peer: 1.0,
        ME.peer: None,
        BOB.peer: None,
    }


def test_questions_go_surely_where_they_were_awarded_and_perhaps_where_they_called(
    space: Space, ground: Ground
) -> None:
    ground.add(ALICE, 0.95)
    ground.add(BOB, 0.94)
    called, awarded = ground.query(), ground.query()
    for number, query in enumerate((called, awarded)):
        for option in query.ranked:
            query.conversations.append(Conversation(make_call(space, number), "q", option))
    awarded.conversations[0].state, awarded.conversations[0].awarded_ms = "awarded", START_MS - 7
    called.conversations[1].state = "refused"
    first, second, third = (option.agent for option in called.ranked)
    bound = bound_for([called, awarded], START_MS)
    assert bound == {first: [(START_MS, 0.5), (START_MS - 7, 1.0)], third: [(START_MS, 0.5)]}
    assert second not in bound


def test_among_many_alike_each_question_considers_others(ground: Ground) -> None:
    for index in range(10, 10 + 3 * CANDIDATES):
        ground.add(SimKeys(index), 0.9)
    weak = {SimKeys(index).peer for index in range(1_000, 1_000 + CANDIDATES)}
    for index in range(1_000, 1_000 + CANDIDATES):
        ground.add(SimKeys(index), 0.4)
    seen = []
    for seed in range(20):
        query = ground.query(seed)
        ground.scout.to_call(query, {}, START_MS)
        seen.append({option.agent.peer for option in query.ranked if option.prospect is not None} - {ME.peer})
    assert {len(considered) for considered in seen} == {CANDIDATES}
    assert len(set().union(*seen)) > 2 * CANDIDATES
    assert not weak.intersection(*seen)


def test_the_best_are_considered_where_few_are_alike(ground: Ground) -> None:
    best = {SimKeys(index).peer for index in range(10, 14)}
    for index in range(10, 14):
        ground.add(SimKeys(index), 0.95)
    for index in range(100, 100 + 2 * CANDIDATES):
        ground.add(SimKeys(index), 0.4)
    for seed in range(10):
        query = ground.query(seed)
        ground.scout.to_call(query, {}, START_MS)
        assert best <= {option.agent.peer for option in query.ranked if option.prospect is not None}
