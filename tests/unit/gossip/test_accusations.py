"""Suspicions of others are passed on and tested, as far as they are founded."""

import msgspec
import pytest

from p2pagent.peer.directory import FAULTS_MAX
from p2pagent.peer.doubts import ACCUSE_BURST
from p2pagent.peer.effects import Blame
from p2pagent.peer.gossip_messages import Delta, Ping
from p2pagent.sim.keys import SimKeys
from tests.cell import DAVE, NOTHING, introduce, pings, reachable
from tests.members import make_beat, make_known, make_record, make_suspicion, news, sign_beat
from tests.scenario import START_MS
from tests.strangers import ALICE, BOB, CAROL, receive, sent


def accuse(peer, source, *suspicions, after_ms=0):
    return receive(peer, source, Ping(1, news(*suspicions)), after_ms)


def test_an_accusation_is_passed_on_and_the_accused_called_until_we_see_for_ourselves(peer):
    introduce(peer, ALICE, BOB, CAROL)
    suspicion = make_suspicion(ALICE, BOB.peer)
    effects = accuse(peer, ALICE, suspicion)
    assert set(pings(effects)) == {BOB.peer}
    assert BOB.peer in peer.membership.talk.suspicions
    assert BOB.peer in reachable(peer)
    [ack] = sent(receive(peer, CAROL, Ping(1, NOTHING)))
    assert ack.news.suspicions == (suspicion,)


@pytest.mark.parametrize(("incarnation", "refuted"), [(0, 0), (1, 0), (1, 2), (1, 1 << 53), (2, 0), (1 << 53, 0)])
def test_only_what_it_said_last_can_be_held_against_a_peer(peer, incarnation, refuted):
    """Else a liar could name what no refutation comes up to."""
    introduce(peer, ALICE)
    record = make_record(BOB, space=peer.seller._space.name)
    receive(peer, BOB, Delta((make_known(BOB, record, refuted=1),)))
    accuse(peer, ALICE, make_suspicion(ALICE, BOB.peer, incarnation, refuted))
    assert BOB.peer not in peer.membership.talk.suspicions


def test_a_refutation_ends_the_suspicion_and_contact_does(peer):
    introduce(peer, ALICE, BOB, CAROL)
    accuse(peer, ALICE, make_suspicion(ALICE, BOB.peer), make_suspicion(ALICE, CAROL.peer))
    refutation = sign_beat(BOB, make_beat(BOB, refuted=1, issued_ms=START_MS + 1))
    receive(peer, ALICE, Ping(1, news(refutation)))
    assert BOB.peer not in peer.membership.talk.suspicions
    receive(peer, CAROL, Ping(1, NOTHING))
    assert CAROL.peer not in peer.membership.talk.suspicions
    accuse(peer, ALICE, make_suspicion(ALICE, BOB.peer))
    assert BOB.peer not in peer.membership.talk.suspicions


def test_a_silent_suspect_that_refutes_is_pinged_at_once(peer):
    introduce(peer, ALICE, BOB)
    peer.directory.down(BOB.peer)
    accuse(peer, ALICE, make_suspicion(ALICE, BOB.peer))
    for number in peer.membership.detector.pings_of(BOB.peer):
        peer.membership.detector.on_ack(number, BOB.peer)
    refutation = sign_beat(BOB, make_beat(BOB, refuted=1, issued_ms=START_MS + 1))
    assert set(pings(receive(peer, ALICE, Ping(1, news(refutation))))) == {BOB.peer}
    assert BOB.peer not in reachable(peer)


def test_strangers_those_shunned_and_those_gone_accuse_nobody(peer):
    introduce(peer, ALICE, BOB, CAROL, DAVE)
    for _ in range(FAULTS_MAX):
        peer.directory.blame(ALICE.peer, START_MS)
    peer.directory.bury(CAROL.peer)
    accusers = (ALICE, CAROL, SimKeys(99))
    accuse(peer, DAVE, *(make_suspicion(accuser, BOB.peer) for accuser in accusers))
    accuse(peer, SimKeys(99), make_suspicion(SimKeys(99), BOB.peer))
    assert BOB.peer not in peer.membership.talk.suspicions


def test_one_accuser_is_heard_only_so_often(peer):
    introduce(peer, *(SimKeys(n) for n in range(10, 100)))
    for accused in range(11, 99):
        accuse(peer, SimKeys(10), make_suspicion(SimKeys(10), SimKeys(accused).peer))
    assert len(peer.membership.talk.suspicions._cases) == ACCUSE_BURST


def test_a_forged_accusation_is_its_senders_fault_and_no_accusation(peer):
    introduce(peer, ALICE, BOB, CAROL)
    forged = msgspec.structs.replace(make_suspicion(ALICE, BOB.peer), signature=bytes(64))
    effects = accuse(peer, CAROL, forged)
    assert [e.peer for e in effects if isinstance(e, Blame)] == [CAROL.peer]
    assert BOB.peer not in peer.membership.talk.suspicions
