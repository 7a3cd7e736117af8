"""Who is let go when there are too many: the rules on any history of comings, goings and frames."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID

from p2pagent.net.neighbours import BUSY_S, Neighbours

PEERS = [ID(bytes([0, 1, number])) for number in range(8)]
BOUND = 3

peers = st.sampled_from(PEERS)
steps = st.lists(
    st.tuples(st.sampled_from(("up", "frame", "down")), peers, st.floats(min_value=0, max_value=2 * BUSY_S)),
    max_size=40,
)


@given(steps, st.sets(peers, max_size=3), st.sets(peers))
def test_the_least_needed_goes_and_never_the_newcomer(
    history: list[tuple[str, ID, float]], bootstrap: set[ID], engaged: set[ID]
) -> None:
    """The model keeps all it is told and applies the rules to it, one by one."""
    neighbours = Neighbours(BOUND, bootstrap, lambda: engaged)
    up_s: dict[ID, float] = {}
    frame_s: dict[ID, float] = {}
    now_s = 0.0
    for what, peer, wait_s in history:
        now_s += wait_s
        if what == "frame":
            neighbours.exchanged(peer, now_s)
            if peer in up_s:
                frame_s[peer] = now_s
        elif what == "down":
            assert neighbours.down(peer) == (peer in up_s)
            up_s.pop(peer, None)
            frame_s.pop(peer, None)
        else:
            assert neighbours.up(peer, now_s) == (peer not in up_s)
            up_s[peer] = now_s
            gone = neighbours.let_go(peer, now_s)
            assert peer not in gone
            assert len(gone) == max(0, len(up_s) - BOUND) <= 1
            for one in gone:
                # The newest can be spared, and one bootstrap peer; of the rest the one that went was needed least.
                others = up_s.keys() - {peer, one}
                assert one not in bootstrap or bootstrap & (others | {peer})
                last_bootstrap = {other for other in others if bootstrap & up_s.keys() == {other}}
                rivals = others - last_bootstrap
                idle_s = {other: now_s - max(up_s[other], frame_s.get(other, 0)) for other in {one, *rivals}}
                busy = {other for other in {one, *rivals} if other in frame_s and now_s - frame_s[other] < BUSY_S}
                assert one not in engaged or rivals <= engaged
                rivals = {other for other in rivals if (other in engaged) == (one in engaged)}
                assert one not in busy or rivals <= busy
                assert all(idle_s[one] >= idle_s[other] for other in rivals if (other in busy) == (one in busy))
                # It is counted as gone before its connection has closed.
                assert not neighbours.let_go(peer, now_s)
                neighbours.down(one)
                del up_s[one]
                frame_s.pop(one, None)
        assert len(neighbours) == len(up_s)
        assert neighbours.room == BOUND - len(up_s)


def test_a_flood_of_newcomers_pushes_out_newcomers_only() -> None:
    neighbours = Neighbours(2, (), frozenset)
    trader, *flood = PEERS
    neighbours.up(trader, 0)
    neighbours.exchanged(trader, 1)
    neighbours.up(flood[0], 2)
    for now_s, (last, newcomer) in enumerate(pairwise(flood), 3):
        neighbours.up(newcomer, now_s)
        assert neighbours.let_go(newcomer, now_s) == [last]
        neighbours.down(last)
    assert trader in neighbours


def test_with_whom_something_is_under_way_stays_though_all_others_have_traded_since() -> None:
    engaged = {PEERS[0]}
    neighbours = Neighbours(2, (), lambda: engaged)
    for now_s, peer in enumerate(PEERS[:3]):
        neighbours.up(peer, now_s)
        neighbours.exchanged(peer, now_s)
    assert neighbours.let_go(PEERS[2], 3) == [PEERS[1]]
    neighbours.down(PEERS[1])
    engaged.clear()
    neighbours.up(PEERS[3], 4)
    assert neighbours.let_go(PEERS[3], 4) == [PEERS[0]]


@pytest.mark.parametrize(("bootstrap", "gone"), [(PEERS[:1], [PEERS[1]]), (PEERS[:2], [PEERS[0]])])
def test_one_bootstrap_peer_is_kept(bootstrap: list[ID], gone: list[ID]) -> None:
    neighbours = Neighbours(2, bootstrap, frozenset)
    for now_s, peer in enumerate(PEERS[:3]):
        neighbours.up(peer, now_s)
    assert neighbours.let_go(PEERS[2], 3) == gone


def test_one_too_many_is_better_than_no_newcomer_or_no_bootstrap_peer() -> None:
    neighbours = Neighbours(1, PEERS[:1], frozenset)
    neighbours.up(PEERS[0], 0)
    neighbours.up(PEERS[1], 1)
    assert neighbours.let_go(PEERS[1], 1) == []
    assert len(neighbours) == 2


def test_who_comes_back_while_it_is_let_go_stays() -> None:
    neighbours = Neighbours(1, (), frozenset)
    neighbours.up(PEERS[0], 0)
    neighbours.up(PEERS[1], 1)
    assert neighbours.let_go(PEERS[1], 1) == [PEERS[0]]
    assert not neighbours.up(PEERS[0], 2)
    assert neighbours.let_go(PEERS[0], 2) == [PEERS[1]]
