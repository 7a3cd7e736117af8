"""How long an answer takes by what there is to compute for it, from answers that have come: a buyer's belief.

Gossip tells an agent's mean answer only. Whoever holds a prompt in its cache is done sooner than that, and whoever has
to compute all of it later. How much of a mean answer a token of the prompt takes is much the same for all agents,
however fast they are; so that is learned from all of their answers together: by ridge regression, of the time to the
first token on the tokens computed, as far as these differ.
"""

FORGET = 0.98
"""Weight of the past after one more answer: the last fifty count."""

PRIOR_TOKENS = 64.0
"""A deviation that tells as much as is held against it: prompts that differ by less than two blocks tell of anything
that makes answers differ but of prompts."""

FIRST_MAX = 10.0
"""Mean answers that a first token is taken to have been away at most: no odd one is to spoil much."""

LEAST_SHARE = 0.1
"""No answer takes less than this part of a mean one: it has to be decoded, too."""


class Speeds:
    """The part of an agent's mean answer that a token of the prompt takes, and of how many the mean is."""

    def __init__(self) -> None:
        self._answers = 0.0
        self._tokens = 0.0
        self._squares = 0.0
        self._firsts = 0.0
        self._products = 0.0

    def learn(self, uncached_tokens: int, ttft_ms: int, mean_ms: int) -> None:
        """An agent whose answers take `mean_ms` on average began one after so long, without a wait for a slot."""
        if mean_ms > 0:
            first = min(FIRST_MAX, ttft_ms / mean_ms)
            self._answers = FORGET * self._answers + 1
            self._tokens = FORGET * self._tokens + uncached_tokens
            self._squares = FORGET * self._squares + uncached_tokens**2
            self._firsts = FORGET * self._firsts + first
            self._products = FORGET * self._products + uncached_tokens * first

    def prefill_ms(self, uncached_tokens: int, mean_ms: int) -> int:
        """How long a prompt is computed where answers take `mean_ms` on average; 0 as long as that is not known."""
        return round(mean_ms * self._per_token() * uncached_tokens)

    def answer_ms(self, uncached_tokens: int, mean_ms: int) -> int:
        """How long an answer takes there; that mean as long as nothing is known of prompts."""
        per_token = self._per_token()
        more = per_token * (uncached_tokens - self._tokens / self._answers) if per_token else 0.0
        return round(mean_ms * max(LEAST_SHARE, 1 + more))

    def _per_token(self) -> float:
        if not self._answers:
            return 0.0
        mean = self._tokens / self._answers
        variance = max(0.0, self._squares / self._answers - mean**2)
        covariance = self._products / self._answers - mean * self._firsts / self._answers
        return max(0.0, covariance / (variance + PRIOR_TOKENS**2))
