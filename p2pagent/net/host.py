"""Who this peer is and the libp2p host that speaks for it: TCP, Noise, Yamux, and nothing else."""

import errno
import logging
from functools import lru_cache
from typing import Any

import trio
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL_ID
from libp2p.transport.tcp.tcp import TCP, TCPListener
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from p2pagent.errors import Exit, LocalError
from p2pagent.keys import is_peer_id
from p2pagent.net.events import NetConfig
from p2pagent.net.guards import Guard, GuardedSwarm
from p2pagent.net.muxer import LiveMuxer, LiveYamux
from p2pagent.types import PeerId

PSK_BYTES = 32
UPGRADE_LIMIT_S = 5.0
NEGOTIATION_LIMIT_S = 5.0
CONNECTIONS_SPARE = 16
"""Connections beyond two per neighbour: newcomers whose handshake is under way."""

_log = logging.getLogger(__name__)


class _ExclusiveListener(TCPListener):
    """Listens without SO_REUSEPORT, with which two daemons could share a port and each get half of the connections."""

    async def listen(self, maddr: Multiaddr) -> None:
        address = next(iter(maddr.protocols()))
        host, port = str(maddr.value_for_protocol(address.code)), int(maddr.value_for_protocol("tcp"))
        if self._nursery is None:
            await self._spawn_background_task()
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            cause = f"cannot listen on {maddr}: {error.strerror or error}"
            if error.errno == errno.EADDRINUSE:
                hint = "is p2pagent running already? Stop it, or choose another port to listen on"
                raise LocalError(cause, hint, Exit.PORT_TAKEN) from error
            raise LocalError(cause, "listen on an address of this device, or on /ip4/0.0.0.0", Exit.CONFIG) from error
        self.listeners.extend(listeners)
        assert self._nursery is not None
        self._nursery.start_soon(trio.serve_listeners, self._accept, listeners)

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            await self.handler(TrioTCPStream(stream))
        except Exception as error:
            _log.debug("inbound connection: %r", error)


class _ExclusiveTCP(TCP):
    def create_listener(self, handler_function: Any) -> TCPListener:
        return _ExclusiveListener(handler_function)


def new_host(seed: bytes, config: NetConfig, guard: Guard) -> BasicHost:
    """Build a host that is not yet running.

    Assembled by hand because libp2p's own constructor also offers plaintext and secio to whoever dials.

    Raises:
        LocalError: with `Exit.CONFIG`, the private network's key has the wrong length.
    """
    if config.psk is not None and len(config.psk) != PSK_BYTES:
        hint = "take it from the invitation once more"
        raise LocalError(f"the network's key has {len(config.psk)} bytes instead of {PSK_BYTES}", hint, Exit.CONFIG)
    private = Ed25519PrivateKey.new(seed)
    pair = KeyPair(private, private.get_public_key())
    own = ID.from_pubkey(pair.public_key)
    noise = NoiseTransport(pair, noise_privkey=create_new_x25519_key_pair().private_key)
    upgrader = TransportUpgrader({NOISE_PROTOCOL_ID: noise}, {TProtocol(YAMUX_PROTOCOL_ID): LiveYamux})
    upgrader.muxer_multistream = LiveMuxer({TProtocol(YAMUX_PROTOCOL_ID): LiveYamux})
    peerstore = PeerStore()
    peerstore.add_key_pair(own, pair)
    connections_max = 2 * config.neighbours_max + CONNECTIONS_SPARE
    swarm = GuardedSwarm(
        own,
        peerstore,
        upgrader,
        transports=[_ExclusiveTCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=connections_max,
            high_watermark=connections_max,
            low_watermark=0,
            min_connections=0,
            inbound_upgrade_timeout=UPGRADE_LIMIT_S,
            outbound_upgrade_timeout=UPGRADE_LIMIT_S,
            inbound_stream_protocol_negotiation_timeout=NEGOTIATION_LIMIT_S,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATION_LIMIT_S,
        ),
        psk=config.psk.hex() if config.psk is not None else None,
    )
    host = BasicHost(swarm)
    swarm.set_stream_handler(guard.handler(host._swarm_stream_handler))
    return host


def bound_addresses(host: BasicHost) -> tuple[str, ...]:
    """Return the addresses that others can dial: ports as bound, wildcards as the addresses of the interfaces."""
    suffix = f"/p2p/{host.get_id().to_base58()}"
    bound = (address for listener in host.get_network().listeners.values() for address in listener.get_addrs())
    return tuple(dict.fromkeys(f"{one}{suffix}" for address in bound for one in expand_wildcard_address(address)))


@lru_cache(maxsize=4096)
def peer_id_of(peer: PeerId) -> ID:
    """Turn base58 into libp2p's type.

    Raises:
        ValueError: this is not the id of an ed25519 peer.
    """
    if not is_peer_id(peer):
        raise ValueError(f"{peer!r} is not the id of an ed25519 peer")
    return ID.from_base58(peer)
