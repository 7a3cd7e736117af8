"""Lies that are meant to be believed pass the checks of an honest buyer."""

from random import Random

from p2pagent.config import Preferences
from p2pagent.peer.events import AgentsChanged
from p2pagent.peer.messages import Quote, SignedQuote
from p2pagent.peer.terms import check_quote
from p2pagent.peer.wire import opened
from p2pagent.routing.prototypes import Space
from p2pagent.sim.liars import LyingPeer, corrupt
from tests.scenario import START_MS, make_advert
from tests.strangers import ALICE, ME, make_award, make_call, receive, sent


def test_a_quote_without_any_wait_is_taken_for_one(space: Space) -> None:
    advert = make_advert("agent", {0: 0.95}, slots=1)
    peer = LyingPeer(ME, space, "test", Preferences(), Random(1), 1)
    peer.handle(AgentsChanged((advert,), ()), START_MS)
    quotes = []
    for lies in (False, True):
        if lies:
            corrupt(peer, "flatters", ME, Random(1))
        receive(peer, ALICE, make_call(space, 1 + 2 * lies))
        receive(peer, ALICE, make_award(1 + 2 * lies))
        call = make_call(space, 2 + 2 * lies)
        (signed,) = sent(receive(peer, ALICE, call), ALICE)
        assert isinstance(signed, SignedQuote)
        quotes.append(opened(Quote, signed.body, signed.signature, ME.peer, ALICE))
        check_quote(quotes[-1], call, advert, ALICE.peer, 0)
    honest, flattered = quotes
    assert honest.wait_ms > 0
    assert (flattered.wait_ms, flattered.ttft_ms, flattered.ttft_high_ms) == (0, 1, 1)
