"""What peers say of themselves and of others: which of it is believed, kept, asked for, and passed on.

Rule 1: hearsay is believed as far as it is signed, and nobody can have us check or keep as much of it as it likes.
Rule 2: what is passed on is true of one's own cell only; of others we keep what we asked for.
Rule 3: of a message of which a part is malformed or badly signed nothing is taken in.
"""

from random import Random

from msgspec import Struct

from p2pagent.bounded import bound
from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.allowance import Allowance
from p2pagent.peer.cells import Cells
from p2pagent.peer.directory import Directory, is_timely
from p2pagent.peer.doubts import Doubts
from p2pagent.peer.effects import Effect, Learn, Send
from p2pagent.peer.gossip_messages import (
    Delta,
    Heartbeat,
    Known,
    News,
    Pull,
    Record,
    SignedHeartbeat,
)
from p2pagent.peer.readers import heartbeat_in, record_in
from p2pagent.peer.talk import REQUEST_BURST, REQUEST_REFILL_MS, Talk
from p2pagent.peer.versions import adverts
from p2pagent.peer.wire import check_signature
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId

PULLED_PER_MESSAGE_MAX = 64
PULLED_MAX = 1024
PULL_AGAIN_MS = 1_000
"""Until a record that was asked for and has not come is asked for again, from whoever tells of it next."""

OUTSIDERS_MAX = 1024
HEARSAY_BURST, HEARSAY_REFILL_MS = 512, 200
"""Heartbeats of others taken from one peer at once, and how soon one more: a whole cell speaks five times a second."""

STRANGERS_MAX = 160
"""Members of whom we have only heard: more of them wait until they speak to us, since anybody can invent peers."""

INTRODUCED_TO = 3
"""Neighbours that are told at once of whoever comes to us first."""


class Pulled(Struct, frozen=True):
    """A record that was asked for at `at_ms`; `asked` if we have looked for its peer ourselves."""

    asked: bool
    at_ms: int


class Hearsay:
    """The way of news into the directory, and on to others."""

    def __init__(
        self,
        keys: Keys,
        space: Space,
        cells: Cells,
        directory: Directory,
        talk: Talk,
        neighbours: set[PeerId],
        rng: Random,
    ) -> None:
        self._keys = keys
        self._space = space
        self._cells = cells
        self._directory = directory
        self._talk = talk
        self._neighbours = neighbours
        self._rng = rng
        self._pulled: dict[PeerId, Pulled] = {}
        self._outsiders: dict[PeerId, tuple[int, int]] = {}
        self._pulls = Allowance(REQUEST_BURST, REQUEST_REFILL_MS)
        self._hearsay = Allowance(HEARSAY_BURST, HEARSAY_REFILL_MS)
        self._doubts = Doubts(keys, directory, talk, rng)

    def hear(self, source: PeerId, news: News, now_ms: int) -> list[Effect]:
        """Take in what rides on a ping or its answer.

        Raises:
            RemoteError: something in it is malformed or badly signed.
        """
        beats = self._believed(source, news.heartbeats, now_ms, asked=False)
        proofs = {PeerId(heartbeat.peer): heartbeat.proof for heartbeat, _ in beats}
        suspicions = self._doubts.founded(source, news.suspicions, proofs, now_ms)
        effects = self._keep(source, beats, now_ms, asked=False)
        return [*effects, *self._doubts.take(source, suspicions, now_ms)]

    def on_pull(self, peer: PeerId, pull: Pull, now_ms: int) -> list[Effect]:
        """Send records."""
        if not self._pulls.take(peer, now_ms):
            return []
        held = [self._known(PeerId(wanted)) for wanted in dict.fromkeys(pull.peers)]
        found = tuple(known for known in held if known is not None)
        return [Send(peer, Delta(found))] if found else []

    def on_delta(self, peer: PeerId, delta: Delta, now_ms: int) -> list[Effect]:
        """Of the peers that we asked for, and their sender itself, keep those that we need; learn their addresses.

        Raises:
            RemoteError: one is malformed or badly signed; none is kept then.
        """
        checked: dict[PeerId, tuple[Record, Heartbeat, Known]] = {}
        for known in delta.peers:
            heartbeat = heartbeat_in(known.heartbeat.body)
            about = PeerId(heartbeat.peer)
            if about in checked or (about != peer and about not in self._pulled):
                continue
            record = record_in(known.record.body)
            if record.peer != about or record.version != heartbeat.version:
                raise RemoteError("a record with a heartbeat that is not its own")
            held = self._directory.get(about)
            if held is None or record.version > held.record.version:
                check_signature(record, about, known.record.body, known.record.signature, self._keys)
                check_signature(heartbeat, about, known.heartbeat.body, known.heartbeat.signature, self._keys)
                checked[about] = (record, heartbeat, known)
        return [effect for found in checked.values() for effect in self._learn(peer, *found, now_ms)]

    def take(self, source: PeerId, beats: tuple[SignedHeartbeat, ...], now_ms: int, *, asked: bool) -> list[Effect]:
        """Believe heartbeats that are news, pass on those of our cell, and ask for the records that we lack.

        Raises:
            RemoteError: one is malformed or badly signed.
        """
        return self._keep(source, self._believed(source, beats, now_ms, asked=asked), now_ms, asked=asked)

    def reconsider(self) -> None:
        """Other cells are followed now: who was none of our business may be."""
        self._outsiders.clear()

    def _believed(
        self, source: PeerId, beats: tuple[SignedHeartbeat, ...], now_ms: int, *, asked: bool
    ) -> list[tuple[Heartbeat, SignedHeartbeat]]:
        """Those that are news and worth the trouble, and those whose record has not come."""
        believed = []
        for beat in beats:
            heartbeat = heartbeat_in(beat.body)
            peer = PeerId(heartbeat.peer)
            if not self._directory.believes(heartbeat, now_ms) and not self._still_lacks(heartbeat, now_ms):
                continue
            if asked or peer == source or self._minds(source, heartbeat, now_ms):
                check_signature(heartbeat, peer, beat.body, beat.signature, self._keys)
                believed.append((heartbeat, beat))
        return believed

    def _keep(
        self, source: PeerId, beats: list[tuple[Heartbeat, SignedHeartbeat]], now_ms: int, *, asked: bool
    ) -> list[Effect]:
        """Take in heartbeats that are believed, pass on those of our cell, and ask for the records that we lack."""
        wanted: list[str] = []
        effects: list[Effect] = []
        for heartbeat, beat in beats:
            peer = PeerId(heartbeat.peer)
            known = self._directory.get(peer)
            spoken = (known.heartbeat.version, known.heartbeat.refuted) if known is not None else None
            refuted = self._talk.suspicions.refute(peer, heartbeat.proof)
            if refuted and known is not None and known.silent and not self._talk.detector.pings_of(peer):
                effects += self._talk.probe(peer, now_ms)  # perhaps we reach it again, too
            member = peer in self._directory.members
            if not self._directory.hear(heartbeat, beat):
                before = self._pulled.pop(peer, None)
                self._pulled[peer] = Pulled(asked or (before is not None and before.asked), now_ms)
                bound(self._pulled, PULLED_MAX)
                wanted.append(peer)
            elif member:
                urgent = spoken != (heartbeat.version, heartbeat.refuted) or not heartbeat.lease_ms
                self._talk.rumours.tell_heartbeat(peer, beat, len(self._directory.members), urgent=urgent)
                if not heartbeat.lease_ms:
                    self._talk.let_rest(peer)
        step = PULLED_PER_MESSAGE_MAX
        chunks = [tuple(wanted[i : i + step]) for i in range(0, len(wanted), step)]
        return [*effects, *(Send(source, Pull(chunk)) for chunk in chunks)]

    def _still_lacks(self, heartbeat: Heartbeat, now_ms: int) -> bool:
        """Whether the record that goes with a heartbeat we hold was asked for, and somebody has kept it from us."""
        pulled = self._pulled.get(PeerId(heartbeat.peer))
        if pulled is None or now_ms - pulled.at_ms < PULL_AGAIN_MS:
            return False
        held = self._directory.get(PeerId(heartbeat.peer))
        return held is not None and heartbeat == held.heartbeat and heartbeat.version > held.record.version

    def _known(self, peer: PeerId) -> Known | None:
        if peer == self._keys.peer:
            return self._talk.herald.known()
        entry = self._directory.get(peer)
        same = entry is not None and entry.heartbeat.version == entry.record.version
        return Known(entry.signed, entry.beat) if entry is not None and same else None

    def _minds(self, source: PeerId, heartbeat: Heartbeat, now_ms: int) -> bool:
        """Whether what `source` says of another is worth the trouble: not from a flood, and not of one too many."""
        peer = PeerId(heartbeat.peer)
        if self._outsiders.get(peer) == heartbeat.version or not self._hearsay.take(source, now_ms):
            return False
        return self._directory.get(peer) is not None or not self._is_full()

    def _is_full(self) -> bool:
        """Whether we have heard of as many members as we can believe without having met them."""
        return self._directory.unmet >= STRANGERS_MAX

    def _learn(self, source: PeerId, record: Record, heartbeat: Heartbeat, signed: Known, now_ms: int) -> list[Effect]:
        peer = PeerId(record.peer)
        before = self._directory.get(peer)
        if not heartbeat.lease_ms or not is_timely(heartbeat, now_ms):
            return []
        if before is None and not self._directory.believes(heartbeat, now_ms):
            return []
        paths = self._cells.paths(peer, adverts(record, self._space))
        follows = self._cells.follows(paths)
        pulled = self._pulled.pop(peer, None)
        asked = pulled is not None and pulled.asked
        if not follows and not asked and peer != source:
            self._outsiders[peer] = record.version
            bound(self._outsiders, OUTSIDERS_MAX)
            return []
        if follows and before is None and peer != source and self._is_full():
            return []
        if not self._directory.learn(record, signed.record, heartbeat, signed.heartbeat, paths):
            return []
        if peer == source:
            self._directory.up(peer)
            self._talk.suspicions.drop(peer)
        effects: list[Effect] = []
        if follows:
            self._talk.rumours.tell_heartbeat(peer, signed.heartbeat, len(self._directory.members), urgent=True)
        if follows and before is None and peer == source:  # nobody else may have heard of it yet
            near = sorted(self._neighbours.intersection(self._directory.members) - {peer})
            chosen = self._rng.sample(near, min(INTRODUCED_TO, len(near)))
            effects += [self._talk.ping(other) for other in chosen]
        if before is None or before.silent or before.record.addresses != record.addresses:
            effects.append(Learn(peer, record.addresses))
        return effects
