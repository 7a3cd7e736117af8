"""The buying side: from a user's question to a countersigned receipt.

A query goes  finding -> calling -> clearing -> awarded -> done; a failure on the way leads back to an award of the
runner-up, or to another round of calls without the agents that failed, and at last to the local agent.

Rule 1: the prompt leaves this device only to a peer that the query's privacy class admits.
Rule 2: every query ends in exactly one `Answered` or `Unanswered`.
"""

from collections.abc import Iterator, Set
from random import Random

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.awards import Awards
from p2pagent.peer.batches import Batches
from p2pagent.peer.calling import Calling
from p2pagent.peer.debts import Debts
from p2pagent.peer.effects import Blame, Effect, Send, SetTimer
from p2pagent.peer.events import Ask, Cleared, Timer, Withdraw
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.hub import Hub
from p2pagent.peer.lookout import Lookout
from p2pagent.peer.memory import Memory
from p2pagent.peer.messages import Chunk, Fail, Final, Holds, Quote, Refuse, Release, SignedQuote
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.recounts import Recounts
from p2pagent.peer.scout import Scout
from p2pagent.peer.seeking import Seeking
from p2pagent.peer.table import Table
from p2pagent.peer.terms import QUOTES_MS, check_quote
from p2pagent.peer.wire import opened, parsed
from p2pagent.routing.marks import Marker, chain
from p2pagent.routing.prototypes import Space
from p2pagent.types import AgentRef, Microcredits, PeerId

FIND_MS = 1_500
"""What a DHT look-up may add to a question that nobody known answers well."""

LOOK_SHARE = 0.01
"""Of an answer's value, what a look into a cell that we do not follow may cost a question in delay. In simulation with
500 peers it brings one right answer more of a hundred."""

GOOD_QUALITY = 0.5


class Buyer:
    """All queries of this device's user."""

    def __init__(
        self,
        keys: Keys,
        space: Space,
        scout: Scout,
        debts: Debts,
        recounts: Recounts,
        memory: Memory,
        hub: Hub,
        lookout: Lookout,
        neighbours: Set[PeerId],
        marker: Marker,
        rng: Random,
    ) -> None:
        self._keys = keys
        self._hub = hub
        self._space = space
        self._scout = scout
        self._rng = rng
        self._table = Table()
        self._lookout = lookout
        self._batches = Batches()
        self._awards = Awards(keys, space.name, self._table, scout, debts, recounts, memory)
        self._calling = Calling(keys.peer, marker, self._table, scout, self._awards, hub.sheets, rng)
        self._seeking = Seeking(marker, scout, rng)
        self._neighbours = neighbours

    @property
    def running(self) -> int:
        """Queries under way."""
        return len(self._table.queries) + len(self._batches)

    @property
    def sellers(self) -> set[PeerId]:
        """Who was called, has quoted or answers now."""
        return self._table.sellers

    def open_for(self, agents: tuple[AgentAdvert, ...]) -> None:
        """Count these local agents among the candidates."""
        self._scout.local = agents

    def on_ask(self, ask: Ask, now_ms: int) -> list[Effect]:
        """Score; look in the DHT if nobody known is good enough; else call. What is too much of a batch comes later."""
        if self._batches.holds_back(ask, self._running(), now_ms):
            return [SetTimer(now_ms + QUOTES_MS, Timer("quotes", ask.query.encode()))]
        return self._start(ask, now_ms, now_ms)

    def on_cancel(self, ident: str) -> list[Effect]:
        """The user went away."""
        if self._batches.cancel(ident):
            return []
        query = self._table.queries.pop(ident, None)
        if query is None:
            return []
        self._seeking.end(query)
        return [Withdraw(ident), *self._table.release(query)]

    def on_news(self, now_ms: int) -> list[Effect]:
        """A look-up has brought what it brings: queries that wait for it go on if they know somebody good now."""
        effects: list[Effect] = []
        for query in [q for q in self._table.queries.values() if q.state == "finding"]:
            query.ranked = self._scout.rank(query, now_ms)
            if _knows_good(query) and not self._seeking.waits(query):
                effects += self._call(query, now_ms)
        return effects

    def on_holds(self, seller: PeerId, holds: Holds, now_ms: int) -> list[Effect]:
        """Somebody says how much of a conversation it holds: call once somebody holds enough, or all have answered."""
        found = self._seeking.on_holds(seller, holds)
        query = self._table.queries.get(found[0]) if found else None
        if found is None or query is None:
            return []
        self._scout.on_holds(found[1], query, holds.cached_tokens)
        if query.state != "finding":
            return []
        query.ranked = self._scout.rank(query, now_ms)
        known = self._seeking.is_known(query) or not self._seeking.waits(query)
        return self._call(query, now_ms) if known else []

    def on_nothing_found(self, ident: str, now_ms: int) -> list[Effect]:
        """The look-up named nobody new."""
        query = self._table.queries.get(ident)
        if query is None or query.state != "finding" or self._seeking.waits(query):
            return []
        return self._call(query, now_ms)

    def on_quote(self, seller: PeerId, message: SignedQuote, now_ms: int) -> list[Effect]:
        """Take in a quote; the last one awaited starts the clearing.

        Raises:
            RemoteError: not signed by the seller.
        """
        quote = opened(Quote, message.body, message.signature, seller, self._keys)
        conversation = self._table.mine(seller, quote.conversation)
        if conversation is None:
            return [Send(seller, Release(quote.conversation))]  # too late: the slot that it holds is not needed
        if conversation.state != "called" or conversation.unread is not None:
            return []
        if quote.sheet and self._hub.sheets.get(quote.sheet) is None:
            conversation.unread = message
            return self._hub.fetch(quote.sheet, seller, now_ms)
        query = self._table.query_of(conversation)
        try:
            full, today = self._tolls(quote, conversation.option.agent, now_ms)
            check_quote(quote, conversation.call, conversation.option.advert, self._keys.peer, full)
        except RemoteError as error:
            return [Blame(seller, str(error)), *self._decline(query, conversation, str(error), now_ms)]
        if seller != self._keys.peer and quote.price_cap_microcredits > query.ask.policy.price_max_microcredits:
            return self._decline(query, conversation, "asks more than you allow", now_ms)
        if quote.slot_price_microcredits > today:  # its clock may be behind: nobody's fault, and not paid
            return self._decline(query, conversation, "asks more for its slot than the sheet bears by now", now_ms)
        holding = self._table.holds(conversation.option.agent)
        self._scout.on_quoted(query, conversation, quote, now_ms, holding=holding)
        conversation.state, conversation.quote = "quoted", quote
        conversation.expires_ms = now_ms + quote.expires_ms
        return self._calling.on_quoted(query, conversation, now_ms)

    def on_sheet_known(self, sheet: bytes, now_ms: int) -> list[Effect]:
        """Quotes that name this sheet can be judged now."""
        effects: list[Effect] = []
        for conversation in self._table.unread():
            message = conversation.unread
            assert message is not None
            if parsed(message.body, Quote).sheet == sheet:
                conversation.unread = None
                effects += self.on_quote(conversation.option.agent.peer, message, now_ms)
        return effects

    def on_cleared(self, cleared: Cleared, now_ms: int) -> list[Effect]:
        """A hub has decided on a query."""
        return self._calling.on_cleared(cleared, now_ms)

    def on_refuse(self, seller: PeerId, refuse: Refuse, now_ms: int) -> list[Effect]:
        """One candidate less."""
        conversation = self._table.mine(seller, refuse.conversation)
        if conversation is not None and conversation.state == "awarded":  # by a hub, so that it never quoted
            return self._fail(conversation, f"refused ({refuse.reason})", now_ms, bad=False)
        if conversation is None or conversation.state != "called":
            return []
        if refuse.reason == "busy":
            self._scout.on_full(conversation.option, now_ms)
        query = self._table.query_of(conversation)
        self._table.drop(conversation, "refused", refuse.reason)
        return self._calling.settle(query, now_ms)

    def on_chunk(self, seller: PeerId, chunk: Chunk, now_ms: int) -> list[Effect]:
        """The next piece of an answer."""
        conversation = self._awarded(seller, chunk.conversation)
        if conversation is None:
            return []
        query = self._table.query_of(conversation)
        return [*self._awards.on_chunk(conversation, chunk, now_ms), *self._go_on(query, now_ms)]

    def on_final(self, seller: PeerId, final: Final, now_ms: int) -> list[Effect]:
        """The end of an answer; then the next question of its batch may start."""
        conversation = self._awarded(seller, final.conversation)
        if conversation is None:
            return []
        query = self._table.query_of(conversation)
        effects = self._awards.on_final(conversation, final, now_ms)
        if query.ask.query in self._table.queries:
            return [*effects, *self._go_on(query, now_ms)]
        return [*effects, *self._start_next(query.ask.batch, now_ms)]

    def on_fail(self, seller: PeerId, fail: Fail, now_ms: int) -> list[Effect]:
        """The seller broke off."""
        conversation = self._table.mine(seller, fail.conversation)
        if conversation is None:
            return []
        # The other reasons to give up are no word on its answers: it had no slot, or the question did not fit.
        bad = fail.reason == "engine" or (fail.reason in ("busy", "expired") and conversation.was_promised_a_slot)
        return self._fail(conversation, f"gave up ({fail.reason})", now_ms, bad=bad)

    def on_seller_gone(self, seller: PeerId, now_ms: int, witnesses: Set[PeerId] = frozenset()) -> list[Effect]:
        """Every conversation with a vanished peer fails at once.

        `witnesses` are peers whose connections stand, if its own one broke: see rule 3 of `awards.py`. It was not its
        doing if a message did not leave, or the connection was closed in good order, perhaps by us.
        """
        self._awards.on_fallen(seller)
        effects: list[Effect] = []
        for conversation in self._table.with_seller(seller):
            if self._table.get(conversation.ident) is not None:
                effects += self._fail(conversation, "went away", now_ms, bad=False, witnesses=witnesses)
        return effects

    def on_quotes_timer(self, ident: str, round_: int, now_ms: int) -> list[Effect]:
        """A look-up, or the quotes of a round, are no longer waited for; or a question is still to be called about."""
        batch = self._batches.batch_of(ident)
        if batch is not None:
            again = SetTimer(now_ms + QUOTES_MS, Timer("quotes", ident.encode()))
            return [*self._start_next(batch, now_ms), again]
        query = self._table.queries.get(ident)
        if query is None or query.round != round_:
            return []
        if query.state == "finding":
            return self._call(query, now_ms)
        return self._calling.on_late(query, now_ms)

    def on_clear_timer(self, now_ms: int) -> list[Effect]:
        """Queries that have their quotes have waited for others long enough."""
        return self._calling.on_clear_timer(now_ms)

    def on_progress_timer(self, ident: bytes, pieces_then: int, now_ms: int) -> list[Effect]:
        """An awarded agent is looked after, or one whose connection broke is judged."""
        conversation = self._table.get(ident)
        if conversation is None or conversation.state != "awarded":
            return self._awards.on_fall_timer(ident, now_ms)
        query = self._table.query_of(conversation)
        return [*self._awards.on_progress_timer(conversation, pieces_then, now_ms), *self._go_on(query, now_ms)]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _start(self, ask: Ask, asked_ms: int, now_ms: int, round_: int = 0) -> list[Effect]:
        embedding = self._space.embed(ask.turns[-1].content)
        relevance, seed = self._space.nearest(embedding), self._rng.getrandbits(64)
        query = Query(ask, embedding, relevance, asked_ms, chain(ask.turns), seed, round=round_)
        self._table.queries[ask.query] = query
        query.ranked = self._scout.rank(query, now_ms)
        if ask.policy.privacy != "any" or ask.policy.only is not None:
            return self._calling.call(query, now_ms)
        good, prototype = _knows_good(query), query.relevance.prototypes[0]
        looks = self._lookout.explore(prototype, None if good else ask.query, now_ms)
        looks += self._seeking.start(query, self._neighbours)
        if not looks:
            return self._calling.call(query, now_ms)
        query.state = "finding"
        patience_ms = _look_ms(ask) if good else FIND_MS
        return [*looks, SetTimer(now_ms + patience_ms, Timer("quotes", ask.query.encode(), query.round))]

    def _call(self, query: Query, now_ms: int) -> list[Effect]:
        """No more is to be found out before."""
        self._seeking.end(query)
        return self._calling.call(query, now_ms)

    def _start_next(self, batch: str, now_ms: int) -> list[Effect]:
        """Start the next question of a batch that was too much, if there is one and room for it."""
        later = self._batches.next(batch, self._running())
        return [] if later is None else self._start(*later, now_ms, round_=1)

    def _running(self) -> Iterator[Ask]:
        return (query.ask for query in self._table.queries.values())

    def _awarded(self, seller: PeerId, ident: bytes) -> Conversation | None:
        conversation = self._table.mine(seller, ident)
        return conversation if conversation is not None and conversation.state == "awarded" else None

    def _tolls(self, quote: Quote, agent: AgentRef, now_ms: int) -> tuple[Microcredits, Microcredits]:
        """The most that the sheet it names has ever let a quote ask for a slot, and the most that it does today."""
        if not quote.sheet:
            return 0, 0
        sheets, me = self._hub.sheets, self._keys.peer
        return sheets.toll_at_first(quote.sheet, agent, me), sheets.toll_max(quote.sheet, agent, me, now_ms)

    def _decline(self, query: Query, conversation: Conversation, reason: str, now_ms: int) -> list[Effect]:
        """A quote is not taken up."""
        self._table.drop(conversation, "failed", reason)
        release = Send(conversation.option.agent.peer, Release(conversation.ident))
        return [release, *self._calling.settle(query, now_ms)]

    def _fail(
        self, conversation: Conversation, reason: str, now_ms: int, *, bad: bool, witnesses: Set[PeerId] = frozenset()
    ) -> list[Effect]:
        """An agent is out; if it was the one awarded, another takes over. The rest as in `Awards.fail`."""
        query = self._table.query_of(conversation)
        if conversation.state == "awarded":
            failed = self._awards.fail(conversation, reason, now_ms, bad=bad, witnesses=witnesses)
            return [*failed, *self._go_on(query, now_ms)]
        self._table.drop(conversation, "failed", reason)
        if query.runner_up is conversation:
            query.runner_up = None
        return self._calling.settle(query, now_ms)

    def _go_on(self, query: Query, now_ms: int) -> list[Effect]:
        """Another round, where nobody was left to take over."""
        return self._calling.call(query, now_ms) if query.state == "lost" else []


def _knows_good(query: Query) -> bool:
    """Whether somebody among those ranked is good enough not to look for others."""
    return any(option.score.quality >= GOOD_QUALITY for option in query.ranked)


def _look_ms(ask: Ask) -> int:
    """How long a question whose owner knows somebody good waits for somebody better."""
    policy = ask.policy
    worth_microcredits = int(LOOK_SHARE * policy.value_microcredits)
    return min(FIND_MS, worth_microcredits * 1000 // max(1, policy.delay_microcredits_per_s))
