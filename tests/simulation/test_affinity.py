"""Crowds on networks of peers, and behind routers: the same engines, the same ways, another who decides."""

from itertools import pairwise
from random import Random

import pytest
from msgspec.structs import replace

from p2pagent.routing.residency import Shelf
from p2pagent.sim.affinity import Network, Service, Site, access_ms
from p2pagent.sim.affinity_routed import Routed
from p2pagent.sim.conversations import Shape, Turn, ceiling
from p2pagent.sim.crowds import Crowd, draw_crowd
from p2pagent.sim.engine_blocks import BLOCK_TOKENS
from p2pagent.sim.routers import InTurn, SGLang, Sticky

SITE = Site(
    nodes=1,
    slots=2,
    blocks=200,
    prefill_tokens_per_s=3_000.0,
    step_ms=12.0,
    step_ms_per_answer=1.0,
    pause_ms=2_000.0,
)
SHAPE = Shape(turns=4)


def turns_of(crowd: Crowd, seed: int = 0) -> tuple[Turn, ...]:
    return draw_crowd(crowd, BLOCK_TOKENS, Random(seed))


def hit_rate(served: list[Service]) -> float:
    return sum(s.cached_tokens for s in served) / sum(s.turn.prompt_tokens for s in served)


def test_where_there_is_no_choice_peers_and_routers_do_the_same_to_the_millisecond() -> None:
    crowd = Crowd(owners=1, conversations=1, each=SHAPE)
    turns = turns_of(crowd)
    routed = Routed(SITE, crowd, turns, InTurn(SITE.nodes, Random("router 0")), 0).run()
    decided = Network(SITE, crowd, turns, 0).run()
    assert decided == routed
    assert [service.turn for service in routed] == list(turns)
    assert hit_rate(routed) == ceiling(turns, BLOCK_TOKENS)
    for before, service in pairwise(routed):
        assert service.asked_ms == before.ended_ms + round(SITE.pause_ms * service.turn.pause)


def test_a_router_may_be_spared_the_ways_that_it_does_not_need() -> None:
    crowd = Crowd(owners=1, conversations=1, each=SHAPE)
    turns = turns_of(crowd)
    usual, direct = (Routed(SITE, crowd, turns, InTurn(SITE.nodes, Random("router 0")), 0, w).run() for w in (3, 1))
    way_ms = sum(access_ms(0, 2))
    assert [s.first_ms - s.asked_ms + 2 * way_ms for s in direct] == [s.first_ms - s.asked_ms for s in usual]


def test_what_is_quoted_in_vain_is_charged_as_cached_but_was_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf, "held_tokens", lambda self, domain, marks, prompt_tokens, begun=(): prompt_tokens)
    crowd = Crowd(owners=1, conversations=1, each=SHAPE)
    turns = turns_of(crowd)
    served = Network(SITE, crowd, turns, 0).run()
    assert [service.billed_tokens for service in served] == [turn.prompt_tokens for turn in turns]
    assert hit_rate(served) == ceiling(turns, BLOCK_TOKENS)


def test_every_turn_is_answered_once_and_the_same_again() -> None:
    site, crowd = replace(SITE, nodes=4, slots=4, blocks=250), Crowd(owners=3, conversations=10, each=SHAPE)
    turns = turns_of(crowd)
    network, again = Network(site, crowd, turns, 0), Network(site, crowd, turns, 0)
    served = network.run()
    assert sorted(service.turn for service in served) == sorted(turns)
    assert not network.unanswered
    assert served == again.run()
    assert network.world.digest == again.world.digest


def test_peers_find_most_of_what_can_be_found() -> None:
    site, crowd = replace(SITE, nodes=4, slots=4, blocks=250), Crowd(owners=2, conversations=10, each=SHAPE)
    turns = turns_of(crowd)
    found = hit_rate(Network(site, crowd, turns, 0).run())
    blind = hit_rate(Routed(site, crowd, turns, InTurn(site.nodes, Random("router 0")), 0).run())
    assert found > 0.85 * ceiling(turns, BLOCK_TOKENS)
    assert found > blind + 0.2


def test_routers_follow_their_rules() -> None:
    site, crowd = replace(SITE, nodes=3, slots=4, blocks=250), Crowd(owners=2, conversations=12, each=SHAPE)
    turns = turns_of(crowd)
    stuck = Routed(site, crowd, turns, Sticky(site.nodes, Random("router 0")), 0).run()
    homes = {(service.turn.conversation, service.node) for service in stuck}
    assert len(homes) == crowd.conversations
    in_turn = Routed(site, crowd, turns, InTurn(site.nodes, Random("router 0")), 0).run()
    asked = [service.node for service in sorted(in_turn, key=lambda service: service.asked_ms)]
    assert [asked.count(node) for node in range(3)] == [len(turns) // 3] * 3
    followed = Routed(site, crowd, turns, SGLang(site.nodes, Random("router 0")), 0).run()
    assert hit_rate(followed) > hit_rate(in_turn)
