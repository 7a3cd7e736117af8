"""Whom to ask: the mixed answer of a buyer to load that changes faster than it can be watched (PPAI, arXiv 2605.18067).

Buyers i choose agents j. A choice is worth v_ij, what is i's own business (value times quality, price, transmission and
service), less the cost of a second times the wait W_j(n_j) that all n_j who chose j have in common. Whoever takes the
best by stale news meets all others there; so agents are drawn by logit response, the more evenly the less is seen.

Proved, each under its assumptions; tests check what can be checked:

- Choices of pure strategies have the exact potential  sum_j sum_{k=1..n_j} delay W_j(k) - sum_i v_ij : whoever changes
  alone changes it by what it loses. So better replies end, in a pure equilibrium (Rosenthal 1973, doi
  10.1007/BF01737559; Monderer and Shapley 1996, doi 10.1006/game.1996.0044; additive constants of one's own:
  Mavronicolas, Milchtaich, Monien and Tiemann 2007, LNCS 4708:633). Assumes that waits depend on the number of queries
  alone, alike for all, and that a second costs all the same.
- With types drawn from a prior that all share, the expected potential is an exact potential of the game between types,
  so that a pure Bayesian Nash equilibrium exists (Gairing, Monien and Tiemann 2008, doi 10.1007/s00224-007-9015-8).
- Among many small buyers of rates r_i, x_j = sum_i r_i p_ij, with W_j increasing, the logit equilibrium at temperature
  T is the one minimum of  sum_j delay int_0^{x_j} W_j - sum_ij r_i p_ij v_ij + T sum_ij r_i p_ij ln p_ij , which is
  strictly convex (Fisk 1980, doi 10.1016/0191-2615(80)90004-1).
- Repeated response p <- softmax((v - delay W(x)) / T) contracts towards it, and so finds it from anywhere, if
  delay * max W' * sum_i r_i / (2 T) < 1: utilities that differ by at most e everywhere move one buyer's chances by at
  most e / T in all, and chances that differ by d in all differ by at most d / 2 in one place. Otherwise damped steps
  p <- p + h (softmax(.) - p) do with h small enough: each descends that potential.
- With the toll of what one more makes the others wait, (n - 1) (W(n) - W(n - 1)), the potential is the cost to all, and
  what is best for all is an equilibrium, though worse ones may be beside it (Pigou 1920; for the finite game Sandholm
  2007, see Meir and Parkes 2016, https://ceur-ws.org/Vol-1678/paper3.pdf). `queues` has the toll of one answer more
  where n are; the slot price of a clearing is such a toll.

What is played is less than that toll: `heeded` cuts it to a multiple of one's own delay, wait and service, and a slot's
price counts in its place where it is higher. With W_j(n) plus what is heeded in the place of W_j(n), all but the last
hold as they stand, if service at j takes all alike (it is believed to), so that the cut depends on j and n alone; where
it does not, buyers differ about waits. That the best for all is an equilibrium holds only where nothing is cut there.

Not proved, and not true in general: where beliefs about waits differ by more than a constant, better replies may cycle
(Milchtaich 1996, doi 10.1006/game.1996.0027; a pure equilibrium still exists); where queries weigh unequally, better
replies may cycle too unless waits are affine (the 2007 paper has both); that a queue's wait is a function of the number
of those who chose it at once is itself a picture of the truth. With M/M/1 waits the loss by selfishness has no bound as
load nears capacity: hence the ceiling on load, and the toll.
"""

from collections.abc import Sequence
from math import erf, exp, inf, log, pi, sqrt
from random import Random

import numpy as np
from numpy.typing import NDArray

CEILING = 0.95
"""Utilisation from which on an agent is not asked while another is below."""

PROBES_MAX = 5
PROBES_SHARE = 5 / 8
"""At most so many are asked, and at most this share of the candidates, of one or two just one. To ask all of eight made
answers one or two per cent sooner in simulation."""

LOOK_S = 0.005
"""What one more look must gain, in seconds: quotes are as late as the slowest of them, and each holds a slot."""

HEEDED = 2
"""In simulation five peers at load 0.7 wait 5 % longer than by power of two choices with 1, and 3 % less with 2; with 3
another 2 % less, but 0.2 % of the right answers are lost."""

TINY = 1e-300
"""In place of a random number of 0, which has no logarithm."""

Floats = NDArray[np.float64]


def heeded(toll: float, own: float) -> float:
    """How much of the delay that a question causes others it is to heed: up to `HEEDED` times its own, in its units.

    The whole toll would be right if it were charged to all for ever. In a burst it would send a question to an agent
    that cannot answer it, in order to spare others a wait that ends with the burst.
    """
    return min(toll, HEEDED * own)


def temperature(unseen_s: Sequence[float], delay_cost_per_s: float) -> float:
    """How far to mix, in money: noise of a logit response as large as what is not seen.

    That noise has a standard deviation of pi / sqrt(6) temperatures; the unseen, the mean of `unseen_s` (one or more)
    times what a second costs.
    """
    return sqrt(6) / pi * delay_cost_per_s * sum(unseen_s) / len(unseen_s)


def response(utilities: Sequence[float] | Floats, temperature: float) -> Floats:
    """The logit response: chances in proportion to exp(utility / temperature); at 0 the best alone, equals alike."""
    values = np.asarray(utilities, dtype=np.float64)
    below = values - values.max()
    if temperature > 0:
        weights = np.exp(np.maximum(below, -1_000 * temperature) / temperature)  # of less it is 0 too
    else:
        weights = (below == 0).astype(np.float64)
    shares: Floats = weights / weights.sum()
    return shares


def draw(utilities: Sequence[float], temperature: float, count: int, rng: Random) -> list[int]:
    """`count` indices in order, each drawn by the logit response among those that are left; all, if there are fewer.

    They are the best by utility plus Gumbel noise of scale `temperature` (Kool, van Hoof and Welling 2019, arXiv
    1903.06059). At 0 they are the best, equals in random order.
    """
    noise = [-log(-log(rng.random() or TINY)) for _ in utilities]
    keys = [(u + temperature * e, e) for u, e in zip(utilities, noise, strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__, reverse=True)[:count]


def admitted(utilisation: Sequence[float], ceiling: float = CEILING) -> list[bool]:
    """Who may be asked: whoever is believed below the load ceiling, and everybody where nobody is."""
    below = [used < ceiling for used in utilisation]
    return below if any(below) else [True] * len(below)


def probes(utilities: Sequence[float], unseen_s: Sequence[float], delay_cost_per_s: float, floor: float = -inf) -> int:
    """How many of the candidates to ask.

    Each utility is taken for normal about what is believed, with what is unseen as its deviation. From the best down,
    one more is asked as long as it betters the best of the quotes on average by more than `LOOK_S` costs; the mean and
    the variance of that best are Clark's (1961, doi 10.1287/opre.9.2.145). So it grows with the age of what is known
    and with load, and is 1 where the best is plain.

    Args:
        utilities: in money, per candidate.
        unseen_s: standard deviation of the seconds in each.
        delay_cost_per_s: money for a second.
        floor: utility of what can be had without asking, known exactly. With it the answer may be 0.
    """
    most = min(PROBES_MAX, max(1, round(PROBES_SHARE * len(utilities))), len(utilities))
    best, variance = floor, 0.0
    for count, i in enumerate(sorted(range(len(utilities)), key=utilities.__getitem__, reverse=True)[:most]):
        own = (delay_cost_per_s * unseen_s[i]) ** 2
        if best == -inf:
            best, variance = utilities[i], own
            continue
        gain, variance = _larger(best, variance, utilities[i], own)
        if gain <= LOOK_S * delay_cost_per_s:
            return count
        best += gain
    return most


def choose(
    utilities: Sequence[float],
    unseen_s: Sequence[float],
    utilisation: Sequence[float],
    delay_cost_per_s: float,
    rng: Random,
    floor: float = -inf,
    *,
    every: bool = False,
) -> list[int]:
    """Whom to ask for a quote: as many as `probes` says, drawn by the logit response among those admitted.

    Args:
        utilities: in money, per candidate: its worth less the cost of the expected wait and service, less the toll.
        unseen_s: standard deviation of the seconds in each (`beliefs.Expected.unseen`).
        utilisation: believed utilisation of each.
        delay_cost_per_s: money for a second.
        rng: the one source of chance.
        floor: utility of what can be had without asking, such as the own agent's.
        every: `PROBES_MAX`, whatever share of them that is and whatever a look gains.

    Returns:
        Indices of candidates, best first; none where there are no candidates, or no look is worth its cost.
    """
    may = [i for i, admits in enumerate(admitted(utilisation)) if admits]
    if not may:
        return []
    worths, unseen = [utilities[i] for i in may], [unseen_s[i] for i in may]
    count = PROBES_MAX if every else probes(worths, unseen, delay_cost_per_s, floor)
    drawn = draw(worths, temperature(unseen, delay_cost_per_s), count, rng)
    return sorted((may[i] for i in drawn), key=utilities.__getitem__, reverse=True)


def chances(
    utilities: Sequence[float], unseen_s: Sequence[float], utilisation: Sequence[float], delay_cost_per_s: float
) -> Floats:
    """The chance of each candidate to be the first that `choose` draws, shape (k,); 0 where it is not admitted."""
    found = np.zeros(len(utilities))
    may = [i for i, admits in enumerate(admitted(utilisation)) if admits]
    if may:
        mixed = temperature([unseen_s[i] for i in may], delay_cost_per_s)
        found[may] = response([utilities[i] for i in may], mixed)
    return found


def _larger(mean: float, variance: float, other: float, other_variance: float) -> tuple[float, float]:
    """By how much the larger of two normal variables is on average above the first, and its variance (Clark 1961)."""
    spread = sqrt(variance + other_variance)
    step = other - mean
    if spread == 0:
        return max(0.0, step), 0.0
    z = step / spread
    density, below = exp(-z * z / 2) / sqrt(2 * pi), (1 + erf(z / sqrt(2))) / 2
    gain = spread * (density + z * below)
    second = (step * step + other_variance) * below + variance * (1 - below) + step * spread * density
    return gain, max(0.0, second - gain * gain)
