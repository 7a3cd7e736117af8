"""What members of a cell say of themselves and of each other, well signed, for tests to bend."""

import msgspec

from p2pagent.peer.directory import Directory
from p2pagent.peer.gossip_messages import (
    AgentAdvert,
    Heartbeat,
    Known,
    News,
    Record,
    SignedHeartbeat,
    SignedRecord,
    SignedSuspicion,
    Suspicion,
)
from p2pagent.peer.herald import LEASE_MS
from p2pagent.peer.wire import sealed
from p2pagent.sim.keys import SimKeys
from p2pagent.types import PeerId
from tests.scenario import START_MS


def make_record(keys: SimKeys, *adverts: AgentAdvert, **changes: object) -> Record:
    """A first record, of a peer without agents unless there are adverts."""
    record = Record(keys.peer, "test", "space", 1, 1, ("/ip4/192.0.2.1/tcp/4101",), adverts)
    return msgspec.structs.replace(record, **changes)


def make_beat(keys: SimKeys, **changes: object) -> Heartbeat:
    """A sign of life from the start, of the first record."""
    beat = Heartbeat(keys.peer, 1, 1, 0, START_MS, LEASE_MS, ())
    return msgspec.structs.replace(beat, **changes)


def sign_record(keys: SimKeys, record: Record) -> SignedRecord:
    """A record as it travels."""
    return SignedRecord(*sealed(record, keys))


def sign_beat(keys: SimKeys, beat: Heartbeat) -> SignedHeartbeat:
    """A heartbeat as it travels."""
    return SignedHeartbeat(*sealed(beat, keys))


def make_known(keys: SimKeys, record: Record, **changes: object) -> Known:
    """A record with a heartbeat that goes with it."""
    beat = make_beat(keys, incarnation=record.incarnation, sequence=record.sequence)
    return Known(sign_record(keys, record), sign_beat(keys, msgspec.structs.replace(beat, **changes)))


def make_suspicion(accuser: SimKeys, accused: PeerId, incarnation: int = 1, refuted: int = 0) -> SignedSuspicion:
    """`accuser` says that it gets no answer of `accused`."""
    return SignedSuspicion(*sealed(Suspicion(accuser.peer, accused, incarnation, refuted), accuser))


def news(*said: SignedHeartbeat | SignedSuspicion) -> News:
    """These as they ride on a ping."""
    beats = tuple(item for item in said if isinstance(item, SignedHeartbeat))
    return News(beats, tuple(item for item in said if isinstance(item, SignedSuspicion)))


def learn(
    directory: Directory,
    keys: SimKeys,
    record: Record | None = None,
    now_ms: int = START_MS,
    paths: tuple[str, ...] = (),
    **beat: object,
) -> bool:
    """Do with a record and its heartbeat what membership does with a delta; whether it was news."""
    record = record or make_record(keys)
    heartbeat = make_beat(keys, incarnation=record.incarnation, sequence=record.sequence)
    heartbeat = msgspec.structs.replace(heartbeat, **beat)
    if directory.get(keys.peer) is None and not directory.believes(heartbeat, now_ms):
        return False
    return directory.learn(record, sign_record(keys, record), heartbeat, sign_beat(keys, heartbeat), paths)


def hear(directory: Directory, keys: SimKeys, now_ms: int = START_MS, **changes: object) -> bool:
    """Do with a heartbeat what membership does with news; whether it was believed."""
    beat = make_beat(keys, **changes)
    believed = directory.believes(beat, now_ms)
    if believed:
        directory.hear(beat, sign_beat(keys, beat))
    return believed
