"""Signatures for the simulator: a keyed hash, a hundred times cheaper than ed25519, with the same failure modes."""

from hashlib import blake2b

from p2pagent.keys import peer_id
from p2pagent.types import PeerId


class SimKeys:
    """Signs with a hash keyed by the peer id. Everybody could forge it; simulated liars are told not to."""

    def __init__(self, index: int) -> None:
        self._peer = peer_id(blake2b(b"p2pagent/sim %d" % index, digest_size=32).digest())

    @property
    def peer(self) -> PeerId:
        """A well-formed peer id, the same for the same index."""
        return self._peer

    def sign(self, domain: str, body: bytes) -> bytes:
        """64 bytes over `domain` and `body`."""
        return _tag(self._peer, domain, body)

    def verify(self, peer: PeerId, domain: str, body: bytes, signature: bytes) -> bool:
        """Whether `peer` signed `body` under `domain`."""
        return signature == _tag(peer, domain, body)


def _tag(peer: PeerId, domain: str, body: bytes) -> bytes:
    return blake2b(body, key=blake2b(peer.encode()).digest(), person=domain.encode()[-16:]).digest()
