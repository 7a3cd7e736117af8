"""The M/M/c queue: how long one more answer waits, how much longer it makes others wait, and how a look at it ages.

Times are in mean service times. `offered` is arrivals per service time, below `slots`; rho = offered / slots. With B(n)
the Erlang loss formula for n slots, C = B(slots) / (1 - rho (1 - B(slots))) is the chance that one who comes must wait,
and C / (1 - rho) answers are ahead of it on average.

One more answer where n are makes all later ones wait longer, by D(n) together. With its own wait that is the step of
the queue's relative values, which solve Poisson's equation (Krishnan 1987, "Joining the right queue", 26th CDC):

    (B(slots) / B(n)) / ((slots - offered) (1 - rho (1 - B(slots))))   up to n = slots,
    and 1 / (slots - offered) more for each beyond.

In M/M/1, D is rho / (1 - rho) times the sojourn. The mean of D over the stationary queue is Pigou's toll: arrivals
times the derivative of the mean wait by arrivals. Whoever joins the queue of least sojourn and D takes the first step
of policy improvement on the fixed split of arrivals that the rates stand for (Sassen, Tijms and Nobel 1997, "A
heuristic rule for routing customers to parallel servers", Statistica Neerlandica 51:107), and so does no worse than
that split where the rates are true and all do alike.
"""

from math import exp, lgamma, log, pi, sqrt

from scipy.special import erfcx, gammaincc, ndtr


class Queue:
    """A stationary queue of `slots` slots, 1 or more.

    Attributes:
        ahead: mean number of answers that must end before one more gets a slot.
        toll: what one more makes others wait, on average, in service times.
        toll_per_ahead: what each answer ahead adds to that.
    """

    def __init__(self, offered: float, slots: int) -> None:
        assert 0 < offered < slots
        self.offered, self.slots = offered, slots
        spare = slots - offered
        rho = offered / slots
        self._log_full = self._log_pmf(slots)
        full = exp(self._log_full)
        self._free = self._cdf(slots - 1)
        self._within = self._free + full
        loss = full / self._within
        thinned = 1 - rho * (1 - loss)
        self._waits = loss / thinned
        self.ahead = self._waits / (1 - rho)
        self.toll_per_ahead = 1 / spare - 1 / slots
        slope = loss * (slots / offered - 1 + loss)
        steeper = (slope * thinned - loss * ((loss - 1) / slots + rho * slope)) / thinned**2
        self.toll = offered / spare * (steeper + self._waits / spare)
        self._toll_full = 1 / (thinned * spare)

    def toll_at(self, inside: int) -> float:
        """What one more makes others wait, in service times, where `inside` are."""
        if inside >= self.slots:
            ahead = inside - self.slots + 1
            return self._toll_full - 1 / self.slots + (ahead - 1) * self.toll_per_ahead
        share = self._cdf(inside) / self._within
        odds = self._log_full - self._log_pmf(inside)
        return self._toll_full * min(1.0, exp(odds + log(share))) if share > 0 else 0.0

    def behind(self, own: int) -> float:
        """How many more answers are ahead on average if there are `own` answers beside the queue's own."""
        if own == 0:
            return 0.0
        places = range(1, min(own, self.slots) + 1)
        beyond = sum(exp(self._log_pmf(self.slots - k)) * (own - k + 1) for k in places)
        return self._waits * own + (1 - self._waits) * beyond / self._free

    def aged(self, ahead: float, age: float) -> float:
        """How many answers are ahead on average, `age` service times after `ahead` were.

        The mean of Brownian motion reflected at 0 (Harrison 1985, "Brownian Motion and Stochastic Flow Systems") that
        drifts as the queue does while all slots are busy and has the queue's own stationary mean: exact at age 0 and in
        the end. Its mean error against the exact transient is a quarter of that of the usual mixture of drift and
        stationary queue with weight exp(-age / relaxation time), which forgets long queues before they have drained.
        """
        drained = (self.slots - self.offered) * age
        left, spread = ahead - drained, sqrt(2 * drained * self.ahead)
        if spread == 0:
            return max(0.0, left)
        a, b = left / spread, (ahead + drained) / spread
        density = exp(-a * a / 2)
        free = left * ndtr(a) + spread * density / sqrt(2 * pi)
        reflected = self.ahead * (ndtr(-a) - density * erfcx(b / sqrt(2)) / 2)
        return max(0.0, float(free + reflected))

    # Erlang's B(n) is the chance of n over that of n at most, where n has Poisson's distribution of mean `offered`.

    def _log_pmf(self, n: int) -> float:
        return n * log(self.offered) - self.offered - lgamma(n + 1)

    def _cdf(self, n: int) -> float:
        return float(gammaincc(n + 1, self.offered))
