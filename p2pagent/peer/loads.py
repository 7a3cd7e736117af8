"""What this buyer believes of the load of agents: heard by gossip, read from quotes, and its own questions under way.

Times are of this device's clock. What an agent said of itself by gossip has the time of the agent's clock: one that is
behind makes its load look older than it is, one ahead is put back by as much as it was ever seen to lead.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from p2pagent.bounded import bound
from p2pagent.market.pricing import decayed
from p2pagent.peer.gossip_messages import Load
from p2pagent.peer.messages import Quote
from p2pagent.routing.beliefs import Belief, Prior, Snapshot, prior
from p2pagent.types import AgentRef, Microcredits

LOADS_MAX = 4096
"""Agents of whose load something is believed, those that were candidates last."""

PRIOR_MS = 10_000
"""How often what is believed of whoever has shown nothing yet is made anew of what is believed of the others."""


class Prospect(Struct, frozen=True):
    """What one more question is believed to meet at an agent.

    Attributes:
        wait_ms: until a slot is free for it.
        answer_ms: that an answer takes then.
        toll_ms: by how much it makes all later ones wait longer, in sum.
        unseen_s: standard deviation of wait and toll together, in seconds, by what was not seen.
        utilisation: arrivals over what the slots can serve.
        slot_price: what its slot last cost, faded since.
        inside: answers at work and waiting.
        held_up_ms: how much of the toll is what those inside wait while its prompt is computed.
        later_ms: what it is believed to cost the question's own conversation to go on there, not at the least used.
        dial_ms: that it takes to connect.
    """

    wait_ms: int
    answer_ms: int
    toll_ms: int = 0
    unseen_s: float = 0.0
    utilisation: float = 0.0
    slot_price: Microcredits = 0
    inside: float = 0.0
    held_up_ms: int = 0
    later_ms: int = 0
    dial_ms: int = 0


class _Known(Struct):
    belief: Belief
    prior: Prior
    issued_ms: int = 0
    """Of the last heartbeat learned, by the agent's clock."""
    ahead_ms: int = 0
    """By how much that clock leads ours, at least."""
    price: Microcredits = 0
    priced_ms: int = 0


class Loads:
    """Beliefs by agent."""

    def __init__(self) -> None:
        self._known: dict[AgentRef, _Known] = {}
        self._prior = Prior()
        self._prior_ms: int | None = None

    def __len__(self) -> int:
        return len(self._known)

    def heard(self, agent: AgentRef, load: Load, slots: int, issued_ms: int, now_ms: int) -> None:
        """Take in what gossip says of an agent with so many slots; once, however often it is looked up."""
        known = self._of(agent, slots, now_ms)
        if issued_ms == known.issued_ms:
            return
        if issued_ms < known.issued_ms:  # its clock was set back
            known.ahead_ms = 0
        known.issued_ms, known.ahead_ms = issued_ms, max(known.ahead_ms, issued_ms - now_ms)
        counters = (load.arrived, load.served, load.busy_ms)
        at_ms = issued_ms - known.ahead_ms
        known.belief.learn(Snapshot(at_ms, load.running, load.waiting, slots, *counters))

    def quoted(self, agent: AgentRef, quote: Quote, slots: int, now_ms: int, *, holding: bool = False) -> None:
        """Take in a quote that has just come.

        `holding` a slot there already we may be given no second one, idle as the others may be.
        """
        known = self._of(agent, slots, now_ms)
        if quote.free_slots or quote.queued or not holding:
            known.belief.learn_quote(now_ms, min(slots, quote.free_slots), quote.queued, slots)
        known.price, known.priced_ms = quote.slot_price_microcredits, now_ms

    def full(self, agent: AgentRef, queued: int, slots: int, now_ms: int) -> None:
        """The agent has refused for want of room: all slots are busy and `queued` wait."""
        self._of(agent, slots, now_ms).belief.learn_quote(now_ms, 0, queued, slots)

    def prospect(self, agent: AgentRef, slots: int, own: Sequence[tuple[int, float]], now_ms: int) -> Prospect:
        """What one more question would meet now.

        `own` are questions of ours that go there, each with the time since when and the probability.
        """
        known = self._of(agent, slots, now_ms)
        seen_ms = known.belief.seen_ms
        since = sum(share for at_ms, share in own if seen_ms is None or at_ms >= seen_ms)
        expected = known.belief.expect(now_ms, round(since))
        return Prospect(
            wait_ms=round(1000 * expected.wait_s),
            answer_ms=round(1000 * known.belief.service_s),
            toll_ms=round(1000 * expected.toll_s),
            unseen_s=expected.unseen,
            utilisation=expected.utilisation,
            slot_price=decayed(known.price, max(0, now_ms - known.priced_ms)),
            inside=expected.inside,
        )

    def _of(self, agent: AgentRef, slots: int, now_ms: int) -> _Known:
        if self._prior_ms is None or now_ms - self._prior_ms >= PRIOR_MS:
            self._prior, self._prior_ms = prior(each.belief for each in self._known.values()), now_ms
        known = self._known.pop(agent, None)
        if known is None:
            known = _Known(Belief(replace(self._prior, slots=max(1, slots))), self._prior)
        elif known.prior is not self._prior:
            known.prior = self._prior
            known.belief.lean_on(self._prior)
        self._known[agent] = known
        bound(self._known, LOADS_MAX)
        return known
