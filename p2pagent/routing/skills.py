"""The table of agents: what is believed of each at each prototype, laid out for the query that reads a few prototypes.

A row per prototype and a column per agent: a query reads the few rows that it is near to, each in one piece. A column
is reckoned as of when it is put: when its agent's record or experience changes, or has faded, and never for a query.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from p2pagent.routing.posteriors import Experience, belief
from p2pagent.routing.prototypes import Calibration

Agent = TypeVar("Agent", bound=Hashable)
Table = NDArray[np.float32]

NOTHING = Experience()


class Skills(Generic[Agent]):
    """Agents of one space. Columns beyond `len` are spare; a removed agent's column is taken by the last one."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.agents: list[Agent] = []
        self._places: dict[Agent, int] = {}
        self._columns: dict[str, Table] = {}
        self._room = 0
        self._grow(64)

    def __len__(self) -> int:
        return len(self.agents)

    def __contains__(self, agent: Agent) -> bool:
        return agent in self._places

    def place(self, agent: Agent) -> int:
        """The column of an agent in every array, until the next `remove`.

        Raises:
            KeyError: it is not in the table.
        """
        return self._places[agent]

    @property
    def claims(self) -> Table:
        """What was claimed, in [0, 1], shape (M, n)."""
        return self._columns["claims"][:, : len(self)]

    @property
    def mean(self) -> Table:
        """Posterior means, shape (M, n)."""
        return self._columns["mean"][:, : len(self)]

    @property
    def variance(self) -> Table:
        """Posterior variances, shape (M, n)."""
        return self._columns["variance"][:, : len(self)]

    @property
    def pooled_mean(self) -> Table:
        """Posterior means of pooled skill, shape (n,)."""
        return self._columns["pooled"][0, : len(self)]

    @property
    def pooled_variance(self) -> Table:
        """Posterior variances of pooled skill, shape (n,)."""
        return self._columns["pooled"][1, : len(self)]

    @property
    def outcomes(self) -> Table:
        """Answers of each that were judged here and are not forgotten, whole ones, shape (n,)."""
        return self._columns["outcomes"][0, : len(self)]

    def put(self, agent: Agent, capability: bytes, experience: Experience = NOTHING, now_ms: int = 0) -> None:
        """Add an agent, or replace what is believed of it.

        Args:
            agent: its key.
            capability: its claims, one byte per prototype.
            experience: what it did here.
            now_ms: the time, for the decay of `experience`.
        """
        if agent not in self._places:
            if len(self) == self._room:
                self._grow(2 * self._room)
            self._places[agent] = len(self)
            self.agents.append(agent)
        place, known = self._places[agent], experience.decayed(now_ms)
        believed = belief(self.calibration, capability, known, now_ms)
        self._columns["claims"][:, place] = np.frombuffer(capability, dtype=np.uint8) / np.float32(255)
        self._columns["mean"][:, place] = believed.mean
        self._columns["variance"][:, place] = believed.variance
        self._columns["pooled"][:, place] = believed.pooled_mean, believed.pooled_variance
        self._columns["outcomes"][0, place] = round(sum(known.seen.values()))

    def remove(self, agent: Agent) -> None:
        """Forget an agent.

        Raises:
            KeyError: it is not in the table.
        """
        place, last = self._places.pop(agent), self.agents.pop()
        if last != agent:
            self.agents[place] = last
            self._places[last] = place
            for column in self._columns.values():
                column[:, place] = column[:, len(self)]

    def _grow(self, room: int) -> None:
        prototypes = len(self.calibration.families)
        rows = {"claims": prototypes, "mean": prototypes, "variance": prototypes, "pooled": 2, "outcomes": 1}
        for name, height in rows.items():
            wider = np.zeros((height, room), dtype=np.float32)
            if self._room:
                wider[:, : self._room] = self._columns[name]
            self._columns[name] = wider
        self._room = room
