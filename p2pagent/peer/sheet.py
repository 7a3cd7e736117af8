"""A hub's epoch as a pure function: from a signed book and the bids opened for it to who gets what and at what price.

The auctioneer makes sheets by `fill`, everybody else checks them by `check_sheet`: they must be a best assignment, at
the one set of prices that goes with it. Among equally good assignments the order of the book decides, and the book is
ordered by hashes that nobody could foresee; a check accepts any of them, so that two solvers that break ties otherwise
never call each other liars.
"""

from collections import defaultdict
from hashlib import sha256
from itertools import pairwise
from typing import TypeVar

import numpy as np
from msgspec import Struct

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.market.clearing import OUT, Clearing, clear
from p2pagent.market.payments import Market, tolls
from p2pagent.peer.hub_messages import (
    BIDS_BYTES_MAX,
    BOOK_LOTS_MAX,
    QUERIES_MAX,
    SLOTS_MAX,
    Bid,
    Book,
    Commit,
    Grant,
    Offer,
    Part,
    Sheet,
    SignedSheet,
)
from p2pagent.peer.wire import check_signature, parsed
from p2pagent.types import AgentRef, Microcredits, PeerId

_P = TypeVar("_P", Commit, Offer)


class AgentLot(Struct, frozen=True):
    """Slots of one agent that were offered, and how long until they are free."""

    agent: AgentRef
    slots: int
    wait_ms: int


class BookView(Struct, frozen=True, eq=False):
    """A checked book: what its parts say, and the lots in the order in which sheets number them."""

    book: Book
    commits: tuple[Commit, ...]
    offers: tuple[Offer, ...]
    lots: tuple[AgentLot, ...]


class SheetView(Struct, frozen=True, eq=False):
    """A checked sheet: its book, its bids (None where not revealed), and the market that it clears."""

    sheet_id: bytes
    sheet: Sheet
    book: BookView
    bids: tuple[Bid | None, ...]
    market: Market

    @property
    def auctioneer(self) -> PeerId:
        """Who made it."""
        return PeerId(self.book.book.auctioneer)


def body_id(body: bytes) -> bytes:
    """What names a signed body, or a bid: the SHA-256 of its bytes."""
    return sha256(body).digest()


def agent_tag(agent: AgentRef) -> bytes:
    """What bids call an agent by: 8 bytes of a hash. The space keeps peer and name apart; a peer id has none."""
    return sha256(f"{agent.peer} {agent.name}".encode()).digest()[:8]


def ordered(parts: list[Part]) -> tuple[Part, ...]:
    """Commits or offers in the order that a book must have them in."""
    return tuple(sorted(parts, key=lambda part: body_id(part.body)))


def check_book(book: Book, keys: Keys) -> BookView:
    """What is in `book`, or what is wrong with it.

    Raises:
        RemoteError: a part is malformed, of another clearing, not signed by who it names, named twice or out of order.
    """
    commits = tuple(_part(part, Commit, "buyer", book, keys) for part in book.commits)
    offers = tuple(_part(part, Offer, "seller", book, keys) for part in book.offers)
    _require(len({c.buyer for c in commits}) == len(commits), "two commits of one buyer")
    _require(len({o.seller for o in offers}) == len(offers), "two offers of one seller")
    _require(ordered(list(book.commits)) == book.commits, "commits out of order")
    _require(ordered(list(book.offers)) == book.offers, "offers out of order")
    offered = ((AgentRef(PeerId(offer.seller), lot.agent), lot) for offer in offers for lot in offer.lots)
    lots = tuple(AgentLot(agent, lot.slots, lot.wait_ms) for agent, lot in offered)
    _require(len({(lot.agent, lot.wait_ms) for lot in lots}) == len(lots), "two lots of one agent at one time")
    # Whatever keeps within these has a sheet that fits its message.
    _require(len(lots) <= BOOK_LOTS_MAX, "more lots than a book holds")
    _require(sum(lot.slots for lot in lots) <= SLOTS_MAX, "more slots than a book holds")
    _require(sum(commit.wants for commit in commits) <= QUERIES_MAX, "more queries than a book holds")
    _require(sum(commit.bid_bytes for commit in commits) <= BIDS_BYTES_MAX, "more bytes of bids than a book holds")
    return BookView(book, commits, offers, lots)


def open_bid(data: bytes, commit: Commit) -> Bid:
    """The bid that `commit` sealed.

    Raises:
        RemoteError: not that bid, malformed, of another clearing, or it names a query or an agent twice.
    """
    _require(body_id(data) == commit.bid_sha256, "bid is not the one committed to")
    _require(len(data) == commit.bid_bytes, "bid is not as long as committed to")
    bid = parsed(data, Bid)
    _require((bid.hub, bid.epoch, bid.buyer) == (commit.hub, commit.epoch, commit.buyer), "bid of another clearing")
    _require(len(bid.wants) == commit.wants, "bid has not as many queries as committed to")
    _require(len({want.conversation for want in bid.wants}) == len(bid.wants), "bid names a query twice")
    for want in bid.wants:
        tags = [gain.agent for gain in want.gains]
        _require(all(one < other for one, other in pairwise(tags)), "gains out of order")
    return bid


def fill(book: bytes, book_signature: bytes, view: BookView, bids: tuple[bytes, ...], cleared_ms: int) -> Sheet:
    """The sheet of a checked book and the bids opened for it, b"" where one was not; all of them well formed."""
    opened_bids = _opened(view, bids)
    market = _market(view, opened_bids)
    clearing = clear(market.weights, market.capacities)
    grants = tuple(
        Grant(bid, want, int(lot), int(toll))
        for (bid, want), lot, toll in zip(_rows(opened_bids), clearing.chosen, tolls(market, clearing), strict=True)
        if lot != OUT
    )
    return Sheet(book, book_signature, cleared_ms, bids, grants, tuple(map(int, clearing.slot_prices)))


def open_sheet(signed: SignedSheet, keys: Keys) -> tuple[Sheet, Book]:
    """The sheet in `signed` and the book that it says it is of; neither is checked.

    Raises:
        RemoteError: malformed, or not signed by the auctioneer whom it names.
    """
    sheet = parsed(signed.body, Sheet)
    book = parsed(sheet.book, Book)
    check_signature(sheet, PeerId(book.auctioneer), signed.body, signed.signature, keys)
    return sheet, book


def check_sheet(body: bytes, sheet: Sheet, keys: Keys) -> SheetView:
    """The sheet in `body` replayed, or what is wrong with it. Its own signature is the caller's to check.

    Raises:
        RemoteError: its book or a bid is not right, or it is not a best assignment at the prices that go with it.
    """
    book = parsed(sheet.book, Book)
    check_signature(book, PeerId(book.auctioneer), sheet.book, sheet.book_signature, keys)
    view = check_book(book, keys)
    _require(len(sheet.bids) == len(view.commits), "bids do not go with the commits")
    bids = _opened(view, sheet.bids)
    market = _market(view, bids)
    rows = {row: number for number, row in enumerate(_rows(bids))}
    chosen = np.full(len(rows), OUT, dtype=np.int64)
    paid = np.zeros(len(rows), dtype=np.int64)
    granted = [(grant.bid, grant.want) for grant in sheet.grants]
    _require(all(one < other for one, other in pairwise(granted)), "grants out of order, or two to one query")
    for grant in sheet.grants:
        row = rows.get((grant.bid, grant.want))
        _require(row is not None and grant.lot < len(view.lots), "a grant to nobody, or of nothing")
        assert row is not None
        chosen[row], paid[row] = grant.lot, grant.toll_microcredits
    served = np.flatnonzero(chosen != OUT)
    used = np.bincount(chosen[served], minlength=len(view.lots))
    _require(bool((used <= market.capacities).all()), "more grants than slots")
    gains = market.weights[served, chosen[served]]
    _require(bool((gains > 0).all()), "a grant that nobody bid for")
    best = clear(market.weights, market.capacities)
    _require(int(gains.sum()) == best.welfare, "not a best assignment")
    _require(sheet.slot_prices_microcredits == tuple(map(int, best.slot_prices)), "wrong slot prices")
    owed = tolls(market, Clearing(chosen, best.welfare, best.slot_prices))
    _require(bool((owed == paid).all()), "wrong tolls")
    return SheetView(body_id(body), sheet, view, bids, market)


def slot_price(view: SheetView, agent: AgentRef, buyer: PeerId) -> Microcredits:
    """What one more slot of `agent` was worth to all others but `buyer`, so that no bid sets its own bidder's price."""
    lots = [(lot.wait_ms, number) for number, lot in enumerate(view.book.lots) if lot.agent == agent]
    if not lots:
        return 0
    _, lot = min(lots)
    own = next((number for number, commit in enumerate(view.book.commits) if commit.buyer == buyer), None)
    if own is None or not (view.market.owners == own).any():
        return view.sheet.slot_prices_microcredits[lot]
    others = view.market.weights[view.market.owners != own]
    return int(clear(others, view.market.capacities).slot_prices[lot])


def _part(part: Part, kind: type[_P], maker: str, book: Book, keys: Keys) -> _P:
    value = parsed(part.body, kind)
    check_signature(value, PeerId(getattr(value, maker)), part.body, part.signature, keys)
    _require(value.clearing == book.clearing, "a part of another book")
    return value


def _opened(view: BookView, bids: tuple[bytes, ...]) -> tuple[Bid | None, ...]:
    return tuple(open_bid(data, commit) if data else None for data, commit in zip(bids, view.commits, strict=True))


def _market(view: BookView, bids: tuple[Bid | None, ...]) -> Market:
    """Nobody's bid counts at its own agents: they are what it goes without the hub."""
    columns: dict[bytes, list[int]] = defaultdict(list)
    for number, lot in enumerate(view.lots):
        columns[agent_tag(lot.agent)].append(number)
    rows = _rows(bids)
    weights = np.zeros((len(rows), len(view.lots)), dtype=np.int64)
    for number, (owner, query) in enumerate(rows):
        bid = bids[owner]
        assert bid is not None
        want = bid.wants[query]
        for gain in want.gains:
            for column in columns.get(gain.agent, ()):
                lot = view.lots[column]
                if lot.agent.peer != bid.buyer:
                    delay = want.delay_microcredits_per_s * lot.wait_ms // 1000
                    weights[number, column] = max(0, gain.gain_microcredits - delay)
    sellers = {offer.seller: number for number, offer in enumerate(view.offers)}
    return Market(
        weights=weights,
        capacities=np.array([lot.slots for lot in view.lots], dtype=np.int64),
        owners=np.array([owner for owner, _ in rows], dtype=np.int64),
        sellers=np.array([sellers[lot.agent.peer] for lot in view.lots], dtype=np.int64),
    )


def _rows(bids: tuple[Bid | None, ...]) -> list[tuple[int, int]]:
    """`(bid, want)` of each query, in the order of the market's rows."""
    return [(number, want) for number, bid in enumerate(bids) if bid is not None for want in range(len(bid.wants))]


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise RemoteError(fault)
