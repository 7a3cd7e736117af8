"""Who is in a cell: asked of its members and of the DHT."""

from itertools import pairwise

import pytest

from p2pagent.peer.cells import FOLLOWED_MAX
from p2pagent.peer.detector import TICK_MS
from p2pagent.peer.effects import Blame, Find, Provide, Send
from p2pagent.peer.events import PeerDown, PeerUp, ProvidersFound
from p2pagent.peer.gossip_messages import Delta, Heartbeat, Look, Pull, Sight
from p2pagent.peer.hearsay import PULLED_PER_MESSAGE_MAX
from p2pagent.peer.lookout import LOOK_MS, WIDEN_MS
from p2pagent.peer.wire import parsed
from p2pagent.routing.hubs import key as cell_key
from p2pagent.sim.keys import SimKeys
from tests.cell import introduce, only, tick
from tests.members import make_beat, make_known, make_record, sign_beat
from tests.scenario import START_MS, make_advert
from tests.strangers import ALICE, BOB, CAROL, ME, receive, sent


def test_a_sight_tells_who_can_be_called_and_who_asked_is_not_told_of_itself(peer):
    introduce(peer, ALICE, BOB, CAROL)
    peer.handle(PeerDown(BOB.peer), START_MS)
    [sight] = sent(receive(peer, ALICE, Look("/")), ALICE)
    assert [parsed(beat.body, Heartbeat).peer for beat in sight.heartbeats] == [ME.peer, CAROL.peer]
    assert (sight.cell, sight.followed) == ("/", "/")


@pytest.mark.parametrize("cell", ["/2", "/.01", "/0000000000", "/01."])
def test_looking_for_a_cell_that_does_not_exist_is_a_fault(peer, cell):
    assert only(receive(peer, ALICE, Look(cell)), Blame)


def test_a_member_is_asked_now_and_then_for_what_we_missed(peer):
    introduce(peer, ALICE)
    looks = only(sent(tick(peer, LOOK_MS), ALICE), Look)
    assert looks == [Look("/")]
    assert only(sent(tick(peer, LOOK_MS + TICK_MS), ALICE), Look) == looks, "until there is an answer"
    receive(peer, ALICE, Sight("/", "/", ()), LOOK_MS + TICK_MS)
    assert only(sent(tick(peer, LOOK_MS + 2 * TICK_MS)), Look) == []


@pytest.mark.parametrize("followed", ["/" + "1" * 23, "/01.", "/0101010101.01", "/00000"])
def test_a_cell_that_does_not_exist_takes_nobody_there(peer, followed):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    receive(peer, ALICE, Sight("/", followed, ()))
    assert peer.membership.cells.names() == ("/",)


def test_who_was_sent_too_deep_finds_back(peer):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    hubs = peer.membership.lookout._hubs
    leaf = hubs.leaf(3)
    receive(peer, ALICE, Sight("/", leaf + ".01010101", ()))
    [name] = peer.membership.cells.names()
    assert name != "/"
    cells = [name]
    for ms in range(0, 20 * 60_000, TICK_MS):
        for find in only(tick(peer, ms), Find):
            peer.handle(ProvidersFound("", find.cell, ()), START_MS + ms)
        [name] = peer.membership.cells.names()
        cells += [name] if name != cells[-1] else []
    assert cells[-1] == "/"
    assert all(lower.startswith(upper) for lower, upper in pairwise(cells))


def deepened(peer, followed):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    receive(peer, ALICE, Sight("/", followed, ()))
    [name] = peer.membership.cells.names()
    return name


def test_a_lonely_cell_asks_all_whom_the_dht_names_before_it_gives_up(peer, space):
    name = deepened(peer, "/0")
    assert name != "/"
    key, found = cell_key(space, name), tuple(SimKeys(n).peer for n in range(10, 17))
    asked = []
    for turn in range(3):
        effects = peer.handle(ProvidersFound("", key, found), START_MS + turn * 30_000)
        asked += [e.peer for e in effects if isinstance(e, Send)]
    assert sorted(asked) == sorted(found)
    effects = peer.handle(ProvidersFound("", key, found), START_MS + 90_000)
    assert peer.membership.cells.names() == ("/",)
    assert only(effects, Provide)


def test_a_cell_that_was_just_halved_is_not_widened_however_empty_its_half(peer, space):
    introduce(peer, ALICE)
    home = peer.membership.lookout._hubs.leaf(0)
    away = next(p for p in range(6) if peer.membership.lookout._hubs.leaf(p)[1] != home[1])
    for number in range(FOLLOWED_MAX):
        keys = SimKeys(100 + number)
        record = make_record(keys, make_advert("agent", {away: 0.9}), space=space.name)
        receive(peer, keys, Delta((make_known(keys, record),)))
    tick(peer, TICK_MS)
    [name] = peer.membership.cells.names()
    assert name == home[:2]
    for ms, then in ((60_000, name), (WIDEN_MS - 1, name), (WIDEN_MS + TICK_MS, "/")):
        peer.handle(ProvidersFound("", cell_key(space, name), ()), START_MS + ms)
        assert peer.membership.cells.names() == (then,)


def test_a_cell_is_looked_for_once_in_half_a_minute(peer):
    deepened(peer, "/0")
    finds = [ms for ms in range(0, 120_000, TICK_MS) for _ in only(tick(peer, ms), Find)]
    assert len(finds) == 4


@pytest.mark.parametrize("cell", ["", "elsewhere/0", "p2pagent/cell/2/other/0", "/000000"])
def test_providers_of_something_else_are_nobody(peer, cell):
    assert peer.handle(ProvidersFound("", cell, (BOB.peer,)), START_MS) == []


def test_pulls_are_of_at_most_so_many(peer):
    peer.handle(PeerUp(ALICE.peer), START_MS)
    strangers = [SimKeys(n) for n in range(100, 300)]
    sight = Sight("/", "/", tuple(sign_beat(keys, make_beat(keys)) for keys in strangers))
    wanted = only(sent(receive(peer, ALICE, sight), ALICE), Pull)
    assert max(len(pull.peers) for pull in wanted) == PULLED_PER_MESSAGE_MAX
    assert sum(len(pull.peers) for pull in wanted) == len(strangers)
