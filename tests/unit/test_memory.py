"""What a device remembers of agents: it outweighs their claims, can be taken back, and lives through a restart."""

from random import Random

import msgspec
import pytest
from msgspec import structs

from p2pagent.peer import memory as module
from p2pagent.peer.effects import Learned
from p2pagent.peer.events import Delivery, Rated, Rating
from p2pagent.peer.memory import Memory
from p2pagent.routing import exploration
from p2pagent.routing.posteriors import HALF_LIFE_DAYS, Experience
from p2pagent.routing.prototypes import HashingEmbedder, Relevance, Space
from p2pagent.routing.scoring import Score
from p2pagent.types import AgentRef
from tests.claims import score
from tests.scenario import START_MS, SUBJECTS
from tests.strangers import ALICE, BOB

AGENT, OTHER = AgentRef(ALICE.peer, "agent"), AgentRef(BOB.peer, "agent")
HERE = Relevance((1, 2), (0.75, 0.25), 0.9)
ELSEWHERE = Relevance((4,), (1.0,), 0.9)
CLAIMS = bytes([230] * len(SUBJECTS))
HALF_LIFE_MS = int(HALF_LIFE_DAYS * 86_400_000)


@pytest.fixture(autouse=True)
def _nobody_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 0)


@pytest.fixture
def memory(space: Space) -> Memory:
    return Memory(space, {})


def delivery(space: Space, agent: AgentRef = AGENT, relevance: Relevance = HERE) -> Delivery:
    return Delivery(agent, space.name, relevance, 0.5)


def expected(memory: Memory, relevance: Relevance = HERE, *agents: AgentRef, now_ms: int = START_MS) -> list[Score]:
    pairs = [(agent, CLAIMS) for agent in agents or (AGENT,)]
    return [score for score, _ in memory.scores(relevance, pairs, Random(1), now_ms, trials=True)]


def judge(memory: Memory, space: Space, *verdicts: bool, agent: AgentRef = AGENT) -> bytes:
    for good in verdicts:
        (kept,) = memory.judge(delivery(space, agent), Rating(good, START_MS))
    assert isinstance(kept, Learned)
    assert (kept.agent, kept.space) == (agent, space.name)
    return kept.experience


def test_without_outcomes_claims_are_all_there_is(memory: Memory) -> None:
    (known,) = expected(memory)
    assert known == score(HERE, [CLAIMS])[0]
    assert memory.outcomes(AGENT) == 0


def test_a_handful_of_bad_answers_outweighs_any_claim(memory: Memory, space: Space) -> None:
    before = expected(memory, HERE, AGENT, OTHER)
    judge(memory, space, *[False] * 8)
    (liar, other) = expected(memory, HERE, AGENT, OTHER)
    assert before[0] == before[1] == other
    assert before[0].quality > 0.8
    assert liar.quality < 0.5
    assert memory.outcomes(AGENT) == 8


def test_good_answers_raise_what_is_expected_and_lower_the_doubt(memory: Memory, space: Space) -> None:
    (before,) = expected(memory)
    judge(memory, space, *[True] * 20)
    (after,) = expected(memory)
    assert after.quality > before.quality
    assert after.uncertainty < before.uncertainty


def test_what_is_saved_is_known_after_a_restart(memory: Memory, space: Space) -> None:
    saved = judge(memory, space, True, False, False)
    again = Memory(space, {space.name: {AGENT: saved}})
    assert expected(again) == expected(memory)
    assert again.outcomes(AGENT) == 3


@pytest.mark.parametrize("days", [1, 30, 300])
def test_outcomes_fade_while_the_daemon_runs_as_they_do_over_a_restart(memory: Memory, space: Space, days: int) -> None:
    saved = judge(memory, space, *[False] * 8)
    (poor,) = expected(memory)
    later_ms = START_MS + 86_400_000 * days
    again = Memory(space, {space.name: {AGENT: saved}})
    (faded,) = expected(memory, now_ms=later_ms)
    assert [faded] == expected(again, now_ms=later_ms)
    assert faded.quality > poor.quality


def test_who_is_forgotten_is_a_newcomer_again(memory: Memory, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 1)
    judge(memory, space, *[True] * (2 * exploration.NEWCOMER_OUTCOMES))
    for half_lives, is_tried in ((0, False), (1, False), (2, True)):
        now_ms = START_MS + half_lives * HALF_LIFE_MS
        ((known, valued),) = memory.scores(HERE, [(AGENT, CLAIMS)], Random(1), now_ms, trials=True)
        assert (known != valued) == is_tried


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"\x93", msgspec.msgpack.encode(Experience(good={99: 1.0}, seen={99: 1.0}, outcomes=1))]
)
def test_what_cannot_be_read_is_left_out(space: Space, body: bytes) -> None:
    again = Memory(space, {space.name: {AGENT: body}})
    assert again.outcomes(AGENT) == 0
    assert expected(again) == expected(Memory(space, {}))


@pytest.mark.parametrize("later_ms", [0, HALF_LIFE_MS])
@pytest.mark.parametrize("first", [True, False])
def test_the_last_word_of_the_user_is_all_that_counts(space: Space, first: bool, later_ms: int) -> None:
    now = Rating(not first, START_MS + later_ms)
    changed, straight = Memory(space, {}), Memory(space, {})
    changed.on_rated(Rated(delivery(space), Rating(first, START_MS), None))
    (one,) = changed.on_rated(Rated(delivery(space), now, Rating(first, START_MS)))
    (other,) = straight.on_rated(Rated(delivery(space), now, None))
    assert isinstance(one, Learned)
    assert isinstance(other, Learned)
    had, should = (msgspec.msgpack.decode(each.experience, type=Experience) for each in (one, other))
    assert had.outcomes == should.outcomes == 1
    assert had.seen == pytest.approx(should.seen)
    assert had.good == pytest.approx(should.good)


def test_saying_the_same_again_changes_nothing(memory: Memory, space: Space) -> None:
    judge(memory, space, True)
    assert memory.on_rated(Rated(delivery(space), Rating(True, START_MS + 5), Rating(True, START_MS))) == []
    assert memory.outcomes(AGENT) == 1


def test_a_rating_of_an_agent_that_was_forgotten_meanwhile_is_counted_once(memory: Memory, space: Space) -> None:
    memory.on_rated(Rated(delivery(space), Rating(True, START_MS), Rating(False, START_MS)))
    assert memory.outcomes(AGENT) == 1


def test_of_another_space_nothing_is_learned(memory: Memory, space: Space) -> None:
    strange = Delivery(AGENT, "another", HERE, 0.5)
    beyond = delivery(space, relevance=Relevance((len(SUBJECTS),), (1.0,), 0.9))
    for each in (strange, beyond):
        assert memory.judge(each, Rating(True, START_MS)) == []
        assert memory.on_rated(Rated(each, Rating(True, START_MS), Rating(False, START_MS))) == []
    assert memory.outcomes(AGENT) == 0


def test_an_agent_that_changes_its_claims_keeps_its_record(memory: Memory, space: Space) -> None:
    judge(memory, space, *[False] * 8)
    (poor,) = expected(memory)
    ((boast, _),) = memory.scores(HERE, [(AGENT, bytes([255] * len(SUBJECTS)))], Random(1), START_MS, trials=True)
    assert boast.quality < poor.quality + 0.1


def test_tables_are_bounded_and_those_in_use_stay(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SKILLS_MAX", 4)
    monkeypatch.setattr(module, "AGENTS_MAX", 3)
    memory = Memory(space, {})
    agents = [AgentRef(BOB.peer, f"agent {number}") for number in range(6)]
    for agent in agents:
        judge(memory, space, True, agent=agent)
        expected(memory, HERE, agent)
    assert [memory.outcomes(agent) for agent in agents] == [0, 0, 0, 1, 1, 1]
    assert len(memory._claims) == len(memory._skills) <= 4
    assert len(expected(memory, HERE, *agents)) == 6


def test_newcomers_are_valued_by_what_they_may_be_and_known_ones_are_not(
    memory: Memory, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 1)
    judge(memory, space, *[True] * exploration.NEWCOMER_OUTCOMES, agent=OTHER)
    pairs = [(AGENT, CLAIMS), (OTHER, CLAIMS)]
    (new, tried), (known, valued) = memory.scores(HERE, pairs, Random(1), START_MS, trials=True)
    assert tried != new
    assert tried.uncertainty == 0
    assert valued == known
    assert memory.scores(HERE, pairs, Random(1), START_MS, trials=True)[0] == (new, tried)


def test_newcomers_are_measured_against_candidates_alone(
    memory: Memory, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else is in the table, and wherever: gone, or not admitted, or of another question."""
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 1)
    gone, weak = AgentRef(ALICE.peer, "gone"), bytes([130] * len(SUBJECTS))
    pairs = [(AGENT, weak), (OTHER, weak)]
    alone = memory.scores(HERE, pairs, Random(1), START_MS, trials=True)
    crowded = Memory(space, {})
    crowded.scores(HERE, [(gone, bytes([255] * len(SUBJECTS))), (OTHER, weak)], Random(2), START_MS, trials=True)
    assert all(valued != score for score, valued in alone)
    assert crowded.scores(HERE, pairs, Random(1), START_MS, trials=True) == alone


def test_what_was_learned_in_the_version_before_is_carried_over(space: Space) -> None:
    turned = Space(HashingEmbedder(), space.prototypes[::-1], earlier=space)
    before = Memory(space, {})
    saved = judge(before, space, True, False, False)
    after = Memory(turned, {space.name: {AGENT: saved}})
    there = structs.replace(HERE, prototypes=tuple(len(SUBJECTS) - 1 - m for m in HERE.prototypes))
    assert after.outcomes(AGENT) == 3
    assert expected(after, there) == expected(before)
    assert expected(Memory(turned, {space.name: {AGENT: saved}, turned.name: {}}), there) == expected(before)


def test_what_was_learned_since_holds_over_what_was_carried(space: Space) -> None:
    turned = Space(HashingEmbedder(), space.prototypes[::-1], earlier=space)
    saved = judge(Memory(space, {}), space, True, False, False)
    newer = judge(Memory(turned, {}), turned, True)
    assert Memory(turned, {turned.name: {AGENT: newer}, space.name: {AGENT: saved}}).outcomes(AGENT) == 1


def test_an_answer_from_before_a_new_version_can_still_be_rated(space: Space) -> None:
    turned = Space(HashingEmbedder(), space.prototypes[::-1], earlier=space)
    memory = Memory(turned, {})
    (kept,) = memory.on_rated(Rated(delivery(space), Rating(False, START_MS), None))
    assert isinstance(kept, Learned)
    experience = msgspec.msgpack.decode(kept.experience, type=Experience)
    assert experience.seen == {len(SUBJECTS) - 2: 0.75, len(SUBJECTS) - 3: 0.25}
    assert Memory(Space(HashingEmbedder(), space.prototypes[::-1]), {}).judge(delivery(space), Rating(True, 1)) == []
