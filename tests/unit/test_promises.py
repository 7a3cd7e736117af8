"""What is remembered of how agents keep to their quotes."""

import pytest

from p2pagent.routing.promises import AGENTS_MAX, PRIOR_ANSWERS, Promises
from p2pagent.routing.qos import WAIT_MS_MAX
from p2pagent.routing.qos_lengths import EXPECTED
from p2pagent.types import AgentRef, PeerId

AGENT, OTHER = AgentRef(PeerId("a"), "agent"), AgentRef(PeerId("b"), "agent")


def test_whoever_is_new_is_taken_at_its_word() -> None:
    promises = Promises()
    assert promises.late_ms(AGENT) == 0
    assert [promises.output_tokens(AGENT, limit) for limit in (8, 500)] == [8, EXPECTED]


def test_who_is_always_late_is_expected_to_be() -> None:
    promises = Promises()
    promises.learn(AGENT, 1_000, 20, 64)
    assert promises.late_ms(AGENT) == 1_000 // (1 + PRIOR_ANSWERS)
    for _ in range(100):
        promises.learn(AGENT, 1_000, 20, 64)
    assert promises.late_ms(AGENT) == pytest.approx(1_000 * 20 / (20 + PRIOR_ANSWERS), rel=0.01)
    assert promises.output_tokens(AGENT, 64) == 20
    assert promises.late_ms(OTHER) == 0


def test_who_mends_its_ways_is_believed_again() -> None:
    promises = Promises()
    for late_ms in [1_000] * 50 + [-200] * 50:
        promises.learn(AGENT, late_ms, 20, 64)
    assert -200 < promises.late_ms(AGENT) < 0


def test_one_odd_answer_is_not_everything() -> None:
    promises = Promises()
    promises.learn(AGENT, 1 << 40, 20, 64)
    assert promises.late_ms(AGENT) == WAIT_MS_MAX // (1 + PRIOR_ANSWERS)


def test_only_so_many_are_remembered() -> None:
    promises = Promises()
    for number in range(AGENTS_MAX + 1):
        promises.learn(AgentRef(PeerId(str(number)), "agent"), 1_000, 20, 64)
    assert len(promises) == AGENTS_MAX
    assert promises.late_ms(AgentRef(PeerId("0"), "agent")) == 0 < promises.late_ms(AgentRef(PeerId("1"), "agent"))
