"""The trio driver of a peer: turns effects into IO, and what comes of it into events. It decides nothing.

One task handles events in the order in which they came; everything slow (engines, ledger, DHT) runs beside it and
reports back by an event. Events that other peers cause are dropped, and counted, while too many wait; our own never
are, because each answers an effect.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from heapq import heappop, heappush
from typing import Protocol

import msgspec
import trio
from trio_typing import TaskStatus

from p2pagent.engine.base import Delta, Engine, GenerateRequest
from p2pagent.errors import EngineUnavailableError, LocalError
from p2pagent.listing import Listing
from p2pagent.peer.effects import (
    Abort,
    Acknowledged,
    Archive,
    Blame,
    Effect,
    Find,
    Generate,
    Learn,
    Learned,
    Post,
    PostRefund,
    Provide,
    RaiseDispute,
    RecordDispute,
    Recount,
    RefundAcknowledged,
    Remember,
    Send,
    SetTimer,
    Shun,
    Tell,
)
from p2pagent.peer.events import (
    Ask,
    CancelAsk,
    Delivery,
    Disputed,
    DisputeRecorded,
    Event,
    Generated,
    GenerationEnded,
    GenerationFailed,
    Misbehaved,
    Outcome,
    PeerDown,
    PeerIdle,
    PeerUp,
    Posted,
    ProvidersFound,
    Rating,
    Received,
    Recounted,
    RefundPosted,
    Timer,
    TimerFired,
    Unsent,
)
from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.messages import Dispute, SignedRefund
from p2pagent.peer.peer import Peer
from p2pagent.peer.updates import Answered, Unanswered, Update
from p2pagent.peer.wire import encode, protocol_of
from p2pagent.types import AgentRef, PeerId

WAITING_MAX = 4096
"""Events waiting to be handled beyond which those of other peers are dropped."""

PIECE_MS = 20
"""Pieces decoded within this time of the last one sent travel together: a frame costs more than a token."""

PIECE_CHARACTERS_MAX = 1 << 14
"""An engine may hand over a whole answer at once; a message takes no more than a piece of it."""

PROVIDERS_MAX = 4
"""Each is dialled to see whether it lives; a few members know all others of their cell."""

LATE_MS = 100
"""A timer that is later than this shows that we were held up: by work of our own, or the machine slept."""

CATCH_UP_S = 0.05
"""For the network to read what came meanwhile."""

UPDATES_PER_TOKEN = 2
"""Room for the user's updates: each piece holds a token or more, and an answer may start over."""


class Transport(Protocol):
    """What the driver needs of the network."""

    def send(self, peer: PeerId, protocol: str, payload: bytes) -> None:
        """Queue a frame for `peer`; a failure comes back as an event."""

    def learn_addresses(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Remember where `peer` is reached."""

    def connect(self, peer: PeerId) -> None:
        """Dial `peer` ahead of need."""

    def disconnect(self, peer: PeerId) -> None:
        """Close the connections to `peer`."""

    async def provide(self, cell: str) -> bool:
        """Tell the DHT that we serve `cell`; False when nobody took note."""

    async def find(self, cell: str, count: int) -> tuple[PeerId, ...]:
        """Peers that the DHT names for `cell`."""


class Bookkeeper(Protocol):
    """What the driver needs of the store."""

    async def post(self, receipt_body: bytes, seller_signature: bytes, buyer_signature: bytes) -> bool:
        """Book durably, once."""

    async def archive(self, sheet_id: bytes, sheet: SignedSheet) -> None:
        """Keep a sheet."""

    async def explain(self, receipt_id: bytes, explanation: bytes) -> None:
        """Keep how a receipt of ours came about."""

    async def remember(self, receipt_id: bytes, delivery: Delivery, rating: Rating | None) -> None:
        """Keep what is needed to rate a receipt of ours."""

    async def save_experience(self, learned: Sequence[Learned]) -> None:
        """Keep what is known of these agents, in place of what was."""

    async def acknowledge(self, receipt_id: bytes) -> None:
        """The seller has booked it too."""

    async def book_refund(self, refund: SignedRefund) -> Outcome:
        """Book a refund durably, once, if it fits a receipt."""

    async def acknowledge_refund(self, receipt_id: bytes) -> None:
        """The buyer has booked it too."""

    async def raise_dispute(self, dispute: Dispute, raised_ms: int, *, automatic: bool) -> bool:
        """Keep a dispute of ours; False if it was in dispute or refunded before."""

    async def record_dispute(self, buyer: PeerId, dispute: Dispute, raised_ms: int) -> SignedRefund | None:
        """Keep a dispute of what was sold to `buyer`; the refund if there is one already."""


class Counter(Protocol):
    """What the driver needs of the tokenisers."""

    async def count_answer(self, digest: bytes, text: str) -> int | None:
        """The tokens of an answer; None where the tokeniser is not known."""


class Driver:
    """Runs `peer`. `clock` gives milliseconds since the Unix epoch and never goes back."""

    def __init__(
        self,
        peer: Peer,
        transport: Transport,
        engines: Mapping[str, Engine],
        books: Bookkeeper,
        clock: Callable[[], int],
        observe: Callable[[int, Event, list[Effect]], None] | None = None,
        tokenisers: Counter | None = None,
    ) -> None:
        self.events_dropped = 0
        self.faults = 0
        self._peer = peer
        self._transport = transport
        self._engines = engines
        self._books = books
        self._clock = clock
        self._observe = observe
        self._tokenisers = tokenisers
        self._waiting: deque[Event] = deque()
        self._holes: set[PeerId] = set()
        self._wake = trio.Event()
        self._timers: list[tuple[int, int, Timer]] = []
        self._timers_set = 0
        self._caught_up_ms = 0
        self._before_timers = 0
        self._neighbours: set[PeerId] = set()
        self._listing = Listing()
        self._jobs: dict[bytes, trio.CancelScope] = {}
        self._users: dict[str, trio.MemorySendChannel[Update]] = {}
        self._queries = 0
        self._unsaved: dict[AgentRef, Learned] = {}
        self._booking: dict[bytes, trio.Event] = {}

    def now_ms(self) -> int:
        """The time that the peer is told."""
        return self._clock()

    def put(self, event: Event) -> None:
        """Handle `event` in its turn."""
        self._waiting.append(event)
        self._wake.set()

    def received(self, event: Received | Misbehaved) -> None:
        """Handle what a peer sent, unless too much waits already."""
        if len(self._waiting) < WAITING_MAX:
            self.put(event)
            return
        self.events_dropped += 1
        if event.peer not in self._holes:  # the conversations with it lack something now, and are to know
            self._holes.add(event.peer)
            self.put(Unsent(event.peer))

    @asynccontextmanager
    async def ask(self, make: Callable[[str], Ask]) -> AsyncIterator[trio.MemoryReceiveChannel[Update]]:
        """Put the question that `make(query id)` gives; the channel ends with the query. Leaving early cancels it."""
        async with self.ask_all([make]) as (updates,):
            yield updates

    @asynccontextmanager
    async def ask_all(
        self, makes: Sequence[Callable[[str], Ask]]
    ) -> AsyncIterator[tuple[trio.MemoryReceiveChannel[Update], ...]]:
        """Put one owner's questions as a batch, each with a channel as in `ask`. Leaving early cancels all.

        They are put in one go, so that the peer has all of them before any quote can come back.
        """
        batch = f"b{self._queries + 1}" if len(makes) > 1 else ""
        asks: list[Ask] = []
        with ExitStack() as channels:
            updates = []
            for make in makes:
                self._queries += 1
                ask = msgspec.structs.replace(make(f"q{self._queries}"), batch=batch)
                send, receive = trio.open_memory_channel[Update](UPDATES_PER_TOKEN * ask.sampling.max_tokens + 16)
                self._users[ask.query] = send
                asks.append(ask)
                updates.append(channels.enter_context(receive))
            for ask in asks:
                self.put(ask)
            try:
                yield tuple(updates)
            finally:
                for ask in asks:
                    if self._users.pop(ask.query, None) is not None:
                        self.put(CancelAsk(ask.query))

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Handle events until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listing.run, self._transport.provide)
            task_status.started()
            while True:
                event = await self._next()
                self._note(event)
                now_ms = self._clock()
                effects = self._peer.handle(event, now_ms)
                if self._observe is not None:
                    self._observe(now_ms, event, effects)
                for effect in effects:
                    self._perform(nursery, effect)

    def _note(self, event: Event) -> None:
        match event:
            case Unsent(peer):
                self._holes.discard(peer)
            case PeerUp(peer):
                if not self._neighbours:
                    self._listing.retry()
                self._neighbours.add(peer)
            case PeerDown(peer) | PeerIdle(peer):
                self._neighbours.discard(peer)

    async def _next(self) -> Event:
        """The next event: the first timer that is due, else one that waits.

        Before a timer that is late comes what was to be read by then: the answer whose absence the timer is to tell
        of may have been there in time.
        """
        while True:
            due_ms = self._timers[0][0] if self._timers else float("inf")
            late_ms = self._clock() - due_ms
            if late_ms >= 0 and not self._before_timers:
                if late_ms <= LATE_MS or due_ms <= self._caught_up_ms:
                    return TimerFired(heappop(self._timers)[2])
                await trio.sleep(CATCH_UP_S)
                self._caught_up_ms, self._before_timers = self._clock(), len(self._waiting)
                continue
            await trio.lowlevel.checkpoint()
            if self._waiting:
                self._before_timers = max(0, self._before_timers - 1)
                return self._waiting.popleft()
            self._wake = trio.Event()
            with trio.move_on_after(max(0.0, (due_ms - self._clock()) / 1000)):
                await self._wake.wait()

    def _perform(self, nursery: trio.Nursery, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                self._transport.send(peer, protocol_of(message), encode(message))
            case SetTimer(at_ms, timer):
                self._timers_set += 1
                heappush(self._timers, (at_ms, self._timers_set, timer))
            case Generate(job):
                self._jobs[job] = trio.CancelScope()
                nursery.start_soon(self._generate, effect, self._jobs[job])
            case Abort(job):
                if job in self._jobs:
                    self._jobs.pop(job).cancel()
            case Post():
                self._booking.setdefault(effect.receipt_id, trio.Event())
                nursery.start_soon(self._book, effect)
            case Archive(sheet_id, sheet):
                nursery.start_soon(self._books.archive, sheet_id, sheet)
            case Remember():
                nursery.start_soon(self._remember, effect)
            case Learned(agent):
                self._unsaved[agent] = effect
                nursery.start_soon(self._save_experience)
            case Acknowledged(receipt_id):
                nursery.start_soon(self._books.acknowledge, receipt_id)
            case PostRefund(refund):
                nursery.start_soon(self._book_refund, refund)
            case RecordDispute():
                nursery.start_soon(self._record_dispute, effect)
            case Recount():
                nursery.start_soon(self._recount, effect)
            case RaiseDispute(seller, dispute):
                nursery.start_soon(self._raise_dispute, seller, dispute)
            case RefundAcknowledged(receipt_id):
                nursery.start_soon(self._books.acknowledge_refund, receipt_id)
            case Find():
                nursery.start_soon(self._find, effect)
            case Provide(cells):
                self._listing.want(cells)
            case Learn(peer, addresses):
                self._transport.learn_addresses(peer, addresses)
                self._transport.connect(peer)
            case Shun(peer):
                self._transport.disconnect(peer)
            case Blame():
                self.faults += 1
            case Tell(query, update):
                if isinstance(update, Answered) and update.receipt_id:
                    nursery.start_soon(self._tell_booked, query, update)
                else:
                    self._tell(query, update)

    def _tell(self, query: str, update: Update) -> None:
        user = self._users.get(query)
        if user is None:
            return
        over = isinstance(update, Answered | Unanswered)
        try:
            user.send_nowait(update)
        except trio.WouldBlock:  # nobody has read for longer than an answer and a half
            self.put(CancelAsk(query))
            over = True
        if over:
            del self._users[query]
            user.close()

    async def _generate(self, effect: Generate, scope: trio.CancelScope) -> None:
        """Run one job; its pieces become events, bundled as `PIECE_MS` says."""
        job = effect.job
        pieces: list[str] = []
        sent_ms = 0

        def flush() -> None:
            text = "".join(pieces)
            pieces.clear()
            for start in range(0, len(text), PIECE_CHARACTERS_MAX):
                self.put(Generated(job, text[start : start + PIECE_CHARACTERS_MAX]))

        def emit(delta: Delta) -> None:
            nonlocal sent_ms
            if scope.cancel_called:
                return
            if delta.text:
                pieces.append(delta.text)
            if self._clock() - sent_ms >= PIECE_MS:
                sent_ms = self._clock()
                flush()

        asked = effect.turns, effect.sampling, effect.cache_salt, effect.priority
        request = GenerateRequest(*asked, effect.domain, effect.prefix)
        engine = self._engines.get(effect.agent)
        if engine is None:  # withdrawn while its award was on the way here
            self._jobs.pop(job, None)
            self.put(GenerationFailed(job, "engine"))
            return
        with scope:
            try:
                done = await engine.generate(request, emit)
            except EngineUnavailableError:
                self.put(GenerationFailed(job, "engine"))
            except LocalError:
                self.put(GenerationFailed(job, "length"))
            else:
                flush()
                self.put(GenerationEnded(job, done.usage, done.finish_reason))
        self._jobs.pop(job, None)

    async def _book(self, effect: Post) -> None:
        """Only what is durable is reported. Those that wait together share one transaction of the store."""
        new = await self._books.post(effect.receipt, effect.seller_signature, effect.buyer_signature)
        if effect.receipt_id in self._booking:  # a buyer may send the same again while it is booked
            self._booking.pop(effect.receipt_id).set()
        self.put(Posted(effect.receipt_id, new))

    async def _tell_booked(self, query: str, answered: Answered) -> None:
        """Whoever has read an answer to its end has it in the ledger, whatever happens to this device then."""
        ident, explanation = bytes.fromhex(answered.receipt_id), msgspec.structs.replace(answered, text="")
        booked = self._booking.get(ident)
        if booked is not None:
            await booked.wait()
        await self._books.explain(ident, msgspec.json.encode(explanation))
        self._tell(query, answered)

    async def _remember(self, effect: Remember) -> None:
        """A shutdown waits for what can be rated, as for what was learned: an answer is not given a second time."""
        with trio.CancelScope(shield=True):
            await self._books.remember(effect.receipt_id, effect.delivery, effect.rating)

    async def _save_experience(self) -> None:
        """Whoever comes first takes all there is: tasks start in any order, and what is older must not be last."""
        unsaved, self._unsaved = self._unsaved, {}
        if unsaved:
            with trio.CancelScope(shield=True):
                await self._books.save_experience(list(unsaved.values()))

    async def _book_refund(self, refund: SignedRefund) -> None:
        self.put(RefundPosted(refund, await self._books.book_refund(refund)))

    async def _record_dispute(self, effect: RecordDispute) -> None:
        refund = await self._books.record_dispute(effect.buyer, effect.dispute, effect.raised_ms)
        self.put(DisputeRecorded(effect.buyer, refund))

    async def _recount(self, effect: Recount) -> None:
        known = self._tokenisers
        tokens = None if known is None else await known.count_answer(effect.tokeniser, effect.text)
        self.put(Recounted(effect.receipt_id, effect.seller, effect.claimed_tokens, tokens))

    async def _raise_dispute(self, seller: PeerId, dispute: Dispute) -> None:
        with trio.CancelScope(shield=True):
            is_new = await self._books.raise_dispute(dispute, self._clock(), automatic=True)
        if is_new:
            self.put(Disputed(seller, dispute))

    async def _find(self, effect: Find) -> None:
        peers = await self._transport.find(effect.cell, PROVIDERS_MAX)
        self.put(ProvidersFound(effect.query, effect.cell, peers))
