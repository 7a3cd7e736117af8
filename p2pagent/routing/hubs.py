"""Hubs: which agents clear their market together, and who clears it.

A hub is the agents whose homes lie in one cell. Cells form a binary tree: the prototypes in an order that keeps alike
ones together, halved and halved again down to single prototypes, and below these, halves of a hash. Which cell is a
hub is a function of who is known, without memory: hubs split as they grow and merge as they shrink, and peers that
know slightly different agents lose efficiency, nothing else.

A cell is named by its bits from the root: `/` is everything, `/0110` four halvings down, `/0110.01` two more by hash.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import combinations
from math import hypot

import numpy as np
from msgspec import Struct
from scipy.cluster.hierarchy import leaves_list, linkage

from p2pagent.routing.prototypes import Space, Vector, quantised
from p2pagent.types import AgentRef, PeerId

HUB_AGENTS_MAX = 64
"""Known agents above which a cell is split: with so few, a book's bids fit their bound on the wire.

Simulated with evenly spread demand, 512 and 4,096 agents and as many queries as slots, hubs of this size keep 0.95 to
0.98 of the welfare of one exact market, and 0.97 to 0.99 once those left over are served at posted prices. Where a
quarter of all queries has one home they keep 0.86 to 0.90 alone and four times larger ones at most 0.95: there
homes must follow prices.
"""

HASH_BITS_MAX = 8
"""Halvings below a single prototype: enough for 256 full hubs there. A name of a space with 256 prototypes then has at
most 18 characters."""

ROOT = "/"


class Hub(Struct, frozen=True):
    """A cell that is small enough to be cleared at once, and the known agents in it, sorted."""

    name: str
    agents: tuple[AgentRef, ...]


class Hubs:
    """The tree of cells over the prototypes of a space, shape (M, dimensions)."""

    def __init__(self, prototypes: Vector) -> None:
        self._cells = dict(_halvings(ROOT, _alike_together(prototypes)))
        self._leaves = {inside[0]: name for name, inside in self._cells.items() if len(inside) == 1}

    def hub_of(
        self,
        prototype: int,
        buyer: PeerId,
        epoch: int,
        homes: Mapping[AgentRef, int],
        agents_max: int = HUB_AGENTS_MAX,
    ) -> Hub:
        """The hub in which a buyer's query clears: the first cell on its way down that has few enough agents.

        Args:
            prototype: the one nearest to the query.
            buyer: whose query it is. Below a prototype its half is drawn anew each epoch: a bid cannot choose it, and
                no peer id is in the better half for long.
            epoch: number of the epoch.
            homes: the `home` of every known agent.
            agents_max: how many agents the cell may have; more for a query that a smaller one had no slot for.
        """
        known = Counter(homes.values())
        name = ROOT
        while sum(known[p] for p in self._cells[name]) > agents_max and len(self._cells[name]) > 1:
            name += "0" if prototype in self._cells[name + "0"] else "1"
        inside = frozenset(self._cells[name])
        agents = [agent for agent, home in homes.items() if home in inside]
        side, bits = _hash_bits("query", buyer, str(epoch)), ""
        while len(agents) > agents_max and len(bits) < HASH_BITS_MAX:
            bits = side[: len(bits) + 1]
            agents = [agent for agent in agents if _agent_bits(agent).startswith(bits)]
        return Hub(f"{name}.{bits}" if bits else name, tuple(sorted(agents)))

    def contains(self, name: str, agent: AgentRef, prototype: int) -> bool:
        """Whether an agent with this home belongs to the cell of this name, whoever else is known; no if malformed."""
        path, _, bits = name.partition(".")
        return self.is_name(name) and prototype in self._cells[path] and _agent_bits(agent).startswith(bits)

    def path(self, agent: AgentRef, prototype: int) -> str:
        """The smallest cell that an agent with this home can be in: every cell that has it is a prefix of this name."""
        return f"{self.leaf(prototype)}.{_agent_bits(agent)}"

    def leaf(self, prototype: int) -> str:
        """The cell of a single prototype."""
        return self._leaves[prototype]

    def is_name(self, name: str) -> bool:
        """Whether a peer's string names a cell of this tree."""
        path, dot, bits = name.partition(".")
        if path not in self._cells:
            return False
        if not dot:
            return True
        return len(self._cells[path]) == 1 and 1 <= len(bits) <= HASH_BITS_MAX and set(bits) <= {"0", "1"}


@lru_cache(maxsize=16)
def hubs_of(space: Space) -> Hubs:
    """The tree over the prototypes of a space; all who share the space object share it."""
    return Hubs(space.prototypes)


def key(space: Space, name: str) -> str:
    """The name under which the DHT knows the agents of a cell."""
    return f"p2pagent/cell/2/{space.name}{name}"


def above(path: str, depth: int) -> str:
    """The cell on `path` that is `depth` halvings below the root, or the last one if the path ends before."""
    bits, _, halves = path[1:].partition(".")
    below = halves[: max(0, depth - len(bits))]
    return ROOT + bits[:depth] + ("." + below if below else "")


def depth(name: str) -> int:
    """How many halvings below the root a cell is."""
    return len(name) - 1 - name.count(".")


def home(capability: bytes) -> int:
    """The prototype at which an agent is strongest, the first of equals."""
    return capability.index(max(capability))


def draw(hub: str, epoch: int, peers: Iterable[PeerId]) -> list[PeerId]:
    """All peers in the order in which they are to clear a hub in an epoch: the first is its auctioneer.

    Rendezvous hashing (Thaler and Ravishankar 1998, "Using name-based mappings to increase hit rates", IEEE/ACM
    Transactions on Networking 6(1)): a peer that comes or goes leaves the order of the others as it was.
    """
    return sorted(set(peers), key=lambda peer: (_digest("auctioneer", hub, str(epoch), peer), peer), reverse=True)


def _alike_together(prototypes: Vector) -> list[int]:
    """The prototypes in the order of a dendrogram's leaves (average linkage, cosine distance).

    Among the orders that the dendrogram allows it is the one with the least sum of distances of neighbours (Bar-Joseph,
    Gifford and Jaakkola 2001, doi:10.1093/bioinformatics/17.suppl_1.S22).
    """
    if len(prototypes) == 1:
        return [0]
    # Integers, like the name of the space: a sum of products is then the same on every machine.
    rows = quantised(prototypes).astype(np.int64)
    norms = [hypot(*row) for row in rows]
    distances = [1 - int(rows[a] @ rows[b]) / (norms[a] * norms[b]) for a, b in combinations(range(len(rows)), 2)]
    return [int(p) for p in leaves_list(linkage(distances, "average", optimal_ordering=True))]


def _halvings(name: str, prototypes: list[int]) -> Iterable[tuple[str, tuple[int, ...]]]:
    yield name, tuple(prototypes)
    if len(prototypes) > 1:
        middle = len(prototypes) // 2
        yield from _halvings(name + "0", prototypes[:middle])
        yield from _halvings(name + "1", prototypes[middle:])


@lru_cache(maxsize=1 << 14)
def _agent_bits(agent: AgentRef) -> str:
    return _hash_bits("agent", agent.peer, agent.name)


def _hash_bits(*parts: str) -> str:
    return f"{_digest(*parts)[0]:0{HASH_BITS_MAX}b}"


def _digest(*parts: str) -> bytes:
    return sha256("\0".join(("p2pagent/hub/1", *parts)).encode()).digest()
