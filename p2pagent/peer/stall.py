"""One local agent at work, and the sales of its answers: who has a slot, who waits for one, what can be promised."""

from typing import Literal

from msgspec import Struct, field

from p2pagent.peer.gossip_messages import AgentAdvert, Load
from p2pagent.peer.hub_messages import SLOTS_PER_LOT_MAX
from p2pagent.peer.messages import Award, Call, Quote
from p2pagent.routing.service import ServiceTimes
from p2pagent.types import PeerId

QUEUE_PER_SLOT_MAX = 4


class Sale(Struct):
    """One conversation as its seller sees it."""

    call: Call
    buyer: PeerId
    quote: Quote
    expires_ms: int
    state: Literal["held", "offered", "waiting", "running"]
    award: Award | None = None
    job: bytes = b""
    granted: bool = False
    started_ms: int = 0
    first_ms: int = 0
    pieces: list[str] = field(default_factory=list)


class OwnLoad(Struct, frozen=True):
    """How busy a local agent is, until when its owner's next question waits for a slot, and how long it takes then."""

    load: Load
    wait_ms: int
    answer_ms: int


class Stall(Struct):
    """One local agent at work. `kept` are slots promised to hub clearings or granted by them.

    `arrived`, `served` and `busy_ms` count awards, answers finished, and the slot time that those took.
    """

    advert: AgentAdvert
    times: ServiceTimes
    busy: int = 0
    kept: int = 0
    queue: list[bytes] = field(default_factory=list)
    arrived: int = 0
    served: int = 0
    busy_ms: int = 0

    @property
    def free(self) -> int:
        """Slots that whoever comes may have."""
        return max(0, self.advert.slots - self.busy - self.kept)

    @property
    def is_full(self) -> bool:
        """Whether no slot is free and no more may wait for one."""
        return not self.free and len(self.queue) >= QUEUE_PER_SLOT_MAX * self.advert.slots

    @property
    def holds_per_buyer(self) -> int:
        """Slots that one stranger may keep from others by quotes that it has not taken up: holding costs it nothing."""
        return max(1, self.advert.slots // 2)

    def spare(self, running: list[Sale], now_ms: int) -> list[tuple[int, int]]:
        """Slots that nobody has or waits for: `(slots, wait_ms)`, those free now and those of the `running` answers.

        Each answer under way frees one slot; the first to come free are for who waits already.
        """
        ends_ms = sorted(sale.started_ms + self.times.total_ms(sale.call.prompt_tokens) for sale in running)
        spoken_for = len(self.queue) + max(0, self.kept - max(0, self.advert.slots - self.busy))
        left_ms = [max(1, end_ms - now_ms) for end_ms in ends_ms][spoken_for:]
        free = [(min(self.free, SLOTS_PER_LOT_MAX), 0)] if self.free else []
        return [*free, *([(min(len(left_ms), SLOTS_PER_LOT_MAX), sum(left_ms) // len(left_ms))] if left_ms else [])]
