"""What the arena asks of a routing policy, and what it lets a policy see."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar, NamedTuple, Protocol

from p2pagent.routing.beliefs import Snapshot
from p2pagent.sim.traces import Query, Trace

VALUE_MICROCREDITS = 1_000_000
DELAY_MICROCREDITS_PER_S = 20_000
"""What a right answer and a second less are worth to every asker: the defaults of `config.Preferences`."""


class Quote(NamedTuple):
    """What an agent says of itself when it is asked: seconds to a free slot, and seconds of service after that.

    Both are the agent's own forecasts; it knows how many answers are ahead and what it has cached, not how long they
    will be. `at_s` is when the question reached it.
    """

    agent: int
    at_s: float
    slots: int
    free_slots: int
    waiting: int
    wait_s: float
    service_s: float


class Ask(NamedTuple):
    """Ask these agents for quotes; the award follows when the last has come."""

    agents: Sequence[int]


class Send(NamedTuple):
    """Send the question to these agents at once; more than one answer it each."""

    agents: Sequence[int]


Move = Ask | Send


class Answer(NamedTuple):
    """One agent's answer as its asker gets it."""

    agent: int
    right: bool
    sent_s: float
    answered_s: float


class View(Protocol):
    """What can be seen without asking: gossip of every agent, and the asker's own agent as it is now."""

    def seen(self, agent: int, now_s: float) -> Snapshot | None:
        """The latest snapshot of `agent` that has reached everybody by `now_s`."""

    def own(self, query: Query, now_s: float) -> Quote:
        """What the asker's own agent would quote at `now_s`."""

    def round_trip_s(self, one: int, other: int) -> float:
        """There and back between two devices; 0 on one device."""


class Policy:
    """One rule for all askers of a run. Whatever differs by asker, such as what it has sent, is kept by asker."""

    gossips: ClassVar[bool] = False
    """Whether it looks at snapshots: if not, the gossip period is nothing to it."""

    learns: ClassVar[bool] = False
    """Whether it wants to be told of answers."""

    def __init__(self, trace: Trace, view: View, rng: Random) -> None:
        self.trace = trace
        self.agents = trace.population.agents
        self.view = view
        self.rng = rng

    def route(self, query: Query) -> Move:
        """What to do with a question when it is asked."""
        raise NotImplementedError

    def award(self, query: Query, quotes: Sequence[Quote], now_s: float) -> int:
        """Whom to send the question to, now that the quotes asked for are in."""
        raise NotImplementedError

    def answered(self, query: Query, answer: Answer) -> None:
        """An answer has come; called only if the policy learns."""

    def right(self, query: Query, agents: Sequence[int]) -> bool:
        """Whether what is made of the answers of `agents` is right."""
        return was_right(query, agents[0])

    def worth(self, query: Query, agent: int, seconds: float) -> float:
        """Microcredits that `agent`'s answer is worth after `seconds`; all charge the same, so prices are left out."""
        return VALUE_MICROCREDITS * expected_quality(query, agent) - DELAY_MICROCREDITS_PER_S * seconds

    def quoted_worth(self, query: Query, quote: Quote) -> float:
        """What the answer that `quote` promises is worth: after wait, service, and the way of award and answer."""
        seconds = quote.wait_s + quote.service_s + self.view.round_trip_s(query.asker, quote.agent)
        return self.worth(query, quote.agent, seconds)


def was_right(query: Query, agent: int) -> bool:
    """Whether one of the candidates answers right."""
    return query.right[query.candidates.index(agent)]


def expected_quality(query: Query, agent: int) -> float:
    """What everybody expects of one of the candidates."""
    return query.quality[query.candidates.index(agent)]
