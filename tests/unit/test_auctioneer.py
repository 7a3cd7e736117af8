"""The auctioneer's part, driven through `Peer.handle`: whom it takes in, what it signs, and what cannot trip it up."""

from collections.abc import Iterable

import pytest

from p2pagent.peer.auctioneer import AUCTIONS_MAX, CLOSED_MAX
from p2pagent.peer.effects import Blame, Effect, SetTimer
from p2pagent.peer.epochs import BOOK_MS, EPOCH_MS, EPOCH_SKEW, GATHER_MS, REVEAL_MS
from p2pagent.peer.events import Timer, TimerFired
from p2pagent.peer.hub_messages import (
    Acknowledgement,
    Book,
    Commit,
    Decline,
    Lot,
    Offer,
    Reveal,
    Sheet,
    SignedAcknowledgement,
    SignedBook,
    SignedCommit,
    SignedOffer,
    SignedSheet,
    Solicit,
)
from p2pagent.peer.peer import Peer
from p2pagent.peer.sheet import body_id, check_sheet
from p2pagent.peer.wire import WireMessage, encode, opened, parsed, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef
from tests.clearings import EPOCH, HUB, Query, make_bid
from tests.scenario import START_MS, make_advert
from tests.strangers import ME, make_delta, make_peer, receive, sent

SELLERS = (SimKeys(1), SimKeys(2))
BUYERS = (SimKeys(11), SimKeys(12), SimKeys(13))
SLOT = AgentRef(SELLERS[0].peer, "agent")


class Room:
    """`ME` as auctioneer of a hub that two sellers and `ME` belong to."""

    def __init__(self, space: Space, agents: int = 1) -> None:
        (home, *_) = make_peer(space).hub.cast.hubs._cells[HUB]
        adverts = [make_advert(f"agent{n}", {(home + n) % 6: 0.95}) for n in range(agents)]
        self.peer: Peer = make_peer(space, *adverts)
        for keys in SELLERS:
            receive(self.peer, keys, make_delta(keys, space, make_advert("agent", {home: 0.9})))

    def get(self, sender: SimKeys, message: WireMessage, after_ms: int = 0) -> list[Effect]:
        return receive(self.peer, sender, message, after_ms)

    def commit(self, buyer: SimKeys, gain: int = 100, after_ms: int = 0, **changes: object) -> list[Effect]:
        hub, epoch = changes.get("hub", HUB), changes.get("epoch", EPOCH)
        bid = encode(make_bid(buyer, [Query({SLOT: gain})], hub=hub, epoch=epoch))
        commit = Commit(hub, epoch, ME.peer, buyer.peer, body_id(bid), len(bid), 1)  # type: ignore[arg-type]
        return self.get(buyer, SignedCommit(*sealed(commit, buyer)), after_ms)

    def offer(self, seller: SimKeys, *lots: Lot, after_ms: int = 10) -> list[Effect]:
        offer = Offer(HUB, EPOCH, ME.peer, seller.peer, lots or (Lot("agent", 1, 0),))
        return self.get(seller, SignedOffer(*sealed(offer, seller)), after_ms)

    def reveal(self, buyer: SimKeys, gain: int = 100, after_ms: int = 200) -> list[Effect]:
        return self.get(buyer, Reveal(encode(make_bid(buyer, [Query({SLOT: gain})]))), after_ms)

    def fire(self, kind: str, after_ms: int, epoch: int = EPOCH, hub: str = HUB) -> list[Effect]:
        return self.peer.handle(TimerFired(Timer(kind, hub.encode(), epoch)), START_MS + after_ms)  # type: ignore[arg-type]


@pytest.fixture
def room(space: Space) -> Room:
    return Room(space)


def of(effects: Iterable[Effect], kind: type, to: SimKeys | None = None) -> list[WireMessage]:
    return [message for message in sent(list(effects), to) if isinstance(message, kind)]


def reason(effects: list[Effect]) -> str:
    (decline,) = sent(effects)
    assert isinstance(decline, Decline)
    return decline.reason


def faults(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(effect.peer, effect.fault) for effect in effects if isinstance(effect, Blame)]


def book_in(effects: list[Effect]) -> Book:
    (message, *others) = of(effects, SignedBook)
    assert all(other == message for other in others)
    return opened(Book, message.body, message.signature, ME.peer, ME)  # type: ignore[union-attr]


def sheet_in(effects: list[Effect]) -> Sheet:
    (message, *others) = of(effects, SignedSheet)
    assert all(other == message for other in others)
    sheet = opened(Sheet, message.body, message.signature, ME.peer, ME)  # type: ignore[union-attr]
    check_sheet(message.body, sheet, ME)  # type: ignore[union-attr]
    return sheet


def test_a_clearing_from_the_first_commit_to_the_sheet(room: Room) -> None:
    effects = room.commit(BUYERS[0])
    assert [m for keys in SELLERS for m in sent(effects, keys)] == [Solicit(HUB, EPOCH)] * 2
    assert sorted(e.at_ms - START_MS for e in effects if isinstance(e, SetTimer) and e.timer.kind == "book") == [
        GATHER_MS,
        BOOK_MS,
    ]
    (ack,) = of(effects, SignedAcknowledgement, BUYERS[0])
    room.commit(BUYERS[1], 50)
    for seller in SELLERS:
        assert of(room.offer(seller), SignedAcknowledgement, seller)
    effects = room.fire("book", GATHER_MS)
    book = book_in(effects)
    assert (len(book.commits), len(book.offers)) == (2, 3)
    assert parsed(ack.body, Acknowledgement).sha256 in {body_id(c.body) for c in book.commits}  # type: ignore[union-attr, attr-defined]
    assert of(room.reveal(BUYERS[0]), SignedAcknowledgement, BUYERS[0])
    effects = room.reveal(BUYERS[1], 50)
    sheet = sheet_in(effects)
    assert {e.peer for e in effects if of([e], SignedSheet)} == {k.peer for k in (*BUYERS[:2], *SELLERS)}  # type: ignore[union-attr]
    assert [grant.toll_microcredits for grant in sheet.grants] == [50]
    assert room.fire("sheet", 900) == []
    assert room.fire("book", 900) == []


def test_the_book_waits_for_slow_sellers_only_so_long(room: Room) -> None:
    room.commit(BUYERS[0])
    room.offer(SELLERS[0])
    assert room.fire("book", GATHER_MS) == []
    assert len(book_in(room.fire("book", BOOK_MS)).offers) == 2
    (late,) = sent(room.offer(SELLERS[1], after_ms=BOOK_MS + 1), SELLERS[1])
    assert isinstance(late, Decline)
    assert late.reason == "late"


def test_the_last_answer_after_the_gathering_closes_the_book(room: Room) -> None:
    room.commit(BUYERS[0])
    room.offer(SELLERS[0])
    room.fire("book", GATHER_MS)
    assert book_in(room.offer(SELLERS[1], after_ms=GATHER_MS + 5))


def test_bids_are_waited_for_only_so_long(room: Room) -> None:
    room.commit(BUYERS[0])
    room.commit(BUYERS[1])
    room.offer(SELLERS[0])
    room.fire("book", GATHER_MS)
    room.fire("book", BOOK_MS)
    room.reveal(BUYERS[0], after_ms=BOOK_MS + 10)
    sheet = sheet_in(room.fire("sheet", BOOK_MS + REVEAL_MS))
    assert sorted(bool(bid) for bid in sheet.bids) == [False, True]
    assert room.reveal(BUYERS[1], after_ms=BOOK_MS + REVEAL_MS + 1) == []


def test_commits_that_are_too_late_early_many_or_out_of_place_are_declined(room: Room) -> None:
    assert reason(room.commit(BUYERS[0], epoch=EPOCH - EPOCH_SKEW - 1)) == "late"
    assert reason(room.commit(BUYERS[0], epoch=EPOCH + EPOCH_SKEW + 1)) == "late"
    elsewhere = next(name for name in ("/1", "/0") if not HUB.startswith(name))
    for name in (elsewhere, "nonsense", HUB + ".x"):
        assert reason(room.commit(BUYERS[0], hub=name)) == "stranger"
    room.commit(BUYERS[0])
    assert reason(room.commit(BUYERS[0])) == "twice"
    room.offer(SELLERS[0])
    room.fire("book", GATHER_MS)
    room.fire("book", BOOK_MS)
    assert reason(room.commit(BUYERS[1], after_ms=BOOK_MS)) == "late"
    room.fire("sheet", BOOK_MS + REVEAL_MS)
    assert reason(room.commit(BUYERS[2], after_ms=600)) == "late"


def test_where_nobody_has_a_slot_buyers_are_told_so(space: Space) -> None:
    room = Room(space)
    room.peer.seller.keep("agent0", 2)  # promised elsewhere
    room.commit(BUYERS[0])
    for seller in SELLERS:
        offer = Offer(HUB, EPOCH, ME.peer, seller.peer, ())
        assert room.get(seller, SignedOffer(*sealed(offer, seller))) == []
    assert reason(room.fire("book", GATHER_MS)) == "empty"
    assert reason(room.commit(BUYERS[1], after_ms=300)) == "late"


def test_a_commit_between_others_is_a_fault(room: Room) -> None:
    bid = encode(make_bid(BUYERS[0], [Query({SLOT: 1})]))
    for auctioneer, buyer, signer in (
        (SELLERS[0], BUYERS[0], BUYERS[0]),
        (ME, BUYERS[1], BUYERS[0]),
        (ME, BUYERS[0], BUYERS[1]),
    ):
        commit = Commit(HUB, EPOCH, auctioneer.peer, buyer.peer, body_id(bid), len(bid), 1)
        effects = room.get(BUYERS[0], SignedCommit(*sealed(commit, signer)))
        assert [peer for peer, _ in faults(effects)] == [BUYERS[0].peer]
    assert not room.peer.hub.auctioneer._auctions


def test_an_offer_unasked_for_or_given_twice_is_a_fault(room: Room) -> None:
    room.commit(BUYERS[0])
    room.offer(SELLERS[0])
    for keys in (SELLERS[0], BUYERS[2]):
        assert faults(room.offer(keys)) == [(keys.peer, "offer that nobody asked for")]


def test_an_offer_that_would_make_the_book_wrong_is_its_sellers_fault_alone(room: Room) -> None:
    room.commit(BUYERS[0])
    effects = room.offer(SELLERS[0], Lot("agent", 1, 0), Lot("agent", 1, 0))
    assert faults(effects) == [(SELLERS[0].peer, "two lots of one agent at one time")]
    room.offer(SELLERS[1])
    effects = [*room.fire("book", GATHER_MS), *room.fire("book", BOOK_MS)]
    assert {offer_of(part.body) for part in book_in(effects).offers} == {ME.peer, SELLERS[1].peer}


def offer_of(body: bytes) -> str:
    return parsed(body, Offer).seller  # type: ignore[attr-defined, no-any-return]


def test_a_bid_that_was_not_committed_to_is_a_fault(room: Room) -> None:
    room.commit(BUYERS[0], 100)
    assert room.reveal(BUYERS[0], 100) == []  # before the book
    room.offer(SELLERS[0])
    room.fire("book", GATHER_MS)
    room.fire("book", BOOK_MS)
    (fault,) = faults(room.reveal(BUYERS[0], 99, BOOK_MS))
    assert fault[0] == BUYERS[0].peer
    assert room.get(BUYERS[1], Reveal(encode(make_bid(BUYERS[0], [Query({SLOT: 100})])))) == []
    assert of(room.reveal(BUYERS[0], 100, BOOK_MS), SignedSheet)


@pytest.mark.parametrize("bound", [2_000, 3_000, 5_000])
def test_a_book_never_outgrows_its_message_however_large_its_parts(
    room: Room, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pagent.peer.auctioneer.BOOK_BYTES_MAX", bound)
    room.commit(BUYERS[0])
    acknowledged = [1]
    for number, keys in enumerate((*SELLERS, *(SimKeys(100 + n) for n in range(20)))):
        if number < len(SELLERS):
            lots = [Lot(f"{n}" + "x" * 60, 1, n) for n in range(11)]
            acknowledged.append(len(of(room.offer(keys, *lots), SignedAcknowledgement)))
        else:
            acknowledged.append(len(of(room.commit(keys), SignedAcknowledgement, keys)))
    (message, *_) = of([*room.fire("book", GATHER_MS), *room.fire("book", BOOK_MS)], SignedBook)
    book = parsed(message.body, Book)  # type: ignore[union-attr]
    assert len(message.body) <= bound  # type: ignore[union-attr]
    ours = 1  # our own offer is acknowledged to ourselves
    assert len(book.commits) + len(book.offers) == sum(acknowledged) + ours  # type: ignore[attr-defined]


def test_only_so_many_clearings_are_open_at_once(space: Space) -> None:
    room = Room(space, agents=6)
    names = sorted(room.peer.hub.cast.hubs._cells)
    replies = [room.commit(BUYERS[0], hub=name, epoch=epoch) for name in names for epoch in range(EPOCH - 2, EPOCH + 3)]
    assert len(room.peer.hub.auctioneer._auctions) == AUCTIONS_MAX < len(replies)
    assert {reason(reply) for reply in replies[AUCTIONS_MAX:]} == {"full"}


def test_no_flood_of_clearings_makes_an_auctioneer_sign_twice(space: Space) -> None:
    room = Room(space, agents=6)
    room.commit(BUYERS[0])
    room.offer(SELLERS[0])
    room.fire("book", GATHER_MS)
    room.fire("book", BOOK_MS)
    room.fire("sheet", BOOK_MS + REVEAL_MS)
    cells = room.peer.hub.cast.hubs._cells
    leaves = [f"{n}.{bits}" for n in cells if len(cells[n]) == 1 for bits in agent_halves(room, cells[n][0])]
    opened_ = 0
    for epoch in range(EPOCH - 2, EPOCH + 3):
        for name in [*cells, *leaves]:
            room.commit(BUYERS[1], after_ms=500, hub=name, epoch=epoch)
            opened_ += (name, epoch) in room.peer.hub.auctioneer._auctions
            for _ in range(2):
                room.fire("book", 500, epoch, name)
            room.fire("sheet", 500, epoch, name)
    assert opened_ > 256
    assert reason(room.commit(BUYERS[2], after_ms=600)) == "late"
    assert len(room.peer.hub.auctioneer._closed) <= CLOSED_MAX
    room.commit(BUYERS[2], after_ms=10 * EPOCH_MS, epoch=EPOCH + 10)
    assert len(room.peer.hub.auctioneer._closed) == 0


def agent_halves(room: Room, prototype: int) -> list[str]:
    """The names by hash below one prototype in which we have an agent."""
    hubs = room.peer.hub.cast.hubs
    (name,) = [n for n, inside in hubs._cells.items() if inside == (prototype,)]
    candidates = [f"{number:0{length}b}" for length in range(1, 9) for number in range(1 << length)]
    return [bits for bits in candidates if room.peer.hub.cast.own(f"{name}.{bits}")]
