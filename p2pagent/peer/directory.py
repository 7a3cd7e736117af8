"""Who is in the network, as far as this peer knows: signed records, signs of life, and who has gone silent.

Rule 1: a peer holds until the lease of its last heartbeat ends; hearing that again, wherever, prolongs nothing.
Rule 2: of two records of one peer the larger version holds; of two heartbeats the later one.
Rule 3: a peer that is gone comes back only by a heartbeat in which it says that it has read of that, or by a new start.
Rule 4: one that we could not reach is called again only after direct contact or its new start, whatever is heard.
Rule 5: every breach of the protocol is held against its peer, and too many of them are the end of it.
"""

from collections.abc import Callable, Iterator

from msgspec import Struct

from p2pagent.bounded import bound
from p2pagent.peer.gossip_messages import Heartbeat, Load, Proof, Record, SignedHeartbeat, SignedRecord
from p2pagent.peer.messages import ARRAY_LENGTH_MAX
from p2pagent.types import PeerId

PEERS_MAX = ARRAY_LENGTH_MAX
"""Records held."""

CLOCK_SKEW_MS = 60_000
"""How far another device's clock may be off before its heartbeats are refused."""

LEASE_MS_MAX = 600_000
"""A longer lease is cut to this: a ghost lives no longer."""

RETRIED_MAX = 160
"""Of those who are gone, how many may be tried again: as many as one cell has."""

FAULTS_MAX = 16
"""Breaches of the protocol at which a peer is shunned: an honest one has hardly any."""

FAULT_MS = 60_000
"""One breach is forgotten in this time."""


class Entry(Struct):
    """One peer: its record, its last heartbeat, the bytes that prove both, and whether it can be reached from here."""

    record: Record
    signed: SignedRecord
    heartbeat: Heartbeat
    beat: SignedHeartbeat
    paths: tuple[str, ...]
    """Per agent, the smallest cell that it can be in."""
    silent: bool = False
    met: bool = False
    """It has spoken to us itself: nobody has invented it."""

    @property
    def expires_ms(self) -> int:
        """When the lease ends, on the signer's clock."""
        return self.heartbeat.issued_ms + min(self.heartbeat.lease_ms, LEASE_MS_MAX)

    @property
    def proof(self) -> Proof:
        """What holds against a suspicion."""
        return self.heartbeat.proof

    def is_in(self, cell: str) -> bool:
        """Whether it hosts an agent of this cell."""
        return any(path.startswith(cell) for path in self.paths)

    def load(self, agent: str) -> Load | None:
        """What the last heartbeat says of an agent; None where it is of another record."""
        if self.heartbeat.version != self.record.version:
            return None
        pairs = zip(self.record.agents, self.heartbeat.loads, strict=False)
        return next((load for advert, load in pairs if advert.name == agent), None)


class Directory:
    """The table of peers. `network` and our own id decide who belongs here, `follows` of the paths who is a member."""

    def __init__(self, me: PeerId, network: str, follows: Callable[[tuple[str, ...]], bool] = lambda _: True) -> None:
        self._me = me
        self._network = network
        self._follows = follows
        self._entries: dict[PeerId, Entry] = {}
        self.members: dict[PeerId, Entry] = {}
        """Known peers of the cells that we follow."""
        self.unmet = 0
        """Members that have not spoken to us themselves."""
        self._sweep_ms = 0
        self._gone: dict[PeerId, Proof] = {}
        self._buried: dict[PeerId, None] = {}
        self._faults: dict[PeerId, tuple[float, int]] = {}
        self._banned: dict[PeerId, None] = {}
        self.changes = 0
        """Grows whenever somebody is added, met or dropped."""

    def __len__(self) -> int:
        return len(self._entries)

    def believes(self, heartbeat: Heartbeat, now_ms: int) -> bool:
        """Whether a heartbeat, its signature apart, is news of a peer that may be alive; goodbyes are news too."""
        peer = PeerId(heartbeat.peer)
        known = self._entries.get(peer)
        if known is not None and _order(heartbeat) <= _order(known.heartbeat):
            return False
        if peer == self._me or not is_timely(heartbeat, now_ms):
            return False
        return heartbeat.proof > self._gone.get(peer, (-1, -1))

    def hear(self, heartbeat: Heartbeat, beat: SignedHeartbeat) -> bool:
        """Take in a verified heartbeat that is believed; whether the record that it goes with is at hand.

        A goodbye ends the entry.
        """
        peer = PeerId(heartbeat.peer)
        known = self._entries.get(peer)
        if not heartbeat.lease_ms:
            self.forget(peer)
            self._end(peer, heartbeat.proof)
            return True
        if known is None:
            return False
        known.heartbeat, known.beat = heartbeat, beat
        return heartbeat.version <= known.record.version

    def learn(
        self,
        record: Record,
        signed: SignedRecord,
        heartbeat: Heartbeat,
        beat: SignedHeartbeat,
        paths: tuple[str, ...] = (),
    ) -> bool:
        """Take in a verified record with a heartbeat of its peer that is believed; whether it is news."""
        peer = PeerId(record.peer)
        if peer == self._me or record.network != self._network:
            return False
        known = self._entries.get(peer)
        if known is not None and record.version <= known.record.version:
            return False
        if known is None and len(self._entries) >= PEERS_MAX:
            self._make_room()
        silent = known is not None and known.silent and known.record.incarnation == record.incarnation
        met = known is not None and known.met
        if known is not None and _order(known.heartbeat) > _order(heartbeat):
            heartbeat, beat = known.heartbeat, known.beat
        self._gone.pop(peer, None)
        self._buried.pop(peer, None)
        entry = self._entries[peer] = Entry(record, signed, heartbeat, beat, paths, silent, met)
        self._dismiss(peer)
        if self._follows(paths):
            self.members[peer] = entry
            self.unmet += not met
        self._sweep_ms = min(self._sweep_ms, entry.expires_ms + CLOCK_SKEW_MS)
        self.changes += 1
        return True

    def regroup(self) -> None:
        """Other cells are followed now."""
        self.members = {peer: entry for peer, entry in self._entries.items() if self._follows(entry.paths)}
        self.unmet = sum(not entry.met for entry in self.members.values())
        self.changes += 1

    def bury(self, peer: PeerId) -> None:
        """`peer` is gone."""
        entry = self._entries.get(peer)
        if entry is not None:
            self.forget(peer)
            self._end(peer, entry.proof)
            self._buried[peer] = None
            bound(self._buried, RETRIED_MAX)

    def gone(self, peer: PeerId) -> Proof | None:
        """What `peer` had to say for itself when it was declared gone, or None if it was not."""
        return self._gone.get(peer)

    def lately_gone(self) -> list[PeerId]:
        """Those who went last without a goodbye."""
        return list(self._buried)

    def forget(self, peer: PeerId) -> None:
        """Drop what is known of `peer`; it may be learned again."""
        self._dismiss(peer)
        self.changes += self._entries.pop(peer, None) is not None

    def up(self, peer: PeerId) -> None:
        """Direct contact with `peer`."""
        entry = self._entries.get(peer)
        if entry is not None:
            self.changes += not entry.met
            self.unmet -= not entry.met and peer in self.members
            entry.silent, entry.met = False, True

    def down(self, peer: PeerId) -> None:
        """Contact with `peer` was lost or could not be made: nobody is sent there until it shows itself."""
        if peer in self._entries:
            self._entries[peer].silent = True

    def blame(self, peer: PeerId, now_ms: int) -> bool:
        """Count a fault of `peer`; whether this one makes it a peer to be shunned."""
        before = self.faults(peer, now_ms)
        self._faults.pop(peer, None)
        self._faults[peer] = (min(before + 1, 2 * FAULTS_MAX), now_ms)
        bound(self._faults, PEERS_MAX)
        return before <= FAULTS_MAX - 1 < before + 1

    def faults(self, peer: PeerId, now_ms: int) -> float:
        """Times that `peer` broke the protocol, less those that time has made good."""
        count, then_ms = self._faults.get(peer, (0.0, now_ms))
        return max(0.0, count - (now_ms - then_ms) / FAULT_MS)

    def shuns(self, peer: PeerId, now_ms: int) -> bool:
        """Whether nothing is taken from `peer`, and nothing asked of it, for now."""
        return peer in self._banned or (peer in self._faults and self.faults(peer, now_ms) > FAULTS_MAX - 1)

    def ban(self, peer: PeerId) -> None:
        """`peer` was proved to have cheated: it is shunned for as long as we remember."""
        self._banned[peer] = None
        bound(self._banned, PEERS_MAX)

    def is_banned(self, peer: PeerId) -> bool:
        """Whether `peer` was proved to have cheated."""
        return peer in self._banned

    def sweep(self, now_ms: int) -> list[PeerId]:
        """Drop peers whose lease has ended; who they are."""
        if now_ms < self._sweep_ms:
            return []
        ends_ms = {peer: entry.expires_ms + CLOCK_SKEW_MS for peer, entry in self._entries.items()}
        ended = [peer for peer, end_ms in ends_ms.items() if end_ms <= now_ms]
        for peer in ended:
            self.forget(peer)  # a heartbeat that is still good brings it back
        self._sweep_ms = min((end_ms for end_ms in ends_ms.values() if end_ms > now_ms), default=now_ms)
        return ended

    def get(self, peer: PeerId) -> Entry | None:
        """The entry of `peer`, silent or not."""
        return self._entries.get(peer)

    def entries(self) -> Iterator[tuple[PeerId, Entry]]:
        """All entries in the order in which they were learned."""
        return iter(self._entries.items())

    def reachable(self, now_ms: int) -> Iterator[tuple[PeerId, Entry]]:
        """Entries whose peers may be called: not silent, not shunned, lease running."""
        candidates = ((p, e) for p, e in self._entries.items() if not e.silent and e.expires_ms > now_ms)
        return ((p, e) for p, e in candidates if not self.shuns(p, now_ms))

    def _dismiss(self, peer: PeerId) -> None:
        """`peer` is no member."""
        entry = self.members.pop(peer, None)
        self.unmet -= entry is not None and not entry.met

    def _end(self, peer: PeerId, proof: Proof) -> None:
        self._gone.pop(peer, None)
        self._buried.pop(peer, None)
        self._gone[peer] = proof
        bound(self._gone, PEERS_MAX)

    def _make_room(self) -> None:
        """Give up one that we never met, rather of another cell, of those the one heard of longest ago.

        Anybody can invent peers of other cells, and date them.
        """

        def worth(peer: PeerId) -> tuple[bool, bool, int, PeerId]:
            entry = self._entries[peer]
            return (entry.met, peer in self.members, entry.heartbeat.issued_ms, peer)

        self.forget(min(self._entries, key=worth))


def is_timely(heartbeat: Heartbeat, now_ms: int) -> bool:
    """Whether a heartbeat is of the past and its lease runs, as far as clocks agree; goodbyes never end."""
    ends_ms = heartbeat.issued_ms + min(heartbeat.lease_ms, LEASE_MS_MAX)
    running = not heartbeat.lease_ms or ends_ms + CLOCK_SKEW_MS > now_ms
    return running and heartbeat.issued_ms <= now_ms + CLOCK_SKEW_MS


def _order(heartbeat: Heartbeat) -> tuple[int, int, int]:
    return (*heartbeat.proof, heartbeat.issued_ms)
