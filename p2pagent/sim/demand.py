"""What is asked when, and from which seat: Zipf's law over askers and subjects, Poisson or bursty arrivals.

Bursts are a Markov-modulated Poisson process of two states: calm and burst, each left after an exponential stay.
"""

from collections.abc import Iterator
from itertools import accumulate
from random import Random

from msgspec import Struct

from p2pagent.sim.population import ZIPF, Population, Question
from p2pagent.sim.scenarios import Arrivals

CALM_RATE, BURST_RATE = 0.6, 1.8
CALM_MS, BURST_MS = 20_000.0, 10_000.0
"""Rates over the mean rate, and mean stays; the mean rate over both is one."""

PROMPT_TOKENS, OUTPUT_TOKENS = (150.0, 0.8), (100.0, 0.7)
"""Mean, and standard deviation of the logarithm."""

TOKENS_MIN, TOKENS_OVER_MEAN_MAX = 8, 8


class Asking(Struct, frozen=True):
    """One question: when, and by whoever sits at which place in the order of askers, most active first."""

    at_ms: int
    seat: int
    question: Question


def draw_asking(
    population: Population, seats: int, per_s: float, start_ms: int, end_ms: int, arrivals: Arrivals, rng: Random
) -> Iterator[Asking]:
    """Questions between two times, `per_s` a second on average, in order of time."""
    who = list(accumulate((rank + 1) ** -ZIPF for rank in range(seats)))
    for number, at_ms in enumerate(_times(per_s / 1000, start_ms, end_ms, arrivals, rng)):
        prompt, output = _tokens(PROMPT_TOKENS, rng), _tokens(OUTPUT_TOKENS, rng)
        question = Question(f"q{number}", population.draw_subject(rng), prompt, output)
        yield Asking(int(at_ms), rng.choices(range(seats), cum_weights=who)[0], question)


def _times(per_ms: float, start_ms: int, end_ms: int, arrivals: Arrivals, rng: Random) -> Iterator[float]:
    now_ms, bursts, stay_ends_ms = float(start_ms), True, float(start_ms)
    rate = per_ms
    while True:
        next_ms = now_ms + rng.expovariate(rate)
        if arrivals == "bursty" and next_ms >= stay_ends_ms:
            now_ms, bursts = stay_ends_ms, not bursts  # what has not come by then is drawn anew: it has no memory
            stay_ends_ms += rng.expovariate(1 / (BURST_MS if bursts else CALM_MS))
            rate = per_ms * (BURST_RATE if bursts else CALM_RATE)
        elif next_ms < end_ms:
            now_ms = next_ms
            yield now_ms
        else:
            return
        if now_ms >= end_ms:
            return


def _tokens(shape: tuple[float, float], rng: Random) -> int:
    """A lognormal length of the given mean."""
    mean, spread = shape
    drawn = mean * rng.lognormvariate(-(spread**2) / 2, spread)
    return round(min(TOKENS_OVER_MEAN_MAX * mean, max(TOKENS_MIN, drawn)))
