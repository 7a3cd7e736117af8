"""Being known and knowing others: one period after the other, and what connections and peers bring in between.

Rule: a peer that does not answer us is not called by us any more; it is gone for us only after it had time to refute.
"""

from collections.abc import Callable
from random import Random

from p2pagent.keys import Keys
from p2pagent.peer.cells import Cells
from p2pagent.peer.detector import Detector
from p2pagent.peer.directory import Directory
from p2pagent.peer.effects import Effect, SetTimer
from p2pagent.peer.events import Timer
from p2pagent.peer.gossip_messages import Ack, AgentAdvert, Delta, Load, Look, Nack, Ping, Pull, Relay, Sight
from p2pagent.peer.hearsay import Hearsay
from p2pagent.peer.herald import Herald
from p2pagent.peer.lookout import Lookout
from p2pagent.peer.talk import Talk
from p2pagent.peer.wire import GossipMessage
from p2pagent.routing.hubs import Hubs
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId

RETRY_MS = 10_000
"""One of those who are gone is called this often: a partition heals, and each side has buried the other."""

GOODBYES = 8
"""Neighbours that are told when we leave, and pass it on."""


class Membership:
    """The directory of others, and the talk by which it is kept true."""

    def __init__(
        self,
        keys: Keys,
        space: Space,
        hubs: Hubs,
        network: str,
        rng: Random,
        incarnation: int,
        loads: Callable[[], tuple[Load, ...]],
    ) -> None:
        self._rng = rng
        self.neighbours: set[PeerId] = set()
        self.cells = Cells(hubs, keys.peer, len(space.prototypes))
        self.directory = Directory(keys.peer, network, self.cells.follows)
        self.herald = Herald(keys, space, network, incarnation, loads)
        self.detector = Detector(rng)
        self.talk = Talk(keys, self.directory, self.herald, self.detector)
        self.hearsay = Hearsay(keys, space, self.cells, self.directory, self.talk, self.neighbours, rng)
        self.lookout = Lookout(space, hubs, self.cells, self.directory, self.talk, self.hearsay, rng)
        self._retried_ms = 0

    def on_agents(self, agents: tuple[AgentAdvert, ...], addresses: tuple[str, ...], now_ms: int) -> list[Effect]:
        """Tell the network what this device hosts, the neighbours at once; and keep telling it."""
        first = self.herald.record is None
        effects = self.lookout.open_for(agents, now_ms)
        self.herald.describe(agents, addresses, now_ms)
        for peer in sorted(self.neighbours):
            effects += self._greet(peer, now_ms)
        return [*effects, SetTimer(now_ms + self.detector.tick_ms, Timer("tick"))] if first else effects

    def on_leave(self, now_ms: int) -> list[Effect]:
        """Say goodbye to a few members, who pass it on."""
        if self.herald.beat is None:
            return []
        self.herald.speak(now_ms, 0)
        near = [peer for peer in self.directory.members if peer in self.neighbours] or sorted(self.neighbours)
        return [self.talk.farewell(peer) for peer in self._rng.sample(near, min(GOODBYES, len(near)))]

    def on_up(self, peer: PeerId, now_ms: int) -> list[Effect]:
        """A connection stands: show ourselves to a stranger, and ask who else is here if we have not asked lately.

        Whom we know needs no greeting. Where devices keep fewer connections than they have members, greetings would
        close others, and what is under way there open these again, without end.
        """
        self.neighbours.add(peer)
        self.directory.up(peer)
        self.detector.reached(peer)
        strange = self.herald.beat is not None and self.directory.get(peer) is None
        return self._greet(peer, now_ms) if strange else []

    def on_idle(self, peer: PeerId) -> None:
        """A connection was closed for want of use."""
        self.neighbours.discard(peer)

    def on_down(self, peer: PeerId, now_ms: int) -> list[Effect]:
        """A connection broke: see at once whether the peer is still there."""
        self.neighbours.discard(peer)
        self.directory.down(peer)
        ask = peer in self.directory.members and not self.detector.pings_of(peer)
        return self.talk.probe(peer, now_ms) if ask and self.herald.beat is not None else []

    def on_unsent(self, peer: PeerId, now_ms: int) -> list[Effect]:
        """A message did not leave: without a connection that means that the peer cannot be reached from here."""
        if peer in self.neighbours:
            return []
        self.directory.down(peer)
        return [effect for number in self.detector.pings_of(peer) for effect in self.talk.ask_helpers(number, now_ms)]

    def on_timer(self, timer: Timer, now_ms: int) -> list[Effect]:
        """A period is over, an answer is late, or one that we wait for in another's name is."""
        match timer.kind:
            case "tick":
                return self._tick(now_ms)
            case "probe":
                return self.talk.ask_helpers(timer.mark, now_ms)
            case _:
                return self.talk.on_relay_timer(timer.mark)

    def on_message(self, peer: PeerId, message: GossipMessage, now_ms: int) -> list[Effect]:
        """Act on a message of the gossip protocol.

        Raises:
            RemoteError: it breaks the protocol, and its sender is to blame.
        """
        match message:
            case Ping(_, news):
                answer = self.talk.answer(peer, message, now_ms)  # first: it need not hear its own news again
                effects = self.hearsay.hear(peer, news, now_ms)
                self._met(peer)
                return [answer, *effects]
            case Ack(_, news):
                effects = self.hearsay.hear(peer, news, now_ms)
                self._met(peer)
                return [*effects, *self.talk.on_ack(peer, message)]
            case Relay():
                return self.talk.on_relay(peer, message, now_ms)
            case Nack(number):
                self.detector.on_nack(number, peer)
                return []
            case Pull():
                return self.hearsay.on_pull(peer, message, now_ms)
            case Delta():
                return self.hearsay.on_delta(peer, message, now_ms)
            case Look():
                return self.lookout.on_look(peer, message, now_ms)
            case Sight():
                return self.lookout.on_sight(peer, message, now_ms)

    def suspects(self, peer: PeerId) -> bool:
        """Whether somebody has accused `peer` and it has not answered yet."""
        return peer in self.talk.suspicions

    def _tick(self, now_ms: int) -> list[Effect]:
        """One period: give up who did not answer, bury who did not refute, speak if it is time, ping the next."""
        if self.herald.left:
            return []
        for probe in self.detector.overdue(now_ms):
            self.directory.down(probe.target)
            if not probe.vouched:
                self.talk.suspect(probe.target, now_ms)
        members = self.directory.members
        for gone in self.talk.suspicions.confirmed(len(members), now_ms):
            self.directory.bury(gone)
            self.talk.let_rest(gone)
        for ended in self.directory.sweep(now_ms):
            self.talk.let_rest(ended)
        if self.herald.is_due(len(members), now_ms):
            self.herald.speak(now_ms)
        effects = self.lookout.settle_in(now_ms)
        if self._retried_ms + RETRY_MS <= now_ms:
            self._retried_ms = now_ms
            lost = self.directory.lately_gone()
            effects += [self.talk.ping(peer) for peer in self._rng.sample(lost, min(1, len(lost)))]
        heeded = [peer for peer in self.directory.members if not self.directory.shuns(peer, now_ms)]
        target = self.detector.next_target(heeded)
        if target is not None and not self.detector.pings_of(target):
            effects += self.talk.probe(target, now_ms)
        return [*effects, SetTimer(now_ms + self.detector.tick_ms, Timer("tick"))]

    def _greet(self, peer: PeerId, now_ms: int) -> list[Effect]:
        return [self.talk.ping(peer), *self.lookout.look_around(peer, now_ms)]

    def _met(self, peer: PeerId) -> None:
        """Direct contact."""
        self.directory.up(peer)
        self.talk.suspicions.drop(peer)
