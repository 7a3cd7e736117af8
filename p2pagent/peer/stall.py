"""One local agent at work, and the sales of its answers: who has a slot, who waits for one, what can be promised."""

from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from p2pagent.peer.gossip_messages import AgentAdvert, Load
from p2pagent.peer.hub_messages import SLOTS_PER_LOT_MAX
from p2pagent.peer.messages import Award, Call, Quote, Seek
from p2pagent.peer.terms import Timing
from p2pagent.routing.marks import Texts
from p2pagent.routing.qos import LATENCY_US_MAX, WAIT_MS_MAX, Forecast, Outcome, Task
from p2pagent.routing.qos_frozen import Frozen
from p2pagent.routing.qos_lengths import EXPECTED
from p2pagent.routing.residency import Shelf
from p2pagent.types import PeerId, Usage

QUEUE_PER_SLOT_MAX = 4


class Sale(Struct):
    """One conversation as its seller sees it; `task` and `forecast` are as of its slot, or of its quote before that."""

    call: Call
    buyer: PeerId
    quote: Quote
    task: Task
    forecast: Forecast
    expires_ms: int
    state: Literal["held", "offered", "waiting", "running"]
    award: Award | None = None
    job: bytes = b""
    granted: bool = False
    started_ms: int = 0
    first_ms: int = 0
    held_tokens: int = 0
    """Of its prompt, believed to be in the cache as it got its slot."""
    pieces: list[str] = field(default_factory=list)

    @property
    def domain(self) -> bytes:
        """Who may use what the engine computes for it."""
        return domain_of(self.call, self.buyer)

    @property
    def answer_ms(self) -> int:
        """How long it is expected to have its slot."""
        return _ms(self.forecast.total_us.mean)

    def left_ms(self, now_ms: int) -> int:
        """How long it still has its slot, 1 at least."""
        return max(1, self.started_ms + self.answer_ms - now_ms)

    def outcome(self, usage: Usage, now_ms: int) -> Outcome:
        """What came of it, ended now."""
        first_ms = self.first_ms or now_ms
        return Outcome.timed(1_000 * (first_ms - self.started_ms), 1_000 * (now_ms - first_ms), usage)


class OwnLoad(Struct, frozen=True):
    """How busy a local agent is, until when its owner's next question waits for a slot, and how long it takes then."""

    load: Load
    wait_ms: int
    answer_ms: int


class Stall(Struct):
    """One local agent at work. `kept` are slots promised to hub clearings or granted by them.

    `arrived`, `served`, `busy_ms` and `computed_tokens` count awards, answers finished, the slot time that those took,
    and the tokens of theirs that had to be computed.
    """

    advert: AgentAdvert
    predictor: Frozen
    shelf: Shelf
    texts: Texts = field(default_factory=Texts)
    busy: int = 0
    kept: int = 0
    queue: list[bytes] = field(default_factory=list)
    arrived: int = 0
    served: int = 0
    busy_ms: int = 0
    computed_tokens: int = 0

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

    def meeting(self, task: Task, running: Sequence[Sale]) -> Task:
        """`task` with what else will be at work as it gets a slot, as far as it is now."""
        beside = min(len(running), max(0, self.advert.slots - 1))
        prefilling = sum(sale.task.uncached_tokens for sale in running if not sale.pieces)
        return replace(task, running=beside, prefilling_tokens=prefilling, waiting=len(self.queue))

    def timing(
        self, forecast: Forecast, free: int, ahead: Sequence[Sale], running: Sequence[Sale], now_ms: int
    ) -> Timing:
        """When an answer of this `forecast` comes that has one of `free` slots, or waits for one behind `ahead`.

        First come, first served. Slots held for quotes, or kept for clearings, are taken for as long as its own answer.
        """
        answer_ms = _ms(forecast.total_us.mean)
        held = max(0, self.advert.slots - free - len(running))
        ends_ms = [*[0] * free, *[answer_ms] * held, *(sale.left_ms(now_ms) for sale in running)] or [answer_ms]
        heapify(ends_ms)
        for sale in ahead:
            heapreplace(ends_ms, ends_ms[0] + sale.answer_ms)
        wait_ms, first = min(WAIT_MS_MAX, ends_ms[0]), forecast.ttft_us
        expected_ms, high_ms = (min(WAIT_MS_MAX, wait_ms + _ms(bound)) for bound in (first.mean, first.high))
        return Timing(wait_ms, expected_ms, high_ms, min(LATENCY_US_MAX, forecast.tpot_us.mean))

    def cache(self, call: Call, domain: bytes, running: Sequence[Sale], now_ms: int) -> tuple[int, int]:
        """Of a prompt the tokens in the cache, and how many of others' that are still of use it drives out."""
        begun = [sale.call for sale in running if sale.domain == domain]
        cached = self.shelf.held_tokens(domain, self.texts.known(domain, call.prefix), call.prompt_tokens, begun)
        room = call.prompt_tokens - cached + min(call.max_tokens, EXPECTED)
        return cached, self.shelf.displaced_tokens(domain, call.prefix, room, now_ms)

    def spare(self, running: Sequence[Sale], now_ms: int) -> list[tuple[int, int]]:
        """Slots that nobody has or waits for: `(slots, wait_ms)`, those free now and those of the `running` answers.

        Each answer under way frees one slot; the first to come free are for who waits already.
        """
        spoken_for = len(self.queue) + max(0, self.kept - max(0, self.advert.slots - self.busy))
        left_ms = sorted(sale.left_ms(now_ms) for sale in running)[spoken_for:]
        free = [(min(self.free, SLOTS_PER_LOT_MAX), 0)] if self.free else []
        return [*free, *([(min(len(left_ms), SLOTS_PER_LOT_MAX), sum(left_ms) // len(left_ms))] if left_ms else [])]


def domain_of(call: Call | Seek, buyer: PeerId) -> bytes:
    """Who may use what the engine computes for this call: those who show the same, or this buyer alone."""
    return call.domain or buyer.encode()


def is_counted_on(sale: Sale, others: Iterable[Sale]) -> bool:
    """Whether one of the others was promised a prompt as cached that begins like that of `sale`."""
    tags = {mark.tag for mark in sale.call.prefix}
    alike = (o for o in others if o is not sale and o.call.agent == sale.call.agent and o.domain == sale.domain)
    return any(o.quote.cached_tokens and not tags.isdisjoint(mark.tag for mark in o.call.prefix) for o in alike)


def _ms(time_us: int) -> int:
    return min(WAIT_MS_MAX, time_us // 1_000)
