"""What the network is told and what it tells: configuration, events, counters. Values only."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from p2pagent.peer.wire import FRAME_BYTES_MAX
from p2pagent.types import PeerId


class NetConfig(Struct, frozen=True):
    """Where to listen, whom to know first, how much to hold.

    `listen` are multiaddrs such as `/ip4/0.0.0.0/tcp/4100`, `bootstrap` end in `/p2p/<peer id>`. `psk` (32
    bytes) keeps out everyone who does not hold it. `mdns` announces this peer by multicast. Of more neighbours than
    `neighbours_max`, those that have been idle longest are let go, counterparties last.
    """

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    psk: bytes | None = None
    mdns: bool = False
    neighbours_max: int = 64
    frame_bytes_max: int = FRAME_BYTES_MAX
    queue_frames_max: int = 256


class PeerUp(Struct, frozen=True):
    """The first connection to a peer is up."""

    peer: PeerId


class PeerDown(Struct, frozen=True):
    """The last connection to a peer is gone without a word: broken, or silent for too long."""

    peer: PeerId


class PeerIdle(Struct, frozen=True):
    """The last connection to a peer was closed in good order, by either side: there was nothing to say, or one leaves.

    What was on its way in that moment is lost, but the peer is not: `Network.send` connects again.
    """

    peer: PeerId


class FrameReceived(Struct, frozen=True):
    """One frame from a neighbour; nothing about its payload has been checked but the length."""

    peer: PeerId
    protocol: str
    payload: bytes


class SendFailed(Struct, frozen=True):
    """`frames` frames for this peer and protocol did not leave, or their stream broke meanwhile. None is retried."""

    peer: PeerId
    protocol: str
    frames: int
    reason: str


class BootstrapFailed(Struct, frozen=True):
    """A bootstrap address does not answer. Told once per outage; dialling goes on."""

    address: str
    reason: str


class ProtocolViolation(Struct, frozen=True):
    """A neighbour broke the framing of a protocol; the stream has been reset."""

    peer: PeerId
    protocol: str
    reason: str


NetEvent = PeerUp | PeerDown | PeerIdle | FrameReceived | SendFailed | BootstrapFailed | ProtocolViolation
OnEvent = Callable[[NetEvent], None]


class NetStatistics(Struct, frozen=True):
    """Counters since the start, and the neighbours of this moment. Bytes are payload bytes."""

    neighbours: int
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    frames_dropped: int
    violations: int
    guarded_exceptions: int


@dataclass(slots=True)
class Tally:
    """The counters behind `NetStatistics`, shared by the parts of one network."""

    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    frames_dropped: int = 0
    violations: int = 0
    guarded_exceptions: int = 0
