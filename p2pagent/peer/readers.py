"""Signed bodies as values, parsed once, since the same one comes from several sides. No signature is checked here."""

from typing import Generic, TypeVar

from p2pagent.bounded import bound
from p2pagent.peer.directory import PEERS_MAX
from p2pagent.peer.gossip_messages import Heartbeat, Record, Suspicion
from p2pagent.peer.wire import parsed

_S = TypeVar("_S", Record, Heartbeat, Suspicion)


class Reader(Generic[_S]):
    """Values of one kind by their bytes, the last `most` of them. Simulated peers of one process share them all."""

    def __init__(self, kind: type[_S], most: int) -> None:
        self.most = most
        self._kind: type[_S] = kind
        self._read: dict[bytes, _S] = {}

    def __call__(self, body: bytes) -> _S:
        """The value in `body`.

        Raises:
            RemoteError: malformed.
        """
        value = self._read.get(body)
        if value is None:
            value = self._read[body] = parsed(body, self._kind)
            bound(self._read, self.most)
        return value


heartbeat_in = Reader(Heartbeat, 2 * PEERS_MAX)
record_in = Reader(Record, 2 * PEERS_MAX)
suspicion_in = Reader(Suspicion, PEERS_MAX)
