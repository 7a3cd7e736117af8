"""What a buyer believes of an agent's load: rates of arrival and service, and what they make of the last look.

Load changes faster than it can be watched (PPAI, arXiv 2605.18067), so a look is aged by what is known of the rates.
Both have Gamma posteriors: arrivals per second (a, b), and answers per second of a busy slot (c, d). Over t seconds in
which k arrivals were counted, with g = exp(-t / memory) and w = memory (1 - g) / t,

    a <- a0 + g (a - a0) + w k,    b <- b0 + g (b - b0) + w t,

and (c, d) alike with answers and slot-seconds. That is Bayes' rule for counts at a rate that is forgotten towards the
prior (a0, b0) all the time: the geometric mean of posterior and prior, with weight g, is a Gamma density again
(stabilised forgetting: Kulhavy and Zarrop 1993, International Journal of Control 58:905). w is what that leaves of
counts that came evenly, so that one long window tells as much as many short ones. `queues` has what the rates make.
"""

from collections.abc import Iterable
from math import exp, sqrt
from statistics import median

from msgspec import Struct

from p2pagent.routing.queues import Queue

RHO_MAX = 0.95
"""The most utilisation that queues are reckoned with, whatever is believed: the mean of rho / (1 - rho) under a Gamma
posterior is infinite."""

MEMORY_S = 120.0
"""For how long what was counted is remembered. In simulation, less made answers later, with bursts of seconds too."""

SECONDS_MAX = 3_600.0
"""No longer wait is ever expected, no higher toll, and no answer takes longer: an hour is as good as never."""

ARRIVALS_PER_S_MIN = 1 / 3_600
"""Nobody is ever taken for idler than that: who knows nothing but idle agents would believe in no load at all."""

ARRIVALS_PER_S_MAX = 1_000
"""No more come to a slot, in what is believed."""


class Snapshot(Struct, frozen=True):
    """What an agent said of its load at `at_ms`.

    `running` and `waiting` are answers at work and waiting for one of `slots` slots. The others count since the agent
    started: arrivals, answers served, and the slot-milliseconds that those took. Two snapshots tell what happened
    between them, however many were lost.
    """

    at_ms: int
    running: int
    waiting: int
    slots: int
    arrived: int
    served: int
    busy_ms: int


class Prior(Struct, frozen=True):
    """What is believed of an agent of which nothing is known. All are above 0."""

    a: float = 1.0
    b: float = 4.0
    c: float = 2.0
    d: float = 4.0
    slots: int = 1


class Expected(Struct, frozen=True):
    """What one more query would meet, and make others meet.

    Attributes:
        wait_s: seconds until a slot is free for it.
        toll_s: seconds by which it makes all later ones wait longer; times the cost of a second, a Pigouvian toll.
        unseen: standard deviation of the sum of both, in seconds, by what came since the last look.
        utilisation: arrivals over what the slots can serve; may exceed 1.
        inside: answers at work and waiting.
    """

    wait_s: float
    toll_s: float
    unseen: float
    utilisation: float
    inside: float


class Belief:
    """One buyer's belief about one agent; `a`, `b`, `c`, `d` as in the module's docstring.

    Attributes:
        snapshot: the last one learned.
        seen_ms: when the agent was last looked at, in a snapshot or a quote; None before.
        inside: the answers at work and waiting that were seen then, at `slots` slots.
    """

    def __init__(self, prior: Prior = Prior()) -> None:  # noqa: B008 - frozen
        self._prior = prior
        self.a, self.b, self.c, self.d, self.slots = prior.a, prior.b, prior.c, prior.d, prior.slots
        self.snapshot: Snapshot | None = None
        self.seen_ms: int | None = None
        self.inside = 0
        self._queue: Queue | None = None

    @property
    def service_s(self) -> float:
        """Seconds that an answer keeps a slot."""
        return self.d / self.c

    def learn(self, snapshot: Snapshot) -> None:
        """Take in what the agent said of its load; what is not newer than the last snapshot is ignored.

        Counters that cannot be those of one agent at work since then, because they went back or are lies, tell nothing
        of the rates: they count from here.
        """
        last = self.snapshot
        if last is not None and snapshot.at_ms <= last.at_ms:
            return
        self.snapshot, self._queue = snapshot, None
        self._look(snapshot.at_ms, snapshot.running + snapshot.waiting, snapshot.slots)
        if last is None:
            # Since when it has counted is not known, but what it served tells its speed, be it long ago.
            busy_s = snapshot.busy_ms / 1000
            if busy_s <= SECONDS_MAX * snapshot.served:
                self._count(MEMORY_S / max(MEMORY_S, busy_s), 0.0, 0, snapshot.served, busy_s)
            return
        age_s = (snapshot.at_ms - last.at_ms) / 1000
        kept = exp(-age_s / MEMORY_S)
        self._forget(kept)
        if follows(snapshot, last):
            arrived, served = snapshot.arrived - last.arrived, snapshot.served - last.served
            busy_s = (snapshot.busy_ms - last.busy_ms) / 1000
            self._count(MEMORY_S * (1 - kept) / age_s, age_s, arrived, served, busy_s)

    def learn_quote(self, at_ms: int, free_slots: int, queued: int, slots: int) -> None:
        """Take in a quote made at `at_ms`: a look at the queue, which says nothing of the rates."""
        self._look(at_ms, max(0, slots - free_slots) + queued, slots)

    def lean_on(self, prior: Prior) -> None:
        """Have another prior from now on: what was counted stays."""
        before, self._prior, self._queue = self._prior, prior, None
        self.a += prior.a - before.a
        self.b += prior.b - before.b
        self.c += prior.c - before.c
        self.d += prior.d - before.d

    def expect(self, now_ms: int, own_since: int) -> Expected:
        """What one more query would meet at `now_ms`.

        Args:
            now_ms: on the clock of the snapshots and quotes.
            own_since: own queries not answered yet which reach the agent after the last look, so that it cannot
                contain them.
        """
        slots, service_s = self.slots, self.service_s
        utilisation = self.a / self.b * service_s / slots
        if self._queue is None:
            self._queue = Queue(min(utilisation, RHO_MAX) * slots, slots)
        queue = self._queue
        behind = queue.behind(own_since)
        if self.seen_ms is None:
            ahead, toll, missed = queue.ahead + behind, queue.toll + behind * queue.toll_per_ahead, queue.ahead**2
            there = queue.offered + own_since
        else:
            age_s = max(0, now_ms - self.seen_ms) / 1000
            age, inside = age_s / service_s, self.inside + own_since
            fresh, now = exp(-age), max(0, inside - slots + 1)
            ahead = queue.aged(max(0.0, now - behind), age) + behind - fresh * max(0.0, behind - now)
            flat = fresh * (queue.toll_at(inside) - now * queue.toll_per_ahead)
            flat += (1 - fresh) * (queue.toll - queue.ahead * queue.toll_per_ahead)
            toll = flat + ahead * queue.toll_per_ahead
            arrivals = queue.offered / service_s * age_s
            missed = min(arrivals * (1 + age_s / self.b), queue.ahead**2)
            there = fresh * inside + (1 - fresh) * max(queue.offered, own_since)
        unseen = sqrt(missed + 0.25) * (queue.toll_per_ahead + 1 / slots)
        wait_s, toll_s, unseen_s = (min(SECONDS_MAX, service_s * x) for x in (ahead / slots, toll, unseen))
        return Expected(wait_s, toll_s, unseen_s, utilisation, there)

    def _look(self, at_ms: int, inside: int, slots: int) -> None:
        if self.seen_ms is None or at_ms >= self.seen_ms:
            if max(1, slots) != self.slots:
                self._queue = None
            self.seen_ms, self.inside, self.slots = at_ms, inside, max(1, slots)

    def _forget(self, kept: float) -> None:
        prior = self._prior
        self.a = prior.a + kept * (self.a - prior.a)
        self.b = prior.b + kept * (self.b - prior.b)
        self.c = prior.c + kept * (self.c - prior.c)
        self.d = prior.d + kept * (self.d - prior.d)

    def _count(self, weight: float, seconds: float, arrived: int, served: int, busy_s: float) -> None:
        self.a += weight * arrived
        self.b += weight * seconds
        self.c += weight * served
        self.d += weight * busy_s


def follows(snapshot: Snapshot, last: Snapshot) -> bool:
    """Whether one agent at work may have said both, `last` before `snapshot`.

    No count goes back; what was served had come; and neither rate is beyond what is ever believed. The slot time is
    held against the answers served, not against the time that passed: it counts when an answer ends, so that a short
    window may hold a long answer, and clocks that differ make windows look shorter than they were.
    """
    arrived, served = snapshot.arrived - last.arrived, snapshot.served - last.served
    age_s, busy_s = (snapshot.at_ms - last.at_ms) / 1000, (snapshot.busy_ms - last.busy_ms) / 1000
    return (
        0 <= arrived <= ARRIVALS_PER_S_MAX * max(1, snapshot.slots) * (age_s + 1)
        and 0 <= served <= last.running + last.waiting + arrived
        and 0 <= busy_s <= SECONDS_MAX * served
    )


def prior(beliefs: Iterable[Belief]) -> Prior:
    """What to believe of an agent of which nothing is known: the others' median rates, weighed as little as `Prior()`.

    Never idle, so that nobody runs to whoever is new, and never infinitely busy. Of none known it is `Prior()`. What
    fewer than half of the others say, however wild, moves it no further than the rest are apart. Who has served nothing
    says nothing of how long an answer takes.
    """
    known = [(belief, belief.snapshot) for belief in beliefs if belief.snapshot is not None]
    if not known:
        return Prior()
    usual = Prior()
    arrivals = max(ARRIVALS_PER_S_MIN, median(belief.a / belief.b for belief, _ in known))
    served = [belief.service_s for belief, snapshot in known if snapshot.served]
    service_s = median(served) if served else usual.d / usual.c
    slots = round(median(belief.slots for belief, _ in known))
    return Prior(arrivals * usual.b, usual.b, usual.c, service_s * usual.c, slots)
