"""Suspicions of ourselves are refuted, as far as they are founded."""

import msgspec
import pytest

from p2pagent.peer.detector import HEALTH_MAX
from p2pagent.peer.effects import Blame
from p2pagent.peer.gossip_messages import Ack, Heartbeat, Ping
from p2pagent.peer.herald import REFUTE_MS
from p2pagent.peer.wire import parsed
from tests.cell import NOTHING, introduce, own_beat, pings, tick
from tests.members import make_beat, make_suspicion, news, sign_beat
from tests.scenario import START_MS
from tests.strangers import ALICE, BOB, CAROL, ME, receive, sent


def accuse_me(peer, accuser, refuted, after_ms, incarnation=1, source=None):
    said = news(make_suspicion(accuser, ME.peer, incarnation, refuted))
    return receive(peer, source or accuser, Ping(1, said), after_ms)


def test_a_suspicion_of_ourselves_is_refuted_at_once(peer):
    [_, ping] = sent(accuse_me(peer, ALICE, 0, 1_000))
    refutation = parsed(ping.news.heartbeats[0].body, Heartbeat)
    assert (refutation.incarnation, refutation.refuted) == (1, 1)
    assert refutation.issued_ms == START_MS + 1_000
    assert own_beat(receive(peer, BOB, Ping(1, NOTHING))).refuted == 1


@pytest.mark.parametrize(
    ("incarnation", "refuted"), [(1, 1), (1, 7), (1, 1 << 53), (0, 0), (2, 0), (1 << 53, 0), (1 << 53, 1 << 53)]
)
def test_a_suspicion_of_what_we_never_said_is_no_reason_to_say_it(peer, incarnation, refuted):
    answer = accuse_me(peer, ALICE, refuted, 1_000, incarnation)
    assert len(sent(answer)) == 1
    assert (own_beat(answer).incarnation, own_beat(answer).refuted) == (1, 0)


def test_a_flood_of_suspicions_has_one_answer_a_second(peer):
    answers = []
    for ms in range(0, 10_000, 20):
        answers += [m for m in sent(accuse_me(peer, ALICE, peer.membership.herald.proof[1], ms)) if isinstance(m, Ping)]
    assert len(answers) <= 10_000 // REFUTE_MS + 1
    assert peer.membership.herald.proof[1] <= 10_000 // REFUTE_MS + 1


def test_suspicions_alone_do_not_slow_us_down_for_good(peer):
    introduce(peer, ALICE, BOB, CAROL)
    at_ms, worst = 0, 0
    for _ in range(100):
        at_ms += peer.membership.detector.tick_ms
        for accuser in (ALICE, BOB, CAROL):
            for later_ms in range(0, 2_000, 500):
                accuse_me(peer, accuser, peer.membership.herald.proof[1], at_ms + later_ms)
        [(target, number)] = pings(tick(peer, at_ms + 2_000)).items()
        keys = next(k for k in (ALICE, BOB, CAROL) if k.peer == target)
        for other in (ALICE, BOB, CAROL):
            alive = news(sign_beat(other, make_beat(other, issued_ms=START_MS + at_ms)))
            receive(peer, other, Ack(number if other is keys else number + 1, alive), at_ms + 2_000)
        worst = max(worst, peer.membership.detector.health)
    assert worst <= 2 < HEALTH_MAX


def test_a_forged_suspicion_of_ourselves_is_its_senders_fault(peer):
    forged = msgspec.structs.replace(make_suspicion(ALICE, ME.peer), signature=bytes(64))
    effects = receive(peer, BOB, Ping(1, news(forged)))
    assert [e.peer for e in effects if isinstance(e, Blame)] == [BOB.peer]
    assert peer.membership.herald.proof == (1, 0)
