"""Two versions of the prototypes in one network: nobody is cut off while devices take up the new one."""

from random import Random

import numpy as np
import pytest
from msgspec import structs

from p2pagent.peer.events import AgentsChanged
from p2pagent.peer.updates import Answered
from p2pagent.routing.prototypes import HashingEmbedder, Space
from p2pagent.sim.links import uniform
from p2pagent.sim.world import World
from tests.scenario import START_MS, SUBJECTS, Device, make_ask

EMBEDDER = HashingEmbedder()
OLD, BOTH, NEW, LATER = range(4)
"""Devices, each the only expert in the subject of its number: of the first version, of the second that still speaks the
first, of the second alone, of the third that still speaks the second."""


def space(shift: float, earlier: Space | None = None, *, reverse: bool = False) -> Space:
    """One prototype per subject, drifted by `shift` towards another wording."""
    there = EMBEDDER.embed([f"{subject} abc" for subject in SUBJECTS])
    other = EMBEDDER.embed([f"please {subject} xyz" for subject in SUBJECTS])
    drifted = (1 - shift) * there + shift * other
    return Space(EMBEDDER, drifted[::-1] if reverse else drifted, earlier=earlier)


FIRST = space(0.0)
SECOND = space(0.3, FIRST, reverse=True)
SECOND_ALONE = space(0.3, reverse=True)
THIRD = space(0.5, SECOND_ALONE)


def device(index: int, spoken: Space, *reversed_: bool) -> Device:
    """The expert of subject `index`; `reversed_` says of the space, and of that before it, which way it lists them."""
    made = Device(index, spoken, skill=index)
    claims = [made.advert.capability[::-1] if each else made.advert.capability for each in reversed_]
    made.advert = structs.replace(made.advert, capability=claims[0], earlier=b"".join(claims[1:]))
    made.ready = AgentsChanged((made.advert,), made.ready.addresses)
    return made


@pytest.fixture
def devices() -> list[Device]:
    return [
        device(OLD, FIRST, False),
        device(BOTH, SECOND, True, False),
        device(NEW, SECOND_ALONE, True),
        device(LATER, THIRD, False, True),
    ]


def answerer(devices: list[Device], asker: int, subject: int) -> int:
    """Who answers a question on `subject` that `asker` has in a network of all of them."""
    world = World(uniform(Random(1), 5, 25), START_MS)
    for each in devices:
        world.add(each.name, each.peer, {"agent": each.engine})
        world.at(START_MS, each.name, each.ready)
    for one in devices:
        for other in devices[: one.index]:
            world.connect(one.name, other.name)
    world.run(START_MS + 5_000)
    world.at(world.now_ms, devices[asker].name, make_ask("q", subject))
    world.run(world.now_ms + 20_000)
    (answered,) = [told.update for told in world.told if isinstance(told.update, Answered)]
    assert world.blamed == []
    return next(each.index for each in devices if each.name == answered.agent.peer)


def test_a_space_and_the_one_before_it_are_of_one_embedder() -> None:
    class Other(HashingEmbedder):
        name = "other"

    with pytest.raises(ValueError, match="other"):
        Space(Other(), np.eye(4, 256, dtype=np.float32), earlier=FIRST)


@pytest.mark.parametrize(
    ("asker", "expert"), [(OLD, BOTH), (BOTH, OLD), (BOTH, NEW), (NEW, BOTH), (NEW, LATER), (LATER, NEW), (BOTH, LATER)]
)
def test_who_has_a_version_in_common_finds_the_expert(devices: list[Device], asker: int, expert: int) -> None:
    assert answerer(devices, asker, expert) == expert


@pytest.mark.parametrize(("asker", "expert"), [(OLD, NEW), (NEW, OLD), (OLD, LATER)])
def test_who_has_none_does_not_ask(devices: list[Device], asker: int, expert: int) -> None:
    assert answerer(devices, asker, expert) != expert
