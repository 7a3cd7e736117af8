"""The DHT as the daemon sees it: the latest providers of a cell, some of them dead by now."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Container
from random import Random

from p2pagent.bounded import bound
from p2pagent.types import PeerId

LOOKUP_MS = 200
"""What a look-up takes: a few hops."""

PROVIDERS_MAX = 20
"""Of a cell the latest so many are known; libp2p's provider store holds one bucket."""

FOUND_MAX = 4
CHECKS_MAX = 7
"""Providers that are wanted, and that are dialled at a time; as in the daemon (`driver.py`, `net/cells.py`)."""


class Dht:
    """Who has said that it serves which cell."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._providers: dict[str, OrderedDict[PeerId, None]] = defaultdict(OrderedDict)

    def provide(self, peer: PeerId, cell: str) -> None:
        """`peer` serves `cell`; whoever said so longest ago gives way."""
        known = self._providers[cell]
        known[peer] = None
        known.move_to_end(peer)
        bound(known, PROVIDERS_MAX)

    def find(
        self, cell: str, seeker: PeerId, near: Container[PeerId], answers: Callable[[PeerId], bool | None]
    ) -> tuple[list[PeerId], bool]:
        """The providers of `cell` that `seeker` finds alive, and whether it was kept waiting by one that is dark.

        Those `near` are tried first, the others in random order, until enough answer. `answers` is False where a dial
        is refused, so that the next can be tried, and None where nothing ever comes back.
        """
        others = [peer for peer in self._providers.get(cell, ()) if peer != seeker]
        self._rng.shuffle(others)
        alive: list[PeerId] = []
        dark = 0
        for tried, peer in enumerate(sorted(others, key=lambda peer: peer not in near)):
            if dark == CHECKS_MAX or (tried >= CHECKS_MAX and len(alive) >= FOUND_MAX):
                break
            answer = answers(peer)
            dark += answer is None
            if answer:
                alive.append(peer)
        return alive, dark > 0
