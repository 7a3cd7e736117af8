"""What one says of others: what of it is believed, learned and passed on."""

import pytest

from p2pagent.peer.directory import CLOCK_SKEW_MS
from p2pagent.peer.effects import Blame, Learn
from p2pagent.peer.events import PeerUp, ProvidersFound
from p2pagent.peer.gossip_messages import Delta, Heartbeat, Ping, Pull, Sight, SignedHeartbeat
from p2pagent.peer.hearsay import HEARSAY_BURST, HEARSAY_REFILL_MS, INTRODUCED_TO, STRANGERS_MAX
from p2pagent.peer.herald import LEASE_MS
from p2pagent.peer.wire import encode, parsed
from p2pagent.routing.hubs import key as cell_key
from p2pagent.sim.keys import SimKeys
from tests.cell import DAVE, NOTHING, introduce, known_to, only, pings, reachable, tell, tick
from tests.members import make_beat, make_known, make_record, news, sign_beat
from tests.scenario import START_MS, make_advert
from tests.strangers import ALICE, BOB, CAROL, receive, sent


def test_a_member_that_we_hear_of_is_asked_for_learned_and_passed_on(peer):
    introduce(peer, ALICE)
    assert tell(peer, ALICE, BOB) == 1
    assert reachable(peer) == {ALICE.peer, BOB.peer}
    assert not peer.directory.get(BOB.peer).met
    [ack] = sent(receive(peer, CAROL, Ping(1, NOTHING)))
    assert BOB.peer in {parsed(beat.body, Heartbeat).peer for beat in ack.news.heartbeats}


def test_a_newcomer_that_comes_to_us_is_introduced_to_neighbours(peer):
    neighbours = [ALICE, BOB, CAROL, DAVE]
    introduce(peer, *neighbours)
    for keys in neighbours:
        peer.handle(PeerUp(keys.peer), START_MS)
    newcomer = SimKeys(50)
    known = make_known(newcomer, make_record(newcomer, space=peer.seller._space.name))
    effects = receive(peer, newcomer, Delta((known,)))
    introduced = pings(effects)
    assert len(introduced) == INTRODUCED_TO
    assert set(introduced) <= {keys.peer for keys in neighbours}
    assert all(known.heartbeat in message.news.heartbeats for message in only(sent(effects), Ping))
    assert pings(receive(peer, newcomer, Delta((known,)))) == {}


def test_one_of_another_cell_is_kept_if_it_was_asked_for_though_others_speak_of_it_too(peer):
    home = next(p for p in range(6) if peer.membership.lookout._hubs.leaf(p).startswith("/1"))
    away = next(p for p in range(6) if peer.membership.lookout._hubs.leaf(p).startswith("/0"))
    peer.membership.cells._go_to({peer.membership.lookout._hubs.leaf(home): 1})
    introduce(peer, ALICE)
    described = (make_record(k, make_advert("agent", {away: 0.9}), space=peer.seller._space.name) for k in (BOB, CAROL))
    bob, carol = (make_known(keys, record) for keys, record in zip((BOB, CAROL), described, strict=True))
    peer.handle(ProvidersFound("q", cell_key(peer.seller._space, "/0"), (DAVE.peer,)), START_MS)
    receive(peer, DAVE, Sight("/0", "/0", (bob.heartbeat,)))
    receive(peer, ALICE, Ping(1, news(bob.heartbeat, carol.heartbeat)))
    receive(peer, ALICE, Delta((bob, carol)))
    assert {BOB.peer} <= known_to(peer)
    assert CAROL.peer not in known_to(peer)
    effects = receive(peer, ALICE, Ping(2, news(sign_beat(CAROL, make_beat(CAROL, issued_ms=START_MS + 1)))))
    assert not only(sent(effects), Pull), "it is known to be of elsewhere"


def test_its_addresses_are_learned(peer):
    receive(peer, ALICE, Ping(1, news(sign_beat(BOB, make_beat(BOB)))))
    effects = receive(peer, ALICE, Delta((make_known(BOB, make_record(BOB, space=peer.seller._space.name)),)))
    assert Learn(BOB.peer, ("/ip4/192.0.2.1/tcp/4101",)) in effects


def test_invented_peers_push_nobody_out_however_many_there_are(peer):
    honest = [SimKeys(n) for n in range(10, 60)]
    introduce(peer, *honest, ALICE)
    for wave in range(40):
        invented = [SimKeys(1_000 + 31 * wave + n) for n in range(31)]
        tell(peer, ALICE, *invented, after_ms=wave * 100)
    assert tell(peer, BOB, *(SimKeys(5_000 + n) for n in range(31)), after_ms=4_000) == 0, "nor are they asked for"
    assert known_to(peer).issuperset(keys.peer for keys in honest)
    assert len(peer.directory) == len(honest) + 1 + STRANGERS_MAX
    tick(peer, 4_000)
    assert peer.membership.cells.names() == ("/",)


def test_who_speaks_to_us_is_let_in_however_many_were_invented(peer):
    introduce(peer, ALICE)
    tell(peer, ALICE, *(SimKeys(1_000 + n) for n in range(STRANGERS_MAX + 50)))
    introduce(peer, BOB)
    assert BOB.peer in reachable(peer)


def test_hearsay_of_one_peer_is_taken_only_so_fast(peer):
    introduce(peer, ALICE)
    talkers = [SimKeys(n) for n in range(10, 41)]
    introduce(peer, *talkers)
    believed = 0
    for ms in range(1, 101):
        beats = [sign_beat(keys, make_beat(keys, issued_ms=START_MS + ms)) for keys in talkers]
        receive(peer, ALICE, Ping(1, news(*beats)), ms)
        believed += sum(peer.directory.get(keys.peer).heartbeat.issued_ms == START_MS + ms for keys in talkers)
    assert HEARSAY_BURST <= believed <= HEARSAY_BURST + 100 // HEARSAY_REFILL_MS + 1
    beat = sign_beat(talkers[0], make_beat(talkers[0], issued_ms=START_MS + 500))
    receive(peer, BOB, Ping(1, news(beat)), 500)
    assert peer.directory.get(talkers[0].peer).heartbeat.issued_ms == START_MS + 500


def test_a_forged_heartbeat_is_its_senders_fault_and_changes_nothing(peer):
    introduce(peer, ALICE, BOB)
    forged = SignedHeartbeat(encode(make_beat(BOB, lease_ms=0, issued_ms=START_MS + 1)), bytes(64))
    effects = receive(peer, ALICE, Ping(1, news(forged)))
    assert [e.peer for e in effects if isinstance(e, Blame)] == [ALICE.peer]
    assert BOB.peer in reachable(peer)


@pytest.mark.parametrize(
    "changes",
    [
        {"issued_ms": 1 << 53},
        {"issued_ms": START_MS + CLOCK_SKEW_MS + 1},
        {"issued_ms": 0},
        {"issued_ms": START_MS - LEASE_MS - CLOCK_SKEW_MS, "refuted": 9},
    ],
)
def test_heartbeats_of_absurd_times_are_no_news_and_nobodys_fault(peer, changes):
    introduce(peer, ALICE, BOB)
    before = peer.directory.get(BOB.peer).heartbeat
    effects = receive(peer, ALICE, Ping(1, news(sign_beat(BOB, make_beat(BOB, **changes)))))
    assert not only(effects, Blame)
    assert peer.directory.get(BOB.peer).heartbeat == before


@pytest.mark.parametrize("issued_ms", [1 << 53, START_MS + CLOCK_SKEW_MS + 1, 0])
def test_a_new_record_cannot_bring_an_absurd_heartbeat_with_it(peer, issued_ms):
    introduce(peer, ALICE)
    record = make_record(ALICE, sequence=2, space=peer.seller._space.name)
    receive(peer, ALICE, Delta((make_known(ALICE, record, issued_ms=issued_ms, refuted=5),)))
    entry = peer.directory.get(ALICE.peer)
    assert (entry.record.sequence, entry.heartbeat.issued_ms) == (1, START_MS)


def test_old_heartbeats_and_records_change_nothing(peer):
    introduce(peer, ALICE)
    introduce(peer, BOB, sequence=3)
    before = peer.directory.get(BOB.peer)
    old = sign_beat(BOB, make_beat(BOB, sequence=3, issued_ms=START_MS - 1))
    effects = receive(peer, ALICE, Ping(1, news(old)))
    introduce(peer, BOB, sequence=2)
    assert peer.directory.get(BOB.peer) is before
    assert not only(sent(effects), Pull)
