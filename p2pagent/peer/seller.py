"""The selling side: quotes, holds, slots, answers, receipts. The local agent is sold to its own owner in just this way.

A sale goes  called -> quoted -> running -> final, where `quoted` may hold a slot and `running` may first wait for one.

Rule 1: slots in use plus slots held never exceed an agent's slots; a hold ends by award, release or expiry.
Rule 2: a buyer gets no quote beyond its credit limit, what earlier quotes promised it included.
Rule 3: own questions start before waiting questions of others (priority 0 before 1), granted ones before both.
Rule 4: a slot kept for a hub clearing goes to nobody else until the clearing is over.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Literal

import msgspec
from msgspec.structs import replace

from p2pagent.keys import Keys
from p2pagent.market.receipts import metered
from p2pagent.peer.credit import Credit
from p2pagent.peer.effects import Abort, Blame, Effect, Generate, Send, SetTimer
from p2pagent.peer.events import GenerationEnded, Timer
from p2pagent.peer.gossip_messages import AgentAdvert, Load
from p2pagent.peer.hub_messages import Claim
from p2pagent.peer.lessons import Lesson, Lessons
from p2pagent.peer.messages import Award, Call, Chunk, Fail, Final, Holds, Refuse, Seek, SignedQuote
from p2pagent.peer.sheets import Sheets
from p2pagent.peer.stall import OwnLoad, Sale, Stall, domain_of, is_counted_on
from p2pagent.peer.terms import NO_TOLL, Timing, Toll, make_quote, make_receipt
from p2pagent.peer.wire import receipt_id, sealed
from p2pagent.routing.marks import is_ascending
from p2pagent.routing.prototypes import Space, same_prompt
from p2pagent.routing.qos import Forecast, Sample, Task
from p2pagent.routing.qos_frozen import Frozen
from p2pagent.routing.qos_lengths import EXPECTED
from p2pagent.routing.qos_physical import Physical
from p2pagent.routing.residency import Held, Shelf
from p2pagent.types import AgentRef, Microcredits, PeerId, Sampling, Usage

SALES_PER_BUYER_MAX = 32
"""Two for each question of a full batch: what it waits for, and what a hub has granted it meanwhile."""

SALES_MAX = 1024
OUT_OF_ORDER = "marks of a prompt out of order"

PROMPT_BYTES_PER_TOKEN_MAX = 32
"""Tokenisers differ, and a buyer counts by its own; but a prompt of more bytes per token was called too short."""


class SellerStatistics(msgspec.Struct, frozen=True):
    """Open sales, slots held or at work, awards that wait for a slot, answers without the buyer's signature."""

    sales: int
    slots_busy: int
    waiting: int
    unsigned: int


class Seller:
    """All sales of this device. Methods take what happened and return what is to be done."""

    def __init__(self, keys: Keys, space: Space, credit: Credit, sheets: Sheets) -> None:
        self._keys = keys
        self._sheets = sheets
        self._space = space
        self._credit = credit
        self._lessons = Lessons()
        self._stalls: dict[str, Stall] = {}
        self._sales: dict[bytes, Sale] = {}
        self._jobs: dict[bytes, bytes] = {}
        self._jobs_started = 0

    def open_for(
        self, agents: tuple[AgentAdvert, ...], measured: Mapping[str, Sequence[Sample]], now_ms: int
    ) -> list[Effect]:
        """Sell the answers of these agents from now on; what was sold of one that is no longer there fails.

        `measured` is how fast new ones were as they started.
        """
        offered = {agent.name: agent for agent in agents}
        effects: list[Effect] = []
        for conversation in [c for c, s in self._sales.items() if s.call.agent not in offered]:
            sale = self._sales.pop(conversation)
            if sale.state == "running":
                del self._jobs[sale.job]
                effects.append(Abort(sale.job))
            effects.append(Send(sale.buyer, Fail(conversation, "engine")))
        known = self._stalls
        self._stalls = {
            name: known.get(name)
            or Stall(agent, Frozen(Physical(partial(metered, agent.rates), measured.get(name, ()))), Shelf(0))
            for name, agent in offered.items()
        }
        for name, stall in self._stalls.items():
            stall.advert = offered[name]
            if stall.shelf.capacity_tokens != stall.advert.cache_tokens:
                stall.shelf = Shelf(stall.advert.cache_tokens)
            effects += self._next(stall, now_ms)
        return effects

    @property
    def buyers(self) -> set[PeerId]:
        """Who was quoted or is answered now."""
        return {sale.buyer for sale in self._sales.values()}

    def statistics(self) -> SellerStatistics:
        """What is going on now."""
        stalls = self._stalls.values()
        return SellerStatistics(
            sales=len(self._sales),
            slots_busy=sum(stall.busy for stall in stalls),
            waiting=sum(len(stall.queue) for stall in stalls),
            unsigned=self._credit.unsigned,
        )

    def loads(self) -> tuple[Load, ...]:
        """How busy each agent is, in the order in which they were advertised."""
        return tuple(map(self.load, self._stalls))

    def load(self, agent: str) -> Load:
        """How busy this one is."""
        stall = self._stalls[agent]
        counters = stall.arrived, stall.served, stall.busy_ms, stall.computed_tokens
        return Load(len(self._running(agent)), len(stall.queue), *counters)

    def own_load(self, agent: str, task: Task, now_ms: int) -> OwnLoad:
        """What a question of the owner meets at its own agent now; it waits before those of others."""
        stall = self._stalls[agent]
        forecast, timing = self._foreseen(agent, task, stall.free, now_ms, own=True)[1:]
        return OwnLoad(self.load(agent), timing.wait_ms, forecast.total_us.mean // 1_000)

    def on_call(self, buyer: PeerId, call: Call, now_ms: int) -> list[Effect]:
        """Quote, or refuse with the reason."""
        stall = self._stalls.get(call.agent)
        if call.conversation in self._sales:
            return [Blame(buyer, "conversation id used twice")]
        if not is_ascending(call.prefix):
            return [Blame(buyer, OUT_OF_ORDER)]
        if stall is None:
            return [Send(buyer, Refuse(call.conversation, "agent"))]
        unfit = self._unfit(call, stall)
        if unfit is not None:
            return [Send(buyer, Refuse(call.conversation, unfit))]
        own = buyer == self._keys.peer
        free = stall.free
        theirs = [sale for sale in self._sales.values() if sale.buyer == buyer]
        if not own and (len(theirs) >= SALES_PER_BUYER_MAX or len(self._sales) >= SALES_MAX):
            return [Send(buyer, Refuse(call.conversation, "enough"))]
        if not own and stall.is_full:
            return [Send(buyer, Refuse(call.conversation, "busy"))]
        if not own and sum(s.state == "held" and s.call.agent == call.agent for s in theirs) >= stall.holds_per_buyer:
            free = 0
        cached, evicted = stall.cache(call, domain_of(call, buyer), self._running(call.agent), now_ms)
        task, forecast, timing = self._foreseen(call.agent, _task(call, cached), stall.free, now_ms, own=own)
        if not own and timing.wait_ms > call.deadline_ms:
            return [Send(buyer, Refuse(call.conversation, "late"))]
        toll = NO_TOLL if own else self._sheets.toll(AgentRef(self._keys.peer, call.agent), buyer, now_ms)
        queued, rates = len(stall.queue), stall.advert.rates
        quote = make_quote(
            call,
            buyer,
            rates,
            timing,
            toll,
            free_slots=free,
            queued=queued,
            cached_tokens=cached,
            evicted_tokens=evicted,
        )
        promised = quote.price_cap_microcredits + sum(sale.quote.price_cap_microcredits for sale in theirs)
        if not own and not self._credit.allows(buyer, promised, now_ms):
            return [Send(buyer, Refuse(call.conversation, "credit"))]
        sale = Sale(call, buyer, quote, task, forecast, now_ms + quote.expires_ms, "held" if free else "offered")
        stall.busy += bool(free)
        self._sales[call.conversation] = sale
        return [
            Send(buyer, SignedQuote(*sealed(quote, self._keys))),
            SetTimer(sale.expires_ms, Timer("hold", call.conversation)),
        ]

    def on_seek(self, buyer: PeerId, seek: Seek) -> list[Effect]:
        """Say how much of a prompt is in an agent's cache."""
        if not is_ascending(seek.prefix):
            return [Blame(buyer, OUT_OF_ORDER)]
        stall, domain, held = self._stalls.get(seek.agent), domain_of(seek, buyer), 0
        if stall is not None:
            held = stall.shelf.held_tokens(domain, stall.texts.known(domain, seek.prefix), seek.prompt_tokens)
        return [Send(buyer, Holds(seek.conversation, held))]

    def on_award(self, buyer: PeerId, award: Award, now_ms: int) -> list[Effect]:
        """Start the answer, or let it wait for a slot; a prompt that is not what was called about voids the award."""
        sale = self._sales.get(award.conversation)
        if sale is None or sale.buyer != buyer or sale.state not in ("held", "offered"):
            return [Send(buyer, Fail(award.conversation, "expired"))]
        prompt_bytes = sum(len(turn.content.encode()) for turn in award.turns)
        if prompt_bytes > PROMPT_BYTES_PER_TOKEN_MAX * (sale.call.prompt_tokens + 1):
            return [Blame(buyer, "prompt far longer than called"), *self._void(award.conversation, "length", now_ms)]
        if not same_prompt(self._space.embed(award.turns[-1].content), sale.call.embedding):
            fault = Blame(buyer, "prompt differs from its embedding")
            return [fault, *self._void(award.conversation, "embedding", now_ms)]
        stall = self._stalls[sale.call.agent]
        if not stall.texts.learn(sale.domain, sale.call.prefix, award.prompt):
            fault = Blame(buyer, "marks of another prompt")
            return [fault, *self._void(award.conversation, "marks", now_ms)]
        sale.award = award
        stall.arrived += 1
        if sale.state == "held":
            return [self._start(award.conversation, sale, now_ms)]
        own = buyer == self._keys.peer
        if stall.is_full and not own and not sale.granted:
            return self._void(award.conversation, "busy", now_ms)
        sale.state = "waiting"
        stall.queue.insert(self._place(sale, stall), award.conversation)
        return self._next(stall, now_ms)

    def on_release(self, buyer: PeerId, conversation: bytes, now_ms: int) -> list[Effect]:
        """The buyer wants no more of this conversation."""
        sale = self._sales.get(conversation)
        return self._interrupt(conversation, now_ms) if sale is not None and sale.buyer == buyer else []

    def on_hold_timer(self, conversation: bytes, now_ms: int) -> list[Effect]:
        """A quote's time is up; if nobody took it, its slot is free again, and charged to who let it lapse."""
        sale = self._sales.get(conversation)
        if sale is None or sale.state not in ("held", "offered") or sale.expires_ms > now_ms:
            return []
        if sale.state == "held":
            self._charge(sale.buyer, sale.quote.price_cap_microcredits, now_ms)
        return self._interrupt(conversation, now_ms)

    def on_buyer_gone(self, buyer: PeerId, now_ms: int) -> list[Effect]:
        """Nobody is left to read these answers."""
        gone = [c for c, s in self._sales.items() if s.buyer == buyer]
        return [effect for conversation in gone for effect in self._interrupt(conversation, now_ms)]

    def on_piece(self, job: bytes, text: str, now_ms: int) -> list[Effect]:
        """Pass on what the engine decoded."""
        conversation = self._jobs.get(job)
        if conversation is None:
            return []
        sale = self._sales[conversation]
        if not sale.pieces:
            sale.first_ms = now_ms
        sale.pieces.append(text)
        return [Send(sale.buyer, Chunk(conversation, len(sale.pieces) - 1, text))]

    def on_end(self, event: GenerationEnded, now_ms: int) -> list[Effect]:
        """Write the receipt for a finished answer and free its slot."""
        conversation = self._jobs.get(event.job)
        if conversation is None:
            return []
        sale = self._sales[conversation]
        stall = self._stalls[sale.call.agent]
        stall.served += 1
        stall.busy_ms += now_ms - sale.started_ms
        stall.computed_tokens += event.usage.prompt_tokens - event.usage.cached_tokens + event.usage.output_tokens
        usage = event.usage
        task = replace(sale.task, prompt_tokens=usage.prompt_tokens)  # it may have been called with more
        lesson = Lesson(stall.predictor, task, sale.outcome(usage, now_ms), sale.forecast)
        stall.shelf.served(sale.domain, sale.call.prefix, usage, sale.held_tokens, now_ms)
        answer = "".join(sale.pieces)
        receipt = make_receipt(sale.call, sale.quote, self._keys.peer, usage, answer, now_ms)
        body, signature = sealed(receipt, self._keys)
        final = Final(conversation, event.finish_reason, body, signature)
        effects = self._forget(conversation, now_ms)
        if sale.buyer == self._keys.peer:
            lesson.learn(now_ms)
        else:
            self._lessons.on_delivered(receipt_id(body), lesson)
            self._credit.delivered(receipt_id(body), sale.buyer, receipt.price_microcredits)
        return [Send(sale.buyer, final), *effects]

    def on_signed(self, receipt: bytes, now_ms: int) -> None:
        """A buyer has signed for an answer."""
        self._lessons.on_signed(receipt, now_ms)

    def on_held(self, agent: str, held: Held | None) -> None:
        """The engine of an agent says what its cache holds; with None, that it does not tell any more."""
        stall = self._stalls.get(agent)
        if stall is not None:
            stall.shelf.told(held)

    def on_failure(self, job: bytes, reason: Literal["engine", "length"], now_ms: int) -> list[Effect]:
        """The engine broke off: nothing is owed."""
        conversation = self._jobs.get(job)
        return [] if conversation is None else self._void(conversation, reason, now_ms)

    # --- slots for hub clearings ------------------------------------------------------------------------------------

    def spare(self, agent: str, now_ms: int) -> list[tuple[int, int]]:
        """Slots of `agent` that nobody has or waits for: `(slots, wait_ms)`, those free now and those at work."""
        return self._stalls[agent].spare(self._running(agent), now_ms)

    def worth_of_a_slot(self, agent: str) -> Microcredits:
        """What an answer of usual length brings."""
        return self._stalls[agent].advert.rates.output * EXPECTED

    def keep(self, agent: str, slots: int) -> None:
        """Keep slots of `agent` from whoever comes."""
        self._stalls[agent].kept += slots

    def let_go(self, agent: str, slots: int, now_ms: int) -> list[Effect]:
        """Slots that were kept are free again."""
        stall = self._stalls.get(agent)
        if stall is None:
            return []
        stall.kept = max(0, stall.kept - slots)
        return self._next(stall, now_ms)

    def on_claim(self, buyer: PeerId, claim: Claim, toll: Toll, now_ms: int) -> list[Effect]:
        """Start what a sheet granted in the slot kept for it; while that is at work, it waits before all others."""
        call = claim.call
        stall = self._stalls.get(call.agent)
        if stall is None:
            return [Send(buyer, Fail(call.conversation, "expired"))]
        if not is_ascending(call.prefix):
            return [Blame(buyer, OUT_OF_ORDER), *self.let_go(call.agent, 1, now_ms)]
        displaced: list[Effect] = []
        other = self._sales.get(call.conversation)
        if other is not None and (other.granted or other.buyer == buyer):
            return [Send(buyer, Fail(call.conversation, "expired")), *self.let_go(call.agent, 1, now_ms)]
        if other is not None:  # somebody has read the winner's conversation from the sheet to get in its way
            displaced = [Send(other.buyer, Fail(call.conversation, "expired"))]
            displaced += self._interrupt(call.conversation, now_ms)
        stall.kept = max(0, stall.kept - 1)
        reason: Literal["space", "length", "credit"] | None = self._unfit(call, stall)
        task, forecast, timing = self._foreseen(call.agent, _task(call, 0), 1, now_ms, own=False)
        quote = make_quote(call, buyer, stall.advert.rates, timing, toll, free_slots=1, queued=0)
        theirs = sum(s.quote.price_cap_microcredits for s in self._sales.values() if s.buyer == buyer)
        if reason is None and not self._credit.allows(buyer, quote.price_cap_microcredits + theirs, now_ms):
            reason = "credit"
        if reason is not None:
            return [*displaced, Send(buyer, Refuse(call.conversation, reason)), *self._next(stall, now_ms)]
        idle = stall.busy < stall.advert.slots
        stall.busy += idle
        until_ms = now_ms + quote.expires_ms
        sale = Sale(call, buyer, quote, task, forecast, until_ms, "held" if idle else "offered", granted=True)
        self._sales[call.conversation] = sale
        return [*displaced, *self.on_award(buyer, claim.award, now_ms)]

    def _foreseen(self, agent: str, task: Task, free: int, now_ms: int, *, own: bool) -> tuple[Task, Forecast, Timing]:
        """How a task will go at an agent: with what else is at work, behind those that wait before it."""
        stall, running = self._stalls[agent], self._running(agent)
        met = stall.meeting(task, running)
        forecast = stall.predictor.predict_one(met, now_ms)
        waiting = [self._sales[conversation] for conversation in stall.queue]
        ahead = [sale for sale in waiting if not own or sale.granted or sale.buyer == self._keys.peer]
        return met, forecast, stall.timing(forecast, free, [] if free else ahead, running, now_ms)

    def _running(self, agent: str) -> list[Sale]:
        return [sale for sale in self._sales.values() if sale.state == "running" and sale.call.agent == agent]

    def _unfit(self, call: Call, stall: Stall) -> Literal["space", "length"] | None:
        """Why the agent cannot take such a call."""
        if not self._space.knows(call.space) or not self._space.well_formed(call.embedding):
            return "space"
        return "length" if call.prompt_tokens >= stall.advert.context_tokens else None

    def _place(self, sale: Sale, stall: Stall) -> int:
        """Where an award waits: granted ones first, whose slot was kept for them; then the owner's; then the rest."""
        first = sum(self._sales[c].granted for c in stall.queue)
        if sale.granted:
            return first
        if sale.buyer == self._keys.peer:
            return first + sum(self._sales[c].buyer == self._keys.peer for c in stall.queue)
        return len(stall.queue)

    def _charge(self, buyer: PeerId, amount: Microcredits, now_ms: int) -> None:
        if buyer != self._keys.peer:
            self._credit.charge(buyer, amount, now_ms)

    def _start(self, conversation: bytes, sale: Sale, now_ms: int) -> Effect:
        assert sale.award is not None
        stall = self._stalls[sale.call.agent]
        sale.task = stall.meeting(sale.task, self._running(sale.call.agent))
        sale.forecast = stall.predictor.predict_one(sale.task, now_ms)
        sale.state = "running"
        sale.started_ms = now_ms
        # Not the buyer's own id, which it could use again while events of the first job are still on their way.
        self._jobs_started += 1
        sale.job = self._jobs_started.to_bytes(8, "big")
        self._jobs[sale.job] = conversation
        own, domain = sale.buyer == self._keys.peer, sale.domain
        sale.held_tokens = stall.shelf.held_tokens(domain, sale.call.prefix, sale.call.prompt_tokens)
        prompt = sale.award.prompt
        sampling = Sampling(sale.call.max_tokens, sale.award.temperature_milli, sale.award.seed)
        salt = sha256(b"p2pagent/salt/2 " + self._keys.peer.encode() + domain).hexdigest()
        return Generate(sale.job, sale.call.agent, prompt, sampling, salt, 0 if own else 1, domain, sale.call.prefix)

    def _next(self, stall: Stall, now_ms: int) -> list[Effect]:
        """Start what waits while slots are free."""
        effects: list[Effect] = []
        while stall.queue and stall.free:
            conversation = stall.queue.pop(0)
            stall.busy += 1
            effects.append(self._start(conversation, self._sales[conversation], now_ms))
        return effects

    def _interrupt(self, conversation: bytes, now_ms: int) -> list[Effect]:
        """Forget a sale that was not finished, and stop its work.

        Who has had part of an answer has had work done; so has who was promised another prompt as cached for this one.
        """
        sale = self._sales[conversation]
        if sale.pieces or (sale.state == "running" and is_counted_on(sale, self._sales.values())):
            had = Usage(sale.call.prompt_tokens, sale.quote.cached_tokens, min(len(sale.pieces), sale.call.max_tokens))
            self._charge(sale.buyer, metered(sale.quote.rates, had), now_ms)
        stop: list[Effect] = [Abort(sale.job)] if sale.state == "running" else []
        return [*stop, *self._forget(conversation, now_ms)]

    def _void(
        self, conversation: bytes, reason: Literal["engine", "embedding", "marks", "busy", "length"], now_ms: int
    ) -> list[Effect]:
        """Break off a sale that has no work left to stop: nothing is owed for it."""
        return [Send(self._sales[conversation].buyer, Fail(conversation, reason)), *self._forget(conversation, now_ms)]

    def _forget(self, conversation: bytes, now_ms: int) -> list[Effect]:
        """Give back what a sale held, and start whoever waits for that."""
        sale = self._sales.pop(conversation)
        self._jobs.pop(sale.job, None)
        stall = self._stalls[sale.call.agent]
        if sale.state in ("held", "running"):
            stall.busy -= 1
        if sale.state == "waiting":
            stall.queue.remove(conversation)
        return self._next(stall, now_ms)


def _task(call: Call, cached_tokens: int) -> Task:
    return Task(call.prompt_tokens, cached_tokens, call.max_tokens)
