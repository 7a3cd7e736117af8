"""Who this peer is and the libp2p host that speaks for it: TCP, Noise, Yamux, and nothing else."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import trio
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair, KeyType
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity_utils import identity_exists, load_identity, save_identity
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
from msgspec import Struct
from multiaddr import Multiaddr

from p2pagent.errors import Exit, LocalError
from p2pagent.net.events import NetConfig
from p2pagent.net.guards import Guard, GuardedSwarm
from p2pagent.net.muxer import LiveMuxer, LiveYamux
from p2pagent.types import PeerId

PSK_BYTES = 32
UPGRADE_LIMIT_S = 5.0
NEGOTIATION_LIMIT_S = 5.0
ED25519_PREFIX = bytes.fromhex("002408011220")
"""Multihash `identity` over the protobuf of an ed25519 public key, whose 32 bytes follow."""

ED25519_BYTES = len(ED25519_PREFIX) + 32

_log = logging.getLogger(__name__)


class Identity(Struct, frozen=True):
    """A peer id and the ed25519 seed (32 bytes) behind it, ready for `nacl.signing.SigningKey(seed)`."""

    peer: PeerId
    seed: bytes

    def __repr__(self) -> str:
        return f"Identity({self.peer})"


def load_or_create_identity(path: Path) -> Identity:
    """Read the key file (libp2p's own format, mode 0600), or create it, with its directory, if there is none.

    Raises:
        LocalError: with `Exit.KEY`, the file cannot be read or written, or holds no ed25519 key.
    """
    try:
        if identity_exists(path):
            pair = load_identity(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            pair = create_new_key_pair()
            save_identity(pair, path)
    except OSError as error:
        hint = "check the owner and the permissions of the file and its directory"
        raise LocalError(f"cannot use the key {path}: {error.strerror or error}", hint, Exit.KEY) from error
    except ValueError as error:
        raise _bad_key(path, "it is corrupt") from error
    if pair.private_key.get_type() != KeyType.Ed25519:
        raise _bad_key(path, "it is not an ed25519 key")
    return Identity(PeerId(ID.from_pubkey(pair.public_key).to_base58()), pair.private_key.to_bytes())


def _bad_key(path: Path, why: str) -> LocalError:
    hint = "restore it from a backup, or move it away: a new key is a new peer, without this one's balance"
    return LocalError(f"cannot use the key {path}: {why}", hint, Exit.KEY)


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
            hint = "is p2pagent running already? Stop it, or choose another port to listen on"
            cause = f"cannot listen on {maddr}: {error.strerror or error}"
            raise LocalError(cause, hint, Exit.PORT_TAKEN) from error
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


def new_host(identity: Identity, config: NetConfig, guard: Guard) -> BasicHost:
    """Build a host that is not yet running.

    Assembled by hand because libp2p's own constructor also offers plaintext and secio to whoever dials.

    Raises:
        LocalError: with `Exit.CONFIG`, the private network's key has the wrong length.
    """
    if config.psk is not None and len(config.psk) != PSK_BYTES:
        hint = "take it from the invitation once more"
        raise LocalError(f"the network's key has {len(config.psk)} bytes instead of {PSK_BYTES}", hint, Exit.CONFIG)
    private = Ed25519PrivateKey.new(identity.seed)
    pair = KeyPair(private, private.get_public_key())
    own = ID.from_pubkey(pair.public_key)
    noise = NoiseTransport(pair, noise_privkey=create_new_x25519_key_pair().private_key)
    upgrader = TransportUpgrader({NOISE_PROTOCOL_ID: noise}, {TProtocol(YAMUX_PROTOCOL_ID): LiveYamux})
    upgrader.muxer_multistream = LiveMuxer({TProtocol(YAMUX_PROTOCOL_ID): LiveYamux})
    peerstore = PeerStore()
    peerstore.add_key_pair(own, pair)
    swarm = GuardedSwarm(
        own,
        peerstore,
        upgrader,
        transports=[_ExclusiveTCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=config.neighbours_max,
            high_watermark=config.neighbours_max,
            low_watermark=0,
            min_connections=0,
            inbound_upgrade_timeout=UPGRADE_LIMIT_S,
            outbound_upgrade_timeout=UPGRADE_LIMIT_S,
            inbound_stream_protocol_negotiation_timeout=NEGOTIATION_LIMIT_S,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATION_LIMIT_S,
        ),
        psk=config.psk.hex() if config.psk is not None else None,
    )
    host = BasicHost(swarm, enable_mDNS=config.mdns)
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
    found = ID.from_base58(peer)
    if not (found.to_bytes().startswith(ED25519_PREFIX) and len(found.to_bytes()) == ED25519_BYTES):
        raise ValueError(f"{peer!r} is not the id of an ed25519 peer")
    return found
