"""Beliefs: what snapshots and quotes teach, and what is expected of them later."""

from itertools import pairwise
from math import exp, log, sqrt
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.special import gammaln

from p2pagent.routing.beliefs import MEMORY_S, RHO_MAX, SECONDS_MAX, Belief, Prior, Snapshot, follows, prior
from p2pagent.routing.queues import Queue
from p2pagent.sim.arena import Server
from tests.arenas import AGENT, query

PRIOR = Prior(a=1.5, b=3.0, c=2.0, d=5.0, slots=2)


def snapshot(
    at_s: float, inside: int = 0, slots: int = 2, arrived: int = 0, served: int = 0, busy_s: float = 0
) -> Snapshot:
    running = min(inside, slots)
    return Snapshot(round(1000 * at_s), running, inside - running, slots, arrived, served, round(1000 * busy_s))


def rates(belief: Belief) -> tuple[float, float, float, float]:
    return belief.a, belief.b, belief.c, belief.d


def posterior(
    old: tuple[float, float], base: tuple[float, float], kept: float, count: float, time: float
) -> tuple[float, float]:
    """Mean and variance of a rate by Bayes' rule on a grid: old density to `kept`, prior's to the rest, Poisson."""
    rate = np.linspace(1e-6, 40, 100_001)

    def density(shape: float, scale: float) -> np.ndarray:
        found: np.ndarray = shape * log(scale) - gammaln(shape) + (shape - 1) * np.log(rate) - scale * rate
        return found

    total = kept * density(*old) + (1 - kept) * density(*base) + count * np.log(rate) - rate * time
    weights = np.exp(total - total.max())
    weights /= weights.sum()
    mean = float(weights @ rate)
    return mean, float(weights @ (rate - mean) ** 2)


def test_updates_are_bayes_rule() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(10, arrived=5, served=4, busy_s=8))
    before = rates(belief)
    assert before == pytest.approx((1.5, 3, 6, 13))
    belief.learn(snapshot(14, arrived=14, served=10, busy_s=14.5))
    kept = exp(-4 / MEMORY_S)
    weight = MEMORY_S * (1 - kept) / 4
    arrivals = posterior(before[:2], (1.5, 3), kept, weight * 9, weight * 4)
    service = posterior(before[2:], (2, 5), kept, weight * 6, weight * 6.5)
    a, b, c, d = rates(belief)
    assert (a / b, a / b**2) == pytest.approx(arrivals, rel=1e-4)
    assert (c / d, c / d**2) == pytest.approx(service, rel=1e-4)


def test_what_was_lost_in_between_is_in_the_next_snapshot() -> None:
    """Even counts teach the same in one window as in many, and as much forgetting in between."""
    often, once = Belief(PRIOR), Belief(PRIOR)
    for second in range(41):
        often.learn(snapshot(second, arrived=3 * second, served=2 * second, busy_s=second))
    for second in (0, 40):
        once.learn(snapshot(second, arrived=3 * second, served=2 * second, busy_s=second))
    assert rates(often) == pytest.approx(rates(once), rel=1e-9)


def test_in_the_end_a_silent_agent_is_as_unknown_as_at_first() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(0))
    belief.learn(snapshot(10, arrived=50, served=40, busy_s=20))
    belief.learn(snapshot(5_000, arrived=49))  # a restart: the window between is not known
    assert rates(belief) == pytest.approx((1.5, 3, 2, 5))


def test_counters_that_go_back_are_a_restart() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(0, arrived=100, served=100, busy_s=100))
    before = rates(belief)
    kept = exp(-2 / MEMORY_S)
    belief.learn(snapshot(2, inside=3, arrived=101, served=2, busy_s=101))
    forgotten = [p + kept * (x - p) for x, p in zip(before, (1.5, 3, 2, 5), strict=True)]
    assert rates(belief) == pytest.approx(forgotten)
    assert (belief.inside, belief.seen_ms) == (3, 2000)
    belief.learn(snapshot(4, arrived=111, served=7, busy_s=104))
    assert belief.a - (1.5 + kept * (forgotten[0] - 1.5)) == pytest.approx(10 * MEMORY_S * (1 - kept) / 2)


def test_a_first_snapshot_tells_the_speed_but_not_for_ever() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(0, arrived=10**6, served=10**6, busy_s=2 * 10**6))
    assert rates(belief) == pytest.approx((1.5, 3, 2 + MEMORY_S / 2, 5 + MEMORY_S))


def test_old_news_is_no_news() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(5, inside=4, arrived=9))
    before = rates(belief)
    belief.learn(snapshot(5, inside=1, arrived=90))
    belief.learn(snapshot(4, inside=1, arrived=90))
    belief.learn_quote(4_999, free_slots=2, queued=0, slots=2)
    assert (rates(belief), belief.inside, belief.seen_ms) == (before, 4, 5_000)
    belief.learn_quote(6_000, free_slots=1, queued=0, slots=2)
    assert (belief.inside, belief.seen_ms) == (1, 6_000)
    belief.learn(snapshot(5.5, inside=7, arrived=12))  # newer counters, older look
    assert (belief.inside, belief.seen_ms) == (1, 6_000)
    assert belief.a > before[0]


def test_a_fresh_look_is_taken_at_its_word() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(5, inside=6))
    queue = Queue(min(belief.a / belief.b * belief.service_s, 2 * RHO_MAX), 2)
    now = belief.expect(5_000, own_since=0)
    assert now.wait_s == pytest.approx(belief.service_s * 5 / 2)
    assert now.toll_s == pytest.approx(belief.service_s * queue.toll_at(6))
    assert now.utilisation == pytest.approx(belief.a / belief.b * belief.service_s / 2)
    belief.learn_quote(5_001, free_slots=1, queued=0, slots=2)
    now = belief.expect(5_001, own_since=0)
    assert now.wait_s == 0
    assert now.toll_s == pytest.approx(belief.service_s * queue.toll_at(1))


@pytest.mark.parametrize("own", [0, 1, 2, 5])
def test_own_queries_in_flight_are_counted_one_by_one(own: int) -> None:
    belief = Belief(PRIOR)
    for inside in (0, 1, 2, 9):
        belief.learn_quote((belief.seen_ms or 0) + 1, max(0, 2 - inside), max(0, inside - 2), 2)
        assert belief.seen_ms is not None
        with_own = belief.expect(belief.seen_ms, own)
        assert with_own.wait_s == pytest.approx(belief.service_s * max(0, inside + own - 1) / 2)
        belief.learn_quote(belief.seen_ms + 1, max(0, 2 - inside - own), max(0, inside + own - 2), 2)
        counted = belief.expect(belief.seen_ms, 0)
        assert (with_own.wait_s, with_own.toll_s) == pytest.approx((counted.wait_s, counted.toll_s))


def test_news_is_seen_in_what_is_expected() -> None:
    """Another number of slots, other rates: nothing that was reckoned before stays."""
    busy = [snapshot(10 * step, slots=2, arrived=30 * step, served=9 * step, busy_s=8 * step) for step in range(3)]
    asked = Belief(PRIOR)
    for known in range(len(busy)):
        asked.learn(busy[known])
        fresh = Belief(PRIOR)
        for news in busy[: known + 1]:
            fresh.learn(news)
        assert asked.expect(21_000, 1) == fresh.expect(21_000, 1)
    never_asked = Belief(PRIOR)
    for news in busy:
        never_asked.learn(news)
    for belief in (asked, never_asked):
        belief.learn_quote(21_000, 0, 2, 3)
    assert asked.expect(22_000, 0) == never_asked.expect(22_000, 0)


def test_own_queries_outlive_what_else_was_seen() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(0, inside=3, slots=1))
    queue = Queue(min(belief.a / belief.b * belief.service_s, RHO_MAX), 1)
    late = [belief.expect(10**9, own).wait_s / belief.service_s for own in (0, 4)]
    assert late == pytest.approx([queue.ahead, queue.ahead + queue.behind(4)])


def test_an_old_look_is_the_stationary_queue() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(0, inside=40))
    queue = Queue(belief.a / belief.b * belief.service_s, 2)
    late = belief.expect(10**9, own_since=0)
    assert late.wait_s == pytest.approx(belief.service_s * queue.ahead / 2)
    assert late.toll_s == pytest.approx(belief.service_s * queue.toll)


def test_an_unknown_agent_is_like_the_prior_and_the_prior_like_the_others() -> None:
    unknown = Belief(PRIOR).expect(7, own_since=0)
    queue = Queue(0.5 * 2.5, 2)
    assert unknown.wait_s == pytest.approx(2.5 * queue.ahead / 2)
    assert unknown.toll_s == pytest.approx(2.5 * queue.toll)
    assert unknown.utilisation == pytest.approx(0.625)
    known = []
    for pace in (1, 2, 3):
        belief = Belief()
        for second in (0, 1_000):
            belief.learn(snapshot(second, slots=pace, arrived=pace * second, served=2 * second, busy_s=pace * second))
        known.append(belief)
    pooled = prior([*known, Belief()])
    assert pooled.a / pooled.b == pytest.approx(median(b.a / b.b for b in known))
    assert pooled.d / pooled.c == pytest.approx(median(b.service_s for b in known))
    assert (pooled.b, pooled.c, pooled.slots) == (Prior().b, Prior().c, 2)
    assert prior([Belief()]) == Prior()


def test_however_long_all_have_been_idle_an_arrival_is_possible() -> None:
    """A prior drawn from beliefs that lean on it, again and again."""
    belief = Belief(PRIOR)
    for second in range(0, 100_000, 10):
        belief.learn(told(second, 0, 0, 0))
        belief.lean_on(prior([belief]))
    assert belief.expect(1_000_000_000, 0).utilisation > 0


def told(second: int, arrived: float, served: float, busy_s: float) -> Snapshot:
    """The snapshot after so many seconds of an agent that counts so much in each."""
    return snapshot(second, arrived=int(second * arrived), served=int(second * served), busy_s=second * busy_s)


@pytest.mark.parametrize("lie", [(1, 0, 2.0**43), (2**40, 0, 0), (2**40, 2**40, 0), (1, 40, 2), (1, 1, 2.0**43)])
def test_counters_that_cannot_be_tell_nothing(lie: tuple[float, float, float]) -> None:
    """No more is served than came, no answer takes longer than an hour, and no more come than can."""
    known, liar = Belief(PRIOR), Belief(PRIOR)
    for second in (0, 2, 4):
        known.learn(told(second, 1, 1, 1))
        liar.learn(told(second, *lie))
    assert rates(liar) == (1.5, 3, 2, 5)
    assert rates(known) != (1.5, 3, 2, 5)
    before = rates(known)
    known.learn(told(6, *lie))
    assert known.a < before[0]
    assert known.c < before[2]
    assert known.d < before[3]


def test_a_first_snapshot_that_cannot_be_tells_nothing() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(0, inside=1, arrived=2, served=1, busy_s=2.0**43))
    assert rates(belief) == (1.5, 3, 2, 5)
    assert belief.inside == 1


@given(st.lists(st.sampled_from([(1.0, 1.0, 3_600.0), (1_000.0, 1.0, 3_600.0), (1_000.0, 1_000.0, 0.0)]), max_size=4))
def test_what_a_few_say_moves_the_newcomers_prior_no_further_than_the_rest_are_apart(
    lies: list[tuple[float, float, float]],
) -> None:
    honest: list[Belief] = []
    for paces in range(5):
        honest.append(Belief())
        for second in range(0, 60, 2):
            honest[-1].learn(told(second, 1, 1, 1 + paces / 4))
    liars = [Belief() for _ in lies]
    for liar, lie in zip(liars, lies, strict=True):
        for second in range(0, 60, 2):
            liar.learn(told(second, *lie))
        assert liar.a / liar.b > 100 or not 0.1 < liar.service_s < 1_000
    newcomer = prior([*liars, *honest])
    arrivals, services = [b.a / b.b for b in honest], [b.service_s for b in honest]
    assert min(arrivals) - 1e-9 <= newcomer.a / newcomer.b <= max(arrivals) + 1e-9
    assert min(services) - 1e-9 <= newcomer.d / newcomer.c <= max(services) + 1e-9


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["ask", "look"]), st.floats(0.001, 400), st.integers(1, 30_000)), max_size=40),
)
def test_counters_of_who_works_are_never_taken_for_lies(slots: int, steps: list[tuple[str, float, int]]) -> None:
    """Whatever was missed in between, and however much older or younger the looks are by the clocks."""
    server, now_s, seen = Server(replace(AGENT, slots=slots), 2.0, (3.0,) * (slots - 1)), 0.0, []
    for step, (what, pause_s, output_tokens) in enumerate(steps):
        now_s += pause_s
        if what == "ask":
            server.admit(query(step, now_s, output_tokens=output_tokens), now_s)
        else:
            seen.append(server.snapshot(now_s))
    for gap in (1, 2, 7):
        for last, later in pairwise(seen[::gap]):
            assert follows(later, last)
            assert follows(replace(later, at_ms=last.at_ms + 1), last)


def test_what_is_not_seen_grows_with_age_to_what_can_be() -> None:
    belief = Belief(PRIOR)
    belief.learn(snapshot(0, inside=3))
    queue = Queue(belief.a / belief.b * belief.service_s, 2)
    each_s = belief.service_s / (2 - queue.offered)  # one answer more is so much more wait and toll
    unseen = [belief.expect(round(1000 * age_s), 0).unseen for age_s in (0, 1, 2, 10**6)]
    came = belief.a / belief.b * (1 + 1 / belief.b)  # variance of a Poisson count at a Gamma rate, in a second
    assert unseen[0] == pytest.approx(each_s / 2)
    assert unseen[1] == pytest.approx(each_s * sqrt(came + 0.25))
    assert unseen[1] < unseen[2]
    assert unseen[3] == pytest.approx(each_s * sqrt(queue.ahead**2 + 0.25))


counts = st.integers(0, 1 << 16)
totals = st.integers(0, 1 << 53)
snapshots = st.builds(Snapshot, totals, counts, counts, counts, totals, totals, totals)
quotes = st.tuples(totals, counts, counts, counts)


@given(st.lists(snapshots | quotes, max_size=5), totals, st.integers(0, 50))
def test_nothing_said_makes_nonsense(told: list[Snapshot | tuple[int, int, int, int]], now_ms: int, own: int) -> None:
    belief = Belief()
    for news in told:
        if isinstance(news, Snapshot):
            belief.learn(news)
        else:
            belief.learn_quote(*news)
    newcomer = Belief(prior([belief]))
    for expected in (belief.expect(now_ms, own), newcomer.expect(now_ms, own)):
        assert 0 <= expected.wait_s <= SECONDS_MAX
        assert 0 <= expected.toll_s <= SECONDS_MAX
        assert 0 < expected.unseen <= SECONDS_MAX
        assert 0 < expected.utilisation < float("inf")


@given(st.integers(0, 20), st.integers(1, 6), st.integers(0, 60_000), st.integers(0, 8))
def test_one_more_own_query_adds_at_most_its_own_share(inside: int, slots: int, age_ms: int, own: int) -> None:
    belief = Belief(PRIOR)
    belief.learn_quote(0, max(0, slots - inside), max(0, inside - slots), slots)
    wait_s = [belief.expect(age_ms, own + more).wait_s for more in (0, 1)]
    assert -1e-9 <= wait_s[1] - wait_s[0] <= belief.service_s / slots + 1e-9
