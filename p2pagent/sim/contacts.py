"""Connections of a simulated device: which stand, which one goes when there are too many, how long it takes to see.

The figures are those of the daemon's network (`net/muxer.py`, `net/neighbours.py`, `net/discovery.py`).
"""

from collections.abc import Callable, Set

from msgspec import Struct

from p2pagent.types import PeerId

CONTACTS_MAX = 64
"""Connections that a device keeps by default; a newcomer is always let in, and somebody idle goes for it."""

BUSY_MS = 30_000
"""One with a frame of a trade this recently goes only if that is so of all."""

DIAL_ROUND_TRIPS = 4
"""TCP, Noise, the muxer and the stream are agreed on one after another, before the first frame leaves."""

DIAL_LIMIT_MS = 6_000
"""A device that does not answer is dialled for so long. One that runs no daemon refuses within a round trip."""

SILENCE_MS = 5_000, 7_500
"""Two pings of the muxer without an answer end a connection; they are sent every 2.5 s."""


class Contact(Struct, eq=False):
    """One end of a connection, with what was last sent on it: frames of one connection keep their order."""

    since_ms: int
    arrives_ms: int
    trade_ms: int = -BUSY_MS


def idlest(
    contacts: dict[PeerId, Contact], newcomer: PeerId, counterparties: Callable[[], Set[PeerId]], now_ms: int
) -> PeerId | None:
    """Whom to let go for `newcomer`, `counterparties` last; nobody as long as there is room."""
    if len(contacts) <= CONTACTS_MAX:
        return None
    engaged = counterparties()
    standing = [peer for peer, contact in contacts.items() if peer != newcomer and contact.since_ms <= now_ms]
    return min(standing, key=lambda peer: (peer in engaged, _claim(contacts[peer], now_ms)), default=None)


def _claim(contact: Contact, now_ms: int) -> tuple[bool, int]:
    """What speaks for keeping a connection over which nothing is under way, least first."""
    return (now_ms - contact.trade_ms < BUSY_MS, max(contact.trade_ms, contact.since_ms))
