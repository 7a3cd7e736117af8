"""Dialling ahead of need, so that a later frame finds the way open. A dial that is needed never waits for one of these.

Strangers cause these dials: each record names addresses, at which there may be nobody.
"""

from collections.abc import Callable

from libp2p.peer.id import ID

from p2pagent.net.discovery import DIALS_MAX, Dialler

AHEAD_MAX = DIALS_MAX // 2
"""Dials at the same time; the others are for those that are needed."""

WAITING_MAX = 1024
"""As many as the directory holds; whoever is named beyond is dialled when it is needed."""


class Ahead:
    """Dials in the order in which peers are named, while there is room for neighbours; once there is none, nobody.

    `room` tells for how many more there is, `start` runs a task.
    """

    def __init__(self, dialler: Dialler, room: Callable[[], int], start: Callable[..., None]) -> None:
        self._dialler = dialler
        self._room = room
        self._start = start
        self._waiting: dict[ID, None] = {}
        self._under_way: set[ID] = set()

    def dial(self, peer: ID) -> None:
        """Have a connection to a peer in a while, if that can be."""
        if peer not in self._under_way and len(self._waiting) < WAITING_MAX:
            self._waiting[peer] = None
        self._next()

    def _next(self) -> None:
        room = self._room()
        if room <= 0:
            self._waiting.clear()
        while self._waiting and len(self._under_way) < min(AHEAD_MAX, room):
            peer = next(iter(self._waiting))
            del self._waiting[peer]
            self._under_way.add(peer)
            self._start(self._connect, peer)

    async def _connect(self, peer: ID) -> None:
        try:
            await self._dialler.connect(peer)
        finally:
            self._under_way.remove(peer)
            self._next()
