"""The selling side: quotes, holds, slots, answers, receipts. The local agent is sold to its own owner in just this way.

A sale goes  called -> quoted -> running -> final, where `quoted` may hold a slot and `running` may first wait for one.

Rule 1: slots in use plus slots held never exceed an agent's slots; a hold ends by award, release or expiry.
Rule 2: a buyer whose open debt would pass its credit limit gets no quote.
Rule 3: own questions start before waiting questions of others (priority 0 before 1).
"""

from hashlib import sha256
from typing import Literal

import msgspec

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.market.receipts import Rates, credit_limit, metered, price_cap
from p2pagent.peer.events import Abort, Blame, Effect, Generate, GenerationEnded, Post, Send, SetTimer, Timer
from p2pagent.peer.wire import (
    AgentAdvert,
    Award,
    Call,
    Chunk,
    Fail,
    Final,
    Quote,
    Receipt,
    Refuse,
    Settle,
    Settled,
    SignedQuote,
    opened,
    receipt_id,
    sealed,
)
from p2pagent.routing.prototypes import Space, same_prompt
from p2pagent.routing.service import ServiceTimes
from p2pagent.types import ChatMessage, Microcredits, PeerId, Sampling, Usage

QUOTE_MS = 5_000
"""A quote, and the slot it holds, lasts this long without an award."""

HOLDS_PER_BUYER_MAX = 16
SALES_MAX = 1024
QUEUE_PER_SLOT_MAX = 4
UNSETTLED_MAX = 4096
PROMPT_BYTES_PER_TOKEN_MAX = 32
"""Tokenisers differ, and a buyer counts by its own; but a prompt of more bytes per token was called too short."""


class Account(msgspec.Struct):
    """What lies between us and one peer: what it owes us (booked), what it will owe, and the turnover so far."""

    balance_microcredits: Microcredits = 0
    open_microcredits: Microcredits = 0
    settled_microcredits: Microcredits = 0


class Sale(msgspec.Struct):
    """One conversation as its seller sees it."""

    call: Call
    buyer: PeerId
    quote: Quote
    expires_ms: int
    state: Literal["held", "offered", "waiting", "running"]
    award: Award | None = None
    started_ms: int = 0
    first_ms: int = 0
    pieces: list[str] = msgspec.field(default_factory=list)


class Stall(msgspec.Struct):
    """One local agent at work."""

    advert: AgentAdvert
    times: ServiceTimes
    busy: int = 0
    queue: list[bytes] = msgspec.field(default_factory=list)


class SellerStatistics(msgspec.Struct, frozen=True):
    """Open sales, slots held or at work, awards that wait for a slot, receipts without the buyer's signature."""

    sales: int
    slots_busy: int
    waiting: int
    unsettled: int


class Seller:
    """All sales of this device. Methods take what happened and return what is to be done."""

    def __init__(
        self, keys: Keys, space: Space, newcomer_credit: Microcredits, accounts: dict[PeerId, Account]
    ) -> None:
        self._keys = keys
        self._space = space
        self._newcomer_credit = newcomer_credit
        self._accounts = accounts
        self._stalls: dict[str, Stall] = {}
        self._sales: dict[bytes, Sale] = {}
        self._unsettled: dict[bytes, tuple[PeerId, Microcredits]] = {}
        self._booking: dict[bytes, Receipt] = {}

    def open_for(self, agents: tuple[AgentAdvert, ...], now_ms: int) -> list[Effect]:
        """Sell the answers of these agents from now on; what was sold of one that is no longer there fails."""
        offered = {agent.name: agent for agent in agents}
        effects: list[Effect] = []
        for conversation in [c for c, s in self._sales.items() if s.call.agent not in offered]:
            sale = self._sales.pop(conversation)
            if sale.state == "running":
                effects.append(Abort(conversation))
            effects.append(Send(sale.buyer, Fail(conversation, "engine")))
        known = self._stalls
        self._stalls = {name: known.get(name) or Stall(agent, ServiceTimes()) for name, agent in offered.items()}
        for name, stall in self._stalls.items():
            stall.advert = offered[name]
            effects += self._next(stall, now_ms)
        return effects

    def statistics(self) -> SellerStatistics:
        """What is going on now."""
        stalls = self._stalls.values()
        return SellerStatistics(
            sales=len(self._sales),
            slots_busy=sum(stall.busy for stall in stalls),
            waiting=sum(len(stall.queue) for stall in stalls),
            unsettled=len(self._unsettled),
        )

    def on_call(self, buyer: PeerId, call: Call, now_ms: int) -> list[Effect]:
        """Quote, or refuse with the reason."""
        stall = self._stalls.get(call.agent)
        if call.conversation in self._sales:
            return [Blame(buyer, "conversation id used twice")]
        if stall is None:
            return [Send(buyer, Refuse(call.conversation, "agent"))]
        if call.space != self._space.name or not self._space.well_formed(call.embedding):
            return [Send(buyer, Refuse(call.conversation, "space"))]
        if call.prompt_tokens >= stall.advert.context_tokens:
            return [Send(buyer, Refuse(call.conversation, "length"))]
        free = max(0, stall.advert.slots - stall.busy)
        crowded = sum(s.buyer == buyer for s in self._sales.values()) >= HOLDS_PER_BUYER_MAX
        full = not free and len(stall.queue) >= QUEUE_PER_SLOT_MAX * stall.advert.slots
        if len(self._sales) >= SALES_MAX or (buyer != self._keys.peer and (crowded or full)):
            return [Send(buyer, Refuse(call.conversation, "busy"))]
        quote = self._quote(buyer, call, stall, free)
        if not self._trusts(buyer, quote.price_cap_microcredits):
            return [Send(buyer, Refuse(call.conversation, "credit"))]
        sale = Sale(call, buyer, quote, now_ms + QUOTE_MS, "held" if free else "offered")
        stall.busy += bool(free)
        self._sales[call.conversation] = sale
        return [
            Send(buyer, SignedQuote(*sealed(quote, self._keys))),
            SetTimer(sale.expires_ms, Timer("hold", call.conversation)),
        ]

    def on_award(self, buyer: PeerId, award: Award, now_ms: int) -> list[Effect]:
        """Start the answer, or let it wait for a slot; a prompt that is not what was called about voids the award."""
        sale = self._sales.get(award.conversation)
        if sale is None or sale.buyer != buyer or sale.state not in ("held", "offered"):
            return [Send(buyer, Fail(award.conversation, "expired"))]
        if sum(len(turn.content.encode()) for turn in award.turns) > PROMPT_BYTES_PER_TOKEN_MAX * (
            sale.call.prompt_tokens + 1
        ):
            effects = self._forget(award.conversation, now_ms)
            return [
                Blame(buyer, "prompt far longer than called"),
                Send(buyer, Fail(award.conversation, "length")),
                *effects,
            ]
        if not same_prompt(self._space.embed(award.turns[-1].content), sale.call.embedding):
            void = Fail(award.conversation, "embedding")
            effects = self._forget(award.conversation, now_ms)
            return [Blame(buyer, "prompt differs from its embedding"), Send(buyer, void), *effects]
        sale.award = award
        if sale.state == "held":
            return [self._start(award.conversation, sale, now_ms)]
        stall = self._stalls[sale.call.agent]
        sale.state = "waiting"
        own = buyer == self._keys.peer
        place = sum(self._sales[c].buyer == self._keys.peer for c in stall.queue) if own else len(stall.queue)
        stall.queue.insert(place, award.conversation)
        return self._next(stall, now_ms)

    def on_release(self, buyer: PeerId, conversation: bytes, now_ms: int) -> list[Effect]:
        """The buyer wants no more of this conversation."""
        sale = self._sales.get(conversation)
        return self._interrupt(conversation, now_ms) if sale is not None and sale.buyer == buyer else []

    def on_hold_timer(self, conversation: bytes, now_ms: int) -> list[Effect]:
        """A quote's time is up; if nobody took it, its slot is free again."""
        sale = self._sales.get(conversation)
        unused = sale is not None and sale.state in ("held", "offered") and sale.expires_ms <= now_ms
        return self._interrupt(conversation, now_ms) if unused else []

    def on_buyer_gone(self, buyer: PeerId, now_ms: int) -> list[Effect]:
        """Nobody is left to read these answers."""
        gone = [c for c, s in self._sales.items() if s.buyer == buyer]
        return [effect for conversation in gone for effect in self._interrupt(conversation, now_ms)]

    def on_piece(self, job: bytes, text: str, now_ms: int) -> list[Effect]:
        """Pass on what the engine decoded."""
        sale = self._sales.get(job)
        if sale is None:
            return []
        if not sale.pieces:
            sale.first_ms = now_ms
        sale.pieces.append(text)
        return [Send(sale.buyer, Chunk(job, len(sale.pieces) - 1, text))]

    def on_end(self, event: GenerationEnded, now_ms: int) -> list[Effect]:
        """Write the receipt for a finished answer and free its slot."""
        sale = self._sales.get(event.job)
        if sale is None:
            return []
        stall = self._stalls[sale.call.agent]
        ttft_ms = (sale.first_ms or now_ms) - sale.started_ms
        stall.times.learn_one(event.usage.prompt_tokens, event.usage.output_tokens, ttft_ms, now_ms - sale.started_ms)
        receipt = self._receipt(sale, event.usage, now_ms)
        body, signature = sealed(receipt, self._keys)
        final = Final(event.job, event.finish_reason, body, signature)
        effects = self._forget(event.job, now_ms)
        if sale.buyer != self._keys.peer:
            self._owe(receipt_id(body), sale.buyer, receipt.price_microcredits)
        return [Send(sale.buyer, final), *effects]

    def on_failure(self, job: bytes, reason: Literal["engine", "length"], now_ms: int) -> list[Effect]:
        """The engine broke off: nothing is owed."""
        sale = self._sales.get(job)
        return [] if sale is None else [Send(sale.buyer, Fail(job, reason)), *self._forget(job, now_ms)]

    def on_settle(self, buyer: PeerId, settle: Settle) -> list[Effect]:
        """Book a receipt that the buyer countersigned.

        Raises:
            RemoteError: it is not a receipt between us, or a signature is wrong.
        """
        receipt = opened(Receipt, settle.receipt, settle.seller_signature, self._keys.peer, self._keys)
        opened(Receipt, settle.receipt, settle.buyer_signature, buyer, self._keys)
        if receipt.seller != self._keys.peer or receipt.buyer != buyer:
            raise RemoteError("receipt between others")
        ident = receipt_id(settle.receipt)
        self._booking[ident] = receipt
        return [Post(ident, settle.receipt, settle.seller_signature, settle.buyer_signature)]

    def on_posted(self, ident: bytes, *, new: bool) -> list[Effect]:
        """The ledger has it: tell the buyer, and let its debt count as booked; `new` unless it did already."""
        receipt = self._booking.pop(ident, None)
        if receipt is None:
            return []
        buyer = PeerId(receipt.buyer)
        account = self._accounts.setdefault(buyer, Account())
        if ident in self._unsettled:
            account.open_microcredits -= self._unsettled.pop(ident)[1]
        if new:
            account.balance_microcredits += receipt.price_microcredits
            account.settled_microcredits += receipt.price_microcredits
        return [Send(buyer, Settled(ident))]

    def _quote(self, buyer: PeerId, call: Call, stall: Stall, free: int) -> Quote:
        rates = stall.advert.rates
        ahead = 0 if free else len(stall.queue) + 1
        prediction = stall.times.predict_one(call.prompt_tokens, ahead, max(1, stall.advert.slots))
        cap = price_cap(Rates(rates.prompt, rates.cached, rates.output), call.prompt_tokens, call.max_tokens, 0)
        return Quote(
            conversation=call.conversation,
            buyer=buyer,
            agent=call.agent,
            free_slots=free,
            queued=len(stall.queue),
            ttft_ms=prediction.ttft_ms,
            tpot_us=prediction.tpot_us,
            cached_tokens=0,
            rates=rates,
            slot_price_microcredits=0,
            price_cap_microcredits=cap,
            expires_ms=QUOTE_MS,
        )

    def _receipt(self, sale: Sale, usage: Usage, now_ms: int) -> Receipt:
        """What is owed: metered tokens, of the prompt no more than was quoted for."""
        prompt = min(usage.prompt_tokens, sale.call.prompt_tokens)
        billed = Usage(prompt, min(usage.cached_tokens, prompt), min(usage.output_tokens, sale.call.max_tokens))
        rates = sale.quote.rates
        cost = metered(Rates(rates.prompt, rates.cached, rates.output), billed)
        return Receipt(
            conversation=sale.call.conversation,
            buyer=sale.buyer,
            seller=self._keys.peer,
            agent=sale.call.agent,
            prompt_tokens=billed.prompt_tokens,
            cached_tokens=billed.cached_tokens,
            output_tokens=billed.output_tokens,
            rates=rates,
            slot_price_microcredits=sale.quote.slot_price_microcredits,
            price_microcredits=cost + sale.quote.slot_price_microcredits,
            answer_sha256=sha256("".join(sale.pieces).encode()).digest(),
            issued_ms=now_ms,
        )

    def _trusts(self, buyer: PeerId, more: Microcredits) -> bool:
        if buyer == self._keys.peer:
            return True
        account = self._accounts.get(buyer, Account())
        owed = account.balance_microcredits + account.open_microcredits + more
        return owed <= credit_limit(self._newcomer_credit, account.settled_microcredits)

    def _owe(self, ident: bytes, buyer: PeerId, price: Microcredits) -> None:
        self._accounts.setdefault(buyer, Account()).open_microcredits += price
        self._unsettled[ident] = (buyer, price)
        if len(self._unsettled) > UNSETTLED_MAX:
            # Its amount stays open: whoever lets receipts lie unsigned for so long has used up that credit.
            del self._unsettled[next(iter(self._unsettled))]

    def _start(self, conversation: bytes, sale: Sale, now_ms: int) -> Effect:
        assert sale.award is not None
        sale.state = "running"
        sale.started_ms = now_ms
        own = sale.buyer == self._keys.peer
        turns = tuple(ChatMessage(t.role, t.content) for t in sale.award.turns)
        sampling = Sampling(sale.call.max_tokens, sale.award.temperature_milli, sale.award.seed)
        salt = sha256(f"p2pagent/salt/1 {self._keys.peer} {sale.buyer}".encode()).hexdigest()
        return Generate(conversation, sale.call.agent, turns, sampling, salt, 0 if own else 1)

    def _next(self, stall: Stall, now_ms: int) -> list[Effect]:
        """Start what waits while slots are free."""
        effects: list[Effect] = []
        while stall.queue and stall.busy < stall.advert.slots:
            conversation = stall.queue.pop(0)
            stall.busy += 1
            effects.append(self._start(conversation, self._sales[conversation], now_ms))
        return effects

    def _interrupt(self, conversation: bytes, now_ms: int) -> list[Effect]:
        """Forget a sale that was not finished, and stop its work."""
        running = self._sales[conversation].state == "running"
        stop: list[Effect] = [Abort(conversation)] if running else []
        return [*stop, *self._forget(conversation, now_ms)]

    def _forget(self, conversation: bytes, now_ms: int) -> list[Effect]:
        """Give back what a sale held, and start whoever waits for that."""
        sale = self._sales.pop(conversation)
        stall = self._stalls[sale.call.agent]
        if sale.state in ("held", "running"):
            stall.busy -= 1
        if sale.state == "waiting":
            stall.queue.remove(conversation)
        return self._next(stall, now_ms)
