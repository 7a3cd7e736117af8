"""The same crowd on the same engines behind a central router, which decides at once and pays for nothing.

A turn takes the ways that a peer's takes, call, quote and award, so that what differs is who decides, and by what; a
router needs neither call nor quote, so it may be given one way as well. It sees every request and every answer of all
owners as they happen, wherever they are.
"""

import heapq
from collections.abc import Callable, Sequence

from p2pagent.market.receipts import metered
from p2pagent.peer.effects import Generate
from p2pagent.peer.events import Generated
from p2pagent.sim.affinity import RATES, Service, Site, access_ms
from p2pagent.sim.conversations import Turn
from p2pagent.sim.crowds import Crowd, prompt, topics
from p2pagent.sim.engine import Engine
from p2pagent.sim.routers import Router
from p2pagent.types import Sampling

WAYS = 3
"""Of the network, before a prompt is at its node: call, quote, award."""


class Routed:
    """One run of a crowd's turns on a site behind a router. `run` once."""

    def __init__(
        self,
        site: Site,
        crowd: Crowd,
        turns: Sequence[Turn],
        router: Router,
        seed: int,
        ways: int = WAYS,
    ) -> None:
        self._site = site
        self._ways = ways
        self._crowd = crowd
        self._turns = turns
        self._topics = topics(crowd)
        self._after = {(turn.conversation, turn.number - 1): turn for turn in turns}
        self._router = router
        self._access_ms = access_ms(seed, site.nodes + crowd.owners)
        model = site.engine(crowd.each.output_tokens)
        self._engines: list[Engine] = [model.open() for _ in range(site.nodes)]
        self._planned: list[int | None] = [None] * site.nodes
        self._heap: list[tuple[int, int, Callable[[int], None]]] = []
        self._count = 0
        self._open: dict[bytes, tuple[Turn, int]] = {}
        self._first_ms: dict[bytes, int] = {}
        self.served: list[Service] = []

    def run(self) -> list[Service]:
        """Let all be asked and answered."""
        for turn in self._turns:
            if turn.number == 0:
                self._ask(turn, round(self._site.pause_ms * turn.pause))
        while self._heap:
            at_ms, _, happen = heapq.heappop(self._heap)
            happen(at_ms)
        return self.served

    def _at(self, at_ms: int, happen: Callable[[int], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at_ms, self._count, happen))

    def _ask(self, turn: Turn, at_ms: int) -> None:
        self._at(at_ms, lambda now_ms: self._route(turn, now_ms))

    def _route(self, turn: Turn, now_ms: int) -> None:
        node = self._router.route(turn, now_ms / 1000)
        job = b"%d %d" % (turn.conversation, turn.number)
        self._open[job] = turn, now_ms
        self._at(now_ms + self._ways * self._way_ms(turn, node), lambda then_ms: self._start(job, node, then_ms))

    def _start(self, job: bytes, node: int, now_ms: int) -> None:
        turn, _ = self._open[job]
        said = prompt(self._crowd, self._topics[turn.conversation], turn.conversation, turn.number)
        generate = Generate(job, "", said, Sampling(max_tokens=turn.output_tokens), f"{turn.domain}", 1)
        self._engines[node].start(generate, now_ms)
        self._plan(node)

    def _plan(self, node: int) -> None:
        due_ms = self._engines[node].due_ms()
        if due_ms is not None and due_ms != self._planned[node]:
            self._at(due_ms, lambda now_ms: self._wake(node, now_ms))
        self._planned[node] = due_ms

    def _wake(self, node: int, now_ms: int) -> None:
        if self._planned[node] != now_ms:
            return
        self._planned[node] = None
        for output in self._engines[node].take(now_ms):
            turn, asked_ms = self._open[output.job]
            there_ms = now_ms + self._way_ms(turn, node)
            if isinstance(output, Generated):
                self._first_ms.setdefault(output.job, there_ms)
            else:
                del self._open[output.job]
                price = metered(RATES, output.usage)
                first_ms = self._first_ms.pop(output.job)
                cached = output.usage.cached_tokens
                service = Service(turn, node, asked_ms, first_ms, there_ms, cached, cached, price)
                self._at(there_ms, lambda _, service=service: self._end(service))  # type: ignore[misc]
        self._plan(node)

    def _end(self, service: Service) -> None:
        turn = service.turn
        self._router.answered(turn, service.node, service.ended_ms / 1000)
        self.served.append(service)
        following = self._after.get((turn.conversation, turn.number))
        if following is not None:
            self._ask(following, service.ended_ms + round(self._site.pause_ms * following.pause))

    def _way_ms(self, turn: Turn, node: int) -> int:
        return self._access_ms[node] + self._access_ms[self._site.nodes + turn.domain]
