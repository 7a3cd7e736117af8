"""A peer: one state machine, `handle(event, now_ms) -> list[Effect]`. Daemon and simulator are two drivers of it.

Rule 1: no clock, socket, file or global randomness: time comes in with each event, randomness from the `rng` given.
Rule 2: a fault of a remote peer becomes a `Blame`; `handle` never raises on a well-formed event, in any state.
Rule 3: messages to ourselves never leave: they are handled in the same call, so the local agent is bought and sold
exactly as strangers are.
"""

from collections import deque
from random import Random

from p2pagent.config import Preferences
from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.buyer import Buyer
from p2pagent.peer.credit import Account, Credit
from p2pagent.peer.debts import Debt, Debts
from p2pagent.peer.events import (
    AgentsChanged,
    Ask,
    Blame,
    CancelAsk,
    Effect,
    Event,
    Generated,
    GenerationEnded,
    GenerationFailed,
    Leave,
    Misbehaved,
    PeerDown,
    PeerUp,
    Posted,
    ProvidersFound,
    Received,
    Send,
    Shun,
    Timer,
    TimerFired,
    Unsent,
)
from p2pagent.peer.membership import Membership
from p2pagent.peer.rounds import Scout
from p2pagent.peer.seller import Seller
from p2pagent.peer.wire import (
    Award,
    Call,
    Chunk,
    Delta,
    Digest,
    Fail,
    Final,
    Refuse,
    Release,
    Settle,
    Settled,
    SignedQuote,
    SignedRecord,
    WireMessage,
)
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId


class Peer:
    """All decisions of one device. Everything it knows beyond its arguments came in through `handle`."""

    def __init__(
        self,
        keys: Keys,
        space: Space,
        network: str,
        preferences: Preferences,
        rng: Random,
        incarnation: int,
        accounts: dict[PeerId, Account] | None = None,
        debts: list[Debt] | None = None,
    ) -> None:
        self._me = keys.peer
        credit = Credit(preferences.newcomer_credit_microcredits, {} if accounts is None else accounts)
        self._debts = Debts(keys, credit, debts or [])
        self.membership = Membership(keys, space, network, rng, incarnation)
        self.directory = self.membership.directory
        self.seller = Seller(keys, space, credit)
        scout = Scout(keys.peer, space, preferences, self.directory, rng)
        self.buyer = Buyer(keys, space, scout, self._debts, rng)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What is to be done about `event` at `now_ms`, milliseconds since the Unix epoch."""
        effects: list[Effect] = []
        pending: deque[Event] = deque([event])
        while pending:
            for effect in self._one(pending.popleft(), now_ms):
                if isinstance(effect, Blame) and effect.peer == self._me:
                    continue  # an engine of ours gone wrong is no reason to stop asking it
                if isinstance(effect, Send) and effect.peer == self._me:
                    pending.append(Received(self._me, effect.message))
                    continue
                effects.append(effect)
                if isinstance(effect, Blame) and self.directory.blame(effect.peer, now_ms):
                    effects.append(Shun(effect.peer))
        return effects

    def _one(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Received(peer, message) if self._ignores(peer, message, now_ms):
                return []
            case Received():
                try:
                    return self._message(event, now_ms)
                except RemoteError as error:
                    return [Blame(event.peer, str(error))]
            case Misbehaved(peer, fault):
                return [Blame(peer, fault)]
            case Ask():
                return self.buyer.on_ask(event, now_ms)
            case CancelAsk(query):
                return self.buyer.on_cancel(query)
            case Generated(job, text):
                return self.seller.on_piece(job, text, now_ms)
            case GenerationEnded():
                return self.seller.on_end(event, now_ms)
            case GenerationFailed(job, reason):
                return self.seller.on_failure(job, reason, now_ms)
            case Posted(ident, new):
                return [*self._debts.on_posted(ident, new=new), *self.seller.on_posted(ident, new=new)]
            case PeerUp(peer):
                return [*self.membership.on_up(peer), *self._debts.remind({peer})]
            case PeerDown(peer):
                self.membership.on_down(peer)
                return self._broken_off(peer, now_ms)
            case Unsent(peer):
                self.membership.on_unsent(peer)
                return self._broken_off(peer, now_ms)
            case AgentsChanged(agents, addresses):
                self.buyer.open_for(agents)
                interrupted = self.seller.open_for(agents, now_ms)
                return [*interrupted, *self.membership.on_agents(agents, addresses, now_ms)]
            case ProvidersFound(query, _, peers):
                news = self.membership.on_providers(peers)
                return news or self.buyer.on_nothing_found(query, now_ms)
            case Leave():
                return self.membership.on_leave(now_ms)
            case TimerFired(timer):
                return self._timer(timer, now_ms)

    def _broken_off(self, peer: PeerId, now_ms: int) -> list[Effect]:
        """All conversations with `peer`, on either side, have lost something and end."""
        return [*self.buyer.on_seller_gone(peer, now_ms), *self.seller.on_buyer_gone(peer, now_ms)]

    def _ignores(self, peer: PeerId, message: WireMessage, now_ms: int) -> bool:
        """Whether `message` is from a peer that is shunned. What was bought or sold before is settled all the same."""
        return self.directory.shuns(peer, now_ms) and not isinstance(message, Settle | Settled)

    def _timer(self, timer: Timer, now_ms: int) -> list[Effect]:
        match timer.kind:
            case "quotes":
                return self.buyer.on_quotes_timer(timer.ident.decode(), timer.mark, now_ms)
            case "clear":
                return self.buyer.on_clear_timer(now_ms)
            case "progress":
                return self.buyer.on_progress_timer(timer.ident, timer.mark, now_ms)
            case "hold":
                return self.seller.on_hold_timer(timer.ident, now_ms)
            case "record":
                return self.membership.on_timer(timer, now_ms)
            case "exchange":
                reminders = self._debts.remind(self.membership.neighbours)
                return [*reminders, *self.membership.on_timer(timer, now_ms)]

    def _message(self, event: Received, now_ms: int) -> list[Effect]:
        peer = event.peer
        match event.message:
            case Call() as call:
                return self.seller.on_call(peer, call, now_ms)
            case SignedQuote() as quote:
                return self.buyer.on_quote(peer, quote, now_ms)
            case Refuse() as refuse:
                return self.buyer.on_refuse(peer, refuse, now_ms)
            case Award() as award:
                return self.seller.on_award(peer, award, now_ms)
            case Release(conversation):
                return self.seller.on_release(peer, conversation, now_ms)
            case Chunk() as chunk:
                return self.buyer.on_chunk(peer, chunk, now_ms)
            case Final() as final:
                return self.buyer.on_final(peer, final, now_ms)
            case Fail() as fail:
                return self.buyer.on_fail(peer, fail, now_ms)
            case Settle() as settle:
                return self.seller.on_settle(peer, settle)
            case Settled() as settled:
                return self._debts.on_settled(peer, settled)
            case Digest() as digest:
                return self.membership.on_digest(peer, digest, now_ms)
            case SignedRecord() as record:
                return [*self.membership.on_records((record,), now_ms), *self.buyer.on_news(now_ms)]
            case Delta(records):
                return [*self.membership.on_records(records, now_ms), *self.buyer.on_news(now_ms)]
