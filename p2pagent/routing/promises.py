"""How agents keep to what they quote, as this buyer has seen it: how late they end, and how long their answers are.

Both are what choosing between quotes needs beside the quotes. A seller that always promises to be at once is believed
only until some of its answers have come; so is one whose slots are fast and whose network is not.
"""

from collections import OrderedDict

from p2pagent.bounded import bound
from p2pagent.routing.qos import WAIT_MS_MAX
from p2pagent.routing.qos_lengths import EXPECTED, Lengths
from p2pagent.types import AgentRef

FORGET = 0.95
"""Weight of the past after one more answer: the last twenty count."""

PRIOR_ANSWERS = 4
"""Answers as quoted that whoever is new is taken to have given."""

AGENTS_MAX = 512
"""Of whom something is remembered; the one that answered longest ago is forgotten first."""


class _Kept:
    def __init__(self) -> None:
        self.weight = 0.0
        self.late_ms = 0.0
        self.lengths = Lengths()


class Promises:
    """By agent, what came of its quotes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[AgentRef, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def learn(self, agent: AgentRef, late_ms: int, output_tokens: int, max_tokens: int) -> None:
        """An answer of `agent` was complete `late_ms` after its quote had it, or as much before if negative."""
        kept = self._kept.setdefault(agent, _Kept())
        self._kept.move_to_end(agent)
        kept.weight = FORGET * kept.weight + 1
        kept.late_ms = FORGET * kept.late_ms + max(-WAIT_MS_MAX, min(WAIT_MS_MAX, late_ms))
        kept.lengths.learn(output_tokens, max_tokens)
        bound(self._kept, AGENTS_MAX)

    def late_ms(self, agent: AgentRef) -> int:
        """By how much an answer of `agent` is expected to be later than quoted: a forgetting mean, 0 for who is new."""
        kept = self._kept.get(agent)
        return 0 if kept is None else round(kept.late_ms / (kept.weight + PRIOR_ANSWERS))

    def output_tokens(self, agent: AgentRef, max_tokens: int) -> int:
        """How long an answer of `agent` is expected to be."""
        kept = self._kept.get(agent)
        return min(EXPECTED, max_tokens) if kept is None else round(kept.lengths.predict(max_tokens))
