"""The network as the rest of p2pagent sees it. The only package that imports libp2p."""

from p2pagent.net.events import (
    BootstrapFailed,
    FrameReceived,
    NetConfig,
    NetEvent,
    NetStatistics,
    OnEvent,
    PeerDown,
    PeerIdle,
    PeerUp,
    ProtocolViolation,
    SendFailed,
)
from p2pagent.net.network import Network

__all__ = [
    "BootstrapFailed",
    "FrameReceived",
    "NetConfig",
    "NetEvent",
    "NetStatistics",
    "Network",
    "OnEvent",
    "PeerDown",
    "PeerIdle",
    "PeerUp",
    "ProtocolViolation",
    "SendFailed",
]
