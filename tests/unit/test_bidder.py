"""The owner's part in hub clearing, driven through `Peer.handle`: one sealed bid, opened once the book stands."""

import msgspec
import pytest

from p2pagent.peer.contests import CONTESTS_MAX
from p2pagent.peer.effects import Blame, Effect, SetTimer, Shun
from p2pagent.peer.epochs import EPOCH_MS
from p2pagent.peer.events import CancelAsk, PeerDown, PeerUp, Timer, TimerFired
from p2pagent.peer.hub import PROOF_BURST
from p2pagent.peer.hub_messages import (
    Acknowledgement,
    Bid,
    Book,
    Claim,
    Commit,
    Decline,
    Part,
    Proof,
    Reveal,
    SignedAcknowledgement,
    SignedBook,
    SignedCommit,
    SignedSheet,
    Statement,
)
from p2pagent.peer.messages import Award, Call, Release
from p2pagent.peer.peer import Peer
from p2pagent.peer.proofs import verdict
from p2pagent.peer.sheet import body_id, ordered
from p2pagent.peer.wire import WireMessage, encode, opened, parsed, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef
from tests.clearings import Query, clear_book, make_bid, make_book, make_commit, make_offer
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, ME, make_delta, make_peer, make_quote, receive, sent

SUBJECT = 1
EXPERTS = (ALICE, BOB)
EVERYBODY = (ALICE, BOB, CAROL)
BUSY = {"free_slots": 0, "ttft_ms": 3_000}
NOW_MS = 30


class Owner:
    """`ME`, whose questions find both experts busy."""

    def __init__(self, space: Space) -> None:
        self.peer: Peer = make_peer(space)
        self.effects: list[Effect] = []
        self.timers: list[SetTimer] = []
        self.calls: list[tuple[SimKeys, Call]] = []
        for keys, skill in zip(EVERYBODY, (0.95, 0.94, 0.05), strict=True):
            receive(self.peer, keys, make_delta(keys, space, make_advert("agent", {SUBJECT: skill})))
            self.peer.handle(PeerUp(keys.peer), START_MS)

    def handle(self, event: object, after_ms: int = NOW_MS) -> list[Effect]:
        self.effects = self.peer.handle(event, START_MS + after_ms)  # type: ignore[arg-type]
        self.timers += [effect for effect in self.effects if isinstance(effect, SetTimer)]
        self.calls += [(k, m) for k in EVERYBODY for m in sent(self.effects, k) if isinstance(m, Call)]
        return self.effects

    def get(self, sender: SimKeys, message: WireMessage, after_ms: int = NOW_MS) -> list[Effect]:
        effects = receive(self.peer, sender, message, after_ms)
        self.effects = effects
        self.timers += [effect for effect in effects if isinstance(effect, SetTimer)]
        return effects

    def ask(self, *names: str, after_ms: int = NOW_MS) -> None:
        """Questions for which everybody has quoted a long wait."""
        for name in names:
            self.calls.clear()
            self.handle(make_ask(name, SUBJECT, value_microcredits=1_000_000), after_ms)
            for keys, call in [*self.calls]:
                self.get(keys, make_quote(keys, call, **BUSY), after_ms)

    def bid(self, after_ms: int = NOW_MS) -> tuple[SimKeys, Commit, Part]:
        """The commit that leaves when the bid timer goes off, and to whom."""
        self.handle(TimerFired(Timer("bid")), after_ms)
        ((keys, message),) = [(k, m) for k in EVERYBODY for m in sent(self.effects, k) if isinstance(m, SignedCommit)]
        commit = opened(Commit, message.body, message.signature, ME.peer, ME)
        assert commit.auctioneer == keys.peer
        return keys, commit, Part(message.body, message.signature)

    def acknowledge(self, keys: SimKeys, commit: Commit, what: str, digest: bytes) -> None:
        ack = Acknowledgement(commit.hub, commit.epoch, keys.peer, what, digest)  # type: ignore[arg-type]
        assert self.get(keys, SignedAcknowledgement(*sealed(ack, keys))) == []

    def book(self, keys: SimKeys, commit: Commit, *parts: Part, slots: int = 1) -> Book:
        where = {"hub": commit.hub, "epoch": commit.epoch}
        offer = make_offer(ALICE, keys, {("agent", 0): slots}, **where)
        return make_book(keys, parts, [offer], **where)

    def rival(self, keys: SimKeys, commit: Commit, gain: int) -> tuple[Part, bytes]:
        where = {"hub": commit.hub, "epoch": commit.epoch}
        bid = encode(make_bid(CAROL, [Query({AgentRef(ALICE.peer, "agent"): gain})], **where))
        return make_commit(CAROL, keys, bid, 1, **where), bid

    def show(self, keys: SimKeys, book: Book) -> list[Effect]:
        return self.get(keys, SignedBook(*sealed(book, keys)), 200)

    def show_sheet(self, keys: SimKeys, book: Book, *bids: bytes) -> list[Effect]:
        clearing = clear_book(keys, book, {body_id(bid): bid for bid in bids}, cleared_ms=START_MS + 300)
        return self.get(keys, SignedSheet(*sealed(clearing.sheet, keys)), 350)

    @property
    def faults(self) -> list[tuple[str, str]]:
        return [(effect.peer, effect.fault) for effect in self.effects if isinstance(effect, Blame)]

    @property
    def awarded(self) -> int:
        return sum(isinstance(message, Award) for message in sent(self.effects))


@pytest.fixture
def owner(space: Space) -> Owner:
    return Owner(space)


def revealed(effects: list[Effect], keys: SimKeys) -> bytes:
    (reveal,) = sent(effects, keys)
    assert isinstance(reveal, Reveal)
    return reveal.bid


def test_a_bid_is_sealed_until_the_book_stands_and_wins_by_the_sheet(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    owner.acknowledge(keys, commit, "commit", body_id(part.body))
    book = owner.book(keys, commit, part)
    bid = revealed(owner.show(keys, book), keys)
    assert (body_id(bid), len(bid)) == (commit.bid_sha256, commit.bid_bytes)
    owner.acknowledge(keys, commit, "bid", body_id(bid))
    effects = owner.show_sheet(keys, book, bid)
    (claim,) = [m for m in sent(effects, ALICE) if isinstance(m, Claim)]
    assert claim.call.conversation == claim.award.conversation == parsed(bid, Bid).wants[0].conversation  # type: ignore[attr-defined]
    assert owner.faults == []
    assert owner.awarded == 0
    assert owner.handle(TimerFired(Timer("cleared", commit.hub.encode(), commit.epoch)), EPOCH_MS + NOW_MS) == []


def test_questions_of_one_moment_are_one_bid_and_later_ones_wait_for_the_next_epoch(owner: Owner) -> None:
    owner.ask("q0", "q1")
    _, commit, _ = owner.bid()
    assert commit.wants == 2
    owner.ask("q2", after_ms=100)
    assert [type(e) for e in owner.handle(TimerFired(Timer("bid")), 100)] == [SetTimer]
    assert owner.timers[-1].at_ms == START_MS + EPOCH_MS
    _, later, _ = owner.bid(EPOCH_MS)
    assert (later.epoch, later.wants) == (commit.epoch + 1, 1)


def test_who_loses_bids_again_and_at_last_waits_in_line(owner: Owner) -> None:
    owner.ask("q")
    for attempt in range(CONTESTS_MAX):
        keys, commit, part = owner.bid(NOW_MS + attempt * EPOCH_MS)
        rival, their_bid = owner.rival(keys, commit, 1 << 40)
        book = owner.book(keys, commit, part, rival)
        bid = revealed(owner.show(keys, book), keys)
        clearing = clear_book(
            keys, book, {body_id(b): b for b in (bid, their_bid)}, cleared_ms=START_MS + attempt * EPOCH_MS + 300
        )
        owner.get(keys, SignedSheet(*sealed(clearing.sheet, keys)), attempt * EPOCH_MS + 350)
        assert owner.awarded == 0
    assert owner.faults == []
    calls = [(keys, call) for keys in EVERYBODY for call in sent(owner.effects, keys) if isinstance(call, Call)]
    for keys, call in calls:  # its quotes are three epochs old: it asks again
        owner.get(keys, make_quote(keys, call, **BUSY), CONTESTS_MAX * EPOCH_MS)
    assert len(calls) > 1
    assert owner.awarded == 1


@pytest.mark.parametrize(("reason", "again"), [("empty", True), ("late", True), ("full", False), ("stranger", False)])
def test_a_declined_commit_is_made_again_where_another_epoch_may_help(owner: Owner, reason: str, again: bool) -> None:
    owner.ask("q")
    keys, commit, _ = owner.bid()
    owner.get(BOB if keys is ALICE else ALICE, Decline(commit.hub, commit.epoch, reason))  # type: ignore[arg-type]
    assert owner.effects == []
    owner.get(keys, Decline(commit.hub, commit.epoch, reason))  # type: ignore[arg-type]
    assert owner.awarded == (not again)
    assert owner.faults == []
    if again:
        assert owner.bid(EPOCH_MS)[1].epoch == commit.epoch + 1


@pytest.mark.parametrize("acknowledged", [True, False])
def test_silence_ends_at_the_deadline_and_costs_the_auctioneer_here(owner: Owner, acknowledged: bool) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    if acknowledged:
        owner.acknowledge(keys, commit, "commit", body_id(part.body))
        revealed(owner.show(keys, owner.book(keys, commit, part)), keys)
    owner.handle(TimerFired(Timer("cleared", commit.hub.encode(), commit.epoch)), EPOCH_MS + NOW_MS)
    assert [peer for peer, _ in owner.faults] == [keys.peer]
    assert owner.awarded == 1
    assert not any(isinstance(message, Proof) for message in sent(owner.effects))


def test_an_auctioneer_that_goes_away_keeps_nobody_waiting(owner: Owner) -> None:
    owner.ask("q")
    keys, _, _ = owner.bid()
    owner.handle(PeerDown(keys.peer))
    assert owner.awarded == 1


def proof_to(effects: list[Effect], keys: SimKeys) -> str:
    (proof,) = {m for k in EVERYBODY if k is not keys for m in sent(effects, k) if isinstance(m, Proof)}
    assert Shun(keys.peer) in effects
    found = verdict(proof, ME)
    assert found.culprit == keys.peer
    return found.crime


def test_a_commit_that_was_acknowledged_and_left_out_is_proved(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    owner.acknowledge(keys, commit, "commit", body_id(part.body))
    rival, _ = owner.rival(keys, commit, 5)
    assert proof_to(owner.show(keys, owner.book(keys, commit, rival)), keys) == "omission"
    assert owner.awarded == 1


@pytest.mark.parametrize("digest", [None, bytes(32)])
def test_a_commit_that_may_have_come_too_late_is_made_again_and_nobody_is_blamed(
    owner: Owner, digest: bytes | None
) -> None:
    """The book may have left before our commit came; an acknowledgement of something else is none."""
    owner.ask("q")
    keys, commit, _ = owner.bid()
    if digest is not None:
        owner.acknowledge(keys, commit, "commit", digest)
    rival, _ = owner.rival(keys, commit, 5)
    owner.show(keys, owner.book(keys, commit, rival))
    assert owner.faults == []
    assert sent(owner.effects) == []
    assert owner.bid(EPOCH_MS)[1].epoch == commit.epoch + 1


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_bid_that_was_opened_and_left_out(owner: Owner, acknowledged: bool) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    rival, their_bid = owner.rival(keys, commit, 5)
    book = owner.book(keys, commit, part, rival)
    bid = revealed(owner.show(keys, book), keys)
    if acknowledged:
        owner.acknowledge(keys, commit, "bid", body_id(bid))
    clearing = clear_book(keys, book, {body_id(b): b for b in (bid, their_bid)}, hidden=[ME], cleared_ms=START_MS + 300)
    effects = owner.get(keys, SignedSheet(*sealed(clearing.sheet, keys)), 350)
    if acknowledged:
        assert proof_to(effects, keys) == "omission"
    else:
        assert [peer for peer, _ in owner.faults] == [keys.peer]
        assert not any(isinstance(message, Proof) for message in sent(effects))
    assert owner.awarded == 1


def test_two_books_are_proved_by_whoever_sees_both(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    rival, _ = owner.rival(keys, commit, 5)
    owner.show(keys, owner.book(keys, commit, part))
    assert proof_to(owner.show(keys, owner.book(keys, commit, part, rival)), keys) == "equivocation"
    assert owner.awarded == 1


def test_a_sheet_of_another_book_than_the_one_shown_is_proved(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    rival, their_bid = owner.rival(keys, commit, 5)
    bid = revealed(owner.show(keys, owner.book(keys, commit, part)), keys)
    effects = owner.show_sheet(keys, owner.book(keys, commit, part, rival), bid, their_bid)
    assert proof_to(effects, keys) == "equivocation"
    assert owner.awarded == 1


def test_a_book_out_of_order_is_proved(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    rival, _ = owner.rival(keys, commit, 5)
    backwards = msgspec.structs.replace(
        owner.book(keys, commit, part, rival), commits=tuple(reversed(ordered([part, rival])))
    )
    assert proof_to(owner.show(keys, backwards), keys) == "wrong book"


def test_what_another_says_of_our_clearing_is_not_heard(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    other = BOB if keys is not BOB else ALICE
    stolen = owner.book(keys, commit, part)
    effects = owner.get(other, SignedBook(*sealed(stolen, keys)), 200)
    assert [peer for peer, _ in owner.faults] == [other.peer]
    owner.get(other, SignedBook(*sealed(msgspec.structs.replace(stolen, auctioneer=other.peer), other)), 200)
    assert owner.effects == []
    assert not any(isinstance(message, Reveal) for message in sent(effects))


def test_a_question_that_is_cancelled_claims_nothing(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    released = sent(owner.handle(CancelAsk("q")))
    assert {type(message) for message in released} == {Release}
    book = owner.book(keys, commit, part)
    bid = revealed(owner.show(keys, book), keys)
    assert not any(isinstance(message, Claim | Award) for message in sent(owner.show_sheet(keys, book, bid)))
    assert owner.peer.buyer.running == 0


def test_a_question_that_is_cancelled_before_the_bid_is_in_none(owner: Owner) -> None:
    owner.ask("q")
    owner.handle(CancelAsk("q"))
    assert not any(isinstance(m, SignedCommit) for m in sent(owner.handle(TimerFired(Timer("bid")))))


def test_two_agents_of_one_tag_do_not_spoil_the_bid(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pagent.peer.bidder.agent_tag", lambda _agent: bytes(8))
    owner.ask("q")
    keys, commit, part = owner.bid()
    bid = parsed(revealed(owner.show(keys, owner.book(keys, commit, part)), keys), Bid)
    assert [gain.agent for gain in bid.wants[0].gains] == [bytes(8)]  # type: ignore[attr-defined]


def test_a_proof_that_proves_nothing_is_its_senders_fault(owner: Owner) -> None:
    owner.ask("q")
    keys, commit, part = owner.bid()
    owner.get(CAROL, Proof((Statement("book", *sealed(owner.book(keys, commit, part), keys)),)))
    assert [peer for peer, _ in owner.faults] == [CAROL.peer]
    assert not owner.peer.directory.is_banned(keys.peer)


def guilty(keys: SimKeys, hub: str = "/") -> Proof:
    """A book with nothing signed by whom it names."""
    bid = encode(make_bid(CAROL, [Query({AgentRef(ALICE.peer, "agent"): 1})]))
    book = make_book(keys, [make_commit(CAROL, keys, bid, 1)], [], hub=hub)
    return Proof((Statement("book", *sealed(book, keys)),))


def test_a_proof_is_passed_on_once_and_its_culprit_is_heard_no_more(owner: Owner) -> None:
    effects = owner.get(CAROL, guilty(ALICE))
    assert [sent(effects, keys) for keys in EVERYBODY] == [[], [guilty(ALICE)], []]
    assert Shun(ALICE.peer) in effects
    assert owner.get(BOB, guilty(ALICE)) == []
    assert owner.get(ALICE, Decline("/", 1, "late")) == []


def test_nobody_shuns_itself(owner: Owner) -> None:
    assert owner.get(CAROL, guilty(ME)) == []
    owner.ask("q")
    assert owner.bid()


def test_of_a_flood_of_proofs_only_so_many_are_checked(owner: Owner) -> None:
    replies = [owner.get(CAROL, guilty(SimKeys(100 + number))) for number in range(3 * PROOF_BURST)]
    assert [bool(reply) for reply in replies] == [True] * PROOF_BURST + [False] * 2 * PROOF_BURST
