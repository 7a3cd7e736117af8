"""Winner determination: which query goes to which agent, so that the sum of what all gain is largest.

Maximum-weight capacitated assignment with opt-out: query i may take one slot of agent j at gain w_ij, or stay out at
gain 0. The constraint matrix is totally unimodular, so the assignment problem on the slot-expanded matrix is exact
(Hoffman and Kruskal 1956). With a single owner there are no others to compensate, hence no Clarke term: its payment is
the metered cost alone.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Weights = NDArray[np.int64]

WEIGHT_MAX = 1 << 50
"""Gains are integers below this. scipy works in float64, exact up to 2**53: its shortest augmenting paths add a path's
length, a gain and two prices, and with gains of 0 and more none of the four exceeds the largest gain, however many
queries there are. Property tests hold it to the unit here; from 2**53 on it does go wrong."""


def assign(weights: Weights, capacities: list[int]) -> list[int | None]:
    """The best assignment of queries to agents.

    Args:
        weights: gain of query i at agent j in microcredits, shape (queries, agents), magnitudes below `WEIGHT_MAX`.
        capacities: free slots per agent.

    Returns:
        Per query the agent that serves it, or None where staying out is best. A gain of exactly 0 stays out.
    """
    queries, agents = weights.shape
    assert len(capacities) == agents
    columns = [agent for agent, slots in enumerate(capacities) for _ in range(min(slots, queries))]
    chosen: list[int | None] = [None] * queries
    if not columns or not queries:
        return chosen
    assert np.abs(weights).max() < WEIGHT_MAX
    gains = np.maximum(weights[:, columns], 0)
    for row, column in zip(*linear_sum_assignment(gains, maximize=True), strict=True):
        if gains[row, column] > 0:
            chosen[row] = columns[column]
    return chosen
