"""The event heap: thousands of peers in virtual time, in one thread.

Every message passes through `decode(encode(message))`, so the simulator cannot carry what the wire would not. Of gossip
the sender's own object arrives, which is equal: what thousands know of each other is then in memory once; that its
bytes can be read is seen on one of `GOSSIP_PER_READING` messages, for it is nearly all that there is. Messages on
one connection keep their order. Equal times are ordered by insertion, so one seed gives one run, to the byte: its
`digest` is over every frame sent and everything told to users.

A process that is killed (`crash`) is noticed by whoever is connected to it one latency later. A device that goes dark
(`crash` with `silent`) is noticed when it has left two pings of the muxer unanswered.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from random import Random
from typing import NamedTuple

from p2pagent.peer.effects import (
    Abort,
    Archive,
    Blame,
    Effect,
    Find,
    Generate,
    Learn,
    Post,
    PostRefund,
    Provide,
    RaiseDispute,
    RecordDispute,
    Recount,
    Send,
    SetTimer,
    Shun,
    Tell,
)
from p2pagent.peer.events import (
    Disputed,
    DisputeRecorded,
    Event,
    PeerDown,
    PeerIdle,
    PeerUp,
    Posted,
    ProvidersFound,
    Received,
    Recounted,
    RefundPosted,
    TimerFired,
    Unsent,
)
from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.peer import Peer
from p2pagent.peer.updates import Update
from p2pagent.peer.wire import GOSSIP_PROTOCOL, WireMessage, decode, encode, protocol_of
from p2pagent.sim.books import Books
from p2pagent.sim.contacts import CONTACTS_MAX, DIAL_LIMIT_MS, DIAL_ROUND_TRIPS, SILENCE_MS, Contact, idlest
from p2pagent.sim.dht import FOUND_MAX, LOOKUP_MS, Dht
from p2pagent.sim.engine import Model
from p2pagent.sim.links import Link
from p2pagent.sim.node import Lost, Node, Wake
from p2pagent.sim.prefixes import TOKENISER, tokens_of
from p2pagent.types import PeerId

GOSSIP_PER_READING = 16


class Told(NamedTuple):
    """An update to a user."""

    at_ms: int
    peer: PeerId
    query: str
    update: Update


class Handled(NamedTuple):
    """One step of one peer: the trace by which two runs, or two drivers, are compared."""

    at_ms: int
    peer: PeerId
    event: Event
    effects: tuple[Effect, ...]


class World:
    """All devices, links and the heap. `observe` sees every step."""

    def __init__(self, link: Link, start_ms: int, observe: Callable[[Handled], None] | None = None) -> None:
        self.now_ms = start_ms
        self.events = 0
        self._gossip = 0
        self.told: list[Told] = []
        self.blamed: list[tuple[PeerId, PeerId, str]] = []
        self._books = Books()
        self.ledgers = self._books.ledgers
        self.refunds = self._books.refunds
        self.disputes = self._books.disputes
        self.sheets: dict[PeerId, dict[bytes, SignedSheet]] = defaultdict(dict)
        self.gossip_delay_ms = 0
        self._link = link
        self._observe = observe
        self._nodes: dict[PeerId, Node] = {}
        self._gone: dict[PeerId, bool] = {}
        self._dht = Dht(Random("dht"))
        self._rng = Random("world")
        self._digest = blake2b(digest_size=16)
        self._stopped: set[bytes] = set()
        self._heap: list[tuple[int, int, Node, Event | Wake | Lost]] = []
        self._count = 0
        self._sent: tuple[WireMessage, WireMessage, bytes, str] | None = None

    @property
    def link(self) -> Link:
        """How long messages take now."""
        return self._link

    def set_link(self, link: Link) -> None:
        """Let messages take so long from now on."""
        self._link = link

    @property
    def digest(self) -> str:
        """What all that was sent and told so far comes to."""
        return self._digest.hexdigest()

    def add(self, name: PeerId, peer: Peer, engines: Mapping[str, Model], skew_ms: int = 0) -> Node:
        """Put a device into the world; it is connected to nobody yet."""
        node = Node(name, peer, {agent: model.open() for agent, model in engines.items()}, skew_ms)
        self._nodes[name] = node
        self._gone.pop(name, None)
        return node

    def node(self, name: PeerId) -> Node | None:
        """The device of this name, if it is alive."""
        return self._nodes.get(name)

    def at(self, at_ms: int, name: PeerId, event: Event) -> None:
        """Let `event` happen to `name` at `at_ms`; to nobody if it is gone."""
        node = self._nodes.get(name)
        if node is not None:
            self._push(at_ms, node, event)

    def connect(self, one: PeerId, other: PeerId) -> None:
        """Bring two peers into direct contact now."""
        here, there = self._nodes.get(one), self._nodes.get(other)
        if here is not None and there is not None and other not in here.contacts:
            self._join(here, there, self.now_ms)

    def crash(self, name: PeerId, *, silent: bool = False) -> None:
        """`name` stops at once; `silent` if nothing is left to close its connections or to refuse new ones."""
        node = self._nodes.pop(name)
        node.alive = False
        self._gone[name] = silent
        for other in node.contacts:
            far = self._nodes.get(other)
            contact = far.contacts.get(name) if far is not None else None
            if far is None or contact is None:
                continue
            after_ms = self._rng.randint(*SILENCE_MS) if silent else self._link(name, other, self.now_ms) or 0
            self._push(self.now_ms + after_ms, far, Lost(name, contact))

    def sever(self, island: frozenset[PeerId]) -> None:
        """Let the connections between `island` and the rest die of silence."""
        for name in sorted(island & self._nodes.keys()):
            node = self._nodes[name]
            for other in [other for other in node.contacts if other not in island]:
                ends_ms = self.now_ms + self._rng.randint(*SILENCE_MS)
                self._push(ends_ms, node, Lost(other, node.contacts[other]))
                far = self._nodes.get(other)
                if far is not None and name in far.contacts:
                    self._push(ends_ms, far, Lost(name, far.contacts[name]))

    def run(self, until_ms: int) -> None:
        """Handle everything that happens up to `until_ms`."""
        heap = self._heap
        while heap and heap[0][0] <= until_ms:
            self.now_ms, _, node, event = heapq.heappop(heap)
            if not node.alive:
                continue
            if isinstance(event, Wake):
                self._wake(node, event.agent)
            elif not isinstance(event, Lost):
                self._step(node, event)
            elif node.contacts.get(event.peer) is event.contact:
                del node.contacts[event.peer]
                self._step(node, PeerDown(event.peer))
        self.now_ms = max(self.now_ms, until_ms)

    # --- one device -------------------------------------------------------------------------------------------------

    def _push(self, at_ms: int, node: Node, event: Event | Wake | Lost) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_ms, self._count, node, event))

    def _step(self, node: Node, event: Event) -> None:
        self.events += 1
        if node.unlisted and isinstance(event, PeerUp):
            self._list(node)
        effects = node.peer.handle(event, self.now_ms + node.skew_ms)
        if self._observe is not None:
            self._observe(Handled(self.now_ms, node.name, event, tuple(effects)))
        for effect in effects:
            self._perform(node, effect)

    def _perform(self, node: Node, effect: Effect) -> None:
        name = node.name
        match effect:
            case Send(peer, message):
                self._send(node, peer, message)
            case SetTimer(at_ms, timer):
                self._push(at_ms - node.skew_ms, node, TimerFired(timer))
            case Generate(agent=agent):
                node.engines[agent].start(effect, self.now_ms)
                self._plan(node, agent)
            case Abort(job):
                self._stopped.add(job)
                for agent, engine in node.engines.items():
                    engine.stop(job, self.now_ms)
                    self._plan(node, agent)
            case Post(receipt_id):
                self._push(self.now_ms, node, Posted(receipt_id, self._books.post(name, effect)))
            case PostRefund(refund):
                self._push(self.now_ms, node, RefundPosted(refund, self._books.refund(name, refund)))
            case RecordDispute(buyer, dispute):
                back = self._books.refund_of(name, buyer, dispute)
                self._push(self.now_ms, node, DisputeRecorded(buyer, back))
            case Recount(ident, seller, tokeniser, claimed_tokens, text):
                tokens = tokens_of(text) if tokeniser == TOKENISER else None
                self._push(self.now_ms, node, Recounted(ident, seller, claimed_tokens, tokens))
            case RaiseDispute(seller, dispute):
                if self._books.dispute(name, dispute):
                    self._push(self.now_ms, node, Disputed(seller, dispute))
            case Find(query, cell):
                self._find(node, query, cell)
            case Provide(cells):
                node.unlisted = cells
                self._list(node)
            case Learn(peer):
                if peer not in node.contacts and len(node.contacts) < CONTACTS_MAX:
                    self._dial(node, peer, ahead=True)
            case Blame(peer, fault):
                self.blamed.append((name, peer, fault))
            case Tell(query, update):
                self._digest.update(f"{self.now_ms} {name} {query} {update!r}".encode())
                self.told.append(Told(self.now_ms, name, query, update))
            case Shun(peer):
                self._part(node, peer)
            case Archive(sheet_id, sheet):
                self.sheets[name][sheet_id] = sheet
            case _:  # what is kept for the owner only
                pass

    def _plan(self, node: Node, agent: str) -> None:
        due_ms = node.engines[agent].due_ms()
        if due_ms is not None and node.planned.get(agent) != due_ms:
            self._push(due_ms, node, Wake(agent))
        if due_ms is None:
            node.planned.pop(agent, None)
        else:
            node.planned[agent] = due_ms

    def _wake(self, node: Node, agent: str) -> None:
        if node.planned.get(agent) != self.now_ms:
            return
        self._stopped.clear()
        for output in node.engines[agent].take(self.now_ms):
            if output.job not in self._stopped:
                self._step(node, output)
        node.planned.pop(agent, None)
        self._plan(node, agent)

    # --- between devices --------------------------------------------------------------------------------------------

    def _send(self, node: Node, peer: PeerId, message: WireMessage) -> None:
        if self._sent is None or message is not self._sent[0]:  # what goes to many is put on the wire once
            data, protocol = encode(message), protocol_of(message)
            gossip = protocol == GOSSIP_PROTOCOL
            self._gossip += gossip
            read = message if gossip and self._gossip % GOSSIP_PER_READING else decode(protocol, data)
            self._sent = message, message if gossip else read, data, protocol
        _, carried, data, protocol = self._sent
        contact = node.contacts.get(peer) or self._dial(node, peer, ahead=False)
        if contact is None:
            return
        self._digest.update(f"{self.now_ms} {node.name} {peer} ".encode())
        self._digest.update(data)
        node.sent[protocol] += len(data)
        node.kinds[type(message)] += 1
        if protocol != GOSSIP_PROTOCOL:
            contact.trade_ms = self.now_ms
        self._deliver(node, contact, peer, carried, len(data), protocol)

    def _deliver(
        self, node: Node, contact: Contact, peer: PeerId, message: WireMessage, size: int, protocol: str
    ) -> None:
        far = self._nodes.get(peer)
        back = far.contacts.get(node.name) if far is not None else None
        latency_ms = self._link(node.name, peer, self.now_ms)
        if far is None or back is None or latency_ms is None:
            return
        if protocol == GOSSIP_PROTOCOL:
            latency_ms += self.gossip_delay_ms
        else:
            back.trade_ms = self.now_ms
        contact.arrives_ms = max(self.now_ms + latency_ms, contact.arrives_ms)
        far.received[protocol] += size
        self._push(contact.arrives_ms, far, Received(node.name, message))

    def _dial(self, node: Node, peer: PeerId, *, ahead: bool) -> Contact | None:
        """Connect to `peer`; if that fails, and it is not `ahead` of need, `Unsent` follows."""
        if node.failing.get(peer, self.now_ms) > self.now_ms:
            return None
        node.failing.pop(peer, None)
        far = self._nodes.get(peer)
        there_ms, back_ms = self._link(node.name, peer, self.now_ms), self._link(peer, node.name, self.now_ms)
        if there_ms is None or back_ms is None or self._gone.get(peer, False):
            fails_ms = self.now_ms + DIAL_LIMIT_MS
        elif far is None:
            fails_ms = self.now_ms + (there_ms + back_ms if peer in self._gone else 0)
        else:
            return self._join(node, far, self.now_ms + DIAL_ROUND_TRIPS * (there_ms + back_ms))
        if not ahead:
            node.failing[peer] = fails_ms
            self._push(fails_ms, node, Unsent(peer))
        return None

    def _join(self, one: Node, other: Node, up_ms: int) -> Contact:
        for node, far in ((one, other), (other, one)):
            node.contacts[far.name] = Contact(up_ms, up_ms)
            self._push(up_ms, node, PeerUp(far.name))
        for node, far in ((one, other), (other, one)):
            idle = idlest(node.contacts, far.name, node.peer.counterparties, self.now_ms)
            if idle is not None:
                self._part(node, idle)
        return one.contacts[other.name]

    def _part(self, node: Node, peer: PeerId) -> None:
        """Close a connection in good order; the other side sees it one latency later."""
        if node.contacts.pop(peer, None) is None:
            return
        self._push(self.now_ms, node, PeerIdle(peer))
        far = self._nodes.get(peer)
        if far is not None and far.contacts.pop(node.name, None) is not None:
            self._push(self.now_ms + (self._link(node.name, peer, self.now_ms) or 0), far, PeerIdle(node.name))

    def _list(self, node: Node) -> None:
        """Tell the DHT what `node` serves; without a connection nobody takes note, and it is told at the next."""
        if node.contacts:
            for cell in node.unlisted:
                self._dht.provide(node.name, cell)
            node.unlisted = ()

    def _find(self, node: Node, query: str, cell: str) -> None:
        """Look up a cell, and dial its providers; one that is dark costs the dial's time."""
        alive, dark = self._dht.find(cell, node.name, node.contacts, self._answers)
        for peer in alive:
            if peer not in node.contacts:
                self._dial(node, peer, ahead=True)
        found_ms = self.now_ms + (DIAL_LIMIT_MS if dark else LOOKUP_MS)
        self._push(found_ms, node, ProvidersFound(query, cell, tuple(alive[:FOUND_MAX])))

    def _answers(self, peer: PeerId) -> bool | None:
        """Whether `peer` takes a connection; None if it is dark."""
        return peer in self._nodes or (None if self._gone.get(peer, False) else False)
