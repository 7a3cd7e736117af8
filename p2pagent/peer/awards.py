"""From an award to a countersigned receipt: pieces, the end of the answer, and who takes over where there is none.

Rule 1: the prompt leaves this device only in an award.
Rule 2: nothing is owed but by a receipt that follows from the signed quote and matches the answer received.
Rule 3: who was awarded and did not deliver has given a bad answer, unless what failed may not have been its doing. A
connection that broke was, if another one stood for `FELL_MS` longer: else it may be this device that fell off.
Rule 4: whoever's doing it was, others are asked for a while, but where a connection broke: who is back is back.
"""

from collections.abc import Set

from msgspec import Struct

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.debts import Debts
from p2pagent.peer.effects import Blame, Effect, Remember, Send, SetTimer, Tell
from p2pagent.peer.events import Delivery, Rating, Timer
from p2pagent.peer.memory import Memory
from p2pagent.peer.messages import Award, Chunk, Final, Release
from p2pagent.peer.outcomes import judged
from p2pagent.peer.query import LOST_PIECE, Conversation, Query
from p2pagent.peer.recounts import Recounts
from p2pagent.peer.scout import Scout
from p2pagent.peer.table import Table
from p2pagent.peer.telling import answered
from p2pagent.peer.terms import check_final, make_award
from p2pagent.peer.updates import Restarted, Text
from p2pagent.types import PeerId, Usage

PROGRESS_MS = 10_000
"""An awarded agent that says nothing for this long, beyond what it predicted, has failed."""

OWN_PROGRESS_MS = 120_000
"""The own engine is given longer: it says by itself when it fails, and it may be loading a model."""

PREDICTED_MS_MAX = 120_000
"""A prediction is believed up to here, lest a seller keeps a query for ever by promising its first token in a month."""

FELL_MS = 10_000
"""All connections that break for one reason are known to have broken within this time."""

STALLED_MS = 5_000
"""A timer that goes off this much too late says that this device stood still, and nothing of others."""


class Fallen(Struct):
    """An awarded peer whose connection broke, and those whose connections have stood since."""

    delivery: Delivery
    witnesses: set[PeerId]
    at_ms: int


class Awards:
    """The awarded conversations of a `Table`. A query that nobody is left to take over is "lost" until called anew."""

    def __init__(
        self, keys: Keys, space: str, table: Table, scout: Scout, debts: Debts, recounts: Recounts, memory: Memory
    ) -> None:
        self._keys = keys
        self._space = space
        self._table = table
        self._scout = scout
        self._debts = debts
        self._recounts = recounts
        self._memory = memory
        self._fallen: dict[bytes, Fallen] = {}

    def send(self, query: Query, conversation: Conversation, now_ms: int) -> list[Effect]:
        """Award the query to who has quoted for it."""
        award, timer = self.award(query, conversation, now_ms)
        return [Send(conversation.option.agent.peer, award), timer]

    def award(self, query: Query, conversation: Conversation, now_ms: int) -> tuple[Award, Effect]:
        """What tells the seller that it has won, and the timer that looks after it."""
        assert conversation.quote is not None
        query.state, conversation.state, conversation.awarded_ms = "awarded", "awarded", now_ms
        self._scout.on_awarded(query, conversation, now_ms)
        quote = conversation.quote
        first_ms = now_ms + min(quote.wait_ms + quote.ttft_high_ms, PREDICTED_MS_MAX)
        return make_award(query.ask, conversation.ident), self._look_after(conversation, 0, first_ms)

    def on_chunk(self, conversation: Conversation, chunk: Chunk, now_ms: int) -> list[Effect]:
        """The next piece; the first one lets the runner-up go."""
        query, seller = self._table.query_of(conversation), conversation.option.agent.peer
        wrong = query.fault_of(chunk)
        if wrong is not None:
            lost = wrong == LOST_PIECE
            blame = [] if lost else [Blame(seller, wrong)]
            return [*blame, *self.fail(conversation, wrong, now_ms, bad=not lost)]
        effects: list[Effect] = [Tell(query.ask.query, Text(chunk.text))]
        if not query.pieces:
            query.first_ms = now_ms
            effects += self._table.release(query, but=conversation)
        query.take(chunk)
        return effects

    def on_final(self, conversation: Conversation, final: Final, now_ms: int) -> list[Effect]:
        """Check the receipt against quote and answer; book it and answer the user, or fail the agent over."""
        query, seller = self._table.query_of(conversation), conversation.option.agent.peer
        text = "".join(query.pieces)
        try:
            assert conversation.quote is not None
            receipt = check_final(final, conversation.call, conversation.quote, text, seller, self._keys)
        except RemoteError as error:
            return [Blame(seller, str(error)), *self.fail(conversation, str(error), now_ms, bad=True)]
        del self._table.queries[query.ask.query]
        effects = list(self._table.release(query, but=conversation))
        self._table.close(conversation)
        usage = Usage(receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens)
        self._scout.on_served(query, conversation, usage, now_ms)
        good = judged(text, query.ask.expect)
        rating = None if good is None else Rating(good, now_ms)
        delivery = query.delivery(conversation, self._space)
        if rating is not None:
            effects += self._memory.judge(delivery, rating)
        ident = b""
        if seller != self._keys.peer:
            ident, book = self._debts.countersign(seller, final, receipt.price_microcredits)
            self._recounts.on_bought(ident, receipt, conversation.option.advert.tokeniser, text)
            effects += [book, Remember(ident, delivery, rating)]
        answer = answered(query, conversation, receipt, final, ident, good, self._keys.peer, now_ms)
        return [*effects, Tell(query.ask.query, answer)]

    def on_progress_timer(self, conversation: Conversation, pieces_then: int, now_ms: int) -> list[Effect]:
        """An awarded agent is looked after: it must have sent more than `pieces_then` pieces."""
        pieces = len(self._table.query_of(conversation).pieces)
        if pieces > pieces_then or now_ms - conversation.due_ms > STALLED_MS:
            return [self._look_after(conversation, pieces, now_ms)]
        return self.fail(conversation, "fell silent", now_ms, bad=True)

    def on_fallen(self, peer: PeerId) -> None:
        """The connection to `peer` does not stand any more."""
        for fallen in self._fallen.values():
            fallen.witnesses.discard(peer)

    def on_fall_timer(self, ident: bytes, now_ms: int) -> list[Effect]:
        """Judge an awarded peer whose connection broke, if others have stood until now."""
        fallen = self._fallen.get(ident)
        if fallen is None or now_ms < fallen.at_ms + FELL_MS:
            return []
        del self._fallen[ident]
        known = fallen.witnesses and now_ms <= fallen.at_ms + FELL_MS + STALLED_MS
        return self._memory.judge(fallen.delivery, Rating(False, fallen.at_ms)) if known else []

    def fail(
        self, conversation: Conversation, reason: str, now_ms: int, *, bad: bool, witnesses: Set[PeerId] = frozenset()
    ) -> list[Effect]:
        """The awarded agent is out, and the next one takes over.

        `bad`: what it did is no good answer. With `witnesses` that is still to be seen: its connection broke, and
        theirs stand.
        """
        query, agent = self._table.query_of(conversation), conversation.option.agent
        self._table.drop(conversation, "failed", reason)
        query.failed.add(agent)
        self._scout.on_failed(query, agent)
        effects: list[Effect] = [Send(agent.peer, Release(conversation.ident))]
        if agent.peer != self._keys.peer:
            delivery = query.delivery(conversation, self._space)
            if bad:
                effects += self._memory.judge(delivery, Rating(False, now_ms))
            if witnesses:
                self._fallen[conversation.ident] = Fallen(delivery, set(witnesses), now_ms)
                effects.append(SetTimer(now_ms + FELL_MS, Timer("progress", conversation.ident)))
            else:
                self._scout.bar(agent, now_ms)
        if query.pieces and query.ask.policy.raw:
            return [*effects, *self._table.unanswered(query, f"the agent {reason} in mid-answer", partial=True)]
        if query.pieces:
            effects.append(Tell(query.ask.query, Restarted(agent, reason)))
            query.pieces.clear()
            query.answer_bytes = 0
        query.restarts += 1
        query.first_ms = 0
        runner_up, query.runner_up = query.runner_up, None
        if runner_up is not None and self._still_best(query, runner_up, now_ms):
            return [*effects, *self.send(query, runner_up, now_ms)]
        query.state = "lost"
        return [*effects, *self._table.release(query)]

    def _still_best(self, query: Query, runner_up: Conversation, now_ms: int) -> bool:
        """Whether a quote still holds, and whoever was not asked is believed to be worth no more."""
        if runner_up.state != "quoted" or runner_up.expires_ms <= now_ms:
            return False
        other = self._scout.best_left(query, self._table.bound(now_ms), now_ms)
        return other is None or other <= runner_up.worth(query.ask)

    def _look_after(self, conversation: Conversation, pieces: int, from_ms: int) -> Effect:
        """The timer by which more than `pieces` pieces are to be there."""
        own = conversation.option.agent.peer == self._keys.peer
        conversation.due_ms = from_ms + (OWN_PROGRESS_MS if own else PROGRESS_MS)
        return SetTimer(conversation.due_ms, Timer("progress", conversation.ident, pieces))
