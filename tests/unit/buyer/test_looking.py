"""A buyer that knows nobody good, or not the cell of its question, looks for others first."""

import pytest

from p2pagent.peer.buyer import FIND_MS
from p2pagent.peer.effects import Find, Generate, SetTimer
from p2pagent.peer.events import CancelAsk, ProvidersFound
from p2pagent.peer.gossip_messages import Delta, Look, Pull, Sight
from p2pagent.routing.prototypes import Space
from tests.marketplace import SUBJECT, Market, local_job
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, make_delta, sent


def test_nobody_good_enough_is_looked_for_once(space: Space) -> None:
    market = Market(space, ())
    market.ask()
    assert [type(e) for e in market.effects] == [Find, SetTimer]
    market.handle(ProvidersFound("q", "cell", ()))
    assert local_job(market.effects) or sent(market.effects)
    market.handle(make_ask("again", SUBJECT))
    assert not any(isinstance(e, Find) for e in market.effects)


def test_an_expert_found_meanwhile_is_called_at_once(space: Space) -> None:
    market = Market(space, ())
    market.ask()
    market.get(ALICE, make_delta(ALICE, space, make_advert("agent", {SUBJECT: 0.95})))
    assert ALICE in market.calls


def test_a_look_up_is_waited_for_no_longer_than_it_is_worth(space: Space) -> None:
    market = Market(space, ())
    market.ask()
    (cell,) = [e.cell for e in market.effects if isinstance(e, Find)]
    market.handle(ProvidersFound("q", cell, (ALICE.peer,)))
    assert not any(isinstance(e, Generate) for e in market.effects)
    market.fire("quotes", FIND_MS)
    assert local_job(market.effects)


@pytest.fixture
def abroad(space: Space) -> Market:
    """Everybody good at `SUBJECT` is of a cell that we do not follow; ALICE and BOB are known all the same."""
    market = Market(space, (ALICE, BOB))
    hubs = market.peer.membership.lookout._hubs
    away = hubs.leaf(SUBJECT)[1]
    home = next(leaf for leaf in map(hubs.leaf, range(len(space.prototypes))) if leaf[1] != away)
    market.peer.membership.cells._go_to({home: 1})
    market.peer.directory.regroup()
    return market


def looked_into(market: Market) -> str:
    (cell,) = {look.cell for look in sent(market.effects, ALICE) if isinstance(look, Look)}
    return cell


def test_who_else_is_in_a_cell_we_do_not_follow_is_heard_before_anybody_is_called(abroad: Market) -> None:
    abroad.ask()
    cell = looked_into(abroad)
    assert abroad.calls == {}
    (carol,) = make_delta(CAROL, abroad.space, make_advert("agent", {SUBJECT: 0.99})).peers
    abroad.get(ALICE, Sight(cell, cell, (carol.heartbeat,)))
    assert [type(m) for m in sent(abroad.effects, ALICE)] == [Pull]
    assert abroad.calls == {}
    abroad.get(ALICE, Delta((carol,)))
    assert set(abroad.calls) == {ALICE, BOB, CAROL}
    abroad.handle(CancelAsk("q"))
    abroad.calls.clear()
    abroad.handle(make_ask("again", SUBJECT))
    assert set(abroad.calls) == {ALICE, BOB, CAROL}


def test_a_cell_in_which_nobody_is_new_keeps_no_question_waiting(abroad: Market) -> None:
    abroad.ask()
    cell = looked_into(abroad)
    abroad.get(ALICE, Sight(cell, cell, ()))
    assert set(abroad.calls) == {ALICE, BOB}


@pytest.mark.parametrize(
    ("wishes", "patience_ms"),
    [
        ({}, 500),
        ({"value_microcredits": 100_000}, 50),
        ({"delay_microcredits_per_s": 0}, FIND_MS),
    ],
)
def test_whoever_knows_somebody_good_looks_on_for_a_hundredth_of_the_answers_value(
    abroad: Market, wishes: dict[str, object], patience_ms: int
) -> None:
    abroad.ask(**wishes)
    assert [at_ms - START_MS for at_ms, timer in abroad.due if timer.kind == "quotes"] == [patience_ms]
    assert abroad.calls == {}
    abroad.fire("quotes", patience_ms)
    assert set(abroad.calls) == {ALICE, BOB}


def test_who_has_no_time_at_all_calls_at_once(abroad: Market) -> None:
    abroad.ask(delay_microcredits_per_s=1 << 40)
    assert abroad.due[-1][0] == START_MS
