"""Peers that lie. Each is an honest peer whose effects are altered on their way out, under its own signature."""

from collections.abc import Callable
from random import Random
from typing import Literal

import msgspec

from p2pagent.keys import Keys
from p2pagent.peer.effects import Effect, Generate, Send
from p2pagent.peer.events import Event
from p2pagent.peer.gossip_messages import Ack, AgentAdvert, News, Ping, SignedSuspicion, Suspicion
from p2pagent.peer.messages import Quote, SignedQuote
from p2pagent.peer.peer import Peer
from p2pagent.peer.rumours import SUSPICIONS_MAX
from p2pagent.peer.wire import opened, sealed
from p2pagent.types import PeerId

Lie = Literal["boasts", "flatters", "idles", "slanders"]


def boasting(advert: AgentAdvert) -> AgentAdvert:
    """The advert of an agent that claims to be good at everything."""
    return msgspec.structs.replace(advert, capability=bytes([255] * len(advert.capability)))


class LyingPeer(Peer):
    """A peer of which every effect passes through `bend`."""

    bend: Callable[[Effect], Effect | None] = staticmethod(lambda effect: effect)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """What an honest peer would do, bent."""
        bent = (self.bend(effect) for effect in super().handle(event, now_ms))
        return [effect for effect in bent if effect is not None]


def corrupt(peer: LyingPeer, lie: Lie, keys: Keys, rng: Random) -> None:
    """Let `peer` tell this lie from now on. Boasting is in its advert already."""
    match lie:
        case "boasts":
            pass
        case "flatters":
            peer.bend = lambda effect: _flattered(effect, keys)
        case "idles":
            peer.bend = lambda effect: None if isinstance(effect, Generate) else effect
        case "slanders":
            peer.bend = lambda effect: _slandered(effect, peer, keys, rng)


def _flattered(effect: Effect, keys: Keys) -> Effect:
    """A quote without any wait."""
    if not isinstance(effect, Send) or not isinstance(effect.message, SignedQuote):
        return effect
    quote = opened(Quote, effect.message.body, effect.message.signature, keys.peer, keys)
    quote = msgspec.structs.replace(quote, free_slots=max(1, quote.free_slots), queued=0, ttft_ms=1)
    return Send(effect.peer, SignedQuote(*sealed(quote, keys)))


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
