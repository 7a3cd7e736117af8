"""Hubs of the shipped prototypes: names, homes and draws that every peer must compute alike."""

from collections import Counter
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest

from p2pagent.routing.hubs import HASH_BITS_MAX, HUB_AGENTS_MAX, ROOT, Hub, Hubs, above, depth, draw, home, hubs_of
from p2pagent.routing.prototypes import Vector
from p2pagent.routing.space import load_space, prototypes_file
from p2pagent.types import AgentRef, PeerId


def shipped(kind: str) -> Vector:
    return np.load(BytesIO(prototypes_file(kind).read_bytes())).astype(np.float32)


@pytest.fixture(scope="module")
def hubs() -> Hubs:
    return Hubs(shipped("hashing"))


def agents(count: int, offset: int = 0) -> list[AgentRef]:
    return [AgentRef(PeerId(f"peer-{i}"), "agent") for i in range(offset, offset + count)]


BUYER = PeerId("buyer")


def test_few_agents_are_one_hub_whatever_the_query(hubs: Hubs) -> None:
    homes = {agent: i % 24 for i, agent in enumerate(agents(HUB_AGENTS_MAX))}
    assert {hubs.hub_of(p, BUYER, 1, homes) for p in range(24)} == {Hub("/", tuple(sorted(homes)))}


def test_nobody_known_is_an_empty_hub(hubs: Hubs) -> None:
    assert hubs.hub_of(0, BUYER, 1, {}) == Hub("/", ())


def test_one_agent_too_many_splits_in_two_and_its_leaving_merges_again(hubs: Hubs) -> None:
    homes = {agent: i % 24 for i, agent in enumerate(agents(HUB_AGENTS_MAX + 1))}
    assert {hubs.hub_of(p, BUYER, 1, homes).name for p in range(24)} == {"/0", "/1"}
    homes.popitem()
    assert {hubs.hub_of(p, BUYER, 1, homes).name for p in range(24)} == {"/"}


def test_a_cell_without_agents_is_an_empty_hub(hubs: Hubs) -> None:
    homes = dict.fromkeys(agents(HUB_AGENTS_MAX + 1), 11)
    assert hubs.hub_of(15, BUYER, 1, homes) == Hub("/1", ())


def test_a_crowded_prototype_is_halved_by_hash_and_buyers_change_sides_with_the_epochs(hubs: Hubs) -> None:
    homes = dict.fromkeys(agents(HUB_AGENTS_MAX + 8), 11)
    sides = [hubs.hub_of(11, BUYER, epoch, homes) for epoch in range(200)]
    names = Counter(hub.name for hub in sides)
    assert set(names) == {"/0000.0", "/0000.1"}
    # Binomial(200, 1/2): standard deviation 7.
    assert min(names.values()) > 70
    halves = {hub.name: set(hub.agents) for hub in sides}
    assert halves["/0000.0"] | halves["/0000.1"] == set(homes)
    assert not halves["/0000.0"] & halves["/0000.1"]


def test_alike_prototypes_stay_together_longest() -> None:
    angles = np.radians([0, 90, 2, 92, 4, 94])
    circle = Hubs(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    homes = {agent: i % 6 for i, agent in enumerate(agents(HUB_AGENTS_MAX + 1))}
    together = {circle.hub_of(p, BUYER, 1, homes).name: p % 2 for p in range(6)}
    assert len(together) == 2
    assert all(together[circle.hub_of(p, BUYER, 1, homes).name] == p % 2 for p in range(6))


def test_one_prototype_is_a_tree_of_one_cell() -> None:
    lone = Hubs(np.ones((1, 4), dtype=np.float32))
    homes = dict.fromkeys(agents(HUB_AGENTS_MAX + 8), 0)
    assert lone.hub_of(0, BUYER, 1, homes).name in {"/.0", "/.1"}


MALFORMED = [
    "",
    ".",
    "0",
    "0/",
    "/2",
    "//",
    "/0 ",
    "/0\n",
    "/.0",
    "/0.0",
    "/0000.",
    "/0000.2",
    "/0000.0\n",
    "/0000.0.1",
]
TOO_LONG = ["/00000", "/00001.0", "/0000." + "0" * (HASH_BITS_MAX + 1), "/" + "0" * 63]


@pytest.mark.parametrize("name", MALFORMED + TOO_LONG)
def test_malformed_names_are_no_cells(hubs: Hubs, name: str) -> None:
    assert not hubs.is_name(name)
    assert not any(hubs.contains(name, agent, 11) for agent in agents(8))


@pytest.mark.parametrize("name", ["/", "/0", "/0000", "/0000.0", "/0000." + "01" * (HASH_BITS_MAX // 2)])
def test_names_of_cells_are_names(hubs: Hubs, name: str) -> None:
    assert hubs.is_name(name)


@pytest.mark.parametrize("prototype", [-1, 24, 1 << 40])
def test_no_cell_contains_a_prototype_that_does_not_exist(hubs: Hubs, prototype: int) -> None:
    assert not hubs.contains("/", agents(1)[0], prototype)


def test_home_is_the_first_of_the_strongest() -> None:
    assert home(bytes([3, 200, 7, 200])) == 1
    assert home(bytes(4)) == 0


def test_an_auctioneer_is_drawn_as_often_as_any_other() -> None:
    peers = [PeerId(f"peer-{i}") for i in range(8)]
    firsts = Counter(draw("/01", epoch, peers)[0] for epoch in range(4000))
    assert set(firsts) == set(peers)
    # Binomial(4000, 1/8): standard deviation 21.
    assert all(abs(count - 500) < 100 for count in firsts.values())


def test_the_draw_depends_on_hub_and_epoch() -> None:
    peers = [PeerId(f"peer-{i}") for i in range(40)]
    assert draw("/0", 1, peers) != draw("/1", 1, peers)
    assert draw("/0", 1, peers) != draw("/0", 2, peers)


ORDERS = {
    "hashing": (11, 10, 6, 23, 1, 21, 22, 0, 19, 20, 18, 12, 3, 7, 13, 2, 16, 5, 17, 9, 8, 14, 4, 15),
    "minilm": (16, 15, 1, 17, 23, 2, 20, 19, 5, 12, 10, 4, 6, 13, 18, 3, 22, 8, 14, 11, 7, 9, 0, 21),
}


@pytest.mark.parametrize("kind", ORDERS)
def test_the_cells_of_the_shipped_spaces_never_change(kind: str) -> None:
    """Peers of different releases of scipy must agree on them."""
    hubs = Hubs(shipped(kind))
    [agent] = agents(1)

    def halved(name: str, prototypes: tuple[int, ...]) -> None:
        assert {p for p in range(24) if hubs.contains(name, agent, p)} == set(prototypes)
        if len(prototypes) > 1:
            halved(name + "0", prototypes[: len(prototypes) // 2])
            halved(name + "1", prototypes[len(prototypes) // 2 :])

    halved("/", ORDERS[kind])


def test_hashes_never_change(hubs: Hubs) -> None:
    peers = [PeerId(f"peer-{i}") for i in range(6)]
    assert [peers.index(peer) for peer in draw("/01", 7, peers)] == [4, 3, 1, 2, 5, 0]
    halves = [hubs.contains("/0000.1", agent, 11) for agent in agents(8)]
    assert halves == [True, True, True, True, True, True, True, False]
    homes = dict.fromkeys(agents(HUB_AGENTS_MAX + 8), 11)
    assert [hubs.hub_of(11, BUYER, epoch, homes).name[-1] for epoch in range(8)] == list("00011001")


# --- paths: where an agent is at each depth -------------------------------------------------------------------------


def test_an_agent_is_in_every_cell_on_its_path_and_in_no_other(hubs: Hubs) -> None:
    everything = [ROOT]
    for name in everything:
        for half in (name + "0", name + "1", name + ".0", name + ".1"):
            everything += [half] if hubs.is_name(half) and half.partition(".")[2].count("1") < 2 else []
    for number, agent in enumerate(agents(24)):
        path = hubs.path(agent, number)
        for name in everything:
            assert hubs.contains(name, agent, number) == path.startswith(name)


def test_a_path_ends_where_no_halving_is_left(hubs: Hubs) -> None:
    for number, agent in enumerate(agents(24)):
        path = hubs.path(agent, number)
        leaf, _, bits = path.partition(".")
        assert leaf == hubs.leaf(number)
        assert len(bits) == HASH_BITS_MAX
        assert hubs.is_name(path)
        assert len(path) <= 24


def test_leaves_are_the_cells_of_single_prototypes(hubs: Hubs) -> None:
    leaves = [hubs.leaf(number) for number in range(24)]
    assert len(set(leaves)) == 24
    assert not any(one != other and other.startswith(one) for one in leaves for other in leaves)
    [agent] = agents(1)
    assert all(hubs.contains(leaf, agent, p) == (p == number) for number, leaf in enumerate(leaves) for p in range(24))


def test_above_goes_down_the_path_one_halving_at_a_time(hubs: Hubs) -> None:
    [agent] = agents(1)
    for number in range(24):
        path = hubs.path(agent, number)
        names = [above(path, deep) for deep in range(depth(path) + 1)]
        assert names[0] == ROOT
        assert names[-1] == path
        assert all(hubs.is_name(name) for name in names)
        assert [depth(name) for name in names] == list(range(len(names)))
        assert all(lower.startswith(upper) for upper, lower in pairwise(names))
        assert above(path, depth(path) + 1) == above(path, 1 << 40) == path


@pytest.mark.parametrize(("name", "halvings"), [("/", 0), ("/0", 1), ("/0000", 4), ("/0000.1", 5), ("/0000.01", 6)])
def test_depth_counts_halvings(name: str, halvings: int) -> None:
    assert depth(name) == halvings


@pytest.mark.parametrize(("deep", "name"), [(0, "/"), (3, "/010"), (4, "/0101"), (5, "/0101.1"), (6, "/0101.10")])
def test_above_of_a_path(deep: int, name: str) -> None:
    assert above("/0101.10", deep) == name


def test_one_prototype_has_paths_too() -> None:
    lone = Hubs(np.ones((1, 4), dtype=np.float32))
    [agent] = agents(1)
    path = lone.path(agent, 0)
    assert path.startswith("/.")
    assert [above(path, deep) for deep in (0, 1, 2)] == [ROOT, path[:3], path[:4]]
    assert depth(path) == HASH_BITS_MAX


def test_one_space_has_one_tree() -> None:
    space = load_space("hashing")
    assert hubs_of(space) is hubs_of(space)
    assert hubs_of(space).leaf(0) == Hubs(space.prototypes).leaf(0)
