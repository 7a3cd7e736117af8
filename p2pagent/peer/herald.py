"""What this device says of itself: its record, and the heartbeats that keep it alive in the eyes of others."""

from collections.abc import Callable

from msgspec import structs

from p2pagent.keys import Keys
from p2pagent.peer.gossip_messages import (
    RECORD_BYTES_MAX,
    AgentAdvert,
    Heartbeat,
    Known,
    Load,
    Proof,
    Record,
    SignedHeartbeat,
    SignedRecord,
)
from p2pagent.peer.wire import encode, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId

LEASE_MS = 120_000
"""Four heartbeats and more may be lost before a peer is forgotten by who hears of no suspicion."""

BEAT_MS_MIN, BEAT_MS_MAX = 10_000, 30_000
BEAT_MS_PER_MEMBER = 200
"""The more members a cell has the less often each speaks: five heartbeats a second are heard, in a cell of any size."""

REFUTE_MS = 1_000
"""Suspicions are answered at most this often, however fast a liar makes them; nobody is given up in less than eight."""

RECORD_BODY_BYTES_MAX = RECORD_BYTES_MAX - 96
"""What the envelope leaves of a record's size; addresses give way, all that an owner can configure fits beside one."""


class Herald:
    """Our own record and heartbeat, signed anew as they change."""

    def __init__(
        self, keys: Keys, space: Space, network: str, incarnation: int, loads: Callable[[], tuple[Load, ...]]
    ) -> None:
        self._keys = keys
        self._space = space
        self._network = network
        self._incarnation = incarnation
        self._loads = loads
        self._sequence = 0
        self._refuted = 0
        self._refuted_ms = -REFUTE_MS
        self._issued_ms = 0
        self.left = False
        """Goodbye was said."""
        self.record: SignedRecord | None = None
        self.beat: SignedHeartbeat | None = None

    @property
    def peer(self) -> PeerId:
        """Who we are."""
        return self._keys.peer

    @property
    def proof(self) -> Proof:
        """What our last heartbeat says against suspicions."""
        return (self._incarnation, self._refuted)

    def describe(self, agents: tuple[AgentAdvert, ...], addresses: tuple[str, ...], now_ms: int) -> None:
        """Sign a record of these agents, and a heartbeat that goes with it."""
        self._sequence += 1
        record = Record(
            peer=self._keys.peer,
            network=self._network,
            space=self._space.name,
            incarnation=self._incarnation,
            sequence=self._sequence,
            addresses=addresses,
            agents=agents,
            earlier=self._space.earlier.name if self._space.earlier else "",
        )
        while len(encode(record)) > RECORD_BODY_BYTES_MAX and len(record.addresses) > 1:
            record = structs.replace(record, addresses=record.addresses[:-1])
        self.record = SignedRecord(*sealed(record, self._keys))
        self.speak(now_ms)

    def is_due(self, members: int, now_ms: int) -> bool:
        """Whether it is time for a heartbeat in a cell of so many."""
        interval_ms = min(BEAT_MS_MAX, max(BEAT_MS_MIN, BEAT_MS_PER_MEMBER * members))
        return now_ms - self._issued_ms >= interval_ms

    def speak(self, now_ms: int, lease_ms: int = LEASE_MS) -> SignedHeartbeat:
        """Sign a heartbeat; without a lease it says goodbye."""
        self.left = not lease_ms
        self._issued_ms = max(now_ms, self._issued_ms + 1)
        beat = Heartbeat(
            peer=self._keys.peer,
            incarnation=self._incarnation,
            sequence=self._sequence,
            refuted=self._refuted,
            issued_ms=self._issued_ms,
            lease_ms=lease_ms,
            loads=self._loads() if lease_ms else (),
        )
        self.beat = SignedHeartbeat(*sealed(beat, self._keys))
        return self.beat

    def known(self) -> Known | None:
        """What we send to whoever asks for us."""
        return Known(self.record, self.beat) if self.record is not None and self.beat is not None else None

    def refute(self, proof: Proof, now_ms: int) -> bool:
        """Answer a suspicion of what we said last; of anything else it is stale, or a lie. Whether we have.

        One that comes too soon after the last is left to those who will tell us again.
        """
        if self.beat is None or self.left or proof != self.proof or now_ms - self._refuted_ms < REFUTE_MS:
            return False
        self._refuted += 1
        self._refuted_ms = now_ms
        self.speak(now_ms)
        return True
