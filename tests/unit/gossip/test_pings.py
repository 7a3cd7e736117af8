"""What a ping is answered with, and to whom."""

from random import Random

from p2pagent.config import Preferences
from p2pagent.peer.detector import TICK_MS
from p2pagent.peer.events import Leave, PeerDown, PeerUp
from p2pagent.peer.gossip_messages import Ack, Heartbeat, Look, Ping, Pull
from p2pagent.peer.peer import Peer
from p2pagent.peer.talk import REQUEST_BURST
from p2pagent.peer.wire import parsed
from p2pagent.sim.keys import SimKeys
from tests.cell import NOTHING, introduce, only, reachable, tick
from tests.members import make_beat, news, sign_beat
from tests.scenario import START_MS
from tests.strangers import ALICE, BOB, CAROL, ME, receive, sent


def test_who_is_back_on_a_new_connection_is_not_given_up_for_a_ping_that_the_old_one_lost(peer):
    introduce(peer, ALICE, BOB)
    peer.handle(PeerDown(ALICE.peer), START_MS)
    peer.handle(PeerUp(ALICE.peer), START_MS + 500)
    tick(peer, TICK_MS)
    assert reachable(peer, TICK_MS) == {ALICE.peer, BOB.peer}
    assert not peer.membership.suspects(ALICE.peer)


def test_a_ping_is_answered_with_its_number_and_our_sign_of_life_first(peer):
    [ack] = only(sent(receive(peer, ALICE, Ping(77, NOTHING)), ALICE), Ack)
    assert ack.number == 77
    assert parsed(ack.news.heartbeats[0].body, Heartbeat).peer == ME.peer


def test_a_stranger_that_pings_is_asked_for_its_record_and_kept(peer, space):
    [_, pull] = sent(receive(peer, ALICE, Ping(1, news(sign_beat(ALICE, make_beat(ALICE))))), ALICE)
    assert pull == Pull((ALICE.peer,))
    introduce(peer, ALICE)
    assert reachable(peer) == {ALICE.peer}
    assert peer.directory.get(ALICE.peer).met


def test_what_was_just_heard_from_it_is_not_told_it_again(peer):
    introduce(peer, ALICE, BOB)
    while peer.membership.talk.rumours.news(ALICE.peer).heartbeats:
        pass
    beat = sign_beat(BOB, make_beat(BOB, issued_ms=START_MS + 1))
    [ack] = sent(receive(peer, ALICE, Ping(1, news(beat))), ALICE)
    assert beat not in ack.news.heartbeats
    [ack] = sent(receive(peer, CAROL, Ping(1, NOTHING)), CAROL)
    assert beat in ack.news.heartbeats


def test_who_pings_without_end_gets_answers_but_not_all_the_news(peer):
    introduce(peer, *(SimKeys(n) for n in range(10, 40)))
    acks = [only(sent(receive(peer, ALICE, Ping(n, NOTHING)), ALICE), Ack)[0] for n in range(100)]
    assert [len(ack.news.heartbeats) > 1 for ack in acks].count(True) <= REQUEST_BURST
    assert all(len(ack.news.heartbeats) == 1 for ack in acks[REQUEST_BURST:])
    [ack] = only(sent(receive(peer, BOB, Ping(1, NOTHING)), BOB), Ack)
    assert len(ack.news.heartbeats) > 1


def test_before_our_agents_are_ready_a_ping_is_answered_and_says_nothing(space):
    young = Peer(ME, space, "test", Preferences(), Random(1), 1)
    [ack] = sent(receive(young, ALICE, Ping(1, NOTHING)))
    assert ack == Ack(1, NOTHING)
    assert young.handle(PeerUp(ALICE.peer), START_MS) == []
    assert sent(receive(young, ALICE, Look("/"))) == []
    assert young.handle(Leave(), START_MS) == []
