"""Small routing games solved the slow way: everything is counted out, or left to a general minimiser.

What buyers are after is what the product reckons (`choice.utility`); potentials and welfare are reckoned here.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import product

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize

from p2pagent.peer.choice import utility
from p2pagent.peer.loads import Prospect
from p2pagent.routing.game import HEEDED
from p2pagent.types import AgentRef
from tests.scenario import make_ask, make_option
from tests.strangers import ALICE

ASK = make_ask("q", 0, delay_microcredits_per_s=1_000)
"""Of a user to whom a millisecond is worth a microcredit."""


Choices = tuple[int, ...]
Waits = Sequence[Sequence[int]]


class Game(Struct, frozen=True):
    """`values[i][j]`: what agent j is worth to buyer i. `waits[i][j][n - 1]`: what i thinks n buyers of j wait there.

    Service at agent j takes `service[j]`. With `tolls`, buyers also pay what they make the others wait, as far as it is
    heeded: with long service all of it.
    """

    values: Sequence[Sequence[int]]
    waits: Sequence[Waits]
    service: Sequence[int]
    tolls: bool = False

    @classmethod
    def common(
        cls, values: Sequence[Sequence[int]], waits: Waits, service: Sequence[int] = (), tolls: bool = False
    ) -> "Game":
        """All buyers think alike of the waits; service takes no time where nothing else is said."""
        return cls(values, [waits] * len(values), service or [0] * len(waits), tolls)

    def toll(self, buyer: int, agent: int, met: int) -> int:
        """What the last of `met` buyers of an agent makes the others wait."""
        wait = self.waits[buyer][agent]
        return (met - 1) * (wait[met - 1] - wait[met - 2]) if self.tolls and met > 1 else 0

    def utility(self, buyer: int, choices: Choices) -> int:
        agent = choices[buyer]
        met = choices.count(agent)
        worth, wait = self.values[buyer][agent], self.waits[buyer][agent][met - 1]
        option = make_option(AgentRef(ALICE.peer, f"agent {agent}"), worth, ASK)
        return utility(option, Prospect(wait, self.service[agent], self.toll(buyer, agent, met)), ASK)

    def potential(self, choices: Choices) -> int:
        """Rosenthal's: each agent's charges for one, two, ... buyers, less the values."""
        total = -sum(self.values[buyer][agent] for buyer, agent in enumerate(choices))
        for agent in set(choices):
            for met in range(1, choices.count(agent) + 1):
                own = self.waits[0][agent][met - 1] + self.service[agent]
                total += own + min(self.toll(0, agent, met), HEEDED * own)
        return total

    def welfare(self, choices: Choices) -> int:
        """Values less waits and service of all; tolls only change hands."""
        met = {agent: choices.count(agent) for agent in choices}
        spent = (self.waits[i][j][met[j] - 1] + self.service[j] for i, j in enumerate(choices))
        return sum(self.values[i][j] for i, j in enumerate(choices)) - sum(spent)

    def everything(self) -> Iterator[Choices]:
        return product(range(len(self.values[0])), repeat=len(self.values))

    def better(self, choices: Choices) -> Iterator[tuple[int, Choices]]:
        """All ways in which one buyer alone can gain, buyer first."""
        for buyer, agent in product(range(len(choices)), range(len(self.values[0]))):
            moved = (*choices[:buyer], agent, *choices[buyer + 1 :])
            if self.utility(buyer, moved) > self.utility(buyer, choices):
                yield buyer, moved

    def best(self, choices: Choices) -> Iterator[tuple[int, Choices]]:
        """Of these, per buyer only those that gain most."""
        ways = list(self.better(choices))
        for buyer, moved in ways:
            if self.utility(buyer, moved) == max(self.utility(buyer, other) for who, other in ways if who == buyer):
                yield buyer, moved

    def cycles(self, replies: Callable[[Choices], Iterator[tuple[int, Choices]]]) -> bool:
        """Whether some sequence of `replies` comes back to where it was: a search in depth over all choices."""
        done: set[Choices] = set()
        on_path: set[Choices] = set()

        def walk(choices: Choices) -> bool:
            if choices in on_path:
                return True
            if choices in done:
                return False
            on_path.add(choices)
            found = any(walk(moved) for _, moved in replies(choices))
            on_path.remove(choices)
            done.add(choices)
            return found

        return any(walk(choices) for choices in self.everything())


Strategy = tuple[int, ...]
"""The agent that a buyer chooses, per type."""


class BayesianGame(Struct, frozen=True):
    """Buyers know their own type, and all know how likely each combination of types is. A type is a row of values.

    `values[i][t][j]` is what agent j is worth to buyer i of type t; `prior` weighs combinations of types.
    """

    values: Sequence[Sequence[Sequence[int]]]
    waits: Waits
    prior: dict[tuple[int, ...], Fraction]

    def utility(self, buyer: int, strategies: Sequence[Strategy]) -> Fraction:
        """Before types are known."""
        return sum((p * game.utility(buyer, c) for p, game, c in self._played(strategies)), start=Fraction(0))

    def potential(self, strategies: Sequence[Strategy]) -> Fraction:
        return sum((p * game.potential(c) for p, game, c in self._played(strategies)), start=Fraction(0))

    def better(self, strategies: Sequence[Strategy]) -> Iterator[tuple[int, Sequence[Strategy]]]:
        for buyer, rows in enumerate(self.values):
            for strategy in product(range(len(rows[0])), repeat=len(rows)):
                moved = [*strategies[:buyer], strategy, *strategies[buyer + 1 :]]
                if self.utility(buyer, moved) > self.utility(buyer, strategies):
                    yield buyer, moved

    def _played(self, strategies: Sequence[Strategy]) -> Iterator[tuple[Fraction, Game, Choices]]:
        for types, chance in self.prior.items():
            rows = [self.values[buyer][kind] for buyer, kind in enumerate(types)]
            yield chance, Game.common(rows, self.waits), tuple(strategies[i][kind] for i, kind in enumerate(types))


class Crowd(Struct, frozen=True):
    """Many small buyers: groups of rate r_i to whom agent j is worth v_ij; j's wait is base_j + slope_j x_j^power."""

    rates: NDArray[np.float64]
    values: NDArray[np.float64]
    base: NDArray[np.float64]
    slope: NDArray[np.float64]
    power: int
    delay_cost: float
    temperature: float

    def utilities(self, chances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each agent to each group when all choose with `chances`, shape (groups, agents)."""
        wait = self.base + self.slope * (self.rates @ chances) ** self.power
        return self.values - self.delay_cost * wait

    def steepest(self) -> float:
        """The largest derivative of any wait that can be met."""
        return float(np.max(self.slope)) * self.power * float(self.rates.sum()) ** (self.power - 1)

    def potential(self, chances: NDArray[np.float64]) -> float:
        met = self.rates @ chances
        waits = self.base * met + self.slope * met ** (self.power + 1) / (self.power + 1)
        entropy = np.sum(self.rates[:, None] * chances * np.log(np.maximum(chances, 1e-300)))
        worth = np.sum(self.rates[:, None] * chances * self.values)
        return float(self.delay_cost * waits.sum() - worth + self.temperature * entropy)

    def equilibrium(self) -> NDArray[np.float64]:
        """The least potential, found among all chances by a minimiser that knows nothing of games."""
        groups, agents = self.values.shape

        def slope(flat: NDArray[np.float64]) -> NDArray[np.float64]:
            mixed = flat.reshape(groups, agents)
            rising = self.temperature * (np.log(mixed) + 1) - self.utilities(mixed)
            by_chance: NDArray[np.float64] = (self.rates[:, None] * rising).ravel()
            return by_chance

        found = minimize(
            lambda flat: self.potential(flat.reshape(groups, agents)),
            np.full(groups * agents, 1 / agents),
            jac=slope,
            method="SLSQP",
            bounds=[(1e-12, 1.0)] * (groups * agents),
            constraints=LinearConstraint(np.kron(np.eye(groups), np.ones(agents)), 1.0, 1.0),
            options={"ftol": 1e-15, "maxiter": 1_000},
        )
        mixed: NDArray[np.float64] = found.x.reshape(groups, agents)
        return mixed
