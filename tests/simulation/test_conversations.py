"""A conversation finds its way back to the cache that remembers it, and leaves it when that is too busy."""

from collections.abc import Sequence
from random import Random

import msgspec
import pytest

from p2pagent.config import Preferences
from p2pagent.peer.events import AgentsChanged, Ask
from p2pagent.peer.peer import Peer
from p2pagent.peer.updates import Answered
from p2pagent.routing.prototypes import Space
from p2pagent.sim.engine import BatchingModel
from p2pagent.sim.links import uniform
from p2pagent.sim.prefixes import tokens_of
from p2pagent.sim.world import World
from p2pagent.types import ChatMessage, Sampling
from tests.scenario import START_MS, SUBJECTS, Device, make_policy

SELLERS = range(1, 6)
SUBJECT = 0
CACHE_TOKENS = 16_384
QUESTION = f"{SUBJECTS[SUBJECT]} abc"
DOCUMENT = "fact ".ljust(4_000, "x")


class Network:
    """Five sellers, all as good at `SUBJECT` and as fast; those who ask host nothing that could answer."""

    def __init__(self, space: Space, cache_tokens: int = CACHE_TOKENS, secrets: Sequence[str] = ("",)) -> None:
        self.world = World(uniform(Random(1), 5, 25), START_MS)
        self.devices = [Device(0, space, skill=1), *(Device(index, space, skill=SUBJECT) for index in SELLERS)]
        for secret in secrets[1:]:
            self.devices.append(Device(len(self.devices), space, skill=1))
            self.devices[-1].peer = peer_of(self.devices[-1], space, secret)
        self.devices[0].peer = peer_of(self.devices[0], space, secrets[0])
        for device in self.devices:
            advert = msgspec.structs.replace(device.advert, cache_tokens=cache_tokens)
            model = BatchingModel(lambda _: "reply ".ljust(200, "y"), slots=2, cache_tokens=cache_tokens)
            self.world.add(device.name, device.peer, {"agent": model})
            self.world.at(START_MS, device.name, AgentsChanged((advert,), device.ready.addresses))
        for one in self.devices:
            for other in self.devices[: one.index]:
                self.world.connect(one.name, other.name)
        self.world.run(START_MS + 60_000)

    def ask(self, name: str, turns: tuple[ChatMessage, ...], by: int = 0) -> Answered:
        """The answer to the last of `turns`."""
        tokens = sum(tokens_of(turn.content) for turn in turns)
        ask = Ask(name, turns, Sampling(max_tokens=64), tokens, make_policy())
        self.world.at(self.world.now_ms, self.devices[by].name, ask)
        self.world.run(self.world.now_ms + 10_000)
        (answered,) = [told.update for told in self.world.told if isinstance(told.update, Answered)]
        self.world.told.clear()
        return answered

    def talk(self, name: str, turns: int) -> list[Answered]:
        """A conversation of so many questions about a document."""
        said = (ChatMessage("system", f"{name} {DOCUMENT}"),)
        answers = []
        for number in range(turns):
            said = (*said, ChatMessage("user", QUESTION))
            answers.append(self.ask(f"{name} {number}", said))
            said = (*said, ChatMessage("assistant", answers[-1].text))
        return answers


def peer_of(device: Device, space: Space, secret: str) -> Peer:
    """A peer whose trust domain is that of all who have the same secret."""
    preferences = Preferences(cache_secret=secret)
    return Peer(device.keys, space, "test", preferences, Random(f"1 {device.index}"), 1)


@pytest.fixture
def network(space: Space) -> Network:
    return Network(space)


def test_every_turn_comes_home_and_is_charged_for_what_is_new(network: Network) -> None:
    for conversation in ("one", "two", "three"):
        first, *later = network.talk(conversation, 6)
        assert first.usage.cached_tokens == 0
        assert {answer.agent for answer in later} == {first.agent}
        for before, answer in zip([first, *later], later, strict=False):
            assert answer.usage.cached_tokens >= before.usage.prompt_tokens
            assert answer.price_microcredits < first.price_microcredits / 2


def test_what_was_quoted_as_cached_is_what_was_found(network: Network) -> None:
    quoted = []
    for answer in network.talk("one", 6):
        ((candidate),) = [c for c in answer.candidates if c.agent == answer.agent]
        quoted.append((candidate.cached_tokens, answer.usage.cached_tokens))
    assert quoted[0] == (0, 0)
    assert all(0.8 * found <= promised <= found for promised, found in quoted[1:])


def test_a_network_without_caches_promises_none(space: Space) -> None:
    answers = Network(space, cache_tokens=0).talk("one", 3)
    assert [answer.usage.cached_tokens for answer in answers] == [0, 0, 0]


def test_a_busy_home_is_left_for_an_idle_stranger(network: Network) -> None:
    (first,) = network.talk("one", 1)
    home = next(device for device in network.devices if device.name == first.agent.peer)
    said = (ChatMessage("user", QUESTION),)
    for number in range(40):
        policy = make_policy(privacy="local")
        ask = Ask(f"own {number}", said, Sampling(max_tokens=64), tokens_of(QUESTION), policy)
        network.world.at(network.world.now_ms, home.name, ask)
    turns = (ChatMessage("system", f"one {DOCUMENT}"), ChatMessage("user", QUESTION))
    tokens = sum(tokens_of(turn.content) for turn in turns)
    ask = Ask("later", turns, Sampling(max_tokens=64), tokens, make_policy())
    network.world.at(network.world.now_ms + 500, network.devices[0].name, ask)
    network.world.run(network.world.now_ms + 60_000)
    (later,) = [t.update for t in network.world.told if isinstance(t.update, Answered) and t.query == "later"]
    assert later.agent != first.agent


@pytest.mark.parametrize(("secrets", "at_home"), [(("ours", "ours"), 6), (("ours", "theirs"), 0), (("", ""), 0)])
def test_another_device_of_the_domain_goes_on_where_the_conversation_was(
    space: Space, secrets: tuple[str, str], at_home: int
) -> None:
    """It has never heard of it, and asks around; a device of another domain finds nothing of it anywhere."""
    network = Network(space, secrets=secrets)
    found = 0
    for number in range(6):
        said = (ChatMessage("system", f"{number} {DOCUMENT}"), ChatMessage("user", QUESTION))
        first = network.ask(f"first {number}", said)
        said = (*said, ChatMessage("assistant", first.text), ChatMessage("user", QUESTION))
        second = network.ask(f"second {number}", said, by=-1)
        found += second.usage.cached_tokens >= first.usage.prompt_tokens
        assert second.usage.cached_tokens == 0 or second.agent == first.agent
    assert found == at_home


def test_whoever_does_not_say_what_it_holds_is_not_waited_for_long(space: Space) -> None:
    network = Network(space)
    for device in network.devices[1:]:
        device.peer.seller.on_seek = lambda *_: []  # type: ignore[method-assign]
    said = (ChatMessage("user", QUESTION), ChatMessage("assistant", "ok"), ChatMessage("user", QUESTION))
    assert 400 < network.ask("late", said).ttft_ms < 1_000
    said = (*said, ChatMessage("assistant", "ok"), ChatMessage("user", QUESTION))
    assert network.ask("later", said).ttft_ms < 400, "by then its home is known"
