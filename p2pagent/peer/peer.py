"""A peer: one state machine, `handle(event, now_ms) -> list[Effect]`. Daemon and simulator are two drivers of it.

Rule 1: no clock, socket, file or global randomness: time comes in with each event, randomness from the `rng` given.
Rule 2: a fault of a remote peer becomes a `Blame`; `handle` never raises on a well-formed event, in any state.
Rule 3: messages to ourselves never leave: they are handled in the same call, so the local agent is bought and sold
exactly as strangers are.
"""

from collections import deque
from collections.abc import Set
from hashlib import blake2b
from random import Random

from p2pagent.config import Preferences
from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.buyer import Buyer
from p2pagent.peer.credit import Account, Credit
from p2pagent.peer.debts import Debt, Debts
from p2pagent.peer.disputes import Disputes
from p2pagent.peer.dues import Dues
from p2pagent.peer.effects import Blame, Effect, Send, SetTimer, Shun
from p2pagent.peer.events import (
    AgentsChanged,
    Ask,
    CacheChanged,
    CancelAsk,
    Cleared,
    Contest,
    Disputed,
    DisputeRecorded,
    Event,
    Generated,
    GenerationEnded,
    GenerationFailed,
    Leave,
    Misbehaved,
    Notice,
    PeerDown,
    PeerIdle,
    PeerUp,
    Posted,
    ProvidersFound,
    Rated,
    Received,
    Recounted,
    RefundPosted,
    SheetKnown,
    Timer,
    TimerFired,
    Unsent,
    Withdraw,
)
from p2pagent.peer.gossip_messages import Ack, Delta, Look, Nack, Ping, Pull, Relay, Sight
from p2pagent.peer.hub import Hub
from p2pagent.peer.membership import Membership
from p2pagent.peer.memory import Memory, Saved
from p2pagent.peer.messages import (
    Award,
    Call,
    Chunk,
    Dispute,
    Fail,
    Final,
    Holds,
    Refuse,
    Release,
    Seek,
    Settle,
    Settled,
    SignedQuote,
    SignedRefund,
)
from p2pagent.peer.recounts import Recounts
from p2pagent.peer.scout import Scout
from p2pagent.peer.seller import Seller
from p2pagent.peer.sheets import Sheets
from p2pagent.peer.wire import WireMessage
from p2pagent.routing.hubs import hubs_of
from p2pagent.routing.marks import Marker
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId

REMIND_MS = 10_000

MARKS_DOMAIN = "p2pagent/marks/1"
"""Under this domain only this device can sign; the signature is never sent, and is the secret behind its marks."""


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
        disputed: list[Disputed] | None = None,
        refunds: list[SignedRefund] | None = None,
        experience: Saved | None = None,
    ) -> None:
        self._me = keys.peer
        self.credit = credit = Credit(preferences.newcomer_credit_microcredits, {} if accounts is None else accounts)
        self._dues = Dues(keys, credit)
        self._debts = Debts(keys, credit, debts or [])
        self._recounts = Recounts()
        self._disputes = Disputes(keys, credit, disputed or [], refunds or [])
        sheets = Sheets(keys)
        self.seller = Seller(keys, space, credit, sheets)
        hubs = hubs_of(space)
        self.membership = Membership(keys, space, hubs, network, rng, incarnation, self.seller.loads)
        self.directory = self.membership.directory
        self.hub = Hub(keys, space, hubs, self.membership, self.seller, credit, sheets, rng, incarnation)
        self.memory = Memory(space, experience or {})
        neighbours, lookout = self.membership.neighbours, self.membership.lookout
        known = self.directory, self._disputes
        scout = Scout(keys.peer, space, preferences, *known, rng, self.seller, self.memory, neighbours)
        marker = Marker(_marks_secret(keys, preferences.cache_secret))
        money = self._debts, self._recounts
        self.buyer = Buyer(keys, space, scout, *money, self.memory, self.hub, lookout, neighbours, marker, rng)

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
                if isinstance(effect, Notice):
                    pending.append(effect)
                    continue
                effects.append(effect)
                if isinstance(effect, Blame) and self.directory.blame(effect.peer, now_ms):
                    effects.append(Shun(effect.peer))
        return effects

    def counterparties(self) -> set[PeerId]:
        """Those with whom something is under way, which breaks off if the connection is closed."""
        cleared = self.hub.bidder.auctioneers | self.hub.offers.auctioneers
        return cleared | self.buyer.sellers | self.seller.buyers

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
                self.seller.on_signed(ident, now_ms)
                booked = [*self._debts.on_posted(ident, new=new), *self._dues.on_posted(ident, new=new)]
                return [*booked, *self._recounts.on_posted(ident)]
            case PeerUp(peer):
                return [*self.membership.on_up(peer, now_ms), *self._debts.remind({peer}), *self._disputes.on_up(peer)]
            case Recounted():
                return self._recounts.on_recounted(event)
            case Disputed():
                return self._disputes.on_disputed(event)
            case DisputeRecorded():
                return self._disputes.on_recorded(event)
            case RefundPosted():
                return self._disputes.on_refund_posted(event)
            case Rated():
                return self.memory.on_rated(event)
            case PeerDown(peer):
                down = self.membership.on_down(peer, now_ms)
                return [*down, *self._broken_off(peer, now_ms, self.membership.neighbours)]
            case PeerIdle(peer):
                self.membership.on_idle(peer)
                return self._broken_off(peer, now_ms)
            case Unsent(peer):
                return [*self.membership.on_unsent(peer, now_ms), *self._broken_off(peer, now_ms)]
            case AgentsChanged(agents, addresses, measured):
                self.buyer.open_for(agents)
                self.hub.open_for(agents)
                effects = self.seller.open_for(agents, measured, now_ms)
                if self.membership.herald.record is None:  # for the first time
                    effects.append(SetTimer(now_ms + REMIND_MS, Timer("remind")))
                return [*effects, *self.membership.on_agents(agents, addresses, now_ms)]
            case CacheChanged(agent, held):
                self.seller.on_held(agent, held)
                return []
            case ProvidersFound(query, cell, peers):
                looks = self.membership.lookout.on_providers(cell, peers, now_ms)
                return looks or self.buyer.on_nothing_found(query, now_ms)
            case Leave():
                return self.membership.on_leave(now_ms)
            case Contest():
                return self.hub.bidder.on_contest(event, now_ms)
            case Withdraw(query):
                return self.hub.bidder.on_withdraw(query)
            case Cleared():
                return self.buyer.on_cleared(event, now_ms)
            case SheetKnown(sheet):
                return [*self.hub.on_sheet_known(sheet, now_ms), *self.buyer.on_sheet_known(sheet, now_ms)]
            case TimerFired(timer):
                return self._timer(timer, now_ms)

    def _broken_off(self, peer: PeerId, now_ms: int, witnesses: Set[PeerId] = frozenset()) -> list[Effect]:
        """All conversations with `peer`, on either side, have lost something and end.

        `witnesses` are those whose connections stand, if its own one broke.
        """
        return [
            *self.hub.bidder.on_auctioneer_gone(peer),
            *self.hub.offers.on_auctioneer_gone(peer, now_ms),
            *self.buyer.on_seller_gone(peer, now_ms, witnesses),
            *self.seller.on_buyer_gone(peer, now_ms),
        ]

    def _remind(self, now_ms: int) -> list[Effect]:
        """Say again to the neighbours what they have not acknowledged; and keep doing so."""
        met = self.membership.neighbours
        again = SetTimer(now_ms + REMIND_MS, Timer("remind"))
        return [*self._debts.remind(met), *self._disputes.remind(met), again]

    def _ignores(self, peer: PeerId, message: WireMessage, now_ms: int) -> bool:
        """Whether `message` is from a peer that is shunned. What was bought or sold before is settled all the same."""
        bookkeeping = Settle | Settled | Dispute | SignedRefund
        return self.directory.shuns(peer, now_ms) and not isinstance(message, bookkeeping)

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
            case "remind":
                return self._remind(now_ms)
            case "tick" | "probe" | "relay":
                return self.membership.on_timer(timer, now_ms)
            case _:
                return self.hub.on_timer(timer, now_ms)

    def _message(self, event: Received, now_ms: int) -> list[Effect]:
        peer = event.peer
        match event.message:
            case Call() as call:
                return self.seller.on_call(peer, call, now_ms)
            case Seek() as seek:
                return self.seller.on_seek(peer, seek)
            case Holds() as holds:
                return self.buyer.on_holds(peer, holds, now_ms)
            case SignedQuote() as quote:
                return self.buyer.on_quote(peer, quote, now_ms)
            case Refuse() as refuse:
                return self.buyer.on_refuse(peer, refuse, now_ms)
            case Award() as award:
                return self.seller.on_award(peer, award, now_ms)
            case Release(conversation):
                granted = self.hub.offers.on_release(peer, conversation, now_ms)
                return [*granted, *self.seller.on_release(peer, conversation, now_ms)]
            case Chunk() as chunk:
                return self.buyer.on_chunk(peer, chunk, now_ms)
            case Final() as final:
                return self.buyer.on_final(peer, final, now_ms)
            case Fail() as fail:
                return self.buyer.on_fail(peer, fail, now_ms)
            case Settle() as settle:
                return self._dues.on_settle(peer, settle)
            case Settled() as settled:
                return [*self._debts.on_settled(peer, settled), *self._disputes.on_settled(peer, settled)]
            case Dispute() as dispute:
                return self._disputes.on_dispute(peer, dispute, now_ms)
            case SignedRefund() as refund:
                return self._disputes.on_refund(peer, refund)
            case Delta() as delta:
                return [*self.membership.on_message(peer, delta, now_ms), *self.buyer.on_news(now_ms)]
            case Sight() as sight:
                effects = self.membership.on_message(peer, sight, now_ms)
                more_to_come = any(isinstance(e, Send) and isinstance(e.message, Pull) for e in effects)
                return effects if more_to_come else [*effects, *self.buyer.on_news(now_ms)]
            case Ping() | Ack() | Relay() | Nack() | Pull() | Look() as message:
                return self.membership.on_message(peer, message, now_ms)
            case _ as message:
                return self.hub.on_message(peer, message, now_ms)


def _marks_secret(keys: Keys, shared: str) -> bytes:
    """Of the trust domain of this device: those who share a secret, or it alone.

    Whoever is called can try out what is `shared`, so that it must be longer than can be guessed (config.py).
    """
    if not shared:
        return keys.sign(MARKS_DOMAIN, b"")
    return blake2b(shared.encode(), person=MARKS_DOMAIN.encode()[:16]).digest()
