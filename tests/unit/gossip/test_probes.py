"""Members are pinged one by one, through others where no answer comes."""

from collections import Counter

from p2pagent.peer.detector import ACK_MS, TICK_MS
from p2pagent.peer.effects import Send, SetTimer
from p2pagent.peer.events import PeerDown, PeerIdle, PeerUp, Unsent
from p2pagent.peer.gossip_messages import Ack, Nack, Ping, Relay
from p2pagent.sim.keys import SimKeys
from tests.cell import (
    DAVE,
    NOTHING,
    fire,
    introduce,
    known_to,
    only,
    pings,
    reachable,
    tell,
    tick,
    told_suspicions,
)
from tests.scenario import START_MS
from tests.strangers import ALICE, BOB, CAROL, receive, sent


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
