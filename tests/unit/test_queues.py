"""The closed forms of the M/M/c queue against its Markov chain, cut off far out."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import expm

from p2pagent.routing.queues import Queue

Floats = NDArray[np.float64]

SLOTS = (1, 2, 4, 7)
RHO = (0.1, 0.5, 0.8, 0.9)
STATES = 400


def generator(offered: float, slots: int, states: int) -> Floats:
    """Rates between numbers of answers inside, per service time."""
    ups = np.full(states - 1, offered)
    downs = np.minimum(np.arange(1, states), slots).astype(float)
    rates = np.diag(ups, 1) + np.diag(downs, -1)
    return rates - np.diag(rates.sum(axis=1))


def stationary(rates: Floats) -> Floats:
    """The one distribution that the chain leaves as it is: as many go up between two neighbours as go down."""
    steps = np.diag(rates, 1) / np.diag(rates, -1)
    weights = np.append(1.0, np.cumprod(steps))
    shares: Floats = weights / weights.sum()
    assert np.abs(shares @ rates).max() < 1e-12
    return shares


def ahead_of(slots: int, states: int, own: int = 0) -> Floats:
    """Answers that must end before one more gets a slot, by number inside."""
    return np.maximum(0.0, np.arange(states) + own - slots + 1)


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("rho", RHO)
def test_stationary_means(slots: int, rho: float) -> None:
    queue = Queue(rho * slots, slots)
    shares = stationary(generator(rho * slots, slots, STATES))
    mean = shares @ ahead_of(slots, STATES)
    assert queue.ahead == pytest.approx(mean, rel=1e-6)
    for own in (0, 1, 3, 20):
        assert queue.behind(own) == pytest.approx(shares @ ahead_of(slots, STATES, own) - mean, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("rho", RHO)
def test_what_one_more_makes_others_wait(slots: int, rho: float) -> None:
    """The difference of the relative values of all waiting, which Poisson's equation defines, less one's own wait."""
    queue = Queue(rho * slots, slots)
    rates = generator(rho * slots, slots, STATES)
    shares = stationary(rates)
    waiting = np.maximum(0.0, np.arange(STATES) - slots)
    values = np.linalg.solve(rates - shares, shares @ waiting - waiting)
    assert np.abs(rates @ values - shares @ waiting + waiting).max() < 1e-6
    others = np.diff(values) - ahead_of(slots, STATES - 1) / slots
    for inside in range(3 * slots + 5):
        assert queue.toll_at(inside) == pytest.approx(others[inside], rel=1e-5, abs=1e-8)
    assert queue.toll == pytest.approx(shares[:-1] @ others, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("rho", RHO)
def test_mean_toll_is_pigous(slots: int, rho: float) -> None:
    """Arrivals times the derivative of the mean wait by arrivals, here by differences."""
    offered, step = rho * slots, 1e-5
    wait = [Queue(offered + d, slots).ahead / slots for d in (-step, step)]
    assert Queue(offered, slots).toll == pytest.approx(offered * (wait[1] - wait[0]) / (2 * step), rel=1e-5, abs=1e-10)


def test_one_slot_in_the_textbook() -> None:
    queue = Queue(0.75, 1)
    assert queue.ahead == pytest.approx(3)  # rho / (1 - rho)
    assert [queue.toll_at(inside) for inside in (0, 1, 5)] == pytest.approx([3, 6, 18])  # the sojourn times as much


AGES = (1, 3, 10, 30, 100)  # tenths of a service time


def transients() -> list[tuple[int, float, int, float, float]]:
    """Slots, rho, number inside at first, age, and the exact mean number ahead then."""
    found = []
    for slots in (1, 2, 4, 8):
        for rho in (0.2, 0.5, 0.8, 0.95):
            states = 6 * slots + 150
            tenth = expm(generator(rho * slots, slots, states) / 10)
            mean = ahead_of(slots, states)
            for age in range(1, AGES[-1] + 1):
                mean = tenth @ mean
                if age in AGES:
                    inside = sorted({0, slots // 2, slots, slots + 2, 2 * slots + 3, 5 * slots + 5})
                    found += [(slots, rho, n, age / 10, float(mean[n])) for n in inside]
    return found


def mixture(queue: Queue, inside: int, age: float) -> float:
    """The usual guess: drift as if all slots were busy, into which the stationary mean comes in a relaxation time."""
    drifted = max(0.0, inside - (queue.slots - queue.offered) * age - queue.slots + 1)
    kept = np.exp(-age * min(1.0, (np.sqrt(queue.slots) - np.sqrt(queue.offered)) ** 2))
    return float(kept * drifted + (1 - kept) * queue.ahead)


def test_a_look_ages_as_the_chain_does() -> None:
    aged, mixed = [], []
    for slots, rho, inside, age, exact in transients():
        queue = Queue(rho * slots, slots)
        aged.append(abs(queue.aged(max(0, inside - slots + 1), age) - exact) / slots)
        mixed.append(abs(mixture(queue, inside, age) - exact) / slots)
    assert np.mean(aged) < 0.08  # waits, in service times
    assert np.max(aged) < 0.6
    assert np.mean(aged) < np.mean(mixed) / 4
    assert np.max(mixed) > 4


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("rho", RHO)
def test_a_look_is_all_at_first_and_nothing_in_the_end(slots: int, rho: float) -> None:
    queue = Queue(rho * slots, slots)
    for ahead in (0, 1, 7, 1000):
        assert queue.aged(ahead, 0.0) == ahead
        assert queue.aged(ahead, 1e7) == pytest.approx(queue.ahead)
