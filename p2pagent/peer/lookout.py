"""Looking beyond what gossip brings: who is in a cell, through one of its members or the DHT; and being found there.

A followed cell is kept at a size that one table can hold. Another's is looked at when a question belongs there.
"""

from random import Random

from p2pagent.bounded import bound
from p2pagent.errors import RemoteError
from p2pagent.peer.allowance import Allowance
from p2pagent.peer.cells import Cells
from p2pagent.peer.directory import Directory
from p2pagent.peer.effects import Effect, Find, Provide, Send
from p2pagent.peer.gossip_messages import AgentAdvert, Look, Sight
from p2pagent.peer.hearsay import Hearsay
from p2pagent.peer.talk import REQUEST_BURST, REQUEST_REFILL_MS, Talk
from p2pagent.routing.hubs import ROOT, Hubs, hubs_of, key
from p2pagent.routing.prototypes import Space
from p2pagent.types import PeerId

LOOK_MS = 120_000
"""How often a member is asked for all that it knows of our cell: what rumours have missed."""

SIGHT_MS = 1_000
"""Until an answer to that is given up."""

LOOK_AGAIN_MS = 30_000
"""A cell is looked for again at most this often."""

EXPLORE_MS = 60_000
"""A cell in which a question belongs is looked into at most this often."""

WIDEN_MS = 600_000
"""A cell that was halved because it was too large is not widened again for this long, small as its half may be."""

LOOKED_MAX = 1024
LOOKED_AT = 3
"""Members of a cell who are asked for it."""

SIGHT_MAX = 255
STRONG = 128
"""A capability (of 255) from which on a prototype's cell lists the agent in the DHT."""

STRONG_CELLS_MAX = 8
PROVIDE_MS = 3_600_000
"""The DHT is told again every hour; its records last a day and more."""


class Lookout:
    """Where we belong, and who else does."""

    def __init__(
        self, space: Space, hubs: Hubs, cells: Cells, directory: Directory, talk: Talk, hearsay: Hearsay, rng: Random
    ) -> None:
        self._space = space
        self._hubs = hubs
        self._earlier = space.earlier
        self._cells = cells
        self._directory = directory
        self._talk = talk
        self._hearsay = hearsay
        self._rng = rng
        self._agents: tuple[AgentAdvert, ...] = ()
        self._looked: dict[tuple[PeerId, str], int] = {}
        self._found: dict[str, int] = {}
        self._explored: dict[str, int] = {}
        self._asked: dict[PeerId, int] = {}
        self._synced_ms = -LOOK_MS
        self._halved_ms = -WIDEN_MS
        self._provided_ms = -PROVIDE_MS
        self._sized = -1
        self._sparse: tuple[str, ...] = ()
        self._looks = Allowance(REQUEST_BURST, REQUEST_REFILL_MS)

    def open_for(self, agents: tuple[AgentAdvert, ...], now_ms: int) -> list[Effect]:
        """Belong where these agents do."""
        self._agents = agents
        self._cells.open_for(agents)
        self._regroup()
        return self._provide(now_ms)

    def look_around(self, peer: PeerId, now_ms: int) -> list[Effect]:
        """Ask `peer` who else is in our cells, unless somebody was asked lately."""
        if self._synced_ms + LOOK_MS > now_ms:
            return []
        self._synced_ms = now_ms - LOOK_MS + SIGHT_MS
        return [effect for name in self._cells.names() for effect in self._look(peer, name, now_ms)]

    def on_look(self, peer: PeerId, look: Look, now_ms: int) -> list[Effect]:
        """Say who is in a cell.

        Raises:
            RemoteError: there is no such cell.
        """
        if not self._hubs.is_name(look.cell):
            raise RemoteError("looked for a cell that does not exist")
        own = self._talk.herald.beat
        if own is None or not self._looks.take(peer, now_ms):
            return []
        inside = [e for other, e in self._directory.reachable(now_ms) if other != peer and e.is_in(look.cell)]
        hosts = [entry.beat for entry in inside if entry.record.agents]
        guests = [entry.beat for entry in inside if not entry.record.agents]
        chosen = self._rng.sample(hosts, min(SIGHT_MAX, len(hosts)))
        chosen += self._rng.sample(guests, min(SIGHT_MAX - len(chosen), len(guests)))
        followed = max(
            self._cells.names(), key=lambda name: (look.cell.startswith(name) or name.startswith(look.cell), name)
        )
        return [Send(peer, Sight(look.cell, followed, (own, *chosen)))]

    def on_sight(self, peer: PeerId, sight: Sight, now_ms: int) -> list[Effect]:
        """Take in who is in a cell that we asked about.

        Raises:
            RemoteError: something in it is malformed or badly signed.
        """
        if self._looked.pop((peer, sight.cell), None) is None:
            return []
        effects: list[Effect] = []
        if sight.cell in self._cells.names():
            alone = not self._directory.members and self._hubs.is_name(sight.followed)
            if alone and self._cells.deepen(sight.cell, sight.followed):
                self._regroup()
                effects += self._provide(now_ms)
            self._synced_ms = now_ms
        return [*effects, *self._hearsay.take(peer, sight.heartbeats, now_ms, asked=True)]

    def explore(self, prototype: int, query: str | None, now_ms: int) -> list[Effect]:
        """Look into the cell of a prototype, not too often: for `query`, which knows nobody good, or for later ones.

        A cell that we follow holds nobody whom we do not know; but agents of other cells may be strong there, too.
        """
        name = self._hubs.leaf(prototype)
        follows = self._cells.follows((name,))
        if (follows and query is None) or self._explored.get(name, -EXPLORE_MS) + EXPLORE_MS > now_ms:
            return []
        self._explored[name] = now_ms
        inside = [peer for peer, entry in self._directory.reachable(now_ms) if entry.is_in(name)]
        if query is not None or not inside:
            finds: list[Effect] = [Find(query or "", key(self._space, name))]
            if self._earlier is not None:
                before = hubs_of(self._earlier).leaf(self._space.in_earlier[prototype])
                finds.append(Find("", key(self._earlier, before)))
            return finds
        chosen = self._rng.sample(inside, min(LOOKED_AT, len(inside)))
        return [effect for peer in chosen for effect in self._look(peer, name, now_ms)]

    def on_providers(self, cell: str, peers: tuple[PeerId, ...], now_ms: int) -> list[Effect]:
        """Ask peers that the DHT named about their cell; once all were asked about one of ours, look for a larger."""
        others = [peer for peer in peers if peer != self._talk.herald.peer]
        if self._earlier is not None and cell.startswith(key(self._earlier, ROOT)):
            before = cell.removeprefix(key(self._earlier, ""))
            return [effect for peer in others[:LOOKED_AT] for effect in self._look(peer, before, now_ms)]
        name = cell.removeprefix(key(self._space, ""))
        if not self._hubs.is_name(name):
            return []
        if name in self._cells.names():
            asked = self._asked
            others = [
                peer
                for peer in others
                if peer not in self._directory.members and now_ms - asked.get(peer, -LOOK_MS) >= LOOK_MS
            ]
            if not others and now_ms - self._halved_ms >= WIDEN_MS:
                asked.clear()
                wider = self._cells.widen(name)
                self._regroup()
                return [*self._provide(now_ms), *(effect for cell in wider for effect in self._find(cell, now_ms))]
            asked.update(dict.fromkeys(others[:LOOKED_AT], now_ms))
            bound(asked, LOOKED_MAX)
        return [effect for peer in others[:LOOKED_AT] for effect in self._look(peer, name, now_ms)]

    def settle_in(self, now_ms: int) -> list[Effect]:
        """Follow cells of the right size, find them where we know hardly anybody, ask now and then what was missed."""
        effects: list[Effect] = []
        if self._sized != self._directory.changes:
            effects += self._fit(now_ms)
        for name in self._sparse:
            effects += self._find(name, now_ms)
        if self._provided_ms + PROVIDE_MS <= now_ms:
            effects += self._provide(now_ms)
        if self._synced_ms + LOOK_MS <= now_ms and self._directory.members:
            able = self._talk.able(now_ms) or list(self._directory.members)
            effects += self.look_around(self._rng.choice(able), now_ms)
        return effects

    def _fit(self, now_ms: int) -> list[Effect]:
        """Follow less where there are too many."""
        effects: list[Effect] = []
        if self._cells.halve(list(self._directory.members.values())):
            self._regroup()
            self._halved_ms = now_ms
            effects += self._provide(now_ms)
        self._sparse = self._cells.sparse(list(self._directory.members.values()))
        self._sized = self._directory.changes
        return effects

    def _regroup(self) -> None:
        """Other cells are followed now."""
        before = self._directory.members
        self._directory.regroup()
        for peer in before.keys() - self._directory.members.keys():
            self._talk.let_rest(peer)
        self._hearsay.reconsider()

    def _find(self, name: str, now_ms: int) -> list[Effect]:
        if self._found.get(name, -LOOK_AGAIN_MS) + LOOK_AGAIN_MS > now_ms:
            return []
        self._found[name] = now_ms
        return [Find("", key(self._space, name))]

    def _look(self, peer: PeerId, name: str, now_ms: int) -> list[Effect]:
        self._looked[peer, name] = now_ms
        bound(self._looked, LOOKED_MAX)
        return [Send(peer, Look(name))]

    def _provide(self, now_ms: int) -> list[Effect]:
        """Tell the DHT where we belong, and the cells of the prototypes at which one of our agents is strong.

        Peers that have only the earlier version of the space look for these in its tree.
        """
        self._provided_ms = now_ms
        if not self._agents:
            return []
        strong = _strong_at([agent.capability for agent in self._agents])
        keys = [key(self._space, name) for name in (*self._cells.known_as(), *(self._hubs.leaf(m) for m in strong))]
        if self._earlier is not None:
            leaf = hubs_of(self._earlier).leaf
            strong = _strong_at([agent.earlier for agent in self._agents])
            keys += [key(self._earlier, name) for name in map(leaf, strong)]
        return [Provide(tuple(dict.fromkeys(keys)))]


def _strong_at(capabilities: list[bytes]) -> list[int]:
    """The prototypes at which the best of these agents is strong, best first."""
    best = [max(skills) for skills in zip(*capabilities, strict=True)]
    return sorted((m for m, skill in enumerate(best) if skill >= STRONG), key=lambda m: (-best[m], m))[
        :STRONG_CELLS_MAX
    ]
