"""Peers that lie. Each is an honest peer, altered where its events come in or its effects go out; it signs its lies."""

from collections.abc import Callable
from random import Random
from typing import Literal

import msgspec

from p2pagent.keys import Keys
from p2pagent.peer.effects import Effect, Generate, Send
from p2pagent.peer.events import Event, GenerationEnded, Received
from p2pagent.peer.gossip_messages import Ack, AgentAdvert, Load, News, Ping, SignedSuspicion, Suspicion
from p2pagent.peer.messages import Award, Fail, Quote, Release, SignedQuote
from p2pagent.peer.peer import Peer
from p2pagent.peer.rumours import SUSPICIONS_MAX
from p2pagent.peer.wire import opened, sealed
from p2pagent.types import PeerId

Lie = Literal["boasts", "flatters", "brags", "idles", "quits", "slanders", "pads"]

PADDING_TOKENS = 8
"""Charged for besides half as many tokens as there are."""

BRAG_BITS_MAX = 38
"""Counters grow by less than two to the power of this with each heartbeat, so that a day of them fits the protocol."""


def boasting(advert: AgentAdvert) -> AgentAdvert:
    """The advert of an agent that claims to be good at everything."""
    return msgspec.structs.replace(advert, capability=bytes([255] * len(advert.capability)))


class LyingPeer(Peer):
    """A peer whose events pass through `mishear`, which may answer at once, and whose effects pass through `bend`."""

    mishear: Callable[[Event], tuple[Event, list[Effect]]] = staticmethod(lambda event: (event, []))
    bend: Callable[[Effect], Effect | None] = staticmethod(lambda effect: effect)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What an honest peer would do, bent."""
        misheard, said = self.mishear(event)
        bent = (self.bend(effect) for effect in super().handle(misheard, now_ms))
        return [*said, *(effect for effect in bent if effect is not None)]


def corrupt(peer: LyingPeer, lie: Lie, keys: Keys, rng: Random) -> None:
    """Let `peer` tell this lie from now on. Boasting is in its advert already."""
    match lie:
        case "boasts":
            pass
        case "flatters":
            peer.bend = lambda effect: _flattered(effect, keys)
        case "brags":
            peer.membership.herald._loads = _bragging(peer.seller.loads, rng)
        case "idles":
            peer.bend = lambda effect: None if isinstance(effect, Generate) else effect
        case "quits":
            peer.mishear = _given_up
        case "slanders":
            peer.bend = lambda effect: _slandered(effect, peer, keys, rng)
        case "pads":
            peer.mishear = _padded


def _flattered(effect: Effect, keys: Keys) -> Effect:
    """A quote without any wait."""
    if not isinstance(effect, Send) or not isinstance(effect.message, SignedQuote):
        return effect
    quote = opened(Quote, effect.message.body, effect.message.signature, keys.peer, keys)
    no_wait = {"free_slots": max(1, quote.free_slots), "queued": 0, "wait_ms": 0, "ttft_ms": 1, "ttft_high_ms": 1}
    quote = msgspec.structs.replace(quote, **no_wait)
    return Send(effect.peer, SignedQuote(*sealed(quote, keys)))


def _bragging(loads: Callable[[], tuple[Load, ...]], rng: Random) -> Callable[[], tuple[Load, ...]]:
    """Loads of agents that have nothing to do, and counters of what they did that rise by anything, at every scale."""
    told = [0, 0, 0]

    def brag() -> tuple[Load, ...]:
        for counter in range(len(told)):
            told[counter] += rng.randrange(1 << rng.randint(1, BRAG_BITS_MAX))
        return tuple(Load(0, 0, *told) for _ in loads())

    return brag


def _given_up(event: Event) -> tuple[Event, list[Effect]]:
    """Whoever gives us an award, for which we offered a slot, hears that there is none; then the slot is free again."""
    match event:
        case Received(buyer, Award(conversation)):
            return Received(buyer, Release(conversation)), [Send(buyer, Fail(conversation, "busy"))]
        case _:
            return event, []


def _padded(event: Event) -> tuple[Event, list[Effect]]:
    """An answer that ends, with half as many tokens again; the receipt claims as many of them as were asked for."""
    match event:
        case GenerationEnded(job, usage, reason):
            output = usage.output_tokens + usage.output_tokens // 2 + PADDING_TOKENS
            return GenerationEnded(job, msgspec.structs.replace(usage, output_tokens=output), reason), []
        case _:
            return event, []


def _slandered(effect: Effect, peer: Peer, keys: Keys, rng: Random) -> Effect:
    """News with an accusation of somebody who is alive, as far as the liar knows."""
    if not isinstance(effect, Send) or not isinstance(effect.message, Ping | Ack):
        return effect
    others = [(name, entry) for name, entry in peer.directory.entries() if name != effect.peer]
    if not others:
        return effect
    accused, entry = rng.choice(others)
    signed = SignedSuspicion(*sealed(Suspicion(keys.peer, PeerId(accused), *entry.proof), keys))
    news = effect.message.news
    news = News(news.heartbeats, (signed, *news.suspicions[: SUSPICIONS_MAX - 1]))
    return Send(effect.peer, msgspec.structs.replace(effect.message, news=news))
