"""Signatures: who says so, and about what kind of thing.

Every signature covers a domain (`p2pagent/quote/1`, ...) together with the bytes, so that what was signed as one kind
of message can never be shown as another. A peer id of libp2p holds its ed25519 public key, so verifying needs nothing
else.
"""

from functools import lru_cache
from typing import Protocol

import base58
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from p2pagent.types import PeerId

_PEER_ID_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash (0x00, 36 bytes) of a protobuf public key: type ed25519 (08 01), 32 bytes (12 20).
Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md"""


class Keys(Protocol):
    """Signs as this peer and verifies for any. The simulator has a cheap keyed hash in its place."""

    @property
    def peer(self) -> PeerId:
        """Whose signature `sign` makes."""

    def sign(self, domain: str, body: bytes) -> bytes:
        """64 bytes over `domain` and `body`."""

    def verify(self, peer: PeerId, domain: str, body: bytes, signature: bytes) -> bool:
        """Whether `peer` signed `body` under `domain`. False for anything malformed; never raises."""


class Ed25519Keys:
    """The libp2p identity's own key, used through PyNaCl."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self._peer = peer_id(bytes(self._key.verify_key))

    @property
    def peer(self) -> PeerId:
        """The libp2p peer id of this key."""
        return self._peer

    def sign(self, domain: str, body: bytes) -> bytes:
        """64 bytes over `domain` and `body`."""
        return self._key.sign(_bound(domain, body)).signature

    def verify(self, peer: PeerId, domain: str, body: bytes, signature: bytes) -> bool:
        """Whether `peer` signed `body` under `domain`."""
        key = _verify_key(peer)
        if key is None or len(signature) != 64:
            return False
        try:
            key.verify(_bound(domain, body), signature)
        except BadSignatureError:
            return False
        return True


def peer_id(public_key: bytes) -> PeerId:
    """The libp2p peer id of a 32-byte ed25519 public key."""
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


def is_peer_id(text: str) -> bool:
    """Whether `text` is the peer id of an ed25519 key, the only kind this network has."""
    return _verify_key(PeerId(text)) is not None


def _bound(domain: str, body: bytes) -> bytes:
    return domain.encode() + b"\0" + body


@lru_cache(maxsize=4096)
def _verify_key(peer: PeerId) -> VerifyKey | None:
    try:
        raw = base58.b58decode(peer)
    except ValueError:
        return None
    # Written back, because base58 overlooks white space at the end: one key must not have two names.
    if len(raw) != 38 or not raw.startswith(_PEER_ID_PREFIX) or peer_id(raw[6:]) != peer:
        return None
    return VerifyKey(raw[6:])
