"""What crosses the wire of a prompt: to whom it was awarded all of it, and to others no name of what was said.

Conversations of random words run between several buyers and sellers; all bytes that their peers send are searched. Each
kind of leak is planted once, too, to see that it would be found. What calls tell by design is left out: lengths, who
goes on from what, and the embedding of the last turn, by which whoever is called can test a guess of that turn.
"""

from collections.abc import Callable
from random import Random
from string import ascii_lowercase

import msgspec
import pytest

from p2pagent.engine import blocks
from p2pagent.peer.effects import Effect, Send
from p2pagent.peer.events import AgentsChanged, Ask, Event
from p2pagent.peer.hub_messages import Claim
from p2pagent.peer.messages import Award, Call, Holds, Seek, SignedQuote
from p2pagent.peer.peer import Peer
from p2pagent.peer.updates import Answered
from p2pagent.peer.wire import GOSSIP_PROTOCOL, WireMessage, encode, protocol_of
from p2pagent.routing.marks import chain
from p2pagent.routing.prototypes import Space
from p2pagent.sim.engine import BatchingModel
from p2pagent.sim.links import uniform
from p2pagent.sim.prefixes import tokens_of
from p2pagent.sim.world import World
from p2pagent.types import ChatMessage, PeerId, Sampling
from tests.scenario import START_MS, SUBJECTS, Device, make_policy

BUYERS, SELLERS, TURNS = range(3), range(3, 6), 4
SUBJECT = 0
CACHE_TOKENS = 16_384
RUSH = 8
LONG = "at length"
WINDOW_BYTES = 8
WINDOW_TOKENS = 4
BLOCK_TOKENS = (16, 32)


class Frame(msgspec.Struct, frozen=True):
    """What one peer sent another."""

    sender: PeerId
    receiver: PeerId
    message: WireMessage

    @property
    def data(self) -> bytes:
        return encode(self.message)


class Tapped(Peer):
    """A peer whose frames are kept."""

    frames: list[Frame]
    name: PeerId

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        self.frames += [Frame(self.name, e.peer, e.message) for e in effects if isinstance(e, Send)]
        return effects


class Network:
    """Three buyers that host nothing of use, three sellers, and what they all send.

    In the end one buyer starts anew and goes on with its conversation, of which it has forgotten where it was. Then the
    others ask so much at once, of which there are `orderly` frames before, that hubs clear the slots.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.rng = Random(seed)
        self.space = space
        self.frames: list[Frame] = []
        self.prompts: dict[PeerId, list[tuple[ChatMessage, ...]]] = {}
        self.world = World(uniform(Random(1), 5, 25), START_MS)
        self.names: list[PeerId] = []
        for index in (*BUYERS, *SELLERS):
            self.start(index)
        self.world.run(START_MS + 30_000)
        self.buyers = [self.names[index] for index in BUYERS]
        for turn in range(TURNS):
            for buyer in self.buyers:
                self.ask(buyer, turn)
        self.world.run(self.world.now_ms + 30_000)
        self.world.crash(self.buyers[0])
        self.start(BUYERS[0], incarnation=2)
        self.world.run(self.world.now_ms + 30_000)
        self.ask(self.buyers[0], TURNS)
        self.world.run(self.world.now_ms + 30_000)
        self.orderly = len(self.frames)
        self.rush()

    def start(self, index: int, incarnation: int = 1) -> None:
        """Let a peer that knows nobody come in, and meet all others."""
        skill = SUBJECT if index in SELLERS else 1
        device = Device(index, self.space, skill=skill, incarnation=incarnation)
        device.peer.__class__ = Tapped
        device.peer.frames, device.peer.name = self.frames, device.name  # type: ignore[attr-defined]
        advert = msgspec.structs.replace(device.advert, cache_tokens=CACHE_TOKENS)
        model = BatchingModel(reply, slots=2, cache_tokens=CACHE_TOKENS)
        self.world.add(device.name, device.peer, {"agent": model})
        self.world.at(self.world.now_ms, device.name, AgentsChanged((advert,), device.ready.addresses))
        for other in self.names:
            if other != device.name:
                self.world.connect(device.name, other)
        if device.name not in self.names:
            self.names.append(device.name)

    def words(self, count: int) -> str:
        """Text that nothing else says: words of eight letters."""
        return " ".join("".join(self.rng.choices(ascii_lowercase, k=8)) for _ in range(count))

    def ask(self, buyer: PeerId, turn: int) -> None:
        said = self.prompts[buyer][-1] if buyer in self.prompts else (ChatMessage("system", self.words(60)),)
        if turn:
            said = (*said, ChatMessage("assistant", "ok"))
        said = (*said, ChatMessage("user", f"{SUBJECTS[SUBJECT]} {self.words(1)}"))
        self.prompts.setdefault(buyer, []).append(said)
        tokens = sum(tokens_of(one.content) for one in said)
        ask = Ask(f"{buyer} {turn}", said, Sampling(max_tokens=16), tokens, make_policy())
        self.world.at(self.world.now_ms, buyer, ask)
        self.world.run(self.world.now_ms + 3_000)
        (answered,) = [told.update for told in self.world.told if isinstance(told.update, Answered)]
        assert answered.delegated
        self.world.told.clear()

    def rush(self) -> None:
        """More questions at once than there are slots, on from where conversations were."""
        asked = 0
        for buyer in self.buyers[1:]:
            said = self.prompts[buyer][-1]
            for number in range(RUSH):
                last = ChatMessage("user", f"{SUBJECTS[SUBJECT]} {self.words(1)} {LONG}")
                prompt = (*said, ChatMessage("assistant", "ok"), last)
                self.prompts[buyer].append(prompt)
                tokens = sum(tokens_of(one.content) for one in prompt)
                ask = Ask(f"{buyer} rush {number}", prompt, Sampling(max_tokens=512), tokens, make_policy())
                self.world.at(self.world.now_ms, buyer, ask)
                asked += 1
        self.world.run(self.world.now_ms + 120_000)
        assert sum(isinstance(told.update, Answered) for told in self.world.told) == asked

    def text(self, buyer: PeerId) -> bytes:
        """All that a buyer ever said, once."""
        return "".join(dict.fromkeys(turn.content for prompt in self.prompts[buyer] for turn in prompt)).encode()


def reply(question: str) -> str:
    """What all agents answer."""
    return 400 * "ok " if question.endswith(LONG) else "ok"


@pytest.fixture(scope="module")
def network(space: Space) -> Network:
    return Network(space, 1)


def windows(data: bytes) -> set[bytes]:
    return {data[start : start + WINDOW_BYTES] for start in range(len(data) - WINDOW_BYTES + 1)}


def telling(network: Network) -> list[Frame]:
    """Frames that hold eight bytes of a prompt, though they are no award of its buyer."""
    said = {buyer: windows(network.text(buyer)) - windows(SUBJECTS[SUBJECT].encode()) for buyer in network.buyers}
    every = set().union(*said.values())
    return [
        frame
        for frame in network.frames
        if (not isinstance(frame.message, Award | Claim) or frame.sender not in said) and windows(frame.data) & every
    ]


def counted(network: Network) -> list[Frame]:
    """Frames that hold four tokens of a prompt in a row, in any plain way of writing integers.

    A token is a byte here, as for the shipped experts; as MessagePack they are the text itself.
    """
    wide = {
        b"".join(token.to_bytes(size, order) for token in text[start : start + WINDOW_TOKENS])
        for text in map(network.text, network.buyers)
        for start in range(len(text) - WINDOW_TOKENS + 1)
        for size in (2, 4, 8)
        for order in ("little", "big")
    }
    return [
        f
        for f in network.frames
        if any(f.data[n : n + size] in wide for size in (8, 16, 32) for n in range(len(f.data)))
    ]


def naming(network: Network) -> list[Frame]:
    """Frames that hold a name by which a guessed prompt could be known again: of vLLM's blocks, or a link."""
    names: set[bytes] = set()
    for prompt in (prompt for prompts in network.prompts.values() for prompt in prompts):
        hashes = {link.digest for link in chain(prompt)}
        tokens = list("".join(turn.content for turn in prompt).encode())
        hashes.update(name for size in BLOCK_TOKENS for name in blocks.chain(tokens, size))
        for name in hashes:
            names |= {name[:8], name[-8:], name.hex().encode()[:16], name.hex().encode()[-16:]}
    return [
        f for f in network.frames if any(f.data[n : n + size] in names for size in (8, 16) for n in range(len(f.data)))
    ]


def shown(frame: Frame) -> tuple[bytes, ...]:
    """The domain and the tags that a frame shows."""
    message = called(frame) or frame.message
    return (message.domain, *(mark.tag for mark in message.prefix)) if isinstance(message, Call | Seek) else ()


def called(frame: Frame) -> Call | None:
    """The call in a frame: who claims what a hub has granted calls with it."""
    message = frame.message.call if isinstance(frame.message, Claim) else frame.message
    return message if isinstance(message, Call) else None


def wandering(network: Network) -> list[Frame]:
    """Frames with a domain that is not one of their sender for their receiver."""
    of_pair = {(f.sender, f.receiver): shown(f)[0] for f in network.frames if shown(f)}
    return [
        frame
        for frame in network.frames
        for pair, domain in of_pair.items()
        if domain in frame.data and pair != (frame.sender, frame.receiver)
    ]


def awarded(frames: list[Frame]) -> dict[bytes, PeerId]:
    awards = ((f.message.award if isinstance(f.message, Claim) else f.message, f.receiver) for f in frames)
    return {message.conversation: receiver for message, receiver in awards if isinstance(message, Award)}


def test_prompts_go_to_those_to_whom_they_are_awarded_and_nowhere_else(network: Network) -> None:
    assert telling(network) == counted(network) == []
    calls = {call.conversation: frame.receiver for frame in network.frames if (call := called(frame)) is not None}
    assert all(calls[conversation] == seller for conversation, seller in awarded(network.frames).items())
    orderly = network.frames[: network.orderly]
    called_for = sum(called(frame) is not None for frame in orderly)
    assert len(awarded(orderly)) == len(BUYERS) * TURNS + 1 < called_for, "some were asked for quotes, and lost"
    assert len(awarded(network.frames)) >= sum(map(len, network.prompts.values()))
    assert any(isinstance(frame.message, Claim) for frame in network.frames), "hubs have cleared something"


def test_no_name_that_a_guess_could_be_tested_by_is_told(network: Network) -> None:
    assert naming(network) == []


def test_marks_and_domains_are_of_one_buyer_and_one_seller(network: Network) -> None:
    assert wandering(network) == []
    of_pair: dict[tuple[PeerId, PeerId], set[bytes]] = {}
    for frame in filter(shown, network.frames):
        of_pair.setdefault((frame.sender, frame.receiver), set()).update(shown(frame))
    assert len(of_pair) > len(BUYERS)
    every = [tag for tags in of_pair.values() for tag in tags]
    assert len(every) == len(set(every))


def test_conversations_are_known_again_all_the_same(network: Network) -> None:
    homes = [f.receiver for f in network.frames if isinstance(f.message, Award) and f.sender == network.buyers[0]]
    assert len(homes) == TURNS + 1
    assert len(set(homes)) == 1
    (holder,) = [f.sender for f in network.frames if isinstance(f.message, Holds) and f.message.cached_tokens]
    assert holder == homes[0]
    assert sum(isinstance(f.message, Seek) for f in network.frames) >= len(SELLERS)
    assert max(len(f.message.prefix) for f in network.frames if isinstance(f.message, Call)) > TURNS


def test_gossip_does_not_depend_on_what_is_said(space: Space, network: Network) -> None:
    """With other words of the same length it is the same, as long as nobody is busy."""

    def gossip(one: Network) -> list[bytes]:
        frames = one.frames[: one.orderly]
        return [frame.data for frame in frames if protocol_of(frame.message) == GOSSIP_PROTOCOL]

    other = Network(space, 2)
    assert network.prompts != other.prompts
    assert gossip(network) == gossip(other)
    assert len(gossip(other)) > 100


@pytest.mark.parametrize("check", [telling, counted, naming, wandering])
def test_a_leak_would_be_found(network: Network, check: Callable[[Network], list[Frame]]) -> None:
    text = network.text(network.buyers[0])
    block = blocks.chain(list(text), BLOCK_TOKENS[1])[1]
    call = next(f.message for f in network.frames if isinstance(f.message, Call))
    planted = {
        telling: [text[200:240]],
        counted: [b"".join(t.to_bytes(4, "little") for t in text[200:210])],
        naming: [block, block[-8:], block.hex().encode(), chain(network.prompts[network.buyers[0]][0])[0].digest[:8]],
        wandering: [call.domain],
    }[check]
    clean = network.frames
    leaks = [Frame(*network.buyers[1:], SignedQuote(b"ab" + secret, bytes(64))) for secret in planted]
    network.frames = [*clean, *leaks]
    assert check(network) == leaks
    network.frames = clean
