"""The auctioneer's part: gather commits and offers, sign the book, gather the bids, sign the sheet.

Rule 1: what was acknowledged is in the book or the sheet; what did not get there was never acknowledged.
Rule 2: one book and one sheet for a hub and epoch, whatever happens.
Rule 3: the auctioneer takes part by the same messages as others, so it learns nothing before its own bid is sealed.
"""

from typing import Literal

from msgspec import Struct, field

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.effects import Effect, Send, SetTimer
from p2pagent.peer.epochs import (
    BOOK_MS,
    EPOCH_SKEW,
    GATHER_MS,
    REVEAL_MS,
    WIDE_HUB_AGENTS_MAX,
    Cast,
    epoch_at,
    is_current,
)
from p2pagent.peer.events import Timer
from p2pagent.peer.hub_messages import (
    BIDS_BYTES_MAX,
    BOOK_BYTES_MAX,
    BOOK_LOTS_MAX,
    QUERIES_MAX,
    SLOTS_MAX,
    Acknowledgement,
    Bid,
    Book,
    Commit,
    Decline,
    Offer,
    Part,
    Reveal,
    Sheet,
    SignedAcknowledgement,
    SignedBook,
    SignedCommit,
    SignedOffer,
    SignedSheet,
    Solicit,
)
from p2pagent.peer.sheet import BookView, body_id, check_book, fill, open_bid, ordered
from p2pagent.peer.wire import opened, parsed, sealed
from p2pagent.types import PeerId

AUCTIONS_MAX = 16
ENVELOPE_BYTES = 96
"""More than a part of a book takes beyond its body: a signature, and the heads of both."""

HEAD_BYTES = 512
"""More than a book takes beyond its parts."""

CLOSED_MAX = 512
"""Clearings of current epochs that are over, which must not be opened again; beyond it no new one is opened."""


class Auction(Struct):
    """One hub's epoch while it is being cleared."""

    hub: str
    epoch: int
    unanswered: set[PeerId]
    gathered: bool = False
    commits: dict[PeerId, Part] = field(default_factory=dict)
    offers: dict[PeerId, Part] = field(default_factory=dict)
    book_bytes: int = HEAD_BYTES
    lots: int = 0
    slots: int = 0
    bid_bytes: int = 0
    wants: int = 0
    book: SignedBook | None = None
    view: BookView | None = None
    bids: dict[PeerId, bytes] = field(default_factory=dict)


class Auctioneer:
    """All clearings that this peer was drawn for."""

    def __init__(self, keys: Keys, cast: Cast, started_ms: int) -> None:
        # What was signed before a restart is forgotten, so the epochs that it may have been for are over for us.
        self._over = epoch_at(started_ms) + EPOCH_SKEW
        self._keys = keys
        self._cast = cast
        self._auctions: dict[tuple[str, int], Auction] = {}
        self._closed: dict[tuple[str, int], None] = {}

    def on_commit(self, buyer: PeerId, message: SignedCommit, now_ms: int) -> list[Effect]:
        """Take an owner in, or decline with the reason; the first one opens the clearing.

        Raises:
            RemoteError: not the buyer's own commit to a clearing of ours.
        """
        commit = opened(Commit, message.body, message.signature, buyer, self._keys)
        if commit.buyer != buyer or commit.auctioneer != self._keys.peer:
            raise RemoteError("commit between others")
        key = (commit.hub, commit.epoch)
        self._closed = {closed: None for closed in self._closed if is_current(closed[1], now_ms)}
        auction = self._auctions.get(key)
        reason = self._reason(auction, commit, message.body, now_ms)
        if reason is not None:
            return [Send(buyer, Decline(*key, reason))]
        effects: list[Effect] = []
        if auction is None:
            asked = self._cast.members(commit.hub, now_ms)[:WIDE_HUB_AGENTS_MAX]
            auction = self._auctions[key] = Auction(*key, set(asked))
            effects = [Send(peer, Solicit(*key)) for peer in asked]
            effects += [SetTimer(now_ms + after_ms, _timer("book", key)) for after_ms in (GATHER_MS, BOOK_MS)]
        auction.commits[buyer] = Part(message.body, message.signature)
        auction.book_bytes += len(message.body) + ENVELOPE_BYTES
        auction.bid_bytes += commit.bid_bytes
        auction.wants += commit.wants
        return [Send(buyer, self._acknowledge(auction, "commit", body_id(message.body))), *effects]

    def on_offer(self, seller: PeerId, message: SignedOffer, now_ms: int) -> list[Effect]:
        """Take a seller's offer in; the last one awaited may close the book.

        Raises:
            RemoteError: not the seller's own offer to a clearing of ours, or it was not asked.
        """
        offer = opened(Offer, message.body, message.signature, seller, self._keys)
        auction = self._auctions.get((offer.hub, offer.epoch))
        if auction is None or auction.book is not None:
            return [Send(seller, Decline(offer.hub, offer.epoch, "late"))]
        if offer.seller != seller or offer.auctioneer != self._keys.peer or seller not in auction.unanswered:
            raise RemoteError("offer that nobody asked for")
        if len({(lot.agent, lot.wait_ms) for lot in offer.lots}) != len(offer.lots):
            raise RemoteError("two lots of one agent at one time")  # a book with it would be a wrong one
        auction.unanswered.remove(seller)
        effects: list[Effect] = []
        slots = auction.slots + sum(lot.slots for lot in offer.lots)
        room = slots <= SLOTS_MAX and auction.lots + len(offer.lots) <= BOOK_LOTS_MAX
        if offer.lots and room and not _is_full(auction, message.body):
            auction.offers[seller] = Part(message.body, message.signature)
            auction.book_bytes += len(message.body) + ENVELOPE_BYTES
            auction.lots += len(offer.lots)
            auction.slots = slots
            effects.append(Send(seller, self._acknowledge(auction, "offer", body_id(message.body))))
        elif offer.lots:
            effects.append(Send(seller, Decline(offer.hub, offer.epoch, "full")))
        complete = auction.gathered and not auction.unanswered
        return [*effects, *(self._close(auction, now_ms) if complete else [])]

    def on_reveal(self, buyer: PeerId, message: Reveal, now_ms: int) -> list[Effect]:
        """Take an opened bid in; the last one awaited brings the sheet.

        Raises:
            RemoteError: not the bid that the buyer committed to.
        """
        bid = parsed(message.bid, Bid)
        auction = self._auctions.get((bid.hub, bid.epoch))
        if auction is None or auction.view is None or buyer not in auction.commits or buyer in auction.bids:
            return []
        open_bid(message.bid, next(c for c in auction.view.commits if c.buyer == buyer))
        auction.bids[buyer] = message.bid
        acknowledgement = Send(buyer, self._acknowledge(auction, "bid", body_id(message.bid)))
        complete = len(auction.bids) == len(auction.commits)
        return [acknowledgement, *(self._clear(auction, now_ms) if complete else [])]

    def on_book_timer(self, hub: str, epoch: int, now_ms: int) -> list[Effect]:
        """The gathering is over: close the book once all have answered, the second time in any case."""
        auction = self._auctions.get((hub, epoch))
        if auction is None or auction.book is not None:
            return []
        last, auction.gathered = auction.gathered, True
        return self._close(auction, now_ms) if last or not auction.unanswered else []

    def on_sheet_timer(self, hub: str, epoch: int, now_ms: int) -> list[Effect]:
        """Bids have been waited for long enough."""
        auction = self._auctions.get((hub, epoch))
        return self._clear(auction, now_ms) if auction is not None else []

    def _reason(
        self, auction: Auction | None, commit: Commit, body: bytes, now_ms: int
    ) -> Literal["late", "full", "twice", "stranger"] | None:
        key = (commit.hub, commit.epoch)
        if not is_current(commit.epoch, now_ms) or commit.epoch <= self._over or key in self._closed:
            return "late"
        if auction is None:
            if not self._cast.own(commit.hub):
                return "stranger"
            busy = len(self._auctions) >= AUCTIONS_MAX or len(self._closed) + len(self._auctions) >= CLOSED_MAX
            return "full" if busy else None
        if auction.book is not None:
            return "late"
        if commit.buyer in auction.commits:
            return "twice"
        too_much = auction.bid_bytes + commit.bid_bytes > BIDS_BYTES_MAX
        too_many = auction.wants + commit.wants > QUERIES_MAX
        return "full" if _is_full(auction, body) or too_much or too_many else None

    def _acknowledge(
        self, auction: Auction, what: Literal["commit", "offer", "bid"], digest: bytes
    ) -> SignedAcknowledgement:
        ack = Acknowledgement(auction.hub, auction.epoch, self._keys.peer, what, digest)
        return SignedAcknowledgement(*sealed(ack, self._keys))

    def _close(self, auction: Auction, now_ms: int) -> list[Effect]:
        """Sign the book. Where nobody offers a slot there is nothing to clear."""
        if not auction.lots:
            self._forget(auction)
            return [Send(buyer, Decline(auction.hub, auction.epoch, "empty")) for buyer in sorted(auction.commits)]
        commits, offers = ordered(list(auction.commits.values())), ordered(list(auction.offers.values()))
        book = Book(auction.hub, auction.epoch, self._keys.peer, commits, offers)
        auction.view = check_book(book, self._keys)
        auction.book = SignedBook(*sealed(book, self._keys))
        timer = SetTimer(now_ms + REVEAL_MS, _timer("sheet", (auction.hub, auction.epoch)))
        return [*self._to_all(auction, auction.book), timer]

    def _clear(self, auction: Auction, now_ms: int) -> list[Effect]:
        assert auction.view is not None
        assert auction.book is not None
        bids = tuple(auction.bids.get(PeerId(commit.buyer), b"") for commit in auction.view.commits)
        sheet: Sheet = fill(auction.book.body, auction.book.signature, auction.view, bids, now_ms)
        self._forget(auction)
        return self._to_all(auction, SignedSheet(*sealed(sheet, self._keys)))

    def _to_all(self, auction: Auction, message: SignedBook | SignedSheet) -> list[Effect]:
        return [Send(peer, message) for peer in sorted(auction.commits.keys() | auction.offers.keys())]

    def _forget(self, auction: Auction) -> None:
        del self._auctions[auction.hub, auction.epoch]
        self._closed[auction.hub, auction.epoch] = None


def _is_full(auction: Auction, body: bytes) -> bool:
    """Whether the book has no room for a part of this body."""
    return auction.book_bytes + len(body) + ENVELOPE_BYTES > BOOK_BYTES_MAX


def _timer(kind: Literal["book", "sheet"], key: tuple[str, int]) -> Timer:
    return Timer(kind, key[0].encode(), key[1])
