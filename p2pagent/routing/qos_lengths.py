"""How long answers are, where some are cut off.

An answer that reached its limit would have been longer, nobody knows by how much: a censored observation. The median of
all is then that of the product-limit estimate of Kaplan and Meier (1958, Journal of the American Statistical
Association 53:457). The median, because no other guess is less far off on average.
"""

from collections import deque
from math import inf

EXPECTED = 64
"""Tokens of an answer as long as nothing is known of it."""

LAST = 300
"""Answers that are remembered."""


class Lengths:
    """Tokens of an agent's last answers."""

    def __init__(self) -> None:
        self._answers = deque([(EXPECTED, False)], maxlen=LAST)
        self._median: float | None = EXPECTED

    def predict(self, max_tokens: int) -> float:
        """Tokens to expect of an answer that may have `max_tokens`; all of those where most were cut off."""
        if self._median is None:
            self._median = self._middle()
        return min(self._median, max_tokens)

    def learn(self, output_tokens: int, max_tokens: int) -> None:
        """Take in one more answer."""
        # At equal lengths, what ended comes before what was cut off, as the estimate wants it: False sorts first.
        self._answers.append((output_tokens, output_tokens >= max_tokens))
        self._median = None

    def _middle(self) -> float:
        longer = 1.0
        for at_least, (tokens, is_cut) in zip(range(len(self._answers), 0, -1), sorted(self._answers), strict=True):
            if not is_cut:
                longer *= 1 - 1 / at_least
                if longer <= 0.5:
                    return tokens
        return inf
