"""Hearsay from peers that lie, lose messages and leave: what it may cost us, and what it must not."""

import msgspec

from p2pagent.peer.detector import TICK_MS
from p2pagent.peer.directory import FAULTS_MAX
from p2pagent.peer.doubts import DOUBT_BURST, DOUBT_REFILL_MS
from p2pagent.peer.effects import Blame, Send
from p2pagent.peer.events import PeerUp
from p2pagent.peer.gossip_messages import Delta, Look, News, Ping, Pull, Relay, Sight
from p2pagent.peer.hearsay import PULL_AGAIN_MS
from p2pagent.peer.herald import REFUTE_MS
from p2pagent.peer.lookout import SIGHT_MAX
from p2pagent.peer.readers import Reader, record_in
from p2pagent.sim.keys import SimKeys
from tests.cell import DAVE, NOTHING, fire, introduce, known_to, only, pings, tick
from tests.members import make_beat, make_known, make_record, make_suspicion, news, sign_beat
from tests.scenario import START_MS, make_advert
from tests.strangers import ALICE, BOB, CAROL, ME, receive, sent

# --- nothing is taken in by halves ----------------------------------------------------------------------------------


def test_of_a_ping_with_a_bad_part_nothing_is_taken_in(peer):
    introduce(peer, ALICE, BOB, CAROL)
    accused = make_suspicion(CAROL, BOB.peer)
    garbage = msgspec.structs.replace(accused, body=b"garbage")
    effects = receive(peer, CAROL, Ping(1, News((), (accused, garbage))))
    assert only(effects, Blame)
    assert peer.membership.detector.pings_of(BOB.peer) == []
    assert not peer.membership.suspects(BOB.peer)
    newer = sign_beat(BOB, make_beat(BOB, issued_ms=START_MS + 1))
    effects = receive(peer, CAROL, Ping(2, News((newer,), (garbage,))))
    assert only(effects, Blame)
    assert peer.directory.get(BOB.peer).heartbeat.issued_ms == START_MS


def test_an_accusation_comes_with_the_word_that_it_doubts(peer):
    introduce(peer, ALICE, BOB)
    later = sign_beat(BOB, make_beat(BOB, refuted=5, issued_ms=START_MS + 1))
    receive(peer, ALICE, Ping(1, news(later, make_suspicion(ALICE, BOB.peer, refuted=5))))
    assert peer.membership.suspects(BOB.peer)


# --- records that do not come ---------------------------------------------------------------------------------------


def test_a_record_that_was_kept_from_us_is_asked_for_again(peer):
    introduce(peer, ALICE, BOB, CAROL)
    again = news(sign_beat(BOB, make_beat(BOB, sequence=2, issued_ms=START_MS + 1)))
    assert only(sent(receive(peer, ALICE, Ping(1, again)), ALICE), Pull) == [Pull((BOB.peer,))]
    assert only(sent(receive(peer, CAROL, Ping(1, again)), CAROL), Pull) == []
    late_ms = PULL_AGAIN_MS
    assert only(sent(receive(peer, CAROL, Ping(2, again), late_ms), CAROL), Pull) == [Pull((BOB.peer,))]
    assert only(sent(receive(peer, BOB, Ping(3, again), 2 * late_ms), BOB), Pull) == [Pull((BOB.peer,))]
    introduce(peer, BOB, after_ms=2 * late_ms, sequence=2)
    assert peer.directory.get(BOB.peer).record.sequence == 2
    assert only(sent(receive(peer, CAROL, Ping(4, again), 4 * late_ms), CAROL), Pull) == []


# --- what a flood costs ---------------------------------------------------------------------------------------------


def test_one_peer_makes_us_answer_few_accusations(peer):
    introduce(peer, ALICE)
    answered, minutes = 0, 2
    for ms in range(0, minutes * 60_000, 500):
        accused = make_suspicion(SimKeys(1_000 + ms), ME.peer, refuted=peer.membership.herald.proof[1])
        answered += len(only(sent(receive(peer, ALICE, Ping(1, news(accused)), ms)), Ping))
    assert 0 < answered <= DOUBT_BURST + minutes * 60_000 // DOUBT_REFILL_MS
    at_ms = minutes * 60_000 + REFUTE_MS
    fresh = news(make_suspicion(BOB, ME.peer, refuted=peer.membership.herald.proof[1]))
    assert only(sent(receive(peer, BOB, Ping(1, fresh), at_ms)), Ping), "others are heard all the same"


def test_signatures_are_checked_of_news_only(peer, monkeypatch):
    introduce(peer, ALICE)
    checked = []
    verify = peer.membership.herald._keys.verify
    monkeypatch.setattr(ME, "verify", lambda *given: checked.append(given) or verify(*given), raising=False)
    own = make_known(BOB, make_record(BOB))
    receive(peer, BOB, Delta((own,) * 64))
    assert len(checked) == 2
    receive(peer, BOB, Delta((own,) * 64))
    stale = tuple(make_suspicion(BOB, ME.peer, refuted=99 - n) for n in range(16))
    receive(peer, BOB, Ping(1, News((), stale)))
    assert len(checked) == 2
    assert peer.directory.faults(BOB.peer, START_MS) == 0


def test_what_was_read_last_is_kept_and_no_more():
    reader = Reader(type(record_in(make_known(ALICE, make_record(ALICE)).record.body)), 2)
    bodies = [make_known(SimKeys(n), make_record(SimKeys(n))).record.body for n in range(3)]
    first, _, third = map(reader, bodies)
    assert reader(bodies[2]) is third
    assert reader(bodies[0]) == first
    assert reader(bodies[0]) is not first


# --- who is left alone ----------------------------------------------------------------------------------------------


def test_who_says_goodbye_while_it_is_pinged_is_not_missed(peer):
    introduce(peer, ALICE)
    assert ALICE.peer in pings(tick(peer, TICK_MS))
    goodbye = sign_beat(ALICE, make_beat(ALICE, lease_ms=0, issued_ms=START_MS + TICK_MS))
    receive(peer, ALICE, Ping(1, news(goodbye)), TICK_MS)
    tick(peer, 3 * TICK_MS)
    assert peer.membership.detector.health == 0
    assert known_to(peer) == set()


def test_a_new_connection_is_an_answer(peer):
    introduce(peer, ALICE)
    peer.membership.detector.health = 3
    assert ALICE.peer in pings(tick(peer, TICK_MS))
    peer.handle(PeerUp(ALICE.peer), START_MS + TICK_MS)
    assert peer.membership.detector.health == 2
    assert peer.membership.detector.pings_of(ALICE.peer) == []


def test_who_is_shunned_is_neither_pinged_nor_asked_for_help(peer):
    introduce(peer, ALICE, BOB, CAROL, DAVE)
    for _ in range(FAULTS_MAX):
        peer.directory.blame(ALICE.peer, START_MS)
    pinged, helpers = set(), set()
    for turn in range(1, 9):
        [(target, number)] = pings(tick(peer, turn * TICK_MS)).items()
        pinged.add(target)
        helpers |= {e.peer for e in fire(peer, "probe", turn * TICK_MS, number) if isinstance(e.message, Relay)}
        peer.membership.detector.forget(target)
    assert pinged == helpers == {BOB.peer, CAROL.peer, DAVE.peer}


def test_only_those_who_went_without_a_word_are_tried_again(peer):
    introduce(peer, ALICE)
    peer.directory.bury(ALICE.peer)
    for number in range(200):
        keys = SimKeys(1_000 + number)
        receive(peer, BOB, Ping(1, news(sign_beat(keys, make_beat(keys, lease_ms=0)))))
    assert peer.directory.lately_gone() == [ALICE.peer]
    introduce(peer, ALICE, incarnation=2)
    assert peer.directory.lately_gone() == []


# --- cells ----------------------------------------------------------------------------------------------------------


def test_hosts_are_shown_before_those_without_agents(peer, space):
    hosts = [SimKeys(1_000 + number) for number in range(SIGHT_MAX - 5)]
    guests = [SimKeys(2_000 + number) for number in range(20)]
    for keys in guests:
        receive(peer, keys, Delta((make_known(keys, make_record(keys, space=space.name)),)))
    introduce(peer, *hosts)
    [sight] = only(sent(receive(peer, ALICE, Look("/")), ALICE), Sight)
    shown = {msgspec.msgpack.decode(beat.body)[0] for beat in sight.heartbeats}
    assert {keys.peer for keys in hosts} < shown
    assert len(shown & {keys.peer for keys in guests}) == 5


def test_who_was_of_another_cell_is_heard_of_once_we_follow_that(peer, space):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    hubs = peer.membership.lookout._hubs
    (own,) = peer.membership.cells.paths(ME.peer, peer.membership.lookout._agents)
    home = next(p for p in range(len(space.prototypes)) if hubs.leaf(p)[1] != own[1])
    receive(peer, ALICE, Sight("/", own[:2], ()))
    assert peer.membership.cells.names() == (own[:2],)
    told = Ping(1, news(sign_beat(BOB, make_beat(BOB))))
    other = make_known(BOB, make_record(BOB, make_advert("agent", {home: 0.9}), space=space.name))
    assert Send(ALICE.peer, Pull((BOB.peer,))) in receive(peer, ALICE, told)
    receive(peer, ALICE, Delta((other,)))
    assert only(receive(peer, ALICE, told), Send)[1:] == [], "it is none of our business"
    peer.membership.cells.widen(own[:2])
    peer.membership.lookout._regroup()
    assert Send(ALICE.peer, Pull((BOB.peer,))) in receive(peer, ALICE, told)
    assert only(receive(peer, CAROL, Ping(1, NOTHING)), Send)
