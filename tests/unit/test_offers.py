"""The seller's part in hub clearing, through `Peer.handle`: what is promised, kept, granted, claimed, charged."""

import msgspec
import pytest

from p2pagent.peer.effects import Blame, Effect, Generate, Shun
from p2pagent.peer.epochs import EPOCH_MS, EPOCH_SKEW, GRANT_MS
from p2pagent.peer.events import AgentsChanged, GenerationEnded, PeerDown, PeerUp, Timer, TimerFired
from p2pagent.peer.hub import CLAIMS_MAX, CLAIMS_PER_BUYER_MAX, FETCH_BURST
from p2pagent.peer.hub_messages import (
    Acknowledgement,
    Claim,
    Decline,
    Fetch,
    Offer,
    Part,
    Proof,
    SignedAcknowledgement,
    SignedBook,
    SignedOffer,
    SignedSheet,
    Solicit,
)
from p2pagent.peer.messages import Fail, Final, Quote, Receipt, Refuse, Release, SignedQuote
from p2pagent.peer.offers import UNREVEALED_MICROCREDITS
from p2pagent.peer.peer import Peer
from p2pagent.peer.proofs import verdict
from p2pagent.peer.sheet import body_id
from p2pagent.peer.wire import encode, opened, parsed, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, Usage
from tests.clearings import EPOCH, HUB, Clearing, Query, clear_book, make_bid, make_book, make_commit, make_offer
from tests.scenario import START_MS, make_advert
from tests.strangers import ME, make_award, make_call, make_delta, make_peer, receive, sent

STRANGERS = tuple(SimKeys(index) for index in range(1, 7))
SLOT = AgentRef(ME.peer, "agent")
WORTH = 40 * 64
"""What `make_advert`'s rates bring for an answer of usual length."""


class Stand:
    """`ME` with one agent in the hub, among strangers who have theirs there too; two of them are no auctioneers now."""

    def __init__(self, space: Space, slots: int = 2) -> None:
        self.space = space
        (self.home, *_) = make_peer(space).hub.cast.hubs._cells[HUB]
        self.peer: Peer = make_peer(space, make_advert("agent", {self.home: 0.95}, slots))
        for keys in STRANGERS:
            receive(self.peer, keys, make_delta(keys, space, make_advert("agent", {self.home: 0.9})))
        drawn = self.peer.hub.cast.auctioneers(HUB, EPOCH, START_MS)
        self.drawn = [keys for keys in STRANGERS if keys.peer in drawn]
        self.others = [keys for keys in STRANGERS if keys.peer not in drawn]
        self.auctioneer = self.drawn[0]
        self.part = Part(b"", bytes(64))

    def solicit(self, by: SimKeys | None = None, hub: str = HUB, epoch: int = EPOCH, after_ms: int = 0) -> Offer | None:
        """What is offered to an auctioneer that asks, if anything."""
        by = by or self.auctioneer
        effects = receive(self.peer, by, Solicit(hub, epoch), after_ms)
        offers = [message for message in sent(effects, by) if isinstance(message, SignedOffer)]
        if not offers:
            assert effects == []
            return None
        self.part = Part(offers[0].body, offers[0].signature)
        return opened(Offer, offers[0].body, offers[0].signature, ME.peer, ME)

    def acknowledge(self) -> SignedAcknowledgement:
        ack = Acknowledgement(HUB, EPOCH, self.auctioneer.peer, "offer", body_id(self.part.body))
        signed = SignedAcknowledgement(*sealed(ack, self.auctioneer))
        receive(self.peer, self.auctioneer, signed)
        return signed

    def clearing(self, *owners: tuple[SimKeys, int], hidden: tuple[SimKeys, ...] = ()) -> Clearing:
        """An honest clearing of our offer with one query of each owner, who would gain so much."""
        bids = {keys: encode(make_bid(keys, [Query({SLOT: gain})])) for keys, gain in owners}
        commits = [make_commit(keys, self.auctioneer, bid, 1) for keys, bid in bids.items()]
        book = make_book(self.auctioneer, commits, [self.part])
        return clear_book(self.auctioneer, book, {body_id(bid): bid for bid in bids.values()}, hidden)

    def show_book(self, clearing: Clearing, after_ms: int = 200) -> list[Effect]:
        return receive(self.peer, self.auctioneer, SignedBook(*sealed(clearing.book, self.auctioneer)), after_ms)

    def show_sheet(self, clearing: Clearing, after_ms: int = 400) -> tuple[bytes, list[Effect]]:
        signed = SignedSheet(*sealed(clearing.sheet, self.auctioneer))
        return body_id(signed.body), receive(self.peer, self.auctioneer, signed, after_ms)

    def claim(self, buyer: SimKeys, sheet: bytes, subject: int = 0, **changes: object) -> Claim:
        conversation = make_bid(buyer, [Query({SLOT: 1})]).wants[0].conversation
        call = make_call(self.space, 1, conversation=conversation, **changes)
        return Claim(sheet, call, msgspec.structs.replace(make_award(1, subject), conversation=conversation))

    def fire(self, kind: str, after_ms: int) -> list[Effect]:
        """All timers of this kind that could be set go off."""
        idents = {
            "offer": [f"{self.auctioneer.peer} {HUB}".encode()],
            "grant": [*self.peer.hub.offers._grants] or [bytes(16)],
        }[kind]
        return [
            effect
            for ident in idents
            for effect in self.peer.handle(TimerFired(Timer(kind, ident, EPOCH)), START_MS + after_ms)  # type: ignore[arg-type]
        ]

    @property
    def slots(self) -> tuple[int, int]:
        """Slots in use or held, and slots kept for clearings."""
        stall = self.peer.seller._stalls["agent"]
        return stall.busy, stall.kept

    def charged(self, buyer: SimKeys, after_ms: int = 400) -> int:
        return self.peer.seller._credit.charged(buyer.peer, START_MS + after_ms)


@pytest.fixture
def stand(space: Space) -> Stand:
    return Stand(space)


def faults(effects: list[Effect]) -> list[str]:
    return [effect.fault for effect in effects if isinstance(effect, Blame)]


# --- promises -------------------------------------------------------------------------------------------------------


def test_what_is_offered_is_kept_from_everybody_else(stand: Stand) -> None:
    offer = stand.solicit()
    assert offer is not None
    assert [(lot.agent, lot.slots, lot.wait_ms) for lot in offer.lots] == [("agent", 2, 0)]
    assert stand.slots == (0, 2)
    (quote,) = sent(receive(stand.peer, stand.others[0], make_call(stand.space, 1)))
    assert isinstance(quote, SignedQuote)
    assert parsed(quote.body, Quote).free_slots == 0  # type: ignore[attr-defined]
    assert receive(stand.peer, stand.others[0], make_award(1)) == []
    effects = stand.fire("offer", EPOCH_MS)
    assert stand.slots == (1, 0)
    assert [type(effect) for effect in effects] == [Blame, Generate]


def test_nobody_else_than_the_drawn_gets_anything(stand: Stand) -> None:
    assert stand.others
    for keys in stand.others:
        assert stand.solicit(keys) is None
    assert stand.slots == (0, 0)


def test_what_one_auctioneer_was_promised_another_does_not_get(stand: Stand) -> None:
    first, second = (stand.solicit(keys) for keys in stand.drawn[:2])
    assert first is not None
    assert second is not None
    assert (len(first.lots), second.lots) == (1, ())
    assert stand.slots == (0, 2)


def test_an_auctioneer_is_offered_to_once_per_epoch(stand: Stand) -> None:
    assert stand.solicit() is not None
    assert stand.solicit() is None
    stand.fire("offer", EPOCH_MS)
    assert stand.slots == (0, 0)
    for after_ms in (EPOCH_MS, 2 * EPOCH_MS):
        assert stand.solicit(after_ms=after_ms) is None
    assert stand.slots == (0, 0)


@pytest.mark.parametrize("off", [-EPOCH_SKEW - 1, EPOCH_SKEW + 1, 1_000_000, -1_000_000])
def test_only_epochs_of_now_are_offered_to(stand: Stand, off: int) -> None:
    for keys in STRANGERS:
        assert stand.solicit(keys, epoch=EPOCH + off) is None


@pytest.mark.parametrize("hub", ["nonsense", "/9", "/01.2", "/" + "1" * 60])
def test_a_hub_that_is_none_of_ours_is_ignored(stand: Stand, hub: str) -> None:
    for keys in STRANGERS:
        assert stand.solicit(keys, hub=hub) is None


def test_who_solicits_for_every_hub_and_epoch_at_once_gets_each_slot_once(stand: Stand) -> None:
    for name in stand.peer.hub.cast.hubs._cells:
        for epoch in range(EPOCH - 9, EPOCH + 9):
            for keys in STRANGERS:
                stand.solicit(keys, hub=name, epoch=epoch)
    assert stand.slots == (0, 2)
    assert len(stand.peer.hub.offers._promises) == 1
    asked = len(stand.peer.hub.offers._asked)
    for keys in STRANGERS:
        stand.solicit(keys, epoch=EPOCH + 100, after_ms=100 * EPOCH_MS)
    assert len(stand.peer.hub.offers._asked) <= 3 < asked


def test_a_slot_at_work_is_offered_once_for_when_it_should_be_free(stand: Stand) -> None:
    buyer = stand.others[0]
    receive(stand.peer, buyer, make_call(stand.space, 1))
    (generate,) = receive(stand.peer, buyer, make_award(1))
    first = stand.solicit(stand.drawn[0])
    assert first is not None
    assert [(lot.slots, lot.wait_ms > 0) for lot in first.lots] == [(1, False), (1, True)]
    assert stand.slots == (1, 2)
    second = stand.solicit(stand.drawn[1])
    assert second is not None
    assert second.lots == ()
    stand.peer.handle(GenerationEnded(generate.job, Usage(20, 0, 3), "stop"), START_MS + 300)  # type: ignore[union-attr]
    assert stand.slots == (0, 2)
    stand.fire("offer", EPOCH_MS)
    assert stand.slots == (0, 0)


def test_the_offer_of_many_agents_with_long_names_fits_its_message(space: Space) -> None:
    stand = Stand(space)
    adverts = tuple(make_advert(f"{number}" + "ü" * 63, {stand.home: 0.95}, 2) for number in range(8))
    stand.peer.handle(AgentsChanged(adverts, ()), START_MS)
    offer = stand.solicit()  # `sent` checks the bounds
    assert offer is not None
    kept = {name: stall.kept for name, stall in stand.peer.seller._stalls.items() if stall.kept}
    assert kept == {lot.agent: lot.slots for lot in offer.lots}


@pytest.mark.parametrize(
    ("acknowledged", "booked", "fault"),
    [
        (False, False, ["asked for our slots and brought no book"]),
        (True, False, ["asked for our slots and brought no book"]),
        (True, True, ["signed a book and brought no sheet"]),
    ],
)
def test_no_sheet_costs_the_auctioneer_here_alone_and_frees_the_slots(
    stand: Stand, acknowledged: bool, booked: bool, fault: list[str]
) -> None:
    stand.solicit()
    if acknowledged:
        stand.acknowledge()
    if booked:
        stand.show_book(stand.clearing((STRANGERS[5], 10)))
    effects = stand.fire("offer", EPOCH_MS)
    assert faults(effects) == fault
    assert sent(effects) == []
    assert stand.slots == (0, 0)


@pytest.mark.parametrize("gone", [False, True])
def test_who_declines_our_offer_or_goes_away_costs_nothing_and_frees_the_slots(stand: Stand, gone: bool) -> None:
    stand.solicit()
    assert stand.slots == (0, 2)
    if gone:
        effects = stand.peer.handle(PeerDown(stand.auctioneer.peer), START_MS)
    else:
        effects = receive(stand.peer, stand.auctioneer, Decline(HUB, EPOCH, "late"))
    assert faults(effects) == []
    assert stand.slots == (0, 0)


def test_an_offer_that_was_acknowledged_and_is_not_in_the_book_is_proved_to_the_neighbours(stand: Stand) -> None:
    witness = stand.others[1]
    stand.peer.handle(PeerUp(witness.peer), START_MS)
    stand.solicit()
    stand.acknowledge()
    rival = STRANGERS[5]
    bid = encode(make_bid(rival, [Query({SLOT: 5})]))
    without = make_book(
        stand.auctioneer,
        [make_commit(rival, stand.auctioneer, bid, 1)],
        [make_offer(rival, stand.auctioneer, {("agent", 0): 1})],
    )
    effects = receive(stand.peer, stand.auctioneer, SignedBook(*sealed(without, stand.auctioneer)), 200)
    (proof,) = [message for message in sent(effects, witness) if isinstance(message, Proof)]
    assert verdict(proof, witness).crime == "omission"
    assert Shun(stand.auctioneer.peer) in effects
    assert stand.slots == (0, 0)


def test_an_offer_that_came_too_late_for_the_book_is_nobodys_fault(stand: Stand) -> None:
    stand.solicit()
    rival = STRANGERS[5]
    bid = encode(make_bid(rival, [Query({SLOT: 5})]))
    without = make_book(stand.auctioneer, [make_commit(rival, stand.auctioneer, bid, 1)], [])
    assert receive(stand.peer, stand.auctioneer, SignedBook(*sealed(without, stand.auctioneer)), 200) == []
    assert stand.slots == (0, 0)


# --- grants ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def buyers(stand: Stand) -> list[SimKeys]:
    return [SimKeys(50), SimKeys(51), SimKeys(52)]


def granted(stand: Stand, *owners: tuple[SimKeys, int], hidden: tuple[SimKeys, ...] = ()) -> bytes:
    stand.solicit()
    stand.acknowledge()
    clearing = stand.clearing(*owners, hidden=hidden)
    stand.show_book(clearing)
    sheet, _ = stand.show_sheet(clearing)
    return sheet


def test_a_claim_starts_the_answer_and_its_receipt_has_the_toll(stand: Stand, buyers: list[SimKeys]) -> None:
    sheet = granted(stand, *((keys, gain) for keys, gain in zip(buyers, (900, 800, 700), strict=True)))
    assert stand.slots == (0, 2)
    (generate,) = receive(stand.peer, buyers[0], stand.claim(buyers[0], sheet), 450)
    assert isinstance(generate, Generate)
    assert stand.slots == (1, 1)
    (final,) = sent(stand.peer.handle(GenerationEnded(generate.job, Usage(20, 0, 3), "stop"), START_MS + 900))
    assert isinstance(final, Final)
    receipt = opened(Receipt, final.receipt, final.signature, ME.peer, ME)
    assert (receipt.sheet, receipt.slot_price_microcredits) == (sheet, 700)
    assert receipt.price_microcredits == 10 * 20 + 40 * 3 + 700


def test_slots_that_nobody_won_are_free_at_once(stand: Stand, buyers: list[SimKeys]) -> None:
    granted(stand, (buyers[0], 900))
    assert stand.slots == (0, 1)


def test_only_the_winner_claims_once_what_it_won_by_that_sheet(stand: Stand, buyers: list[SimKeys]) -> None:
    sheet = granted(stand, (buyers[0], 900))
    right = stand.claim(buyers[0], sheet)
    elsewhere = msgspec.structs.replace(right.award, conversation=bytes(16))
    refused = [
        (buyers[1], right),
        (buyers[0], msgspec.structs.replace(right, award=elsewhere)),
        (buyers[0], stand.claim(buyers[0], sheet, agent="other")),
    ]
    for buyer, claim in refused:
        assert sent(receive(stand.peer, buyer, claim, 450)) == [Fail(right.call.conversation, "expired")]
    assert stand.slots == (0, 1)
    assert [type(e) for e in receive(stand.peer, buyers[0], right, 450)] == [Generate]
    assert sent(receive(stand.peer, buyers[0], right, 450)) == [Fail(right.call.conversation, "expired")]
    assert stand.slots == (1, 0)


@pytest.mark.parametrize("how", ["unclaimed", "released"])
def test_a_grant_that_is_not_taken_up_is_charged_to_its_winner(stand: Stand, buyers: list[SimKeys], how: str) -> None:
    sheet = granted(stand, *((keys, gain) for keys, gain in zip(buyers, (900, 800, 700), strict=True)))
    conversation = stand.claim(buyers[0], sheet).call.conversation
    assert receive(stand.peer, buyers[1], Release(conversation), 500) == []
    assert stand.slots == (0, 2)
    if how == "released":
        receive(stand.peer, buyers[0], Release(conversation), 500)
        assert stand.slots == (0, 1)
    else:
        stand.fire("grant", 400 + GRANT_MS - 1)
        assert stand.slots == (0, 2)
        stand.fire("grant", 400 + GRANT_MS)
        assert stand.slots == (0, 0)
        assert stand.charged(buyers[1], 400 + GRANT_MS) == 700 + WORTH
    assert stand.charged(buyers[0], 400 + GRANT_MS) == pytest.approx(700 + WORTH, abs=1_000)
    assert stand.charged(buyers[2], 400 + GRANT_MS) == 0
    assert stand.charged(buyers[0], 3_600_000) == 0
    late = sent(receive(stand.peer, buyers[0], stand.claim(buyers[0], sheet), 2_000))
    assert late == [Fail(conversation, "expired")]


def test_an_unrevealed_commit_is_charged(stand: Stand, buyers: list[SimKeys]) -> None:
    granted(stand, (buyers[0], 900), (buyers[1], 800), hidden=(buyers[1],))
    assert stand.charged(buyers[0]) == 0
    assert stand.charged(buyers[1]) == UNREVEALED_MICROCREDITS


@pytest.mark.parametrize("subject", [0, 3])
def test_a_claim_that_is_refused_leaves_no_slot_behind(stand: Stand, buyers: list[SimKeys], subject: int) -> None:
    sheet = granted(stand, (buyers[0], 900))
    changes = {} if subject else {"prompt_tokens": 1 << 20}
    (reply,) = sent(receive(stand.peer, buyers[0], stand.claim(buyers[0], sheet, subject, **changes), 450))
    assert isinstance(reply, Refuse | Fail)
    assert stand.slots == (0, 0)


def test_nobody_gets_in_the_way_of_a_winner_by_calling_under_its_conversation(
    stand: Stand, buyers: list[SimKeys]
) -> None:
    sheet = granted(stand, (buyers[0], 900))
    claim = stand.claim(buyers[0], sheet)
    receive(stand.peer, buyers[1], claim.call, 440)
    assert stand.slots == (1, 1)
    effects = receive(stand.peer, buyers[0], claim, 450)
    assert [type(e) for e in effects if not isinstance(e, Generate)] != [Blame]
    assert any(isinstance(effect, Generate) for effect in effects)
    assert stand.slots == (1, 0)


def test_a_winner_that_has_called_under_its_own_conversation_loses_no_slot_for_us(
    stand: Stand, buyers: list[SimKeys]
) -> None:
    sheet = granted(stand, (buyers[0], 900))
    claim = stand.claim(buyers[0], sheet)
    receive(stand.peer, buyers[0], claim.call, 440)
    receive(stand.peer, buyers[0], claim, 450)
    receive(stand.peer, buyers[0], Release(claim.call.conversation), 460)
    assert stand.slots == (0, 0)


def test_one_conversation_in_two_bids_keeps_no_slot_for_ever(stand: Stand, buyers: list[SimKeys]) -> None:
    stand.solicit()
    bid = make_bid(buyers[0], [Query({SLOT: 9})])
    copy = msgspec.structs.replace(bid, buyer=buyers[1].peer)
    bids = {keys: encode(b) for keys, b in ((buyers[0], bid), (buyers[1], copy))}
    commits = [make_commit(keys, stand.auctioneer, data, 1) for keys, data in bids.items()]
    book = make_book(stand.auctioneer, commits, [stand.part])
    stand.show_sheet(clear_book(stand.auctioneer, book, {body_id(data): data for data in bids.values()}))
    assert stand.slots == (0, 1)
    stand.fire("grant", 400 + GRANT_MS)
    assert stand.slots == (0, 0)


@pytest.mark.parametrize("moment", ["promised", "granted"])
@pytest.mark.parametrize("back", [False, True])
def test_an_agent_that_goes_meanwhile_takes_its_promises_with_it(
    stand: Stand, buyers: list[SimKeys], moment: str, back: bool
) -> None:
    stand.solicit()
    clearing = stand.clearing((buyers[0], 900))
    sheet = body_id(sealed(clearing.sheet, stand.auctioneer)[0])
    if moment == "granted":
        stand.show_sheet(clearing)
    stand.peer.handle(AgentsChanged((), ()), START_MS + 410)
    if back:
        stand.peer.handle(AgentsChanged((make_advert("agent", {stand.home: 0.95}, 2),), ()), START_MS + 420)
    if moment == "promised":
        stand.show_sheet(clearing, 430)
    (fail,) = sent(receive(stand.peer, buyers[0], stand.claim(buyers[0], sheet), 450))
    assert isinstance(fail, Fail)
    stand.fire("grant", 400 + GRANT_MS)
    stand.fire("offer", EPOCH_MS)
    if back:
        assert stand.slots == (0, 0)


# --- claims that come before their sheet ----------------------------------------------------------------------------


def test_a_claim_that_overtakes_its_sheet_waits_for_it(stand: Stand, buyers: list[SimKeys]) -> None:
    stand.solicit()
    clearing = stand.clearing((buyers[0], 900))
    signed = SignedSheet(*sealed(clearing.sheet, stand.auctioneer))
    effects = receive(stand.peer, buyers[0], stand.claim(buyers[0], body_id(signed.body)), 400)
    assert sent(effects, buyers[0]) == [Fetch(body_id(signed.body))]
    effects = receive(stand.peer, buyers[0], signed, 420)
    assert any(isinstance(effect, Generate) for effect in effects)
    assert stand.slots == (1, 0)
    assert not stand.peer.hub._claims


def test_a_claim_whose_sheet_never_comes_is_told_so_and_forgotten(stand: Stand, buyers: list[SimKeys]) -> None:
    stand.solicit()
    claim = stand.claim(buyers[0], bytes(32))
    effects = receive(stand.peer, buyers[0], claim, 400)
    assert sent(effects) == [Fetch(bytes(32))]
    assert sent(stand.fire("grant", 400 + GRANT_MS)) == [Fail(claim.call.conversation, "expired")]
    assert not stand.peer.hub._claims


def test_a_flood_of_claims_leaves_room_for_others_and_passes(stand: Stand, buyers: list[SimKeys]) -> None:
    stand.solicit()
    sheet = body_id(b"")
    for number in range(3 * CLAIMS_MAX):
        call = make_call(stand.space, number)
        receive(stand.peer, buyers[0], Claim(sheet, call, make_award(number)), 400)
    assert len(stand.peer.hub._claims) == CLAIMS_PER_BUYER_MAX
    for index in range(3 * CLAIMS_MAX):
        receive(stand.peer, SimKeys(100 + index), Claim(sheet, make_call(stand.space, 1), make_award(1)), 400)
    assert len(stand.peer.hub._claims) == CLAIMS_MAX
    stand.fire("grant", 400 + GRANT_MS)
    assert not stand.peer.hub._claims


def test_where_nothing_was_promised_no_claim_is_waited_for(stand: Stand, buyers: list[SimKeys]) -> None:
    claim = stand.claim(buyers[0], bytes(32))
    assert sent(receive(stand.peer, buyers[0], claim, 400)) == [Fail(claim.call.conversation, "expired")]


def test_a_claim_by_another_sheet_of_the_same_clearing_is_the_end_of_its_auctioneer(
    stand: Stand, buyers: list[SimKeys]
) -> None:
    granted(stand, (buyers[0], 900))
    other = clear_book(
        stand.auctioneer,
        stand.clearing((buyers[0], 900)).book,
        {body_id(bid): bid for bid in stand.clearing((buyers[0], 900)).bids},
        cleared_ms=START_MS + 430,
    )
    signed = SignedSheet(*sealed(other.sheet, stand.auctioneer))
    claim = stand.claim(buyers[0], body_id(signed.body))
    assert Fetch(body_id(signed.body)) in sent(receive(stand.peer, buyers[0], claim, 450))
    effects = receive(stand.peer, buyers[0], signed, 460)
    assert Shun(stand.auctioneer.peer) in effects
    assert Fail(claim.call.conversation, "expired") in sent(effects, buyers[0])
    assert stand.peer.directory.is_banned(stand.auctioneer.peer)


@pytest.mark.parametrize("kind", [SignedBook, SignedSheet])
def test_books_and_sheets_that_are_none_of_our_business_are_not_kept(
    stand: Stand, buyers: list[SimKeys], kind: type
) -> None:
    for index in range(10):
        auctioneer = SimKeys(200 + index)
        stand.auctioneer = auctioneer
        stand.part = make_offer(SimKeys(300), auctioneer, {("agent", 0): 1})
        clearing = stand.clearing((buyers[0], 900))
        value = clearing.book if kind is SignedBook else clearing.sheet
        assert receive(stand.peer, auctioneer, kind(*sealed(value, auctioneer)), 400) == []
    assert not stand.peer.hub._books
    assert not stand.peer.hub.sheets._held


def test_of_a_flood_of_fetches_only_so_many_are_answered(stand: Stand, buyers: list[SimKeys]) -> None:
    sheet = granted(stand, (buyers[0], 900))
    replies = [len(sent(receive(stand.peer, buyers[1], Fetch(sheet), 500))) for _ in range(3 * FETCH_BURST)]
    assert replies == [1] * FETCH_BURST + [0] * 2 * FETCH_BURST
    assert [type(m) for m in sent(receive(stand.peer, buyers[2], Fetch(sheet), 500))] == [SignedSheet]
    assert receive(stand.peer, buyers[2], Fetch(bytes(32)), 500) == []
