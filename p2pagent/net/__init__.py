"""The network as the rest of p2pagent sees it. The only package that imports libp2p."""

from p2pagent.net.events import (
    GOSSIP_BYTES_MAX,
    BootstrapFailed,
    FrameReceived,
    GossipReceived,
    NetConfig,
    NetEvent,
    NetStatistics,
    OnEvent,
    PeerDown,
    PeerUp,
    ProtocolViolation,
    SendFailed,
)
from p2pagent.net.network import Network

__all__ = [
    "GOSSIP_BYTES_MAX",
    "BootstrapFailed",
    "FrameReceived",
    "GossipReceived",
    "NetConfig",
    "NetEvent",
    "NetStatistics",
    "Network",
    "OnEvent",
    "PeerDown",
    "PeerUp",
    "ProtocolViolation",
    "SendFailed",
]
