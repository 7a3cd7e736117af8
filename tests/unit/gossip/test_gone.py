"""When a silent member is given up, and what brings it back."""

import msgspec

from p2pagent.peer.detector import TICK_MS
from p2pagent.peer.events import Leave, PeerUp
from p2pagent.peer.gossip_messages import Ack, Delta, Ping, Pull, Suspicion
from p2pagent.peer.membership import RETRY_MS
from tests.cell import (
    NOTHING,
    introduce,
    known_to,
    only,
    own_beat,
    pings,
    reachable,
    run_quietly,
    told_suspicions,
)
from tests.members import make_beat, make_known, make_record, make_suspicion, news, sign_beat
from tests.scenario import START_MS
from tests.strangers import ALICE, BOB, CAROL, ME, receive, sent


def test_who_stays_silent_is_gone_after_its_time_and_is_tried_again(peer):
    introduce(peer, ALICE, BOB)
    effects = run_quietly(peer, TICK_MS, 60_000)
    assert known_to(peer) == set()
    assert set(pings(effects)) == {ALICE.peer, BOB.peer}
    tried = pings(run_quietly(peer, 60_000, 60_000 + 8 * RETRY_MS))
    assert set(tried) == {ALICE.peer, BOB.peer}


def test_one_that_is_gone_is_told_so_and_back_when_it_has_said_otherwise(peer):
    introduce(peer, ALICE)
    run_quietly(peer, TICK_MS, 60_000)
    beat = make_beat(ALICE, issued_ms=START_MS + 60_000)
    [ack] = sent(receive(peer, ALICE, Ping(1, news(sign_beat(ALICE, beat))), 60_000))
    assert told_suspicions(ack) == [Suspicion(ME.peer, ALICE.peer, 1, 0)]
    [_, pull] = sent(
        receive(peer, ALICE, Ping(2, news(sign_beat(ALICE, msgspec.structs.replace(beat, refuted=1)))), 60_000)
    )
    assert pull == Pull((ALICE.peer,))
    record = make_record(ALICE, space="space")
    receive(peer, ALICE, Delta((make_known(ALICE, record, issued_ms=START_MS + 60_000, refuted=1),)), 60_000)
    assert reachable(peer, 60_000) == {ALICE.peer}


def test_a_record_that_comes_after_the_burial_changes_nothing(peer):
    introduce(peer, ALICE)
    run_quietly(peer, TICK_MS, 60_000)
    introduce(peer, ALICE, after_ms=60_000)
    introduce(peer, ALICE, after_ms=60_000, sequence=2)
    assert known_to(peer) == set()


def test_a_new_start_brings_it_back_and_an_old_one_does_not(peer):
    introduce(peer, ALICE, incarnation=5)
    run_quietly(peer, TICK_MS, 60_000)
    introduce(peer, ALICE, after_ms=60_000, incarnation=4)
    assert known_to(peer) == set()
    introduce(peer, ALICE, after_ms=60_000, incarnation=6)
    assert known_to(peer) == {ALICE.peer}


def test_a_goodbye_is_believed_passed_on_and_final(peer):
    introduce(peer, ALICE, BOB)
    goodbye = sign_beat(ALICE, make_beat(ALICE, lease_ms=0, issued_ms=START_MS + 5))
    receive(peer, BOB, Ping(1, news(goodbye)))
    assert known_to(peer) == {BOB.peer}
    [ack] = only(sent(receive(peer, CAROL, Ping(1, NOTHING))), Ack)
    assert goodbye in ack.news.heartbeats
    introduce(peer, ALICE)
    record = make_record(ALICE, sequence=2)
    receive(peer, BOB, Delta((make_known(ALICE, record, lease_ms=0, issued_ms=START_MS + 9),)))
    assert known_to(peer) == {BOB.peer}


def test_a_goodbye_makes_nobody_known(peer):
    receive(peer, ALICE, Delta((make_known(ALICE, make_record(ALICE, space="space"), lease_ms=0),)))
    assert known_to(peer) == set()


def test_leaving_says_goodbye_and_then_nothing_that_contradicts_it(peer):
    introduce(peer, ALICE, BOB)
    peer.handle(PeerUp(ALICE.peer), START_MS)
    effects = peer.handle(Leave(), START_MS)
    assert own_beat(effects).lease_ms == 0
    assert set(pings(effects)) == {ALICE.peer}
    assert run_quietly(peer, TICK_MS, 120_000) == []
    proof = own_beat(effects)
    accused = make_suspicion(ALICE, ME.peer, proof.incarnation, proof.refuted)
    answer = receive(peer, ALICE, Ping(1, news(accused)), 120_000)
    assert own_beat(answer).lease_ms == 0
    assert len(sent(answer)) == 1
