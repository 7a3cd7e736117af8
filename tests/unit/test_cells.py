"""Which cells a device follows: of its agents, halved as they grow, widened where nobody is."""

from collections.abc import Iterable
from random import Random

import pytest

from p2pagent.peer.cells import FOLLOWED_MAX, LONELY, Cells
from p2pagent.peer.directory import Entry
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import RateCard
from p2pagent.routing.hubs import ROOT, Hubs, above, depth, hubs_of
from p2pagent.routing.space import load_space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef
from tests.members import make_beat, make_record, sign_beat, sign_record

ME = SimKeys(0)
PROTOTYPES = 24


@pytest.fixture(scope="module")
def hubs() -> Hubs:
    return hubs_of(load_space("hashing"))


@pytest.fixture
def cells(hubs):
    return Cells(hubs, ME.peer, PROTOTYPES)


def advert(home: int, name: str = "agent") -> AgentAdvert:
    capability = bytes(200 if p == home else 20 for p in range(PROTOTYPES))
    return AgentAdvert(name, "test", capability, RateCard(1, 1, 1), 4096, 1)


def entry(*paths: str, met: bool = True) -> Entry:
    keys = SimKeys(1)
    record, beat = make_record(keys), make_beat(keys)
    return Entry(record, sign_record(keys, record), beat, sign_beat(keys, beat), paths, met=met)


def inside(name: str, count: int, *, met: bool = True) -> list[Entry]:
    """Members of a cell, all but one in its first half."""
    return [entry(name + ("1" if number == 0 else "0"), met=met) for number in range(count)]


def path_of(hubs: Hubs, home: int, name: str = "agent") -> str:
    return hubs.path(AgentRef(ME.peer, name), home)


def at_depth(cells: Cells, home: int, deep: int) -> None:
    cells.open_for((advert(home),))
    cells.deepen(ROOT, "/" + "0" * deep)
    assert {depth(name) for name in cells.names()} == {deep}


# --- whose cells ----------------------------------------------------------------------------------------------------


def test_everybody_follows_everybody_at_first(cells):
    cells.open_for((advert(3), advert(17, "other")))
    assert cells.names() == (ROOT,)
    assert cells.follows(())
    assert cells.follows(("/0110.1",))


def test_before_there_are_agents_nobody_is_followed(cells):
    assert cells.names() == ()
    assert not cells.follows(("/0110.1",))


def test_paths_are_those_of_homes_in_this_space(cells, hubs):
    foreign = AgentAdvert("foreign", "test", bytes(7), RateCard(1, 1, 1), 4096, 1)
    assert cells.paths(ME.peer, (advert(5), foreign)) == (path_of(hubs, 5),)
    assert cells.paths(ME.peer, (foreign,)) == cells.paths(ME.peer, ())


def test_peers_without_agents_are_spread_over_all_cells_and_fill_them(cells):
    paths = [cells.paths(SimKeys(number).peer, ()) for number in range(2 * FOLLOWED_MAX)]
    assert len({path for (path,) in paths}) > PROTOTYPES
    assert 0.3 < sum(path.startswith("/0") for (path,) in paths) / len(paths) < 0.7
    cells.open_for(())
    assert cells.halve([entry(*path) for path in paths])


def test_a_device_without_agents_follows_a_cell_that_its_id_draws(hubs):
    leaves = set()
    for number in range(40):
        cells = Cells(hubs, SimKeys(number).peer, PROTOTYPES)
        cells.open_for(())
        assert cells.names() == (ROOT,)
        assert cells.deepen(ROOT, "/0101")
        leaves.update(cells.names())
    assert len(leaves) > 10


def test_a_cell_below_the_root_is_followed_and_its_neighbour_not(cells, hubs):
    at_depth(cells, 5, 2)
    [name] = cells.names()
    assert name == above(path_of(hubs, 5), 2)
    assert cells.follows((name + "01",))
    assert cells.follows(("/none", name))
    assert not cells.follows((name[:-1] + ("0" if name[-1] == "1" else "1"),))
    assert not cells.follows(())


def test_a_new_agent_is_followed_as_deep_as_the_others(cells, hubs):
    at_depth(cells, 5, 3)
    cells.open_for((advert(5), advert(23, "new")))
    assert set(cells.names()) == {above(path_of(hubs, 5), 3), above(path_of(hubs, 23, "new"), 3)}
    cells.open_for((advert(23, "new"),))
    assert cells.names() == (above(path_of(hubs, 23, "new"), 3),)


def test_a_cell_inside_another_is_no_cell_of_its_own(cells, hubs):
    homes = [p for p in range(PROTOTYPES) if hubs.leaf(p).startswith("/0")]
    cells.open_for((advert(homes[0]), advert(homes[-1], "other")))
    cells.deepen(ROOT, "/0")
    assert cells.names() == ("/0",)
    one, other = path_of(hubs, homes[0]), path_of(hubs, homes[-1], "other")
    cells._go_to({one: 1, other: 3})
    assert cells.names() == ("/0",)
    cells._go_to({one: 2, other: 3})
    assert set(cells.names()) == {above(one, 2), above(other, 3)}


# --- halving --------------------------------------------------------------------------------------------------------


def test_a_cell_is_halved_when_it_has_one_member_too_many(cells, hubs):
    cells.open_for((advert(5),))
    assert not cells.halve(inside(ROOT, FOLLOWED_MAX))
    assert cells.halve(inside(ROOT, FOLLOWED_MAX + 1))
    assert cells.names() == (above(path_of(hubs, 5), 1),)


def test_only_the_crowded_cell_is_halved(cells, hubs):
    homes = [next(p for p in range(PROTOTYPES) if hubs.leaf(p).startswith(half)) for half in ("/0", "/1")]
    cells.open_for((advert(homes[0]), advert(homes[1], "other")))
    cells.deepen(ROOT, "/0")
    assert cells.halve([*inside("/0", FOLLOWED_MAX), *inside("/1", FOLLOWED_MAX + 1)])
    assert {depth(name): name[1] for name in cells.names()} == {1: "0", 2: "1"}


@pytest.mark.parametrize(("met", "halved"), [(0, False), (20, False), (80, False), (81, True), (200, True)])
def test_invented_members_count_no_more_than_those_we_met(cells, met, halved):
    cells.open_for((advert(5),))
    assert cells.halve([*inside(ROOT, met), *inside(ROOT, 1_000, met=False)]) == halved


def test_where_nothing_is_left_to_halve_nothing_changes(cells, hubs):
    path = path_of(hubs, 5)
    at_depth(cells, 5, depth(path))
    assert not cells.halve([entry(path) for _ in range(FOLLOWED_MAX + 1)])
    assert cells.names() == (path,)


# --- widening and deepening -----------------------------------------------------------------------------------------


def test_a_cell_with_hardly_anybody_is_sparse_and_the_root_never(cells):
    cells.open_for((advert(5),))
    assert cells.sparse([]) == ()
    at_depth(cells, 5, 2)
    [name] = cells.names()
    assert cells.sparse([entry(name)] * (LONELY - 1)) == (name,)
    assert cells.sparse([entry(name)] * LONELY) == ()


def test_widening_goes_up_one_halving_to_the_root_and_no_further(cells, hubs):
    at_depth(cells, 5, 3)
    for deep in (2, 1, 0):
        [name] = cells.names()
        assert cells.widen(name) == (above(path_of(hubs, 5), deep),) == cells.names()
    assert cells.widen(ROOT) == ()
    assert cells.widen("/0101") == ()


def test_a_newcomer_goes_as_deep_as_those_it_meets(cells, hubs):
    cells.open_for((advert(5),))
    assert cells.deepen(ROOT, "/101")
    assert cells.names() == (above(path_of(hubs, 5), 3),)
    assert not cells.deepen(ROOT, "/1010")  # that was another cell
    assert not cells.deepen(cells.names()[0], "/1")


@pytest.mark.parametrize("followed", ["/" + "0" * 23, "/0000." + "0" * 17])
def test_nobody_sends_it_deeper_than_its_path(cells, hubs, followed):
    cells.open_for((advert(5),))
    cells.deepen(ROOT, followed)
    path = path_of(hubs, 5)
    assert cells.names() == (path,)
    assert cells.widen(path) == (above(path, depth(path) - 1),)  # so that the way back is not longer than the path


def test_a_device_is_known_by_its_cell_the_one_above_and_the_one_below(cells, hubs):
    path = path_of(hubs, 5)
    cells.open_for((advert(5),))
    assert cells.known_as() == (above(path, 1),)
    cells.deepen(ROOT, "/01")
    assert set(cells.known_as()) == {above(path, deep) for deep in (1, 2, 3)}


# --- all together ---------------------------------------------------------------------------------------------------


def settle(hubs: Hubs, homes: Iterable[int]) -> list[tuple[Cells, str]]:
    """Cells of devices that know everybody, halved until nobody follows too many."""
    found = []
    for number, home in enumerate(homes):
        peer = SimKeys(number).peer
        cells = Cells(hubs, peer, PROTOTYPES)
        cells.open_for((advert(home),))
        found.append((cells, hubs.path(AgentRef(peer, "agent"), home)))
    everybody = [entry(path) for _, path in found]
    for cells, _ in found:
        while cells.halve([e for e in everybody if cells.follows(e.paths)]):
            pass
    return found


@pytest.mark.parametrize("crowded", [False, True])
def test_devices_that_know_the_same_agree_who_is_whose_member(hubs, crowded):
    rng = Random(3)
    settled = settle(hubs, [7 if crowded else rng.randrange(PROTOTYPES) for _ in range(220)])
    for cells, path in settled:
        members = {other for _, other in settled if cells.follows((other,))}
        assert path in members
        assert len(members) <= FOLLOWED_MAX
        assert all(other_cells.names() == cells.names() for other_cells, other in settled if other in members)
