"""Sellers that pad their receipts: each padded receipt is disputed by itself, and no honest one ever is."""

from collections import Counter
from random import Random
from typing import NamedTuple

import msgspec

from p2pagent.config import Preferences
from p2pagent.ledger import receipt_in
from p2pagent.peer.disputes import make_refund
from p2pagent.peer.events import AgentsChanged, Ask, RefundPosted
from p2pagent.peer.updates import Answered
from p2pagent.routing.prototypes import Space
from p2pagent.sim.engine import BatchingModel
from p2pagent.sim.liars import LyingPeer, corrupt
from p2pagent.sim.links import uniform
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN, TOKENISER, tokens_of
from p2pagent.sim.world import World
from p2pagent.types import ChatMessage, PeerId, Sampling
from tests.scenario import START_MS, SUBJECTS, Device, make_policy

BUYERS, HONEST, PADDERS = range(4), range(4, 7), range(7, 9)
QUESTIONS = 12
OUTPUT_TOKENS_MAX = 400
"""Of an answer; what may be claimed for one is far more."""

SUBJECT = 0


def answer_to(prompt: str) -> str:
    """As long as chance will have it."""
    return "y" * Random(prompt).randrange(CHARACTERS_PER_TOKEN * OUTPUT_TOKENS_MAX)


class Bought(NamedTuple):
    """A receipt, as it was claimed and as it was."""

    claimed_tokens: int
    tokens: int
    seller: PeerId
    disputed: bool


class Network:
    """Buyers that host nothing of use, and sellers that are all as good; some of these pad, and give back if asked."""

    def __init__(self, space: Space, tokeniser: bytes = TOKENISER) -> None:
        self.world = World(uniform(Random(1), 5, 25), START_MS)
        self.devices = [Device(index, space, skill=1 if index in BUYERS else SUBJECT) for index in range(PADDERS.stop)]
        for device in self.devices:
            device.advert = msgspec.structs.replace(device.advert, tokeniser=tokeniser)
            if device.index in PADDERS:
                device.peer = pads(device, space)
            self.world.add(device.name, device.peer, {"agent": BatchingModel(answer_to)})
            self.world.at(START_MS, device.name, AgentsChanged((device.advert,), device.ready.addresses))
        for one in self.devices:
            for other in self.devices[: one.index]:
                self.world.connect(one.name, other.name)
        self.world.run(START_MS + 60_000)

    def ask(self, number: int) -> None:
        for index in BUYERS:
            turns = (ChatMessage("user", f"{SUBJECTS[SUBJECT]} {index} {number}"),)
            ask = Ask(f"{index} {number}", turns, Sampling(max_tokens=2 * OUTPUT_TOKENS_MAX), 10, make_policy())
            self.world.at(self.world.now_ms, self.devices[index].name, ask)
        self.world.run(self.world.now_ms + 30_000)

    def refund(self) -> None:
        """Who padded gives back, so that it is asked again."""
        for buyer in (self.devices[index] for index in BUYERS):
            for ident in self.world.disputes[buyer.name].keys() - self.world.refunds[buyer.name].keys():
                receipt = receipt_in(self.world.ledgers[buyer.name][ident].receipt)
                (seller,) = [device for device in self.devices if device.name == receipt.seller]
                refund = make_refund(ident, receipt, seller.keys, self.world.now_ms)
                assert self.world._books.refund(seller.name, refund) == "new"
                self.world.at(self.world.now_ms, seller.name, RefundPosted(refund, "new"))
        self.world.run(self.world.now_ms + 5_000)

    def bought(self) -> list[Bought]:
        """All that was bought so far."""
        found = []
        for index in BUYERS:
            buyer = self.devices[index].name
            answers = [told.update for told in self.world.told if told.peer == buyer]
            lengths = {each.receipt_id: tokens_of(each.text) for each in answers if isinstance(each, Answered)}
            for ident, post in self.world.ledgers[buyer].items():
                receipt, disputed = receipt_in(post.receipt), ident in self.world.disputes[buyer]
                found.append(Bought(receipt.output_tokens, lengths[ident.hex()], PeerId(receipt.seller), disputed))
        return found

    @property
    def padders(self) -> set[PeerId]:
        return {self.devices[index].name for index in PADDERS}


def pads(device: Device, space: Space) -> LyingPeer:
    peer = LyingPeer(device.keys, space, "test", Preferences(), Random(device.index), 1)
    corrupt(peer, "pads", device.keys, Random(0))
    return peer


def test_every_padded_receipt_is_disputed_and_no_honest_one(space: Space) -> None:
    network = Network(space)
    for number in range(QUESTIONS):
        network.ask(number)
        network.refund()
    found = network.bought()
    padded = [(claimed, tokens) for claimed, tokens, seller, _ in found if seller in network.padders]
    assert all(claimed > tokens for claimed, tokens in padded)
    assert all(claimed == tokens for claimed, tokens, seller, _ in found if seller not in network.padders)
    assert all(disputed == (seller in network.padders) for _, _, seller, disputed in found)
    assert min(len(padded), len(found) - len(padded)) >= 15
    assert network.world.blamed == []


def test_whoever_padded_is_not_asked_again_until_it_gives_back(space: Space) -> None:
    network = Network(space)
    for number in range(QUESTIONS):
        network.ask(number)
    found = network.bought()
    disputed = [seller for _, _, seller, disputed in found if disputed]
    assert 3 <= len(disputed) <= len(BUYERS) * len(PADDERS)
    assert max(Counter(disputed).values()) <= len(BUYERS)
    before = len(disputed)
    network.refund()
    for number in range(QUESTIONS, 2 * QUESTIONS):
        network.ask(number)
    assert sum(disputed for *_, disputed in network.bought()) > before


def test_where_no_tokeniser_is_known_nothing_is_disputed(space: Space) -> None:
    network = Network(space, tokeniser=b"another!")
    for number in range(QUESTIONS):
        network.ask(number)
    found = network.bought()
    assert any(seller in network.padders for _, _, seller, _ in found)
    assert not any(disputed for *_, disputed in found)
