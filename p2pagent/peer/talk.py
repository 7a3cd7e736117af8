"""What we say to members of our cells: pings and answers, the news that rides on them, pings in another's name.

Rule: a message from a peer is direct contact; nobody but itself, or a helper that we asked, can answer for it.
"""

from p2pagent.bounded import bound
from p2pagent.keys import Keys
from p2pagent.peer.allowance import Allowance
from p2pagent.peer.detector import ACK_MS, Detector, Suspicions
from p2pagent.peer.directory import Directory
from p2pagent.peer.effects import Effect, Send, SetTimer
from p2pagent.peer.events import Timer
from p2pagent.peer.gossip_messages import Ack, Nack, News, Ping, Proof, Relay, SignedSuspicion, Suspicion
from p2pagent.peer.herald import Herald
from p2pagent.peer.rumours import Rumours
from p2pagent.peer.wire import sealed
from p2pagent.types import PeerId

RELAYED_MAX = 64
REQUEST_BURST, REQUEST_REFILL_MS = 8, 1_000
"""Of one peer's requests, how many are answered at once, and how soon one more: a small question has a large answer."""


class Talk:
    """Pings and relays under way, and what there is to tell."""

    def __init__(self, keys: Keys, directory: Directory, herald: Herald, detector: Detector) -> None:
        self._keys = keys
        self._directory = directory
        self.herald = herald
        self.detector = detector
        self.suspicions = Suspicions()
        self.rumours = Rumours()
        self._relayed: dict[int, tuple[PeerId, int, PeerId]] = {}
        self._relays = Allowance(REQUEST_BURST, REQUEST_REFILL_MS)
        self._answers = Allowance(REQUEST_BURST, REQUEST_REFILL_MS)

    def ping(self, peer: PeerId) -> Effect:
        """A ping that may go unanswered."""
        return Send(peer, Ping(self.detector.number(), self._news(peer)))

    def probe(self, target: PeerId, now_ms: int) -> list[Effect]:
        """A ping whose answer is awaited."""
        number = self.detector.begin(target, now_ms)
        late = SetTimer(now_ms + self.detector.ack_ms, Timer("probe", mark=number))
        return [Send(target, Ping(number, self._news(target))), late]

    def farewell(self, peer: PeerId) -> Effect:
        """Our goodbye, once the herald has said it."""
        return Send(peer, Ping(self.detector.number(), self._own_news()))

    def ask_helpers(self, number: int, now_ms: int) -> list[Effect]:
        """Have others ping one who has not answered."""
        probe = self.detector.unanswered(number)
        if probe is None:
            return []
        return [
            Send(helper, Relay(number, probe.target)) for helper in self.detector.helpers(number, self.able(now_ms))
        ]

    def answer(self, peer: PeerId, ping: Ping, now_ms: int) -> Effect:
        """Answer a ping, with our news; but not to whoever pings only to hear them all before others do."""
        news = self._news(peer) if self._answers.take(peer, now_ms) else self._own_news()
        return Send(peer, Ack(ping.number, news))

    def on_ack(self, peer: PeerId, ack: Ack) -> list[Effect]:
        """An answer to our ping, direct or through a helper, or to one that we sent for somebody else."""
        self.detector.on_ack(ack.number, peer)
        asker, number, target = self._relayed.get(ack.number, (peer, 0, None))
        if target != peer:
            return []
        del self._relayed[ack.number]
        return [Send(asker, Ack(number, News((), ())))]

    def on_relay(self, peer: PeerId, relay: Relay, now_ms: int) -> list[Effect]:
        """Ping somebody for `peer`."""
        if not self._relays.take(peer, now_ms):
            return []
        number, target = self.detector.number(), PeerId(relay.target)
        self._relayed[number] = (peer, relay.number, target)
        bound(self._relayed, RELAYED_MAX)
        ping = Send(target, Ping(number, self._own_news()))
        return [ping, SetTimer(now_ms + ACK_MS, Timer("relay", mark=number))]

    def on_relay_timer(self, number: int) -> list[Effect]:
        """Its target has not answered us either."""
        asker = self._relayed.pop(number, None)
        return [] if asker is None else [Send(asker[0], Nack(asker[1]))]

    def able(self, now_ms: int) -> list[PeerId]:
        """Members who can be asked for something: they have spoken to us, and nothing says that they are gone."""
        met = [peer for peer, entry in self._directory.members.items() if entry.met and not entry.silent]
        return [peer for peer in met if not self._directory.shuns(peer, now_ms)]

    def suspect(self, target: PeerId, now_ms: int) -> None:
        """Nobody gets an answer of `target`: say so."""
        entry = self._directory.get(target)
        if entry is not None and self.suspicions.accuse(target, entry.proof, self._keys.peer, now_ms):
            signed = self._suspicion(target, entry.proof)
            self.rumours.tell_suspicion(target, self._keys.peer, signed, len(self._directory.members))

    def let_rest(self, peer: PeerId) -> None:
        """There is nothing more to ask of `peer`, or to say about it."""
        self.detector.forget(peer)
        self.suspicions.drop(peer)
        self.rumours.settle(peer)

    def _suspicion(self, target: PeerId, proof: Proof) -> SignedSuspicion:
        return SignedSuspicion(*sealed(Suspicion(self._keys.peer, target, *proof), self._keys))

    def _own_news(self) -> News:
        """Our own sign of life and no more."""
        return News(() if self.herald.beat is None else (self.herald.beat,), ())

    def _news(self, to: PeerId) -> News:
        """What we have to tell, our own sign of life first; whoever is gone for us is told that."""
        buried = self._directory.gone(to)
        if buried is not None and self._directory.get(to) is None:
            return News(self._own_news().heartbeats, (self._suspicion(to, buried),))
        return self.rumours.news(to, self._own_news().heartbeats)
