"""One member among honest and lying others: what it answers, believes, passes on, and for how long it does so."""

from collections import Counter
from itertools import pairwise
from random import Random

import msgspec
import pytest

from p2pagent.config import Preferences
from p2pagent.peer.cells import FOLLOWED_MAX
from p2pagent.peer.detector import ACK_MS, HEALTH_MAX, TICK_MS
from p2pagent.peer.directory import CLOCK_SKEW_MS, FAULTS_MAX, PEERS_MAX
from p2pagent.peer.doubts import ACCUSE_BURST
from p2pagent.peer.effects import Blame, Find, Learn, Provide, Send, SetTimer
from p2pagent.peer.events import Leave, PeerDown, PeerIdle, PeerUp, ProvidersFound, Timer, TimerFired, Unsent
from p2pagent.peer.gossip_messages import (
    Ack,
    Delta,
    Heartbeat,
    Look,
    Nack,
    News,
    Ping,
    Pull,
    Relay,
    Sight,
    SignedHeartbeat,
    Suspicion,
)
from p2pagent.peer.hearsay import (
    HEARSAY_BURST,
    HEARSAY_REFILL_MS,
    INTRODUCED_TO,
    OUTSIDERS_MAX,
    PULLED_MAX,
    PULLED_PER_MESSAGE_MAX,
    STRANGERS_MAX,
)
from p2pagent.peer.herald import LEASE_MS, REFUTE_MS
from p2pagent.peer.lookout import LOOK_MS, WIDEN_MS
from p2pagent.peer.membership import RETRY_MS
from p2pagent.peer.peer import Peer
from p2pagent.peer.talk import RELAYED_MAX, REQUEST_BURST, REQUEST_REFILL_MS
from p2pagent.peer.wire import encode, parsed
from p2pagent.routing.hubs import key as cell_key
from p2pagent.sim.keys import SimKeys
from tests.members import make_beat, make_known, make_record, make_suspicion, news, sign_beat, sign_record
from tests.scenario import START_MS, make_advert
from tests.strangers import ALICE, BOB, CAROL, ME, make_peer, receive, sent

DAVE = SimKeys(4)
NOTHING = News((), ())


@pytest.fixture
def peer(space):
    return make_peer(space, make_advert("agent", {0: 0.9}))


def introduce(peer, *everybody, after_ms=0, **record):
    """Let these make themselves known."""
    for keys in everybody:
        described = make_record(keys, make_advert("agent", {1: 0.9}), space=peer.seller._space.name, **record)
        receive(peer, keys, Delta((make_known(keys, described),)), after_ms)


def fire(peer, kind, after_ms, mark=0):
    return peer.handle(TimerFired(Timer(kind, mark=mark)), START_MS + after_ms)


def tick(peer, after_ms):
    return fire(peer, "tick", after_ms)


def run_quietly(peer, after_ms, until_ms):
    """Ticks in which nobody answers."""
    effects = []
    for ms in range(after_ms, until_ms, TICK_MS):
        effects += tick(peer, ms)
    return effects


def only(messages, kind):
    return [message for message in messages if isinstance(message, kind)]


def pings(effects):
    """The number of the ping to each peer."""
    return {e.peer: e.message.number for e in effects if isinstance(e, Send) and isinstance(e.message, Ping)}


def own_beat(effects):
    """What we say of ourselves, first in any message."""
    message = next(m for m in sent(effects) if isinstance(m, Ping | Ack))
    return parsed(message.news.heartbeats[0].body, Heartbeat)


def told_suspicions(message):
    return [parsed(signed.body, Suspicion) for signed in message.news.suspicions]


def known_to(peer):
    return {other for other, _ in peer.directory.entries()}


def reachable(peer, after_ms=0):
    return {other for other, _ in peer.directory.reachable(START_MS + after_ms)}


# --- pings ----------------------------------------------------------------------------------------------------------


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


# --- probes ---------------------------------------------------------------------------------------------------------


def test_each_tick_pings_one_member_and_sets_the_next_tick(peer):
    introduce(peer, ALICE, BOB, CAROL)
    targets = Counter()
    for turn in range(1, 7):
        effects = tick(peer, turn * TICK_MS)
        assert [e.at_ms for e in effects if isinstance(e, SetTimer) and e.timer.kind == "tick"] == [
            START_MS + (turn + 1) * TICK_MS
        ]
        [(target, number)] = pings(effects).items()
        targets[target] += 1
        receive(peer, next(k for k in (ALICE, BOB, CAROL) if k.peer == target), Ack(number, NOTHING), turn * TICK_MS)
    assert set(targets.values()) == {2}


def probed(peer, *, after_ms=TICK_MS):
    """The keys of whom we ping next, those of the others, and its number."""
    everybody = {keys.peer: keys for keys in (ALICE, BOB, CAROL, DAVE)}
    [(target, number)] = pings(tick(peer, after_ms)).items()
    return everybody.pop(target), list(everybody.values()), number


def relayed(peer, number, after_ms=TICK_MS + ACK_MS):
    """Who is asked to help."""
    return {e.peer: e.message for e in fire(peer, "probe", after_ms, number) if isinstance(e, Send)}


def test_without_an_answer_three_others_are_asked_and_then_it_is_suspected(peer):
    introduce(peer, ALICE, BOB, CAROL, DAVE)
    target, others, number = probed(peer)
    asked = relayed(peer, number)
    assert asked == {keys.peer: Relay(number, target.peer) for keys in others}
    assert reachable(peer, TICK_MS) == known_to(peer)
    for helper in others:
        receive(peer, helper, Nack(number), TICK_MS + 2 * ACK_MS)
    tick(peer, 2 * TICK_MS)
    assert target.peer in peer.membership.talk.suspicions
    assert target.peer in known_to(peer) - reachable(peer, 2 * TICK_MS)
    assert peer.membership.detector.health == 0
    [ack] = only(sent(receive(peer, target, Ping(1, NOTHING), 2 * TICK_MS)), Ack)
    assert [s.accused for s in told_suspicions(ack)] == [target.peer]


def test_an_answer_in_time_asks_nobody(peer):
    introduce(peer, ALICE, BOB, CAROL, DAVE)
    target, _, number = probed(peer)
    receive(peer, target, Ack(number, NOTHING), TICK_MS + 100)
    assert relayed(peer, number) == {}
    tick(peer, 2 * TICK_MS)
    assert target.peer in reachable(peer, 2 * TICK_MS)


def test_one_that_answers_a_helper_but_not_us_is_silent_for_us_and_no_suspect(peer):
    introduce(peer, ALICE, BOB, CAROL, DAVE)
    target, others, number = probed(peer)
    relayed(peer, number)
    receive(peer, others[0], Ack(number, NOTHING), TICK_MS + 600)
    tick(peer, 2 * TICK_MS)
    assert target.peer in known_to(peer) - reachable(peer, 2 * TICK_MS)
    assert target.peer not in peer.membership.talk.suspicions
    assert peer.membership.detector.health == 0


def test_its_own_answer_though_late_makes_it_reachable_again(peer):
    introduce(peer, ALICE, BOB, CAROL, DAVE)
    target, others, number = probed(peer)
    relayed(peer, number)
    receive(peer, others[0], Ack(number, NOTHING), TICK_MS + 600)
    tick(peer, 2 * TICK_MS)
    receive(peer, target, Ack(number, NOTHING), 2 * TICK_MS + 100)
    assert target.peer in reachable(peer, 2 * TICK_MS)


def test_who_was_not_asked_cannot_answer_for_another(peer):
    introduce(peer, ALICE, BOB, CAROL, DAVE)
    target, others, number = probed(peer)
    for guess in range(number - 2, number + 3):
        receive(peer, others[0], Ack(guess % (1 << 16), NOTHING), TICK_MS + 10)
    relayed(peer, number)
    tick(peer, 2 * TICK_MS)
    assert target.peer in peer.membership.talk.suspicions


def test_helpers_are_members_that_have_spoken_to_us(peer):
    introduce(peer, ALICE)
    hearsay = [SimKeys(n) for n in range(10, 20)]
    tell(peer, ALICE, *hearsay)
    number = next(iter(pings(peer.handle(PeerDown(ALICE.peer), START_MS)).values()))
    assert relayed(peer, number) == {}
    introduce(peer, BOB)
    assert set(relayed(peer, number)) == {BOB.peer}


def test_a_connection_that_breaks_is_probed_at_once_and_one_that_is_closed_is_not(peer):
    introduce(peer, ALICE, BOB, CAROL)
    for keys in (ALICE, BOB):
        peer.handle(PeerUp(keys.peer), START_MS)
    assert not pings(peer.handle(PeerIdle(BOB.peer), START_MS))
    assert BOB.peer in reachable(peer)
    effects = peer.handle(PeerDown(ALICE.peer), START_MS)
    assert set(pings(effects)) == {ALICE.peer}
    assert ALICE.peer not in reachable(peer)
    assert not pings(peer.handle(PeerDown(ALICE.peer), START_MS)), "it is being asked already"
    helpers = {e.peer for e in peer.handle(Unsent(ALICE.peer), START_MS) if isinstance(e, Send)}
    assert helpers == {BOB.peer, CAROL.peer}


def test_what_did_not_leave_over_a_standing_connection_says_nothing(peer):
    introduce(peer, ALICE)
    peer.handle(PeerUp(ALICE.peer), START_MS)
    peer.handle(Unsent(ALICE.peer), START_MS)
    assert ALICE.peer in reachable(peer)
    peer.handle(PeerIdle(ALICE.peer), START_MS)
    peer.handle(Unsent(ALICE.peer), START_MS)
    assert ALICE.peer not in reachable(peer)


def test_an_acquaintance_is_not_greeted_each_time_that_it_connects(peer):
    assert set(pings(peer.handle(PeerUp(ALICE.peer), START_MS))) == {ALICE.peer}
    introduce(peer, ALICE)
    for _ in range(3):
        peer.handle(PeerIdle(ALICE.peer), START_MS)
        assert peer.handle(PeerUp(ALICE.peer), START_MS) == []


# --- who is gone ----------------------------------------------------------------------------------------------------


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


# --- accusations of ourselves ---------------------------------------------------------------------------------------


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


# --- accusations of others ------------------------------------------------------------------------------------------


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


# --- hearsay --------------------------------------------------------------------------------------------------------


def tell(peer, source, *others, after_ms=0, **beat):
    """Let `source` speak of others, and send their records when it is asked for them; how many were asked for."""
    beats = [sign_beat(keys, make_beat(keys, issued_ms=START_MS + after_ms, **beat)) for keys in others]
    by_peer, asked = {keys.peer: keys for keys in others}, 0
    for at in range(0, len(beats), 31):
        effects = receive(peer, source, Ping(1, news(*beats[at : at + 31])), after_ms)
        for pull in only(sent(effects, source), Pull):
            asked += len(pull.peers)
            for wanted in pull.peers:
                record = make_record(by_peer[wanted], make_advert("agent", {1: 0.9}), space=peer.seller._space.name)
                known = make_known(by_peer[wanted], record, issued_ms=START_MS + after_ms)
                receive(peer, source, Delta((known,)), after_ms)
    return asked


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


# --- records --------------------------------------------------------------------------------------------------------


def test_records_that_we_did_not_ask_for_are_not_even_checked(peer):
    stranger = make_known(BOB, make_record(BOB, space=peer.seller._space.name))
    forged = msgspec.structs.replace(stranger, record=msgspec.structs.replace(stranger.record, signature=bytes(64)))
    assert receive(peer, ALICE, Delta((stranger, forged) * 32)) == []
    assert known_to(peer) == set()


def test_a_forged_record_is_its_senders_fault_and_none_beside_it_is_kept(peer):
    good, bad = (make_known(keys, make_record(keys, space=peer.seller._space.name)) for keys in (ALICE, BOB))
    receive(peer, ALICE, Ping(1, news(bad.heartbeat)))
    bad = msgspec.structs.replace(bad, record=msgspec.structs.replace(bad.record, signature=bytes(64)))
    effects = receive(peer, ALICE, Delta((good, bad)))
    assert [e.peer for e in effects if isinstance(e, Blame)] == [ALICE.peer]
    assert known_to(peer) == set()


def test_a_record_goes_with_its_own_heartbeat_only(peer):
    record = sign_record(ALICE, make_record(ALICE, sequence=2, space=peer.seller._space.name))
    mixed = msgspec.structs.replace(make_known(ALICE, make_record(ALICE)), record=record)
    assert only(receive(peer, ALICE, Delta((mixed,))), Blame)
    assert known_to(peer) == set()


def test_records_are_given_to_whoever_asks_within_bounds(peer):
    introduce(peer, ALICE, BOB)
    wanted = Pull((ALICE.peer, ME.peer, ALICE.peer, CAROL.peer))
    [delta] = sent(receive(peer, CAROL, wanted))
    assert {parsed(known.heartbeat.body, Heartbeat).peer for known in delta.peers} == {ALICE.peer, ME.peer}
    assert sent(receive(peer, CAROL, Pull((CAROL.peer,)))) == []


# --- floods ---------------------------------------------------------------------------------------------------------


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


# --- looking --------------------------------------------------------------------------------------------------------


def test_a_sight_tells_who_can_be_called_and_who_asked_is_not_told_of_itself(peer):
    introduce(peer, ALICE, BOB, CAROL)
    peer.handle(PeerDown(BOB.peer), START_MS)
    [sight] = sent(receive(peer, ALICE, Look("/")), ALICE)
    assert [parsed(beat.body, Heartbeat).peer for beat in sight.heartbeats] == [ME.peer, CAROL.peer]
    assert (sight.cell, sight.followed) == ("/", "/")


@pytest.mark.parametrize("cell", ["/2", "/.01", "/0000000000", "/01."])
def test_looking_for_a_cell_that_does_not_exist_is_a_fault(peer, cell):
    assert only(receive(peer, ALICE, Look(cell)), Blame)


def test_a_member_is_asked_now_and_then_for_what_we_missed(peer):
    introduce(peer, ALICE)
    looks = only(sent(tick(peer, LOOK_MS), ALICE), Look)
    assert looks == [Look("/")]
    assert only(sent(tick(peer, LOOK_MS + TICK_MS), ALICE), Look) == looks, "until there is an answer"
    receive(peer, ALICE, Sight("/", "/", ()), LOOK_MS + TICK_MS)
    assert only(sent(tick(peer, LOOK_MS + 2 * TICK_MS)), Look) == []


@pytest.mark.parametrize("followed", ["/" + "1" * 23, "/01.", "/0101010101.01", "/00000"])
def test_a_cell_that_does_not_exist_takes_nobody_there(peer, followed):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    receive(peer, ALICE, Sight("/", followed, ()))
    assert peer.membership.cells.names() == ("/",)


def test_who_was_sent_too_deep_finds_back(peer):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    hubs = peer.membership.lookout._hubs
    leaf = hubs.leaf(3)
    receive(peer, ALICE, Sight("/", leaf + ".01010101", ()))
    [name] = peer.membership.cells.names()
    assert name != "/"
    cells = [name]
    for ms in range(0, 20 * 60_000, TICK_MS):
        for find in only(tick(peer, ms), Find):
            peer.handle(ProvidersFound("", find.cell, ()), START_MS + ms)
        [name] = peer.membership.cells.names()
        cells += [name] if name != cells[-1] else []
    assert cells[-1] == "/"
    assert all(lower.startswith(upper) for lower, upper in pairwise(cells))


def deepened(peer, followed):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    receive(peer, ALICE, Sight("/", followed, ()))
    [name] = peer.membership.cells.names()
    return name


def test_a_lonely_cell_asks_all_whom_the_dht_names_before_it_gives_up(peer, space):
    name = deepened(peer, "/0")
    assert name != "/"
    key, found = cell_key(space, name), tuple(SimKeys(n).peer for n in range(10, 17))
    asked = []
    for turn in range(3):
        effects = peer.handle(ProvidersFound("", key, found), START_MS + turn * 30_000)
        asked += [e.peer for e in effects if isinstance(e, Send)]
    assert sorted(asked) == sorted(found)
    effects = peer.handle(ProvidersFound("", key, found), START_MS + 90_000)
    assert peer.membership.cells.names() == ("/",)
    assert only(effects, Provide)


def test_a_cell_that_was_just_halved_is_not_widened_however_empty_its_half(peer, space):
    introduce(peer, ALICE)
    home = peer.membership.lookout._hubs.leaf(0)
    away = next(p for p in range(6) if peer.membership.lookout._hubs.leaf(p)[1] != home[1])
    for number in range(FOLLOWED_MAX):
        keys = SimKeys(100 + number)
        record = make_record(keys, make_advert("agent", {away: 0.9}), space=space.name)
        receive(peer, keys, Delta((make_known(keys, record),)))
    tick(peer, TICK_MS)
    [name] = peer.membership.cells.names()
    assert name == home[:2]
    for ms, then in ((60_000, name), (WIDEN_MS - 1, name), (WIDEN_MS + TICK_MS, "/")):
        peer.handle(ProvidersFound("", cell_key(space, name), ()), START_MS + ms)
        assert peer.membership.cells.names() == (then,)


def test_a_cell_is_looked_for_once_in_half_a_minute(peer):
    deepened(peer, "/0")
    finds = [ms for ms in range(0, 120_000, TICK_MS) for _ in only(tick(peer, ms), Find)]
    assert len(finds) == 4


@pytest.mark.parametrize("cell", ["", "elsewhere/0", "p2pagent/cell/2/other/0", "/000000"])
def test_providers_of_something_else_are_nobody(peer, cell):
    assert peer.handle(ProvidersFound("", cell, (BOB.peer,)), START_MS) == []


def test_pulls_are_of_at_most_so_many(peer):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    strangers = [SimKeys(n) for n in range(100, 300)]
    sight = Sight("/", "/", tuple(sign_beat(keys, make_beat(keys)) for keys in strangers))
    wanted = only(sent(receive(peer, ALICE, sight), ALICE), Pull)
    assert max(len(pull.peers) for pull in wanted) == PULLED_PER_MESSAGE_MAX
    assert sum(len(pull.peers) for pull in wanted) == len(strangers)
