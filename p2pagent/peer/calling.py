"""A round of a query: calls for quotes, the wait for them, and the clearing of all queries that have theirs."""

from collections import Counter
from random import Random

from p2pagent.peer.awards import Awards
from p2pagent.peer.choice import Option, utility
from p2pagent.peer.contests import CONTESTS_MAX, contest, granted, is_contested
from p2pagent.peer.effects import Effect, Send, SetTimer
from p2pagent.peer.events import Cleared, Timer
from p2pagent.peer.hub_messages import Claim
from p2pagent.peer.messages import Call, Release
from p2pagent.peer.pinned import obstacle
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.scout import Scout, is_much
from p2pagent.peer.sheets import Sheets
from p2pagent.peer.table import Table
from p2pagent.peer.terms import QUOTES_MS, make_call
from p2pagent.peer.together import decide_together
from p2pagent.routing.marks import Marker
from p2pagent.routing.qos import WAIT_MS_MAX
from p2pagent.types import AgentRef, PeerId

GATHER_MS = 30
"""How long a query that has its quotes waits for this owner's others, to be cleared together with them."""

LATE_MS = 250
"""How much later than the first of them a stranger's quote of a round may come, or as long again as that took."""

ROUNDS_MAX = 6
"""Rounds in which strangers are asked; after that only the local agent is, as long as it has not failed."""


class Calling:
    """The rounds of all queries on a `Table`."""

    def __init__(
        self, me: PeerId, marker: Marker, table: Table, scout: Scout, awards: Awards, sheets: Sheets, rng: Random
    ) -> None:
        self._me = me
        self._marker = marker
        self._table = table
        self._scout = scout
        self._awards = awards
        self._sheets = sheets
        self._rng = rng
        self._gathering = False

    def call(self, query: Query, now_ms: int) -> list[Effect]:
        """Start a round: ask the most promising for quotes, but nobody again who has refused or failed."""
        query.failed.update(c.option.agent for c in query.conversations if c.state in ("refused", "failed"))
        query.round += 1
        query.state, query.called_ms = "calling", now_ms
        query.ranked = self._scout.rank(query, now_ms)
        chosen = self._scout.to_call(query, self._table.bound(now_ms), now_ms)
        if query.round > ROUNDS_MAX:
            chosen = [(option, deadline_ms) for option, deadline_ms in chosen if option.agent.peer == self._me]
        if not chosen:
            reason = "no agent is left that could answer"
            if query.ask.policy.only is not None:
                reason = obstacle(query, self._scout, now_ms)
            return self._table.unanswered(query, reason)
        return self._ask(query, chosen, now_ms + QUOTES_MS)

    def _ask(self, query: Query, chosen: list[tuple[Option, int]], until_ms: int) -> list[Effect]:
        """Ask these for quotes, and wait for them until then."""
        effects: list[Effect] = []
        for option, deadline_ms in chosen:
            call = self._call(query, option, self._rng.randbytes(16), deadline_ms)
            self._table.open(query, Conversation(call, query.ask.query, option))
            effects.append(Send(option.agent.peer, call))
        return [*effects, SetTimer(until_ms, Timer("quotes", query.ask.query.encode(), query.round))]

    def on_quoted(self, query: Query, conversation: Conversation, now_ms: int) -> list[Effect]:
        """A quote that holds has come; one that comes after the award may be who is next."""
        if query.state == "awarded":
            return self._stand_by(query, conversation)
        if query.state == "calling" and self._is_plain(query, conversation):
            return self._decide(query, now_ms)
        return [*self._hurry(query, conversation, now_ms), *self.settle(query, now_ms)]

    def on_late(self, query: Query, now_ms: int) -> list[Effect]:
        """The quotes of this round that are not there are not waited for any more."""
        effects: list[Effect] = []
        for late in [c for c in query.conversations if c.state == "called"]:
            reason = "no quote in time" if late.unread is None else "brought no sheet for its price"
            self._table.drop(late, "failed", reason)
            if late.unread is not None:
                effects.append(Send(late.option.agent.peer, Release(late.ident)))  # it may hold a slot for us
        return [*effects, *self.settle(query, now_ms)]

    def settle(self, query: Query, now_ms: int) -> list[Effect]:
        """Clear once no quote is awaited any more."""
        if query.state != "calling" or any(c.state == "called" for c in self._table.live(query)):
            return []
        return self._decide(query, now_ms)

    def on_clear_timer(self, now_ms: int) -> list[Effect]:
        """Queries that have their quotes have waited for others long enough, but for those of their batch."""
        self._gathering = False
        effects = self._clear(now_ms)
        held_back = any(query.state == "clearing" for query in self._table.queries.values())
        return [*effects, *self._gather(now_ms)] if held_back else effects

    def on_cleared(self, cleared: Cleared, now_ms: int) -> list[Effect]:
        """A hub has decided: claim what was granted, or go on at posted prices."""
        query = self._table.queries.get(cleared.query)
        if query is None or query.state != "bidding":
            return []
        query.contests += 1
        waiting = query.best_quoted()
        if cleared.again and query.contests < CONTESTS_MAX and waiting is not None:
            return [contest(query, waiting, self._me)]
        query.contests, query.denied = CONTESTS_MAX, cleared.reason
        if cleared.again:  # epochs have passed since its quotes were made
            return [*self._table.release(query), *self.call(query, now_ms)]
        option = next((o for o in query.ranked if o.agent == cleared.agent), None)
        if option is None:
            query.state = "clearing"
            return self._gather(now_ms)
        held = self._sheets.get(cleared.sheet)
        assert held is not None  # the grant was read from it
        call = self._call(query, option, cleared.conversation, WAIT_MS_MAX)
        conversation = granted(query, option, call, cleared, held.view.book.book.epoch, self._me)
        query.runner_up = query.best_quoted()
        effects = [e for c in query.quoted() if c is not query.runner_up for e in self._table.let_go(c)]
        self._table.open(query, conversation)
        award, timer = self._awards.award(query, conversation, now_ms)
        return [*effects, Send(option.agent.peer, Claim(cleared.sheet, call, award)), timer]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _call(self, query: Query, option: Option, ident: bytes, deadline_ms: int) -> Call:
        """What this agent is told of a query, in the words that its peer knows."""
        space = self._scout.spoken(option.agent.peer)
        told = self._marker.tell(query.links, option.agent.peer)
        return make_call(query.ask, query.embedding, space, option.advert, ident, deadline_ms, told)

    def _decide(self, query: Query, now_ms: int) -> list[Effect]:
        """Clear by the quotes that are there; start another round without one that is worth taking up.

        Who holds the prompt was asked whatever was believed of its load. Where others turn out to be worth more than it
        has quoted, those are asked, too.
        """
        if self._worth_another_round(query, now_ms):
            return [*self._table.release(query), *self.call(query, now_ms)]
        best = query.best_quoted()
        holds = any(self._scout.is_holder(conversation.option, query.ask) for conversation in query.quoted())
        if best is not None and holds and query.round < ROUNDS_MAX:
            look = query.ask.policy.delay_microcredits(now_ms - query.called_ms)
            further = self._scout.to_call_besides(
                query, best.worth(query.ask) + look, self._table.bound(now_ms), now_ms
            )
            if further:
                query.round, query.called_ms = query.round + 1, now_ms
                return self._ask(query, further, now_ms + LATE_MS)
        query.state = "clearing"
        return self._gather(now_ms)

    def _stand_by(self, query: Query, late: Conversation) -> list[Effect]:
        """Keep a quote that came after the award, if none that is worth more was kept before."""
        other = query.runner_up
        if other is not None and other.worth(query.ask) >= late.worth(query.ask):
            return self._table.let_go(late)
        query.runner_up = late
        return [] if other is None else self._table.let_go(other)

    def _hurry(self, query: Query, quoted: Conversation, now_ms: int) -> list[Effect]:
        """After a stranger's first quote of a round wait for the others' no longer than as long again.

        Who is believed to be worth that much more is waited for in full, and so are all quotes for a batch.
        """
        strangers = [c for c in query.quoted() if c.option.agent.peer != self._me]
        if strangers != [quoted] or query.ask.batch:
            return []
        worth_waiting = quoted.worth(query.ask) + query.ask.policy.delay_microcredits(QUOTES_MS)
        missing = [c.option for c in query.conversations if c.state == "called"]
        if any(o.prospect is not None and utility(o, o.prospect, query.ask) > worth_waiting for o in missing):
            return []
        at_ms = now_ms + max(LATE_MS, now_ms - query.called_ms)
        return [SetTimer(at_ms, Timer("quotes", query.ask.query.encode(), query.round))]

    def _is_plain(self, query: Query, quoted: Conversation) -> bool:
        """Whether the best quote is a free slot of who holds much of the prompt, and nobody is believed better.

        Nor to hold more: what is believed of waits is old, and who holds more is soon heard.
        """
        quote = quoted.quote
        if quote is None or not quote.free_slots or not is_much(quote.cached_tokens, quoted.option, query.ask):
            return False
        if query.ask.batch or quoted.option.agent.peer == self._me or quoted is not query.best_quoted():
            return False
        missing = [c.option for c in query.conversations if c.state == "called"]
        worth = quoted.worth(query.ask)
        return all(
            o.prospect is not None
            and o.habit.cached_tokens <= quote.cached_tokens
            and utility(o, o.prospect, query.ask) <= worth
            for o in missing
        )

    def _worth_another_round(self, query: Query, now_ms: int) -> bool:
        """Whether nobody has quoted; or none of the strangers called, and others are believed to beat the own agent."""
        best = query.best_quoted()
        if best is None:
            return True
        if query.round >= ROUNDS_MAX or any(c.option.agent.peer != self._me for c in query.quoted()):
            return False
        lost = any(c.state in ("refused", "failed") and c.option.agent not in query.failed for c in query.conversations)
        left = self._scout.best_left(query, self._table.bound(now_ms), now_ms) if lost else None
        return left is not None and left > best.worth(query.ask)

    def _gather(self, now_ms: int) -> list[Effect]:
        """Clear at once, unless quotes for this owner's other queries may change that: wait a bit for those."""
        if not self._incomplete() and not self._awaits_rivals():
            return self._clear(now_ms)
        if self._gathering:
            return []
        self._gathering = True
        return [SetTimer(now_ms + GATHER_MS, Timer("clear"))]

    def _awaits_rivals(self) -> bool:
        """Whether more queries want an agent than it has slots free, and quotes for some of these are on their way.

        Others are cleared alike together and one by one.
        """
        queries = self._table.queries.values()
        best = [c for c in (query.best_quoted() for query in queries if query.state == "clearing") if c is not None]
        wanted = Counter(conversation.option.agent for conversation in best)
        free = {c.option.agent: c.quote.free_slots for c in best if c.quote is not None}
        coming = Counter(self._favourite(query) for query in queries if query.state == "calling")
        return any(coming[agent] and wanted[agent] + coming[agent] > free[agent] for agent in wanted)

    def _favourite(self, query: Query) -> AgentRef | None:
        """Whom of those called a query is believed to go to."""
        options = [c.option for c in self._table.live(query)]
        believed = {o.agent: utility(o, o.prospect, query.ask) for o in options if o.prospect is not None}
        return max(believed, key=lambda agent: believed[agent], default=None)

    def _incomplete(self) -> set[str]:
        """Batches in which some query's first quotes are still waited for; `QUOTES_MS` after its call they are not."""
        queries = self._table.queries.values()
        waiting = (q.ask.batch for q in queries if q.round <= 1 and q.state in ("finding", "calling"))
        return {batch for batch in waiting if batch}

    def _clear(self, now_ms: int) -> list[Effect]:
        """Award all queries that have their quotes, and whose batch has them."""
        effects: list[Effect] = []
        incomplete = self._incomplete()
        ready = [q for q in self._table.queries.values() if q.state == "clearing" and q.ask.batch not in incomplete]
        for query in [q for q in ready if not q.quoted()]:  # all who had quoted went away meanwhile
            effects += self.call(query, now_ms)
        awards: list[Effect] = []
        for query, winner, runner_up, at_once in decide_together([q for q in ready if q.quoted()], self._me):
            if winner is None:
                effects += self._table.unanswered(query, "no agent is worth its price to you")
                continue
            if not at_once and is_contested(query, winner, self._me):
                query.state = "bidding"
                effects.append(contest(query, winner, self._me))
                continue
            query.runner_up = runner_up
            for loser in query.quoted():
                if loser is not winner and loser is not runner_up:
                    effects += self._table.let_go(loser)
            awards += self._awards.send(query, winner, now_ms)
        return [*effects, *awards]
