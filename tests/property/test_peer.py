"""`Peer.handle` whatever happens: it never raises, what it sends is well-formed, and in the end nothing is held."""

from hashlib import sha256
from heapq import heappop, heappush
from random import Random
from typing import Any
from unittest import mock

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.peer.awards import OWN_PROGRESS_MS, PREDICTED_MS_MAX
from p2pagent.peer.calling import ROUNDS_MAX
from p2pagent.peer.effects import (
    Abort,
    Blame,
    Effect,
    Find,
    Generate,
    Learned,
    Post,
    RaiseDispute,
    Remember,
    Send,
    SetTimer,
    Shun,
    Tell,
)
from p2pagent.peer.epochs import EPOCH_MS
from p2pagent.peer.events import (
    AgentsChanged,
    CancelAsk,
    Delivery,
    Disputed,
    Event,
    Generated,
    GenerationEnded,
    GenerationFailed,
    Leave,
    PeerDown,
    PeerUp,
    Posted,
    ProvidersFound,
    Rated,
    Rating,
    Received,
    Recounted,
    Timer,
    TimerFired,
    Unsent,
)
from p2pagent.peer.gossip_messages import (
    Ack,
    Delta,
    Look,
    Nack,
    News,
    Ping,
    Pull,
    Relay,
    Sight,
    SignedHeartbeat,
    SignedSuspicion,
    Suspicion,
)
from p2pagent.peer.hub import BOOKS_MAX, CLAIMS_MAX
from p2pagent.peer.hub_messages import (
    Acknowledgement,
    Book,
    Claim,
    Commit,
    Decline,
    Fetch,
    Lot,
    Offer,
    Part,
    Proof,
    Reveal,
    SignedAcknowledgement,
    SignedBook,
    SignedCommit,
    SignedOffer,
    SignedSheet,
    Solicit,
    Statement,
)
from p2pagent.peer.messages import Award, Call, Chunk, Fail, Refuse, Release, Settle, Settled, Turn
from p2pagent.peer.peer import Peer
from p2pagent.peer.sheet import check_book
from p2pagent.peer.terms import QUOTES_MS
from p2pagent.peer.updates import Answered, Unanswered
from p2pagent.peer.wire import WireMessage, decode, encode, parsed, protocol_of, sealed
from p2pagent.routing import game
from p2pagent.routing.posteriors import Experience
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, Usage
from tests.clearings import Query, clear_book, make_bid, make_book, make_commit, make_offer
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, ME, ident, make_delta, make_final, make_peer, make_quote, prompt

STRANGERS = (ALICE, BOB, CAROL)
AGENTS = (make_advert("agent", {0: 0.95}, slots=1), make_advert("second", {1: 0.6}, slots=2))
KINDS = (
    *["call", "award", "engine", "reply", "reply", "reply", "ask"] * 3,
    *["release", "settle", "settled", "gossip", "user", "connection", "time"],
    *["commit", "offer", "reveal", "solicit", "lead", "lead", "claim", "odd", "time"] * 2,
)
STEPS_MIN, STEPS_MAX = 30, 120
PATIENCE = 2 * ROUNDS_MAX * (2 * PREDICTED_MS_MAX + OWN_PROGRESS_MS + QUOTES_MS) // 10_000 + 1
"""Steps of 10 s that the longest query can take if everybody stays silent."""


class Chaos:
    """Draws what happens next out of `rng`: moves, honest and bent, of strangers, user, engine and clock."""

    def __init__(self, space: Space, rng: Random) -> None:
        self.space, self.rng = space, rng
        self.now_ms = START_MS
        self.timers: list[tuple[int, int, Timer]] = []
        self.jobs: list[bytes] = []
        self.jobs_ever: set[bytes] = set()
        self.calls: list[tuple[SimKeys, Call]] = []
        self.quoted: list[tuple[SimKeys, Award]] = []
        self.posts: list[Post] = []
        self.finds: list[Find] = []
        here = space.nearest(space.embed(prompt(2)))
        sold = [Delivery(AgentRef(keys.peer, "agent"), space.name, here, 0.5) for keys in STRANGERS]
        self.deliveries: list[tuple[Delivery, Rating | None]] = [(each, None) for each in sold]
        self.finals: list[WireMessage] = []
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.only: dict[str, AgentRef | None] = {}
        self.chunks: dict[bytes, int] = {}
        self.numbers: list[int] = []
        self.bids: list[tuple[SimKeys, bytes]] = []
        self.parts: dict[type, list[tuple[SimKeys, Part]]] = {SignedCommit: [], SignedOffer: []}
        self.reveals: list[bytes] = []
        self.solicits: list[tuple[SimKeys, Solicit]] = []
        self.books: list[tuple[SimKeys, Book, dict[bytes, bytes]]] = []
        self.signed: list[tuple[SimKeys, Statement]] = []
        self.disputed: list[Disputed] = []
        self.peer: Peer = make_peer(space, *AGENTS)
        for keys, skill in zip(STRANGERS, (0.9, 0.8, 0.7), strict=True):
            self.handle(Received(keys.peer, make_delta(keys, space, make_advert("agent", {2: skill, 1: skill}))))

    def handle(self, event: Event) -> None:
        if isinstance(event, Received):
            event = Received(event.peer, carried(event.message))
        for effect in self.peer.handle(event, self.now_ms):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                assert carried(message) == message
                assert peer != ME.peer
                sender = next(k for k in STRANGERS if k.peer == peer)
                if isinstance(message, Call):
                    self.calls.append((sender, message))
                if isinstance(message, Ping | Relay):
                    self.numbers.append(message.number)
                if isinstance(message, SignedCommit | SignedOffer):
                    self.parts[type(message)].append((sender, Part(message.body, message.signature)))
                if isinstance(message, Reveal):
                    self.reveals.append(message.bid)
                if isinstance(message, Solicit):
                    self.solicits.append((sender, message))
                if isinstance(message, SignedBook | SignedSheet):
                    kind = "book" if isinstance(message, SignedBook) else "sheet"
                    self.signed.append((ME, Statement(kind, message.body, message.signature)))
                self.finals.append(message)
            case SetTimer(at_ms, timer):
                heappush(self.timers, (at_ms, len(self.timers) + self.rng.getrandbits(40), timer))
            case Generate(job):
                assert job not in self.jobs_ever
                self.jobs_ever.add(job)
                self.jobs.append(job)
            case Abort(job):
                self.jobs.remove(job)
            case Blame(peer):
                assert peer != ME.peer
            case Shun(peer):
                self.handle(PeerDown(peer))
            case Post():
                self.posts.append(effect)
            case Find():
                self.finds.append(effect)
            case RaiseDispute(seller, dispute):
                self.disputed.append(Disputed(seller, dispute))
            case Remember(delivery=delivery, rating=rating):
                assert delivery.agent.peer != ME.peer
                self.deliveries.append((delivery, rating))
            case Learned(agent, space, experience):
                known = msgspec.msgpack.decode(experience, type=Experience)
                assert space == self.space.name
                assert 0 <= known.outcomes == self.peer.memory.outcomes(agent)
                assert all(0 <= good <= known.seen[m] for m, good in known.good.items())
            case Tell(query, update) if isinstance(update, Answered | Unanswered):
                self.ended.append(query)
                assert not self.only[query] or {c.agent for c in update.candidates} <= {self.only[query]}

    def step(self, kind: str) -> None:
        for event in getattr(self, kind)():
            self.handle(event)
        busy = self.peer.seller.statistics().slots_busy
        assert 0 <= busy <= sum(agent.slots for agent in AGENTS)
        assert len(self.jobs) <= busy
        for stall in self.peer.seller._stalls.values():
            assert 0 <= stall.kept <= stall.advert.slots + stall.busy
        hub = self.peer.hub
        assert len(hub._books) <= BOOKS_MAX
        assert len(hub._claims) <= CLAIMS_MAX

    # --- what may happen --------------------------------------------------------------------------------------------

    def anyone(self) -> SimKeys:
        return self.rng.choice(STRANGERS)

    def conversation(self) -> bytes:
        ours = [call.conversation for _, call in self.calls]
        sales = [*self.peer.seller._sales]  # even the ids of own questions, which no stranger could guess
        return self.rng.choice([*(ident(self.rng.randrange(64)) for _ in range(9)), *ours[-2:], *sales[-2:]])

    def call(self) -> list[Event]:
        subject = self.rng.randrange(3)
        call = Call(
            conversation=self.conversation(),
            agent=self.rng.choice(["agent", "agent", "second", "nobody"]),
            space=self.rng.choice([self.space.name] * 5 + ["other"]),
            embedding=self.rng.choice([self.space.embed(prompt(subject))] * 5 + [b"", bytes(256), b"\x80" * 256]),
            prompt_tokens=self.rng.choice([0, 20, 4_000, 1 << 24]),
            max_tokens=self.rng.choice([0, 1, 64, 1 << 24]),
            deadline_ms=self.rng.choice([0, 2_000]),
        )
        buyer = self.anyone()
        self.quoted.append((buyer, Award(call.conversation, (Turn("user", prompt(subject)),), 0, 0)))
        return [Received(buyer.peer, call)]

    def award(self) -> list[Event]:
        """Every other award is an honest one of an open call."""
        if self.quoted and self.rng.random() < 0.5:
            buyer, award = self.quoted.pop()
            return [Received(buyer.peer, award)]
        turns = (Turn("user", self.rng.choice([prompt(0), prompt(1), prompt(2), "", "something else"])),)
        return [Received(k.peer, Award(self.conversation(), turns, 0, 0)) for k in self.rng.sample(STRANGERS, 2)]

    def release(self) -> list[Event]:
        return [Received(self.anyone().peer, Release(self.conversation()))]

    def reply(self) -> list[Event]:
        """What a seller says to one of our calls, mostly in time and in its own name."""
        if not self.calls:
            return [Received(self.anyone().peer, Refuse(self.conversation(), self.rng.choice(["busy", "late"])))]
        keys, call = self.rng.choice(self.calls[-6:])
        sender = self.rng.choice([keys] * 6 + [*STRANGERS])
        bent = self.rng.random() < 0.2
        index = self.chunks.get(call.conversation, 0)
        match self.rng.choice(["quote", "quote", "quote", "chunk", "chunk", "final", "fail", "refuse"]):
            case "quote":
                lie = self.rng.choice(
                    [
                        {"expires_ms": 0},
                        {"ttft_ms": 1 << 31},
                        {"free_slots": 0},
                        {"buyer": BOB.peer},
                        {"sheet": bytes(32), "slot_price_microcredits": 1},
                    ]
                )
                busy = self.rng.choice([{}, {"free_slots": 0, "ttft_ms": 3_000}])
                return [Received(sender.peer, make_quote(keys, call, **(lie if bent else busy)))]
            case "chunk":
                self.chunks[call.conversation] = index + 1
                return [Received(sender.peer, Chunk(call.conversation, index + bent, "x"))]
            case "final":
                lie = self.rng.choice([{"price_microcredits": 0}, {"output_tokens": 1 << 24}, {"buyer": BOB.peer}])
                return [Received(sender.peer, make_final(keys, call, "x" * index, **(lie if bent else {})))]
            case "fail":
                return [Received(sender.peer, Fail(call.conversation, self.rng.choice(["engine", "expired"])))]
            case _:
                return [Received(sender.peer, Refuse(call.conversation, "busy"))]

    def settle(self) -> list[Event]:
        keys = self.anyone()
        finals = [m for m in self.finals if hasattr(m, "receipt") and hasattr(m, "finish_reason")]
        if not finals:
            return [Received(keys.peer, Settle(b"\x90", bytes(64), bytes(64)))]
        final = self.rng.choice(finals)
        signature = keys.sign("p2pagent/receipt/1", final.receipt)
        return [Received(keys.peer, Settle(final.receipt, final.signature, signature))]

    def settled(self) -> list[Event]:
        ids = [post.receipt_id for post in self.posts] or [bytes(32)]
        if self.rng.random() < 0.2:
            counted = Recounted(self.rng.choice(ids), self.anyone().peer, 60, self.rng.choice([None, 0, 60]))
            disputed, self.disputed = self.disputed, []
            return [counted, *disputed]
        if self.rng.random() < 0.5:
            return [Posted(self.rng.choice(ids), self.rng.random() < 0.7)]
        return [Received(self.anyone().peer, Settled(self.rng.choice(ids)))]

    def gossip(self) -> list[Event]:
        keys, sender = self.anyone(), self.anyone().peer
        delta = make_delta(
            keys,
            self.space,
            make_advert("agent", {2: 0.9}),
            sequence=self.now_ms - START_MS + self.rng.randrange(2),
            lease_ms=self.rng.choice([0, *[90_000] * 6, 1 << 31]),
        )
        (known,) = delta.peers
        forged = msgspec.structs.replace(known.heartbeat, signature=bytes(64))
        beat = self.rng.choice([*[known.heartbeat] * 5, forged, SignedHeartbeat(b"", bytes(64))])
        accuser, accused = self.anyone(), self.rng.choice([*STRANGERS, ME])
        suspicion = Suspicion(accuser.peer, accused.peer, self.rng.randrange(3), self.rng.randrange(3))
        news = News((beat,), (SignedSuspicion(*sealed(suspicion, accuser)),))
        number = self.rng.choice(self.numbers or [0])
        messages = [
            *[delta, Delta((msgspec.structs.replace(known, heartbeat=beat),)), Delta(())],
            *[Ping(number, news), Ack(number, news), Nack(number), Relay(number, accused.peer)],
            *[Pull((accused.peer, keys.peer)), Look("/"), Look("/10"), Look("/.1"), Sight("/", "/01", (beat,))],
        ]
        return [Received(sender, self.rng.choice(messages))]

    # --- hub clearings ----------------------------------------------------------------------------------------------

    def epoch(self) -> int:
        return self.now_ms // EPOCH_MS + self.rng.choice([0, 0, 0, 0, 1, -1, 9])

    def commit(self) -> list[Event]:
        """Strangers have us clear their bids, for which our own agents and theirs are wanted."""
        buyer, epoch, hub = self.anyone(), self.epoch(), self.rng.choice(["/", "/", "/", "/0", "/00", "odd"])
        gains = {AgentRef(k.peer, "agent"): self.rng.randrange(1, 1 << 40) for k in (ME, *STRANGERS)}
        wants = [Query(gains, self.rng.choice([0, 1 << 32])) for _ in range(self.rng.randrange(1, 3))]
        bid = encode(make_bid(buyer, wants, hub=hub, epoch=epoch))
        self.bids.append((buyer, bid))
        part = make_commit(buyer, ME, bid, len(wants), hub=hub, epoch=epoch)
        return [Received(buyer.peer, SignedCommit(part.body, part.signature))]

    def offer(self) -> list[Event]:
        if not self.solicits:
            return []
        seller, solicit = self.rng.choice(self.solicits[-4:])
        lots = self.rng.choice([(), (Lot("agent", 1, 0),), (Lot("agent", 2, 0), Lot("agent", 2, 0))])
        offer = Offer(solicit.hub, solicit.epoch, ME.peer, seller.peer, lots)
        return [Received(seller.peer, SignedOffer(*sealed(offer, seller)))]

    def reveal(self) -> list[Event]:
        return [Received(buyer.peer, Reveal(bid)) for buyer, bid in self.bids[-self.rng.randrange(1, 4) :]]

    def solicit(self) -> list[Event]:
        return [Received(self.anyone().peer, Solicit(self.rng.choice(["/", "/", "/0", "odd"]), self.epoch()))]

    def lead(self) -> list[Event]:
        """An auctioneer to whom we sent a commit or an offer acknowledges, declines, or signs a book, then a sheet."""
        if self.books and self.rng.random() < 0.5:
            keys, book, bids = self.books.pop()
            bids |= {sha256(bid).digest(): bid for bid in self.reveals}
            hidden = [k for k in (ME, *STRANGERS) if self.rng.random() < 0.1]
            known = {commit.bid_sha256 for commit in check_book(book, ME).commits if commit.bid_sha256 in bids}
            silent = {c.buyer for c in check_book(book, ME).commits if c.bid_sha256 not in known}
            hidden += [k for k in (ME, *STRANGERS) if k.peer in silent]
            sheet = clear_book(keys, book, bids, hidden, self.now_ms).sheet
            if self.rng.random() < 0.2:
                sheet = msgspec.structs.replace(sheet, grants=sheet.grants[1:], cleared_ms=self.now_ms + 1)
            signed = sealed(sheet, keys)
            self.signed.append((keys, Statement("sheet", *signed)))
            return [Received(keys.peer, SignedSheet(*signed))]
        kind = self.rng.choice([SignedCommit, SignedOffer])
        if not self.parts[kind]:
            return []
        keys, part = self.parts[kind][-1]
        ours = parsed(part.body, Commit if kind is SignedCommit else Offer)
        where = {"hub": ours.hub, "epoch": ours.epoch}  # type: ignore[attr-defined]
        match self.rng.choice(["ack", "decline", "book", "book", "book"]):
            case "ack":
                what = "commit" if kind is SignedCommit else "offer"
                digest = self.rng.choice([sha256(part.body).digest(), bytes(32)])
                ack = Acknowledgement(where["hub"], where["epoch"], keys.peer, what, digest)  # type: ignore[arg-type]
                return [Received(keys.peer, SignedAcknowledgement(*sealed(ack, keys)))]
            case "decline":
                return [Received(keys.peer, Decline(where["hub"], where["epoch"], self.rng.choice(["late", "empty"])))]
        gains = {AgentRef(ME.peer, "agent"): self.rng.randrange(1, 1 << 40)}
        bid = encode(make_bid(CAROL, [Query(gains)], **where))
        commits = [make_commit(CAROL, keys, bid, 1, **where)]
        offers = [make_offer(BOB, keys, {("agent", 0): 1}, **where)]
        if self.rng.random() < 0.9:
            (commits if kind is SignedCommit else offers).append(part)
        book = make_book(keys, commits, offers, **where)
        self.books.append((keys, book, {sha256(bid).digest(): bid}))
        signed = sealed(book, keys)
        self.signed.append((keys, Statement("book", *signed)))
        return [Received(keys.peer, SignedBook(*signed))]

    def claim(self) -> list[Event]:
        """By whoever, for what was granted or for nothing."""
        grants = [*self.peer.hub.offers._grants.items()]
        sheet, conversation = bytes(32), self.conversation()
        buyer = self.anyone().peer
        if grants and self.rng.random() < 0.8:
            conversation, granted = self.rng.choice(grants)
            sheet, buyer = granted.toll.sheet, granted.buyer
        text = prompt(self.rng.choice([0, 0, 1]))
        agent = self.rng.choice(["agent", "agent", "nobody"])
        call = Call(conversation, agent, self.space.name, self.space.embed(prompt(0)), 20, 64, 0)
        return [Received(buyer, Claim(sheet, call, Award(conversation, (Turn("user", text),), 0, 0)))]

    def odd(self) -> list[Event]:
        """Fetches, and proofs of what was really signed: most prove nothing."""
        if not self.signed or self.rng.random() < 0.3:
            return [Received(self.anyone().peer, Fetch(bytes(32)))]
        statements = tuple(s for _, s in self.rng.sample(self.signed, min(len(self.signed), self.rng.randrange(1, 3))))
        fetches = [Fetch(sha256(s.body).digest()) for s in statements]
        message = self.rng.choice([Proof(statements), *fetches])
        return [Received(self.anyone().peer, message)]

    def ask(self) -> list[Event]:
        query = f"q{len(self.asked)}"
        self.asked.append(query)
        named = AgentRef(self.rng.choice([*STRANGERS, ME]).peer, self.rng.choice(["agent", "agent", "nobody"]))
        self.only[query] = self.rng.choice([None, None, None, named])
        changes: dict[str, object] = {
            "only": self.only[query],
            "privacy": self.rng.choice(["any", "any", "any", "trusted", "local"]),
            "raw": self.rng.random() < 0.2,
            "value_microcredits": self.rng.choice([0, 1_000_000, 1 << 53]),
            "price_max_microcredits": self.rng.choice([0, 1_000_000]),
            "delay_microcredits_per_s": self.rng.choice([0, 20_000, 1 << 53]),
        }
        ask = make_ask(query, self.rng.choice([0, 1, 2, 2, 3]), self.rng.choice(["abc", "x y z"]), **changes)
        return [msgspec.structs.replace(ask, expect=self.rng.choice(["", "", "x", "y"]))]

    def user(self) -> list[Event]:
        query = self.rng.choice([*self.asked, "never"])
        if query in self.asked and query not in self.ended:
            self.ended.append(query)
        found = tuple(k.peer for k in STRANGERS if self.rng.random() < 0.3)
        events: list[Event] = [ProvidersFound(find.query, find.cell, found) for find in self.finds[-1:]]
        place = self.rng.randrange(len(self.deliveries))
        delivery, earlier = self.deliveries[place]
        rating = Rating(self.rng.random() < 0.5, self.now_ms)
        if earlier is None or earlier.good != rating.good:
            self.deliveries[place] = (delivery, rating)
        return [CancelAsk(query), *events, Rated(delivery, rating, earlier)]

    def engine(self) -> list[Event]:
        """Jobs go on or end; an engine may still speak of a job that was aborted."""
        ended_before = sorted(self.jobs_ever.difference(self.jobs))
        job = self.rng.choice([*self.jobs, *ended_before[-1:], ident(0)])
        event = self.rng.choice([Generated(job, "y"), Generated(job, ""), None, GenerationFailed(job, "engine")])
        ended = event is None or isinstance(event, GenerationFailed)
        if ended and job in self.jobs:
            self.jobs.remove(job)
        return [event or GenerationEnded(job, Usage(*(self.rng.choice([0, 20, 1 << 24]) for _ in range(3))), "stop")]

    def connection(self) -> list[Event]:
        peer = self.anyone().peer
        agents = tuple(agent for agent in AGENTS if self.rng.random() < 0.7)
        changed = [AgentsChanged(agents, ()), AgentsChanged(AGENTS, ()), Leave()]
        rare: Event = self.rng.choice([PeerDown(peer), Unsent(peer), *changed])
        return [self.rng.choice([PeerUp(peer), PeerUp(peer), PeerUp(peer), rare])]

    def time(self) -> list[Event]:
        self.now_ms += self.rng.choice([1, 1, 100, 2_000, 10_000])
        return self.due()

    def due(self) -> list[Event]:
        events: list[Event] = []
        while self.timers and self.timers[0][0] <= self.now_ms:
            events.append(TimerFired(heappop(self.timers)[2]))
        return events

    def run_out(self) -> None:
        """Nobody says anything any more, but engines finish and time passes."""
        for _ in range(PATIENCE):
            for job in [*self.jobs]:
                self.jobs.remove(job)
                self.handle(GenerationEnded(job, Usage(1, 0, 1), "stop"))
            if not self.peer.buyer.running and not self.peer.seller.statistics().sales:
                break
            self.now_ms += 10_000
            for event in self.due():
                self.handle(event)
        for _ in range(4):  # gathering, book, sheet, grants
            self.now_ms += 10_000
            for event in self.due():
                self.handle(event)


def recklessly(utilities: list[int], *others: Any, every: bool) -> list[int]:
    """In place of `game.choose`: asks more and others than is wise, and sometimes nobody."""
    del every
    rng = next(other for other in others if isinstance(other, Random))
    return rng.sample(range(len(utilities)), rng.choice([0, 2, 3, 3, 3]) if len(utilities) > 2 else len(utilities))


def carried(message: WireMessage) -> WireMessage:
    return decode(protocol_of(message), encode(message))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=STEPS_MIN, max_size=STEPS_MAX), st.integers(0, 1 << 32))
def test_nothing_that_happens_breaks_a_peer_or_holds_it_for_ever(space: Space, kinds: list[str], seed: int) -> None:
    chaos = Chaos(space, Random(seed))
    with mock.patch.object(game, "choose", recklessly):
        for kind in kinds:
            chaos.step(kind)
        chaos.run_out()
    assert not chaos.peer.buyer._awards._fallen
    assert chaos.peer.seller.statistics().slots_busy == 0
    assert chaos.peer.seller.statistics().sales == 0
    assert chaos.peer.buyer.running == 0
    hub = chaos.peer.hub
    assert not hub._claims
    assert not hub.offers._promises
    assert not hub.offers._grants
    assert not hub.bidder._biddings
    assert not hub.bidder._waiting
    assert not hub.auctioneer._auctions
    assert [stall.kept for stall in chaos.peer.seller._stalls.values()] == [0] * len(chaos.peer.seller._stalls)
    assert sorted(chaos.ended) == sorted(chaos.asked)
