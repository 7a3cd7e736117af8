"""Which agents this buyer's conversations are under way at, and how often they go on: the load that will come of them.

What an agent tells of its load is the past. A conversation that has just begun there is to come, and who starts many at
once would start them all where nothing was to do yet.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence

from p2pagent.bounded import bound
from p2pagent.routing.marks import Link
from p2pagent.types import AgentRef

CONVERSATIONS_MAX = 1_024
"""Those that went on last."""

CYCLE_MS = 10_000.0
"""From turn to turn of a conversation, as long as none has gone on."""

TOLD_APART = 0.95
"""Weight of the past after one more turn: the last twenty count."""

CYCLES = 3
"""A conversation that has not gone on for so many mean times from turn to turn has ended."""


class Regulars:
    """Conversations by the links of their last prompt."""

    def __init__(self) -> None:
        self._last: OrderedDict[bytes, tuple[AgentRef, int]] = OrderedDict()
        self._cycle_ms = CYCLE_MS

    def awarded(self, agent: AgentRef, links: Sequence[Link], now_ms: int) -> None:
        """`agent` answers a prompt of these links, shortest first; with it a conversation begins or goes on.

        The same prompt once more, since another agent has failed it, is no further turn.
        """
        for link in reversed(links):
            known = self._last.pop(link.digest, None)
            if known is not None:
                if link is not links[-1]:
                    self._cycle_ms = TOLD_APART * self._cycle_ms + (1 - TOLD_APART) * (now_ms - known[1])
                break
        if links:
            self._last[links[-1].digest] = agent, now_ms
        bound(self._last, CONVERSATIONS_MAX)

    def answers_per_s(self, now_ms: int) -> dict[AgentRef, float]:
        """How many further turns each agent is to expect."""
        found: Counter[AgentRef] = Counter()
        for agent, last_ms in reversed(self._last.values()):
            if now_ms - last_ms > CYCLES * self._cycle_ms:
                break
            found[agent] += 1
        return {agent: 1_000 * count / max(1.0, self._cycle_ms) for agent, count in found.items()}
