"""What is told next: least told first, as often as it must be, bounded, and to whom it matters most."""

from collections import Counter
from math import ceil, exp, log2
from random import Random

import pytest

from p2pagent.peer.directory import PEERS_MAX
from p2pagent.peer.gossip_messages import SignedHeartbeat, SignedSuspicion
from p2pagent.peer.rumours import HEARTBEATS_MAX, SUSPICIONS_MAX, TELLINGS, TELLINGS_PER_DOUBLING, Rumours
from p2pagent.types import PeerId

MEMBERS = 100
URGENT = TELLINGS_PER_DOUBLING * ceil(log2(MEMBERS + 2))
TO = PeerId("somebody")


def peer(number: int) -> PeerId:
    return PeerId(f"peer-{number}")


def beat(number: int, time: int = 0) -> SignedHeartbeat:
    return SignedHeartbeat(b"%d at %d" % (number, time), bytes(64))


def accusation(accused: int, accuser: int) -> SignedSuspicion:
    return SignedSuspicion(b"%d of %d" % (accuser, accused), bytes(64))


@pytest.fixture
def rumours():
    return Rumours()


def tell(rumours: Rumours, number: int, time: int = 0, *, urgent: bool = False) -> None:
    rumours.tell_heartbeat(peer(number), beat(number, time), MEMBERS, urgent=urgent)


def suspect(rumours: Rumours, accused: int, accuser: int) -> None:
    rumours.tell_suspicion(peer(accused), peer(accuser), accusation(accused, accuser), MEMBERS)


def told(rumours: Rumours, messages: int) -> Counter:
    """How often each heartbeat is in so many messages."""
    return Counter(beat for _ in range(messages) for beat in rumours.news(TO).heartbeats)


def test_nothing_to_tell_is_empty_news(rumours):
    assert rumours.news(TO).heartbeats == rumours.news(TO).suspicions == ()


@pytest.mark.parametrize(("urgent", "times"), [(False, TELLINGS), (True, URGENT)])
def test_each_piece_is_told_so_many_times_and_then_rests(rumours, urgent, times):
    tell(rumours, 1, urgent=urgent)
    assert told(rumours, 100) == {beat(1): times}
    suspect(rumours, 1, 2)
    assert [rumours.news(TO).suspicions for _ in range(100)].count((accusation(1, 2),)) == URGENT


def test_what_was_told_least_goes_first_and_of_that_the_latest(rumours):
    for number in range(HEARTBEATS_MAX):
        tell(rumours, number)
    rumours.news(TO)
    tell(rumours, 100)
    tell(rumours, 101)
    heartbeats = rumours.news(TO).heartbeats
    assert heartbeats[:4] == (beat(101), beat(100), beat(31), beat(30))
    assert beat(0) not in heartbeats


def test_in_the_end_everything_was_told_equally_often(rumours):
    for number in range(3 * HEARTBEATS_MAX):
        tell(rumours, number)
    assert set(told(rumours, 3 * TELLINGS).values()) == {TELLINGS}


def test_a_later_heartbeat_takes_the_place_of_the_earlier(rumours):
    tell(rumours, 1, time=0)
    rumours.news(TO)
    tell(rumours, 1, time=1)
    assert told(rumours, 100) == {beat(1, 1): TELLINGS}


def test_what_was_urgent_stays_so_in_the_heartbeat_after_it(rumours):
    tell(rumours, 1, time=0, urgent=True)
    for _ in range(5):
        rumours.news(TO)
    tell(rumours, 1, time=1)
    assert told(rumours, 100) == {beat(1, 1): URGENT - 5}


def test_our_own_sign_of_life_is_first_in_every_message(rumours):
    for number in range(HEARTBEATS_MAX):
        tell(rumours, number)
    for _ in range(5):
        heartbeats = rumours.news(TO, (beat(999),)).heartbeats
        assert heartbeats[0] == beat(999)
        assert len(heartbeats) <= HEARTBEATS_MAX


def test_no_message_and_no_table_grows_without_bound(rumours):
    for number in range(2 * PEERS_MAX):
        tell(rumours, number, urgent=True)
        suspect(rumours, number, number + 1)
    news = rumours.news(TO)
    assert (len(news.heartbeats), len(news.suspicions)) == (HEARTBEATS_MAX, SUSPICIONS_MAX)
    assert len(rumours._beats) == len(rumours._suspicions) == PEERS_MAX


def test_a_suspect_is_told_first_that_it_is_one(rumours):
    suspect(rumours, 0, 1)
    for accused in range(1, 3 * SUSPICIONS_MAX):
        suspect(rumours, accused, 0)
    assert accusation(0, 1) not in rumours.news(TO).suspicions
    suspicions = rumours.news(peer(0)).suspicions
    assert suspicions[0] == accusation(0, 1)
    assert len(suspicions) == len(set(suspicions)) == SUSPICIONS_MAX


def test_it_is_told_once_a_message_even_if_that_was_due_anyway(rumours):
    suspect(rumours, 0, 1)
    assert rumours.news(peer(0)).suspicions == (accusation(0, 1),)


def test_what_is_settled_is_not_told(rumours):
    suspect(rumours, 1, 2)
    suspect(rumours, 1, 3)
    suspect(rumours, 4, 2)
    rumours.settle(peer(1))
    assert rumours.news(peer(1)).suspicions == (accusation(4, 2),)


# --- how far it reaches ---------------------------------------------------------------------------------------------


def reach(seed: int, members: int, ticks: int, *, urgent: bool) -> float:
    """The share of members that hear one piece of news where each pings one other in each tick and is answered."""
    rng = Random(seed)
    everybody = [Rumours() for _ in range(members)]
    heard = {0}
    everybody[0].tell_heartbeat(peer(0), beat(0), members, urgent=urgent)

    for _ in range(ticks):
        for one in rng.sample(range(members), members):
            other = (one + rng.randrange(1, members)) % members
            tells = {source: bool(everybody[source].news(TO).heartbeats) for source in (one, other)}
            for source, target in ((one, other), (other, one)):
                if tells[source] and target not in heard:
                    heard.add(target)
                    everybody[target].tell_heartbeat(peer(0), beat(0), members, urgent=urgent)
    return len(heard) / members


def test_an_ordinary_sign_of_life_reaches_nearly_all():
    final = 0.5
    for _ in range(50):
        final = 1 - exp(-TELLINGS * final)
    assert round(final, 2) == 0.94
    reached = [reach(seed, 150, 12, urgent=False) for seed in range(30)]
    spread = [share for share in reached if share > 0.5]  # the others died out at once, as the next one may
    assert len(spread) >= 27
    # Pings are spread more evenly than by chance, so it is a little more than that.
    assert final - 0.01 < sum(spread) / len(spread) < final + 0.04


def test_what_is_urgent_reaches_all():
    assert {reach(seed, 150, 12, urgent=True) for seed in range(10)} == {1.0}
