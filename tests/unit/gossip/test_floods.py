"""What strangers ask of us is bounded, and so is what we keep of them."""

import msgspec
import pytest

from p2pagent.peer.detector import ACK_MS
from p2pagent.peer.directory import PEERS_MAX
from p2pagent.peer.effects import SetTimer
from p2pagent.peer.events import PeerUp, Timer
from p2pagent.peer.gossip_messages import Ack, Delta, Look, Nack, News, Ping, Pull, Relay, Sight
from p2pagent.peer.hearsay import OUTSIDERS_MAX, PULLED_MAX
from p2pagent.peer.talk import RELAYED_MAX, REQUEST_BURST, REQUEST_REFILL_MS
from p2pagent.peer.wire import encode
from p2pagent.sim.keys import SimKeys
from tests.cell import NOTHING, fire, introduce, pings
from tests.members import make_beat, sign_beat
from tests.scenario import START_MS
from tests.strangers import ALICE, BOB, CAROL, ME, receive, sent


@pytest.mark.parametrize("flood", [Pull((ALICE.peer,)), Look("/"), Relay(7, ALICE.peer)], ids=["pull", "look", "relay"])
def test_requests_are_answered_within_the_allowance_only(peer, flood):
    introduce(peer, ALICE)
    answers = sum(bool(sent(receive(peer, BOB, flood, ms))) for ms in range(0, 10_000, 10))
    assert answers == REQUEST_BURST + 9_990 // REQUEST_REFILL_MS
    assert sent(receive(peer, CAROL, flood))


def test_a_relay_is_one_small_ping_and_a_word_about_it(peer):
    introduce(peer, ALICE, *(SimKeys(n) for n in range(10, 60)))
    effects = receive(peer, BOB, Relay(77, CAROL.peer))
    [ping] = sent(effects, CAROL)
    assert len(encode(ping)) < 400
    [timer] = [e for e in effects if isinstance(e, SetTimer)]
    assert timer == SetTimer(START_MS + ACK_MS, Timer("relay", mark=ping.number))
    assert sent(fire(peer, "relay", ACK_MS, ping.number), BOB) == [Nack(77)]
    assert fire(peer, "relay", ACK_MS, ping.number) == []


def test_only_the_target_of_a_relay_answers_for_itself(peer):
    effects = receive(peer, BOB, Relay(77, CAROL.peer))
    number = pings(effects)[CAROL.peer]
    assert sent(receive(peer, ALICE, Ack(number, NOTHING)), BOB) == []
    assert sent(receive(peer, CAROL, Ack(number, NOTHING)), BOB) == [Ack(77, NOTHING)]
    assert sent(receive(peer, CAROL, Ack(number, NOTHING)), BOB) == []
    assert fire(peer, "relay", ACK_MS, number) == []


def test_a_relay_to_ourselves_is_answered(peer):
    assert Ack(77, NOTHING) in sent(receive(peer, BOB, Relay(77, ME.peer)), BOB)


def test_what_was_not_asked_for_is_ignored(peer):
    introduce(peer, ALICE)
    before = msgspec.structs.replace(peer.directory.get(ALICE.peer))
    stranger = sign_beat(BOB, make_beat(BOB))
    for message in (Sight("/", "/0101", (stranger,)), Nack(5), Ack(5, NOTHING), Delta(())):
        assert receive(peer, ALICE, message) == []
    assert peer.directory.get(ALICE.peer) == before
    assert peer.membership.cells.names() == ("/",)
    assert peer.membership.detector.health == 0


def test_a_sight_is_taken_once(peer):
    assert sent(peer.handle(PeerUp(ALICE.peer), START_MS), ALICE)[1:] == [Look("/")]
    sight = Sight("/", "/", (sign_beat(BOB, make_beat(BOB)),))
    assert sent(receive(peer, BOB, sight)) == []
    assert sent(receive(peer, ALICE, sight)) == [Pull((BOB.peer,))]
    assert sent(receive(peer, ALICE, msgspec.structs.replace(sight, followed="/0"))) == []


def test_no_table_grows_without_bound(peer):
    introduce(peer, ALICE)
    for wave in range(120):
        invented = [SimKeys(10_000 + 31 * wave + n) for n in range(31)]
        beats = [sign_beat(keys, make_beat(keys, refuted=wave)) for keys in invented]
        goodbyes = [sign_beat(keys, make_beat(keys, lease_ms=0, issued_ms=START_MS + 1)) for keys in invented]
        at_ms = wave * 100_000
        for said in (beats, goodbyes):
            receive(peer, SimKeys(500 + wave), Ping(1, News(tuple(said), ())), 0)
        for number in range(10):
            receive(peer, SimKeys(9_000 + wave * 10 + number), Relay(number, invented[number].peer), at_ms)
    membership = peer.membership
    assert len(membership.talk._relayed) <= RELAYED_MAX
    assert len(membership.hearsay._pulled) <= PULLED_MAX
    assert len(membership.hearsay._outsiders) <= OUTSIDERS_MAX
    assert len(peer.directory) <= PEERS_MAX
    assert len(peer.directory._gone) <= PEERS_MAX
    assert len(membership.talk.rumours._beats) <= PEERS_MAX
    for allowance in (
        membership.hearsay._pulls,
        membership.talk._answers,
        membership.hearsay._hearsay,
        membership.hearsay._doubts._accusations,
        membership.hearsay._doubts._own,
    ):
        assert len(allowance._spent) <= PEERS_MAX
