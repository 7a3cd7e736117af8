"""A simulated device, and what can happen to it that is no event of its peer."""

from collections import Counter

from msgspec import Struct, field

from p2pagent.peer.peer import Peer
from p2pagent.sim.contacts import Contact
from p2pagent.sim.engine import Engine
from p2pagent.types import PeerId


class Node(Struct, eq=False):
    """A simulated device from its start to its end. `skew_ms` is what its clock is ahead of the world's.

    `sent` and `received` count bytes of frames by protocol, `kinds` messages sent by type.
    """

    name: PeerId
    peer: Peer
    engines: dict[str, Engine]
    skew_ms: int = 0
    alive: bool = True
    contacts: dict[PeerId, Contact] = field(default_factory=dict)
    failing: dict[PeerId, int] = field(default_factory=dict)
    """Dials that will fail, and when."""
    planned: dict[str, int] = field(default_factory=dict)
    unlisted: tuple[str, ...] = ()
    """Cells of which the DHT is to be told once there is a connection."""
    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    kinds: Counter[type] = field(default_factory=Counter)


class Wake(Struct, frozen=True):
    """An engine has something to say."""

    agent: str


class Lost(Struct, frozen=True):
    """A connection to a device that is gone ends, unless there is a new one."""

    peer: PeerId
    contact: Contact
