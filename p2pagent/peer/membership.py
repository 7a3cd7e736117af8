"""Being known and knowing others: pings, the news that rides on them, and looking further where that does not reach.

Rule 1: a message from a peer is direct contact; what it says of others is hearsay, believed as far as it is signed.
Rule 2: a peer that does not answer us is not called by us any more; it is gone for us only after it had time to refute.
Rule 3: what is passed on is true of one's own cell only; of others we keep what we asked for.
"""

from collections.abc import Callable
from functools import lru_cache
from random import Random

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.allowance import Allowance
from p2pagent.peer.cells import Cells
from p2pagent.peer.detector import ACK_MS, Detector, Suspicions
from p2pagent.peer.directory import Directory, Entry, Proof, bound, is_timely
from p2pagent.peer.events import Effect, Find, Learn, Provide, Send, SetTimer, Timer
from p2pagent.peer.herald import Herald
from p2pagent.peer.messages import (
    Ack,
    AgentAdvert,
    Delta,
    Heartbeat,
    Known,
    Load,
    Look,
    Nack,
    News,
    Ping,
    Pull,
    Record,
    Relay,
    Sight,
    SignedHeartbeat,
    SignedSuspicion,
    Suspicion,
)
from p2pagent.peer.rumours import Rumours
from p2pagent.peer.wire import SIGNED_DOMAINS, opened, parsed, sealed
from p2pagent.routing.hubs import Hubs
from p2pagent.routing.hubs import key as cell_key
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId

LOOK_MS = 120_000
"""How often a member is asked for all that it knows of our cell: what rumours have missed."""

SIGHT_MS = 1_000
"""Until an answer to that is given up."""

LOOK_AGAIN_MS = 30_000
"""A cell is looked for again at most this often."""

WIDEN_MS = 600_000
"""A cell that was halved because it was too large is not widened again for this long, small as its half may be."""

LOOKED_AT = 3
"""Members of a cell who are asked for it."""

SIGHT_MAX = 255
WANTED_MAX = 64
PULLED_MAX = 1024
OUTSIDERS_MAX = 1024
RELAYED_MAX = 64
REQUEST_BURST, REQUEST_REFILL_MS = 8, 1_000
"""Looks, relays and wants answered to one peer at once, and how soon one more: a small question has a large answer."""

ACCUSE_BURST, ACCUSE_REFILL_MS = 16, 5_000
"""Accusations taken from one peer: a cell that loses a fifth of its members a minute has fewer."""

HEARSAY_BURST, HEARSAY_REFILL_MS = 512, 200
"""Heartbeats of others taken from one peer at once, and how soon one more: a whole cell speaks five times a second."""

STRANGERS_MAX = 160
"""Members of whom we have only heard: more of them wait until they speak to us, since anybody can invent peers."""

RETRY_MS = 10_000
"""One of those who are gone is called this often: a partition heals, and each side has buried the other."""

CONFIRMERS = 3
"""Members, on average, who at once see for themselves when somebody is accused."""

INTRODUCED_TO = 3
"""Neighbours that are told at once of whoever comes to us first."""

STRONG = 128
"""A capability (of 255) from which on a prototype's cell lists the agent in the DHT."""

CELLS_MAX = 8
PROVIDE_MS = 3_600_000
"""The DHT is told again every hour; its records last a day and more."""


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
        self._keys = keys
        self._space = space
        self._hubs = hubs
        self._rng = rng
        self._herald = Herald(keys, space.name, network, incarnation, loads)
        self._agents: tuple[AgentAdvert, ...] = ()
        self.cells = Cells(hubs, keys.peer, len(space.prototypes))
        self.neighbours: set[PeerId] = set()
        self.directory = Directory(keys.peer, network)
        self._detector = Detector(rng)
        self._suspicions = Suspicions()
        self._rumours = Rumours()
        self._relayed: dict[int, tuple[PeerId, int, PeerId]] = {}
        self._pulled: dict[PeerId, bool] = {}
        self._outsiders: dict[PeerId, tuple[int, int]] = {}
        self._looked: dict[tuple[PeerId, str], int] = {}
        self._found: dict[str, int] = {}
        self._asked: dict[str, set[PeerId]] = {}
        self._retried_ms = 0
        self._doubted_ms = 0
        self._synced_ms = -LOOK_MS
        self._halved_ms = -WIDEN_MS
        self._provided_ms = -PROVIDE_MS
        self._requests = Allowance(REQUEST_BURST, REQUEST_REFILL_MS)
        self._answers = Allowance(REQUEST_BURST, REQUEST_REFILL_MS)
        self._hearsay = Allowance(HEARSAY_BURST, HEARSAY_REFILL_MS)
        self._accusations = Allowance(ACCUSE_BURST, ACCUSE_REFILL_MS)
        self._members: tuple[int, tuple[str, ...], dict[PeerId, Entry]] = (-1, (), {})

    @property
    def distrust(self) -> int:
        """How far we blame ourselves for pings that failed, 0 to 8."""
        return self._detector.health

    # --- this device ------------------------------------------------------------------------------------------------

    def on_agents(self, agents: tuple[AgentAdvert, ...], addresses: tuple[str, ...], now_ms: int) -> list[Effect]:
        """Tell the network what this device hosts, the neighbours at once; and keep telling it."""
        first = self._herald.record is None
        self._agents = agents
        self.cells.open_for(agents)
        self._herald.describe(agents, addresses, now_ms)
        effects = self._provide(now_ms)
        for peer in sorted(self.neighbours):
            effects += self._greet(peer, now_ms)
        return [*effects, SetTimer(now_ms + self._detector.tick_ms, Timer("tick"))] if first else effects

    def on_leave(self, now_ms: int) -> list[Effect]:
        """Say goodbye to a few members, who pass it on."""
        if self._herald.beat is None:
            return []
        news = News((self._herald.speak(now_ms, 0),), ())
        members = [peer for peer in self.members() if peer in self.neighbours] or sorted(self.neighbours)
        chosen = self._rng.sample(members, min(CELLS_MAX, len(members)))
        return [Send(peer, Ping(self._detector.number(), news)) for peer in chosen]

    def on_up(self, peer: PeerId, now_ms: int) -> list[Effect]:
        """A connection stands: show ourselves to a stranger, and ask who else is here if we have not asked lately.

        Whom we know needs no greeting. Where devices keep fewer connections than they have members, greetings would
        close others, and what is under way there open these again, without end.
        """
        self.neighbours.add(peer)
        self.directory.up(peer)
        strange = self._herald.beat is not None and self.directory.get(peer) is None
        return self._greet(peer, now_ms) if strange else []

    def on_idle(self, peer: PeerId) -> None:
        """A connection was closed for want of use."""
        self.neighbours.discard(peer)

    def on_down(self, peer: PeerId, now_ms: int) -> list[Effect]:
        """A connection broke: see at once whether the peer is still there."""
        self.neighbours.discard(peer)
        self.directory.down(peer)
        follows = peer in self._entries() and not self._detector.pings_of(peer)
        return self._probe(peer, now_ms) if follows and self._herald.beat is not None else []

    def on_unsent(self, peer: PeerId) -> list[Effect]:
        """A message did not leave: without a connection that means that the peer cannot be reached from here."""
        if peer in self.neighbours:
            return []
        self.directory.down(peer)
        return [effect for number in self._detector.pings_of(peer) for effect in self._ask_helpers(number)]

    def on_timer(self, timer: Timer, now_ms: int) -> list[Effect]:
        """A period is over, an answer is late, or one that we wait for in another's name is."""
        if timer.kind == "tick":
            return self._tick(now_ms)
        if timer.kind == "probe":
            return self._ask_helpers(timer.mark)
        asker = self._relayed.pop(timer.mark, None)
        return [] if asker is None else [Send(asker[0], Nack(asker[1]))]

    # --- what peers say ---------------------------------------------------------------------------------------------

    def on_ping(self, peer: PeerId, ping: Ping, now_ms: int) -> list[Effect]:
        """Answer, with our own news; but not to whoever pings only to hear them all before others do."""
        news = self._news(peer) if self._answers.take(peer, now_ms) else self._own_news()
        effects = self._hear(peer, ping.news, now_ms)  # only now: it need not hear its own again
        self._met(peer)
        return [Send(peer, Ack(ping.number, news)), *effects]

    def on_ack(self, peer: PeerId, ack: Ack, now_ms: int) -> list[Effect]:
        """An answer to our ping, direct or through a helper, or to one that we sent for somebody else."""
        effects = self._hear(peer, ack.news, now_ms)
        self._met(peer)
        self._detector.on_ack(ack.number, peer)
        asker, number, target = self._relayed.get(ack.number, (peer, 0, None))
        if target != peer:
            return effects
        del self._relayed[ack.number]
        return [*effects, Send(asker, Ack(number, News((), ())))]

    def on_relay(self, peer: PeerId, relay: Relay, now_ms: int) -> list[Effect]:
        """Ping somebody for `peer`."""
        if not self._requests.take(peer, now_ms):
            return []
        number, target = self._detector.number(), PeerId(relay.target)
        self._relayed[number] = (peer, relay.number, target)
        bound(self._relayed, RELAYED_MAX)
        ping = Send(target, Ping(number, self._own_news()))
        return [ping, SetTimer(now_ms + ACK_MS, Timer("relay", mark=number))]

    def on_nack(self, peer: PeerId, nack: Nack) -> list[Effect]:
        """A helper has tried."""
        self._detector.on_nack(nack.number, peer)
        return []

    def on_pull(self, peer: PeerId, pull: Pull, now_ms: int) -> list[Effect]:
        """Send records."""
        if not self._requests.take(peer, now_ms):
            return []
        held = [self._known(PeerId(wanted)) for wanted in dict.fromkeys(pull.peers)]
        found = tuple(known for known in held if known is not None)
        return [Send(peer, Delta(found))] if found else []

    def on_delta(self, peer: PeerId, delta: Delta, now_ms: int) -> list[Effect]:
        """Of the peers that we asked for, and their sender itself, keep those that we need; learn their addresses.

        Raises:
            RemoteError: one is malformed or badly signed; none is kept then.
        """
        checked = []
        for known in delta.peers:
            about = PeerId(heartbeat_in(known.heartbeat.body).peer)
            if about == peer or about in self._pulled:
                record = opened(Record, known.record.body, known.record.signature, None, self._keys)
                heartbeat = opened(Heartbeat, known.heartbeat.body, known.heartbeat.signature, None, self._keys)
                checked.append((record, heartbeat, known))
        return [effect for found in checked for effect in self._learn(peer, *found, now_ms)]

    def on_look(self, peer: PeerId, look: Look, now_ms: int) -> list[Effect]:
        """Say who is in a cell.

        Raises:
            RemoteError: there is no such cell.
        """
        if not self._hubs.is_name(look.cell):
            raise RemoteError("looked for a cell that does not exist")
        if self._herald.beat is None or not self._requests.take(peer, now_ms):
            return []
        inside = [
            entry.beat
            for other, entry in self.directory.reachable(now_ms)
            if other != peer and any(path.startswith(look.cell) for path in entry.paths)
        ]
        chosen = inside if len(inside) <= SIGHT_MAX else self._rng.sample(inside, SIGHT_MAX)
        followed = max(
            self.cells.names(), key=lambda name: (look.cell.startswith(name) or name.startswith(look.cell), name)
        )
        return [Send(peer, Sight(look.cell, followed, (self._herald.beat, *chosen)))]

    def on_sight(self, peer: PeerId, sight: Sight, now_ms: int) -> list[Effect]:
        """Take in who is in a cell that we asked about."""
        if self._looked.pop((peer, sight.cell), None) is None:
            return []
        effects: list[Effect] = []
        if sight.cell in self.cells.names():
            inside = self._hubs.is_name(sight.followed)
            if inside and not self._entries() and self.cells.deepen(sight.cell, sight.followed):
                effects += self._provide(now_ms)
            self._synced_ms = now_ms
        return [*effects, *self._take(peer, sight.heartbeats, now_ms, asked=True)]

    # --- looking further --------------------------------------------------------------------------------------------

    def knows(self, prototype: int) -> bool:
        """Whether the cell of a prototype is one that we follow anyway."""
        return self.cells.follows((self._hubs.leaf(prototype) + ".",))

    def on_providers(self, key: str, peers: tuple[PeerId, ...], now_ms: int) -> list[Effect]:
        """Ask peers that the DHT named about their cell; once all were asked about one of ours, look for a larger."""
        name = key.removeprefix(cell_key(self._space, ""))
        if not self._hubs.is_name(name):
            return []
        others = [peer for peer in peers if peer != self._keys.peer]
        if name in self.cells.names():
            asked = self._asked.setdefault(name, set())
            others = [peer for peer in others if peer not in asked.union(self._entries())]
            if not others and now_ms - self._halved_ms >= WIDEN_MS:
                self._asked.clear()
                widened = [effect for wider in self.cells.widen(name) for effect in self._find(wider, now_ms)]
                return [*self._provide(now_ms), *widened]
            asked.update(others[:LOOKED_AT])
        return [effect for peer in others[:LOOKED_AT] for effect in self._look(peer, name, now_ms)]

    def members(self) -> list[PeerId]:
        """Known peers of the cells that we follow."""
        return list(self._entries())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _tick(self, now_ms: int) -> list[Effect]:
        """One period: give up who did not answer, bury who did not refute, speak if it is time, ping the next."""
        if self._herald.left:
            return []
        effects: list[Effect] = []
        for probe in self._detector.overdue(now_ms):
            self.directory.down(probe.target)
            if not probe.vouched:
                self._suspect(probe.target, now_ms)
        for gone in self._suspicions.confirmed(len(self._entries()), now_ms):
            self.directory.bury(gone)
            self._let_rest(gone)
        for ended in self.directory.sweep(now_ms):
            self._let_rest(ended)
        if self._herald.is_due(len(self._entries()), now_ms):
            self._herald.speak(now_ms)
        effects += self._settle_in(now_ms)
        if self._retried_ms + RETRY_MS <= now_ms:
            self._retried_ms = now_ms
            lost = self.directory.lately_gone()
            effects += [self._ping(peer) for peer in self._rng.sample(lost, min(1, len(lost)))]
        target = self._detector.next_target(self.members())
        if target is not None and not self._detector.pings_of(target):
            effects += self._probe(target, now_ms)
        return [*effects, SetTimer(now_ms + self._detector.tick_ms, Timer("tick"))]

    def _settle_in(self, now_ms: int) -> list[Effect]:
        """Follow cells of the right size, find them where we know hardly anybody, ask now and then what was missed."""
        effects: list[Effect] = []
        entries = list(self._entries().values())
        if self.cells.halve(entries):
            self._halved_ms = now_ms
            members = self._entries()
            for peer in [peer for peer, _ in self.directory.entries() if peer not in members]:
                self._let_rest(peer)
            effects += self._provide(now_ms)
        for name in self.cells.sparse(entries):
            effects += self._find(name, now_ms)
        if self._provided_ms + PROVIDE_MS <= now_ms:
            effects += self._provide(now_ms)
        if self._synced_ms + LOOK_MS <= now_ms and self._entries():
            self._synced_ms = now_ms
            chosen = self._rng.choice(self._able() or self.members())
            effects += [effect for name in self.cells.names() for effect in self._look(chosen, name, now_ms)]
        return effects

    def _entries(self) -> dict[PeerId, Entry]:
        changes, names, found = self._members
        if changes != self.directory.changes or names != self.cells.names():
            found = {peer: entry for peer, entry in self.directory.entries() if self.cells.follows(entry.paths)}
            self._members = (self.directory.changes, self.cells.names(), found)
        return found

    def _find(self, name: str, now_ms: int) -> list[Effect]:
        if self._found.get(name, -LOOK_AGAIN_MS) + LOOK_AGAIN_MS > now_ms:
            return []
        self._found[name] = now_ms
        return [Find("", cell_key(self._space, name))]

    def _provide(self, now_ms: int) -> list[Effect]:
        """Tell the DHT where we belong, and the cells of the prototypes at which one of our agents is strong."""
        self._provided_ms = now_ms
        best: dict[int, int] = {}
        for agent in self._agents:
            for prototype, skill in enumerate(agent.capability):
                best[prototype] = max(skill, best.get(prototype, 0))
        strong = sorted((m for m in best if best[m] >= STRONG), key=lambda m: (-best[m], m))[:CELLS_MAX]
        names = [*self.cells.known_as(), *(self._hubs.leaf(m) for m in strong)]
        return [Provide(tuple(cell_key(self._space, name) for name in dict.fromkeys(names)))] if self._agents else []

    def _greet(self, peer: PeerId, now_ms: int) -> list[Effect]:
        greeting: list[Effect] = [self._ping(peer)]
        if self._synced_ms + LOOK_MS > now_ms:
            return greeting
        self._synced_ms = now_ms - LOOK_MS + SIGHT_MS
        return [*greeting, *(effect for name in self.cells.names() for effect in self._look(peer, name, now_ms))]

    def _look(self, peer: PeerId, name: str, now_ms: int) -> list[Effect]:
        self._looked[peer, name] = now_ms
        bound(self._looked, PULLED_MAX)
        return [Send(peer, Look(name))]

    def _probe(self, target: PeerId, now_ms: int) -> list[Effect]:
        number = self._detector.begin(target, now_ms)
        late = SetTimer(now_ms + self._detector.ack_ms, Timer("probe", mark=number))
        return [Send(target, Ping(number, self._news(target))), late]

    def _ask_helpers(self, number: int) -> list[Effect]:
        probe = self._detector.unanswered(number)
        if probe is None:
            return []
        return [Send(helper, Relay(number, probe.target)) for helper in self._detector.helpers(number, self._able())]

    def _able(self) -> list[PeerId]:
        """Members who can be asked for something: they have spoken to us, and nothing says that they are gone."""
        return [peer for peer, entry in self._entries().items() if entry.met and not entry.silent]

    def _suspect(self, target: PeerId, now_ms: int) -> None:
        """Nobody gets an answer of `target`: say so."""
        entry = self.directory.get(target)
        if entry is not None and self._suspicions.accuse(target, entry.proof, self._keys.peer, now_ms):
            signed = self._suspicion(target, entry.proof)
            self._rumours.tell_suspicion(target, self._keys.peer, signed, len(self._entries()))

    def _suspicion(self, target: PeerId, proof: Proof) -> SignedSuspicion:
        return SignedSuspicion(*sealed(Suspicion(self._keys.peer, target, *proof), self._keys))

    def _let_rest(self, peer: PeerId) -> None:
        self._suspicions.drop(peer)
        self._rumours.settle(peer)

    def _met(self, peer: PeerId) -> None:
        """Direct contact."""
        self.directory.up(peer)
        self._suspicions.drop(peer)

    def _ping(self, peer: PeerId) -> Effect:
        """A ping that may go unanswered."""
        return Send(peer, Ping(self._detector.number(), self._news(peer)))

    def _own_news(self) -> News:
        """Our own sign of life and no more."""
        return News(() if self._herald.beat is None else (self._herald.beat,), ())

    def _news(self, to: PeerId) -> News:
        """What we have to tell, our own sign of life first; whoever is gone for us is told that."""
        buried = self.directory.gone(to)
        if buried is not None and self.directory.get(to) is None and to not in self._pulled:
            return News(self._own_news().heartbeats, (self._suspicion(to, buried),))
        return self._rumours.news(to, self._own_news().heartbeats)

    def _known(self, peer: PeerId) -> Known | None:
        if peer == self._keys.peer:
            return self._herald.known()
        entry = self.directory.get(peer)
        same = entry is not None and entry.heartbeat.version == entry.record.version
        return Known(entry.signed, entry.beat) if entry is not None and same else None

    def _hear(self, source: PeerId, news: News, now_ms: int) -> list[Effect]:
        effects = self._take(source, news.heartbeats, now_ms, asked=False)
        for signed in news.suspicions:
            effects += self._take_suspicion(source, signed, now_ms)
        return effects

    def _take(self, source: PeerId, beats: tuple[SignedHeartbeat, ...], now_ms: int, *, asked: bool) -> list[Effect]:
        """Believe heartbeats that are news, pass on those of our cell, and ask for the records that we lack."""
        wanted: list[str] = []
        effects: list[Effect] = []
        for beat in beats:
            heartbeat = heartbeat_in(beat.body)
            if not self.directory.believes(heartbeat, now_ms):
                continue
            peer = PeerId(heartbeat.peer)
            known = self.directory.get(peer)
            if not asked and peer != source and not self._minds(source, heartbeat, now_ms):
                continue
            if not self._keys.verify(peer, SIGNED_DOMAINS[Heartbeat], beat.body, beat.signature):
                raise RemoteError("a heartbeat that its peer has not signed")
            said_more = known is None or (heartbeat.version, heartbeat.refuted) != (
                known.heartbeat.version,
                known.heartbeat.refuted,
            )
            refuted = self._suspicions.refute(peer, (heartbeat.incarnation, heartbeat.refuted))
            if refuted and known is not None and known.silent and not self._detector.pings_of(peer):
                effects += self._probe(peer, now_ms)  # perhaps we reach it again, too
            if self.directory.hear(heartbeat, beat):
                if known is not None and self.cells.follows(known.paths):
                    urgent = said_more or not heartbeat.lease_ms
                    self._rumours.tell_heartbeat(peer, beat, len(self._entries()), urgent=urgent)
                continue
            self._pulled[peer] = asked or self._pulled.get(peer, False)
            bound(self._pulled, PULLED_MAX)
            wanted.append(peer)
        chunks = [tuple(wanted[i : i + WANTED_MAX]) for i in range(0, len(wanted), WANTED_MAX)]
        return [*effects, *(Send(source, Pull(chunk)) for chunk in chunks)]

    def _minds(self, source: PeerId, heartbeat: Heartbeat, now_ms: int) -> bool:
        """Whether what `source` says of another is worth the trouble: not from a flood, and not of one too many."""
        peer = PeerId(heartbeat.peer)
        if self._outsiders.get(peer) == heartbeat.version or not self._hearsay.take(source, now_ms):
            return False
        return self.directory.get(peer) is not None or not self._is_full()

    def _is_full(self) -> bool:
        """Whether we have heard of as many members as we can believe without having met them."""
        members = self._entries()
        return len(members) >= STRANGERS_MAX and sum(not e.met for e in members.values()) >= STRANGERS_MAX

    def _learn(self, source: PeerId, record: Record, heartbeat: Heartbeat, signed: Known, now_ms: int) -> list[Effect]:
        peer = PeerId(record.peer)
        if heartbeat.peer != peer or heartbeat.version != record.version:
            raise RemoteError("a record with a heartbeat that is not its own")
        before = self.directory.get(peer)
        if not heartbeat.lease_ms or not is_timely(heartbeat, now_ms):
            return []
        if before is None and not self.directory.believes(heartbeat, now_ms):
            return []
        paths = self.cells.paths(peer, record.agents) if record.space == self._space.name else ()
        follows = self.cells.follows(paths)
        asked = self._pulled.pop(peer, False)
        if not follows and not asked and peer != source:
            self._outsiders[peer] = record.version
            bound(self._outsiders, OUTSIDERS_MAX)
            return []
        if follows and before is None and peer != source and self._is_full():
            return []
        if not self.directory.learn(record, signed.record, heartbeat, signed.heartbeat, paths):
            return []
        if peer == source:
            self._met(peer)
        effects: list[Effect] = []
        if follows:
            self._rumours.tell_heartbeat(peer, signed.heartbeat, len(self._entries()), urgent=True)
        if follows and before is None and peer == source:  # nobody else may have heard of it yet
            near = sorted(self.neighbours.intersection(self._entries()) - {peer})
            chosen = self._rng.sample(near, min(INTRODUCED_TO, len(near)))
            effects += [self._ping(other) for other in chosen]
        if before is None or before.silent or before.record.addresses != record.addresses:
            effects.append(Learn(peer, record.addresses))
        return effects

    def _take_suspicion(self, source: PeerId, signed: SignedSuspicion, now_ms: int) -> list[Effect]:
        suspicion = suspicion_in(signed.body)
        accuser, accused = PeerId(suspicion.accuser), PeerId(suspicion.accused)
        proof: Proof = (suspicion.incarnation, suspicion.refuted)
        if accuser == self._keys.peer:
            return []
        if accused == self._keys.peer:
            opened(Suspicion, signed.body, signed.signature, accuser, self._keys)
            if not self._herald.refute(proof, now_ms):
                return []
            if now_ms - self._doubted_ms >= self._detector.tick_ms:  # a liar slows us down by one step at most
                self._doubted_ms = now_ms
                self._detector.worse()
            return [self._ping(source)]
        entry = self.directory.get(accused)
        if entry is None or proof != entry.proof or not self.cells.follows(entry.paths):
            return []
        if self.directory.get(accuser) is None or self.directory.shuns(accuser, now_ms):
            return []
        if self._suspicions.heard(accused, proof, accuser):
            return []
        opened(Suspicion, signed.body, signed.signature, accuser, self._keys)
        if not self._accusations.take(accuser, now_ms) or not self._suspicions.accuse(accused, proof, accuser, now_ms):
            return []
        members = len(self._entries())
        self._rumours.tell_suspicion(accused, accuser, signed, members)
        look = not self._detector.pings_of(accused) and self._rng.random() * members < CONFIRMERS
        return self._probe(accused, now_ms) if look else []


@lru_cache(maxsize=1 << 14)
def heartbeat_in(body: bytes) -> Heartbeat:
    """The heartbeat in `body`, its signature unchecked; the same one comes from several sides.

    Raises:
        RemoteError: malformed.
    """
    return parsed(body, Heartbeat)  # type: ignore[return-value]


@lru_cache(maxsize=1 << 12)
def suspicion_in(body: bytes) -> Suspicion:
    """The suspicion in `body`, its signature unchecked.

    Raises:
        RemoteError: malformed.
    """
    return parsed(body, Suspicion)  # type: ignore[return-value]
