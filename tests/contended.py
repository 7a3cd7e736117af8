"""A small network in which more is asked of two slow experts than they have slots, and auctioneers that die or lie."""

from collections.abc import Callable, Iterable
from random import Random

import msgspec

from p2pagent.peer.auctioneer import Auction, Auctioneer
from p2pagent.peer.effects import Effect, Send, Tell
from p2pagent.peer.epochs import EPOCH_MS, epoch_at
from p2pagent.peer.events import AgentsChanged, Received
from p2pagent.peer.hub_messages import Book, Commit, Part, Proof, Sheet, SignedBook, SignedSheet
from p2pagent.peer.sheet import check_book, fill, ordered
from p2pagent.peer.updates import Answered, Unanswered
from p2pagent.peer.wire import WireMessage, parsed, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.routing.qos import Outcome, Sample, Task
from p2pagent.sim.engine import EngineModel
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.links import uniform
from p2pagent.sim.world import Handled, World
from p2pagent.types import PeerId
from tests.scenario import START_MS, Device, answer_of, make_advert, make_ask

SUBJECT = 0
HUB = "/"
DECODE_MS = 110
ANSWER_MS = DECODE_MS * len(answer_of(0)) + 20
MEASURED = tuple(
    Sample(Task(tokens, 0, 64, running), Outcome(1_000 * (tokens + DECODE_MS), 1_000 * DECODE_MS, len(answer_of(0)), 0))
    for tokens in (20, 30)
    for running in (0, 1, 2)
)
"""What answers take, whatever else is at work."""

"""What an expert takes for one answer."""


class Contended:
    """Experts with one slow slot each, askers, bystanders who only clear, and an outsider without an agent."""

    def __init__(
        self, space: Space, seed: int = 1, experts: int = 2, askers: int = 5, bystanders: int = 2, slots: int = 1
    ) -> None:
        self.trace: list[Handled] = []
        self.world = World(uniform(Random(seed), 5, 25), START_MS, self.trace.append)
        roles = [0] * experts + [1 + i % 5 for i in range(askers + bystanders)]
        self.devices = [Device(i, space, seed, skill) for i, skill in enumerate(roles)]
        self.experts = self.devices[:experts]
        self.askers = self.devices[experts : experts + askers]
        self.bystanders = self.devices[experts + askers :]
        self.outsider = Device(len(roles), space, seed)
        self.queries: dict[str, Device] = {}
        for device in [*self.devices, self.outsider]:
            agents = (make_advert("agent", {roles[device.index]: 0.95}, slots),) if device in self.devices else ()
            device.engine = EngineModel(device.engine.answer, 1, DECODE_MS)
            self.world.add(device.name, device.peer, {"agent": device.engine})
            address = f"/ip4/127.0.0.1/tcp/{4000 + device.index}"
            self.world.at(START_MS, device.name, AgentsChanged(agents, (address,), {"agent": MEASURED}))
        for device in [*self.devices[1:], self.outsider]:
            self.world.connect(device.name, self.devices[0].name)
        self.world.run(START_MS + 1_500)
        for device in self.devices:  # as if each had answered before, so that what it predicts is true
            known = MEASURED[0]
            predictor = device.peer.seller._stalls["agent"].predictor
            predictor.learn_one(known.task, known.outcome, None, self.world.now_ms)

    @property
    def everybody(self) -> list[Device]:
        return [*self.devices, self.outsider]

    def wait_for_epoch_of(self, auctioneer: Device) -> int:
        """Let time pass until shortly after an epoch has begun that `auctioneer` is drawn for; which one it is."""
        cast = self.devices[0].peer.hub.cast
        epoch = epoch_at(self.world.now_ms) + 1
        while cast.auctioneers(HUB, epoch, self.world.now_ms)[0] != auctioneer.name:
            epoch += 1
        self.world.run(epoch * EPOCH_MS + 20)
        return epoch

    def ask(self, device: Device, name: str, **changes: object) -> None:
        """A question for the experts, now."""
        self.queries[name] = device
        self.world.at(self.world.now_ms, device.name, make_ask(name, SUBJECT, f"w{len(self.queries)}", **changes))

    def ask_all(self, each: int = 1) -> None:
        """As many questions of every asker."""
        for device in self.askers:
            for number in range(each):
                self.ask(device, f"{device.index}.{number}")

    def run(self, ms: int = 40_000) -> None:
        self.world.run(self.world.now_ms + ms)

    def run_until(self, happens: Callable[[Handled], bool], ms: int = 3_000) -> None:
        """Let time pass until a step `happens`, and no further than the effects of its millisecond."""
        seen = len(self.trace)
        for _ in range(ms):
            self.world.run(self.world.now_ms + 1)
            if any(happens(step) for step in self.trace[seen:]):
                return
            seen = len(self.trace)
        raise AssertionError("it did not happen")

    def freeze(self, device: Device) -> None:
        """Nothing comes from `device` any more, and nobody is told so."""
        link = self.world._link
        self.world._link = lambda source, target, now: (
            None if device.name in (source, target) else link(source, target, now)
        )

    def outcomes(self) -> dict[str, list[Answered | Unanswered]]:
        """What the users were told in the end, by question."""
        ends: dict[str, list[Answered | Unanswered]] = {query: [] for query in self.queries}
        for told in self.world.told:
            if isinstance(told.update, Answered | Unanswered):
                ends[told.query].append(told.update)
        return ends

    def answers(self) -> dict[str, Answered]:
        """The answers, each question having exactly one end, which is an answer."""
        found = {}
        for query, ends in self.outcomes().items():
            (end,) = ends
            assert isinstance(end, Answered), (query, end)
            found[query] = end
        return found

    def sent(self, kind: type, by: Device | None = None) -> list[tuple[int, Send]]:
        """Messages of one kind that left, with their times."""
        return [
            (step.at_ms, effect)
            for step in self.trace
            if by is None or step.peer == by.name
            for effect in step.effects
            if isinstance(effect, Send) and isinstance(effect.message, kind)
        ]

    def received(self, kind: type, by: Device) -> list[WireMessage]:
        """Messages of one kind that reached a device from others."""
        return [
            step.event.message
            for step in self.trace
            if step.peer == by.name and isinstance(step.event, Received) and isinstance(step.event.message, kind)
        ]

    def blamed(self, but_by: Device | None = None) -> set[PeerId]:
        """Who was blamed by anybody else than `but_by`."""
        return {whom for who, whom, _ in self.world.blamed if but_by is None or who != but_by.name}

    def assert_at_rest(self, but: Iterable[Device] = ()) -> None:
        """Nothing is kept, held, waited for or promised by anybody any more."""
        for device in self.everybody:
            if device in but:
                continue
            peer = device.peer
            for stall in peer.seller._stalls.values():
                assert (stall.busy, stall.kept, stall.queue) == (0, 0, [])
            assert peer.buyer.running == 0
            assert not peer.hub.bidder._biddings
            assert not peer.hub.bidder._waiting
            assert not peer.hub.offers._promises
            assert not peer.hub.offers._grants
            assert not peer.hub._claims
            assert not peer.hub.auctioneer._auctions


def is_end(effect: Effect) -> bool:
    return isinstance(effect, Tell) and isinstance(effect.update, Answered | Unanswered)


def happened(kind: type, at: Device) -> Callable[[Handled], bool]:
    """Whether `at` took in a message of this kind."""
    return lambda step: (
        step.peer == at.name and isinstance(step.event, Received) and isinstance(step.event.message, kind)
    )


class Liar(Auctioneer):
    """An auctioneer that does everything well but for one lie. `victim` is whose message is dropped.

    A careful liar does not send the book to whom it has left out of it.
    """

    def __init__(
        self, honest: Auctioneer, lie: str, victim: PeerId, first_half: set[PeerId], *, careful: bool = False
    ) -> None:
        super().__init__(honest._keys, honest._cast, 0)
        self.lie, self.victim, self.first_half = lie, victim, first_half
        self.careful = careful
        self.left_out: set[PeerId] = set()
        self.lied = False

    def _close(self, auction: Auction, now_ms: int) -> list[Effect]:
        if self.lie == "drop commit" and len(auction.commits) > 1:
            self.lied |= auction.commits.pop(self.victim, None) is not None
            self.left_out = {self.victim}
        if self.lie == "drop offer" and auction.offers.keys() - {self._keys.peer}:
            self.left_out = {min(auction.offers.keys() - {self._keys.peer})}
            del auction.offers[min(self.left_out)]
            self.lied = True
        if self.lie == "forge commit":
            honest = auction.commits[min(auction.commits)]
            commit = parsed(honest.body, Commit)
            assert isinstance(commit, Commit)
            ghost = SimKeys(999)
            forged = msgspec.structs.replace(commit, buyer=ghost.peer)
            return self._sign_another(auction, now_ms, {ghost.peer: Part(*sealed(forged, self._keys))})
        if self.lie == "two books":
            # Without somebody of the first half, who therefore sees nothing wrong with what it gets.
            fewer = {b: p for b, p in auction.commits.items() if b != self.victim}
            effects = super()._close(auction, now_ms)
            book = Book(auction.hub, auction.epoch, self._keys.peer, ordered(list(fewer.values())), _offers(auction))
            self.other_book = SignedBook(*sealed(book, self._keys))
            self.lied = len(fewer) < len(auction.commits)
            return [self._halved(effect, self.other_book) for effect in effects]
        return super()._close(auction, now_ms)

    def _to_all(self, auction: Auction, message: SignedBook | SignedSheet) -> list[Effect]:
        others = set() if self.careful else self.left_out - auction.commits.keys() - auction.offers.keys()
        return [*super()._to_all(auction, message), *(Send(other, message) for other in others)]

    def _sign_another(self, auction: Auction, now_ms: int, more: dict[PeerId, Part]) -> list[Effect]:
        effects = super()._close(auction, now_ms)
        commits = ordered([*auction.commits.values(), *more.values()])
        book = Book(auction.hub, auction.epoch, self._keys.peer, commits, _offers(auction))
        auction.book = SignedBook(*sealed(book, self._keys))
        self.lied = True
        return [
            msgspec.structs.replace(e, message=auction.book)
            if isinstance(e, Send) and isinstance(e.message, SignedBook)
            else e
            for e in effects
        ]

    def _clear(self, auction: Auction, now_ms: int) -> list[Effect]:
        if self.lie == "drop bid":
            self.lied |= auction.bids.pop(self.victim, None) is not None
        effects = super()._clear(auction, now_ms)
        (sheet, *_) = [parsed(e.message.body, Sheet) for e in effects if isinstance(e, Send)]  # type: ignore[union-attr]
        assert isinstance(sheet, Sheet)
        other = self._another(sheet)
        if self.lie == "two books":
            book = parsed(self.other_book.body, Book)
            assert isinstance(book, Book)
            view = check_book(book, self._keys)
            bids = tuple(auction.bids.get(PeerId(c.buyer), b"") for c in view.commits)
            other = fill(self.other_book.body, self.other_book.signature, view, bids, now_ms)
        if other is None:
            return effects
        signed = SignedSheet(*sealed(other, self._keys))
        self.lied = True
        if self.lie in ("two books", "two sheets"):
            return [self._halved(e, signed) for e in effects]
        return [msgspec.structs.replace(e, message=signed) for e in effects if isinstance(e, Send)]

    def _another(self, sheet: Sheet) -> Sheet | None:
        grants = sheet.grants
        if self.lie == "wrong prices":
            prices = tuple(price + 1 for price in sheet.slot_prices_microcredits)
            return msgspec.structs.replace(sheet, slot_prices_microcredits=prices)
        if self.lie == "two sheets":
            return msgspec.structs.replace(sheet, cleared_ms=sheet.cleared_ms + 1)
        if self.lie == "wrong toll" and grants:
            first = msgspec.structs.replace(grants[0], toll_microcredits=grants[0].toll_microcredits + 1)
            return msgspec.structs.replace(sheet, grants=(first, *grants[1:]))
        if self.lie == "wrong allocation" and grants:
            return msgspec.structs.replace(sheet, grants=grants[1:])
        return None

    def _halved(self, effect: Effect, other: SignedBook | SignedSheet) -> Effect:
        if isinstance(effect, Send) and isinstance(effect.message, type(other)) and effect.peer not in self.first_half:
            return msgspec.structs.replace(effect, message=other)
        return effect


class HalfHearted(Auctioneer):
    """Sends its sheet to the second half of the participants only."""

    def __init__(self, honest: Auctioneer) -> None:
        super().__init__(honest._keys, honest._cast, 0)

    def _clear(self, auction: Auction, now_ms: int) -> list[Effect]:
        effects = super()._clear(auction, now_ms)
        return effects[len(effects) // 2 :]


def proofs_seen(net: Contended, by: Device) -> list[Proof]:
    return [message for message in net.received(Proof, by) if isinstance(message, Proof)]


def _offers(auction: Auction) -> tuple[Part, ...]:
    return ordered(list(auction.offers.values()))
