"""The DHT as the daemon sees it: the latest providers of a cell, some of them dead by now."""

from collections import OrderedDict, defaultdict
from random import Random

from p2pagent.types import PeerId

LOOKUP_MS = 200
"""What a look-up takes: a few hops."""

PROVIDERS_MAX = 20
"""Of a cell the latest so many are known; libp2p's provider store holds one bucket."""

FOUND_MAX = 16
SPARE_CHECKS = 3
"""Providers dialled at once beyond those wanted."""


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
        if len(known) > PROVIDERS_MAX:
            known.popitem(last=False)

    def tried(self, cell: str, but: PeerId) -> list[PeerId]:
        """Providers of `cell` other than `but` whom a look-up dials, dead ones among them, in random order."""
        others = [peer for peer in self._providers.get(cell, ()) if peer != but]
        return self._rng.sample(others, min(FOUND_MAX + SPARE_CHECKS, len(others)))
