"""Whether what lies in a cache unused is asked for again: learned from how long other things had lain there.

Things that were used again, or had to go, are counted by how long they had lain unused then, in bins that double. The
chance of one that has lain for t is the share of those used again among all that lay at least that long: the life table
(Kaplan and Meier 1958, section 2), with the censored ones, which nobody waits for, counted as lost.
"""

import numpy as np

BINS = 12
"""The last one is of half an hour and more."""

FORGET = 0.999
"""Weight of the past after one more; the last thousand count."""

PRIOR_USED, PRIOR_LOST = 0.05, 1.0
"""What is taken for seen at first: in each bin so many used again, and in the end so many lost. Of what has just been
used it makes a third, and the less the longer ago that was."""


class Returns:
    """Of one cache."""

    def __init__(self) -> None:
        self._used = np.full(BINS, PRIOR_USED)
        self._lost = np.zeros(BINS)
        self._lost[-1] = PRIOR_LOST

    def learn(self, idle_ms: int, *, used: bool) -> None:
        """What had lain unused for so long was used again, or had to go."""
        self._used *= FORGET
        self._lost *= FORGET
        (self._used if used else self._lost)[_bin(idle_ms)] += 1

    def chance(self, idle_ms: int) -> float:
        """That what has lain unused for so long is used again before it has to go."""
        start = _bin(idle_ms)
        used = float(self._used[start:].sum())
        return used / (used + float(self._lost[start:].sum()))


def _bin(idle_ms: int) -> int:
    return min(BINS - 1, max(0, idle_ms // 1_000).bit_length())
