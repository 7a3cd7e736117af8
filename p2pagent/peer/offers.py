"""The seller's part in hub clearing: promise slots to an epoch, keep them, give them to whom the sheet names.

Rule 1: a slot is promised to one clearing at a time, and to nobody else meanwhile.
Rule 2: every promise ends, by the sheet or at its deadline; every grant by its claim or after `GRANT_MS`.
"""

from msgspec import Struct

from p2pagent.keys import Keys
from p2pagent.peer.allowance import Allowance
from p2pagent.peer.credit import Credit
from p2pagent.peer.effects import Blame, Effect, Send, SetTimer
from p2pagent.peer.epochs import EPOCH_MS, GRANT_MS, Cast, is_current
from p2pagent.peer.events import Timer
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.hub_messages import (
    LOTS_MAX,
    Acknowledgement,
    Claim,
    Clearing,
    Decline,
    Lot,
    Offer,
    Proof,
    SignedAcknowledgement,
    SignedOffer,
    Solicit,
    Statement,
)
from p2pagent.peer.messages import Fail
from p2pagent.peer.seller import Seller
from p2pagent.peer.sheet import BookView, body_id
from p2pagent.peer.sheets import Held
from p2pagent.peer.terms import Toll
from p2pagent.peer.wire import encode, sealed
from p2pagent.types import Microcredits, PeerId

SOLICIT_BURST, SOLICIT_REFILL_MS = 8, 250
"""Whether a peer was drawn takes a look at all that are known."""

PROMISES_MAX = 64
ASKED_MAX = 1024
"""Clearings of current epochs that we were asked for; beyond it there are no more offers for a while."""

OFFER_BYTES_MAX = 1024
CLAIMS_MS = EPOCH_MS + GRANT_MS
"""So long after the last promise a claim may still name a sheet that we have not seen."""

UNREVEALED_MICROCREDITS = 50_000
"""What an owner's standing loses with each seller whose slots it kept from others without opening its bid."""


class Promise(Struct):
    """Slots kept for one clearing, by agent."""

    clearing: Clearing
    lots: dict[str, int]
    offer_id: bytes
    acknowledged: Statement | None = None
    booked: bool = False


class Granted(Struct, frozen=True):
    """A slot that a sheet gave to a buyer."""

    buyer: PeerId
    agent: str
    toll: Toll
    charge_microcredits: Microcredits
    lapses_ms: int


class Offers:
    """All slots of this device that are promised to hubs or granted by them."""

    def __init__(self, keys: Keys, cast: Cast, seller: Seller, credit: Credit) -> None:
        self._keys = keys
        self._cast = cast
        self._seller = seller
        self._credit = credit
        self._promises: dict[Clearing, Promise] = {}
        self._solicits = Allowance(SOLICIT_BURST, SOLICIT_REFILL_MS)
        self._grants: dict[bytes, Granted] = {}
        self._asked: dict[Clearing, None] = {}
        self._promised_ms = -CLAIMS_MS

    def open_for(self, agents: tuple[AgentAdvert, ...]) -> None:
        """Slots of agents that are no longer here are promised to nobody."""
        names = {agent.name for agent in agents}
        for promise in self._promises.values():
            promise.lots = {name: slots for name, slots in promise.lots.items() if name in names}
        self._grants = {c: granted for c, granted in self._grants.items() if granted.agent in names}

    def awaits_claims(self, now_ms: int) -> bool:
        """Whether a claim may come whose sheet is still on its way, or is another than the one that came."""
        return now_ms - self._promised_ms <= CLAIMS_MS

    def promised(self, clearing: Clearing) -> bool:
        """Whether slots are kept for this clearing."""
        return clearing in self._promises

    def on_solicit(self, auctioneer: PeerId, solicit: Solicit, now_ms: int) -> list[Effect]:
        """Offer what is free and what will be, at its time; only to somebody who was drawn."""
        key = (solicit.hub, solicit.epoch, auctioneer)
        self._asked = {asked: None for asked in self._asked if is_current(asked[1], now_ms)}
        full = len(self._asked) >= ASKED_MAX or len(self._promises) >= PROMISES_MAX
        if not is_current(solicit.epoch, now_ms) or key in self._asked or full:
            return []
        agents = self._cast.own(solicit.hub)
        if not agents or not self._solicits.take(auctioneer, now_ms):
            return []
        if auctioneer not in self._cast.auctioneers(solicit.hub, solicit.epoch, now_ms):
            return []
        self._asked[key] = None
        spare = {agent.name: self._seller.spare(agent.name, now_ms) for agent in agents[: LOTS_MAX // 2]}
        lots = tuple(Lot(name, slots, wait_ms) for name, times in sorted(spare.items()) for slots, wait_ms in times)
        while len(encode(Offer(*key, self._keys.peer, lots))) > OFFER_BYTES_MAX:  # long names
            lots = lots[:-1]
        offer = Offer(*key, self._keys.peer, lots)
        signed = SignedOffer(*sealed(offer, self._keys))
        effects: list[Effect] = [Send(auctioneer, signed)]
        if lots:
            kept: dict[str, int] = {}
            for lot in lots:
                kept[lot.agent] = kept.get(lot.agent, 0) + lot.slots
            self._promises[key] = Promise(key, kept, body_id(signed.body))
            self._promised_ms = now_ms
            for name, slots in kept.items():
                self._seller.keep(name, slots)
            effects.append(SetTimer(now_ms + EPOCH_MS, Timer("offer", f"{auctioneer} {solicit.hub}".encode(), key[1])))
        return effects

    def on_acknowledgement(self, ack: Acknowledgement, signed: SignedAcknowledgement) -> list[Effect]:
        """Keep what the auctioneer owes us a place for."""
        promise = self._promises.get(ack.clearing)
        if promise is not None and ack.sha256 == promise.offer_id:
            promise.acknowledged = Statement("ack", signed.body, signed.signature)
        return []

    def on_book(self, view: BookView, statement: Statement, now_ms: int) -> list[Effect]:
        """See that our offer is in the book."""
        promise = self._promises.get(view.book.clearing)
        if promise is None:
            return []
        promise.booked = True
        if any(body_id(part.body) == promise.offer_id for part in view.book.offers):
            return []
        omission: list[Effect] = []
        if promise.acknowledged is not None:
            omission = [Send(self._keys.peer, Proof((promise.acknowledged, statement)))]
        return [*omission, *self._break(promise, now_ms)]

    def on_sheet(self, held: Held, now_ms: int) -> list[Effect]:
        """Turn the promise into grants; the rest of the slots are free again."""
        view = held.view
        promise = self._promises.get(view.book.book.clearing)
        if promise is None:
            return []
        del self._promises[promise.clearing]
        left = dict(promise.lots)
        effects: list[Effect] = []
        for grant in view.sheet.grants:
            lot = view.book.lots[grant.lot].agent
            bid = view.bids[grant.bid]
            if lot.peer != self._keys.peer or bid is None or not left.get(lot.name):
                continue
            conversation = bid.wants[grant.want].conversation
            if conversation in self._grants:
                continue  # its buyer, who alone knew of it, has used it twice
            left[lot.name] -= 1
            charge = grant.toll_microcredits + self._seller.worth_of_a_slot(lot.name)
            toll = Toll(view.sheet_id, grant.toll_microcredits)
            self._grants[conversation] = Granted(PeerId(bid.buyer), lot.name, toll, charge, now_ms + GRANT_MS)
            effects.append(SetTimer(now_ms + GRANT_MS, Timer("grant", conversation)))
        for commit, opened in zip(view.book.commits, view.bids, strict=True):
            if opened is None:
                self._credit.charge(PeerId(commit.buyer), UNREVEALED_MICROCREDITS, now_ms)
        for name, slots in left.items():
            effects += self._seller.let_go(name, slots, now_ms)
        return effects

    def on_claim(self, buyer: PeerId, claim: Claim, now_ms: int) -> list[Effect]:
        """Start the answer that a sheet granted."""
        conversation = claim.call.conversation
        granted = self._grants.get(conversation)
        claimed = (buyer, claim.call.agent, claim.sheet, claim.award.conversation)
        if granted is None or claimed != (granted.buyer, granted.agent, granted.toll.sheet, conversation):
            return [Send(buyer, Fail(conversation, "expired"))]
        del self._grants[conversation]
        return self._seller.on_claim(buyer, claim, granted.toll, now_ms)

    def on_release(self, buyer: PeerId, conversation: bytes, now_ms: int) -> list[Effect]:
        """A grant is given back: the slot serves others, but it was kept from them until now."""
        granted = self._grants.get(conversation)
        return self._lapse(conversation, granted, now_ms) if granted is not None and granted.buyer == buyer else []

    def on_grant_timer(self, conversation: bytes, now_ms: int) -> list[Effect]:
        """A grant that nobody claimed is charged to who won it."""
        granted = self._grants.get(conversation)
        return self._lapse(conversation, granted, now_ms) if granted is not None and granted.lapses_ms <= now_ms else []

    def on_deadline(self, ident: bytes, epoch: int, now_ms: int) -> list[Effect]:
        """No sheet: the slots are free again."""
        auctioneer, _, hub = ident.decode().partition(" ")
        promise = self._promises.get((hub, epoch, PeerId(auctioneer)))
        if promise is None:
            return []
        fault = "signed a book and brought no sheet" if promise.booked else "asked for our slots and brought no book"
        return [Blame(PeerId(auctioneer), fault), *self._break(promise, now_ms)]

    def on_decline(self, auctioneer: PeerId, decline: Decline, now_ms: int) -> list[Effect]:
        """The auctioneer has no place for our offer."""
        promise = self._promises.get((decline.hub, decline.epoch, auctioneer))
        return self._break(promise, now_ms) if promise is not None and promise.acknowledged is None else []

    @property
    def auctioneers(self) -> set[PeerId]:
        """Who clears what we offer now."""
        return {promise.clearing[2] for promise in self._promises.values()}

    def on_auctioneer_gone(self, auctioneer: PeerId, now_ms: int) -> list[Effect]:
        """Contact with an auctioneer was lost."""
        lost = [promise for promise in self._promises.values() if promise.clearing[2] == auctioneer]
        return [effect for promise in lost for effect in self._break(promise, now_ms)]

    def on_void(self, clearing: Clearing, now_ms: int) -> list[Effect]:
        """This clearing cannot be trusted."""
        promise = self._promises.get(clearing)
        return [] if promise is None else self._break(promise, now_ms)

    def _lapse(self, conversation: bytes, granted: Granted, now_ms: int) -> list[Effect]:
        del self._grants[conversation]
        self._credit.charge(granted.buyer, granted.charge_microcredits, now_ms)
        return self._seller.let_go(granted.agent, 1, now_ms)

    def _break(self, promise: Promise, now_ms: int) -> list[Effect]:
        del self._promises[promise.clearing]
        return [e for name, slots in promise.lots.items() for e in self._seller.let_go(name, slots, now_ms)]
