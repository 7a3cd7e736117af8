"""The affinity bench's trace on simulated nodes: what each router could reach, before engines are given an hour.

Nodes batch continuously as vLLM does: a step computes a token of every answer under way and as much of the prompts as
the step's budget allows, and its time is a constant, a term per sequence, and the prefill; prompts are admitted first
come first served while there are slots and blocks. Several nodes share few cores, as on the machine of the bench. The
run is a closed loop: a conversation's next turn is asked a pause after the answer.

    python -m scripts.benches.affinity_trace
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from math import exp
from random import Random

import numpy as np
from msgspec import Struct

from p2pagent.sim.blocks import BlockCache, Lease
from p2pagent.sim.conversations import Shape, Turn, ceiling, draw
from p2pagent.sim.routers import Router, Speed
from scripts.benches.affinity_routers import LOAD_ONLY, ROUTERS, Nodes

RATES = 10, 1, 40
"""Microcredits per token: computed, cached, of the answer."""

DELAY_MICROCREDITS_PER_S = 20_000
"""The default of `config.Preferences`."""

PAUSE_MISSES = 5.0
"""Mean pause of a conversation, in times that a whole prompt of mean length takes on a busy machine: what makes the
load."""

SEEDS = 8
CHARACTERS_PER_TOKEN = 1.0
"""The tokenizer is byte-level, and texts are ASCII."""


class Service(Struct, frozen=True):
    """Nodes, and what their steps cost in seconds of one core.

    Attributes:
        blocks: that a node's cache can use.
        budget_tokens: at most so many are computed in a step.
        attention_s: per token computed and token before it: the part of prefill that is quadratic in a prompt.
        wire_s: until the prompt is at the node: call and award, signed.
    """

    nodes: int = 3
    cores: float = 2.0
    slots: int = 4
    blocks: int = 300
    block_tokens: int = 32
    budget_tokens: int = 2_048
    step_s: float = 0.012
    sequence_s: float = 0.001
    prefill_s: float = 0.00025
    attention_s: float = 0.00000015
    wire_s: float = 0.03

    @property
    def seen(self) -> Nodes:
        """As rules are told of them, the cost of prefill fitted at a thousand tokens."""
        speed = Speed(self.prefill(0, 1_000) / 1_000, self.decode(1), self.blocks, self.block_tokens)
        return Nodes(self.nodes, self.slots, speed, CHARACTERS_PER_TOKEN)

    def prefill(self, before: int, tokens: int) -> float:
        """Seconds for so many tokens after so many."""
        return self.prefill_s * tokens + self.attention_s * tokens * (before + tokens / 2)

    def decode(self, tokens: int) -> float:
        """Seconds for so many tokens of an answer, in steps that it shares with all slots."""
        return tokens * (self.step_s / self.slots + self.sequence_s)


class Answer(Struct):
    """One turn on its way. Times are in seconds from the start of the run."""

    turn: Turn
    node: int
    asked_s: float
    lease: Lease | None = None
    computed_tokens: int = 0
    decoded_tokens: int = 0
    first_s: float = 0.0
    ended_s: float = 0.0

    @property
    def missing_tokens(self) -> int:
        """Of the prompt."""
        return self.turn.prompt_tokens - self.computed_tokens


class Node:
    """One engine. `left_s` is what its step under way still takes of a core; None while there is nothing to do."""

    def __init__(self, service: Service) -> None:
        self.cache = BlockCache(service.blocks, service.block_tokens)
        self.waiting: deque[Answer] = deque()
        self.running: list[Answer] = []
        self.left_s: float | None = None
        self._service = service
        self._tokens: list[tuple[Answer, int]] = []

    def begin(self) -> None:
        """Begin a step: those at work first, then who waits, while slots, blocks and the budget last."""
        budget = self._service.budget_tokens
        self._tokens = []
        for answer in self.running:
            budget -= self._schedule(answer, budget)
        while self.waiting and len(self.running) < self._service.slots and budget:
            turn = self.waiting[0].turn
            lease = self.cache.admit(turn.domain, turn.chain, turn.prompt_tokens, turn.output_tokens)
            if lease is None:
                break
            answer = self.waiting.popleft()
            answer.lease, answer.computed_tokens = lease, lease.cached_tokens
            self.running.append(answer)
            budget -= self._schedule(answer, budget)
        prefill_s = sum(self._service.prefill(a.computed_tokens, n) for a, n in self._tokens if a.missing_tokens)
        overhead_s = self._service.step_s + self._service.sequence_s * len(self.running)
        self.left_s = overhead_s + prefill_s if self.running else None

    def _schedule(self, answer: Answer, budget: int) -> int:
        tokens = min(answer.missing_tokens or 1, budget)
        self._tokens.append((answer, tokens))
        return tokens

    def end(self, now_s: float) -> list[Answer]:
        """End the step; the answers that have ended with it."""
        ended = []
        for answer, tokens in self._tokens:
            answer.computed_tokens += min(tokens, answer.missing_tokens)
            if answer.missing_tokens:
                continue
            answer.decoded_tokens += 1
            if answer.decoded_tokens == 1:
                answer.first_s = now_s
            if answer.decoded_tokens == answer.turn.output_tokens:
                assert answer.lease is not None
                self.cache.release(answer.lease)
                self.running.remove(answer)
                answer.ended_s = now_s
                ended.append(answer)
        self.left_s = None
        return ended

    def cached_tokens(self, turn: Turn) -> int:
        """What it holds of a prompt."""
        return self.cache.cached_tokens(turn.domain, turn.chain, turn.prompt_tokens)

    def first_s(self, turn: Turn) -> float:
        """In how many seconds of a core the first token of an answer would come if it were here now."""
        service = self._service
        cached = [(self.cached_tokens(one), one) for one in (*(a.turn for a in self.waiting), turn)]
        prefill_s = sum(service.prefill(held, one.prompt_tokens - held) for held, one in cached)
        ahead = [*self.running, *self.waiting]
        ends_s = sorted(service.decode(a.turn.output_tokens - a.decoded_tokens) * service.slots for a in ahead)
        slot_s = ends_s[len(ahead) - service.slots] if len(ahead) >= service.slots else 0.0
        return (self.left_s or 0.0) + slot_s + prefill_s + service.step_s


MakeRouter = Callable[[Service, Sequence[Node], Random], Router]


class Knowing(Router):
    """A router that looks into the nodes: no baseline, but what can be had by knowing all."""

    def __init__(self, service: Service, engines: Sequence[Node], rng: Random) -> None:
        super().__init__(len(engines), rng)
        self.service = service
        self.engines = engines


class Selfish(Knowing):
    """The least price and delay, each at its true value: a market that asks nobody what it does to others."""

    def choose(self, turn: Turn, now_s: float) -> int:
        return self.least([self.microcredits(turn, node, now_s) for node in self.nodes])

    def microcredits(self, turn: Turn, node: int, now_s: float) -> float:  # noqa: ARG002
        engine = self.engines[node]
        return price(turn, engine.cached_tokens(turn)) + DELAY_MICROCREDITS_PER_S * engine.first_s(turn)


class Market(Selfish):
    """Price, delay, and what it does to others: tokens evicted, those here delayed, and those that will come.

    Of who will come it knows the node's work of late, as a share u of the time: their loss grows as work x u / (1 - u),
    as in a queue whose load is u.
    """

    recent_s = 30.0
    """In which what was sent is forgotten."""

    coming = 6.0
    """Weight of those to come: the best of few that were tried on these traces."""

    def __init__(self, service: Service, engines: Sequence[Node], rng: Random) -> None:
        super().__init__(service, engines, rng)
        self._sent = [(0.0, 0.0)] * len(engines)

    def microcredits(self, turn: Turn, node: int, now_s: float) -> float:
        engine = self.engines[node]
        tokens = len(engine.cache.victims(turn.domain, turn.chain, turn.prompt_tokens)) * self.service.block_tokens
        busy = min(0.9, self._recent_s(node, now_s) / self.recent_s)
        others = len(engine.running) + len(engine.waiting) + self.coming * busy / (1 - busy)
        toll = DELAY_MICROCREDITS_PER_S * self._work_s(turn, node) * others
        return super().microcredits(turn, node, now_s) + (RATES[0] - RATES[1]) * tokens + toll

    def sent(self, turn: Turn, node: int, now_s: float) -> None:
        self._sent[node] = self._recent_s(node, now_s) + self._work_s(turn, node), now_s

    def _recent_s(self, node: int, now_s: float) -> float:
        work_s, at_s = self._sent[node]
        return work_s * exp((at_s - now_s) / self.recent_s)

    def _work_s(self, turn: Turn, node: int) -> float:
        held = self.engines[node].cached_tokens(turn)
        return self.service.prefill(held, turn.prompt_tokens - held) + self.service.decode(turn.output_tokens)


def price(turn: Turn, cached_tokens: int) -> int:
    """Microcredits, by metered tokens."""
    computed, cached, output = RATES
    return computed * (turn.prompt_tokens - cached_tokens) + cached * cached_tokens + output * turn.output_tokens


KNOWING: dict[str, MakeRouter] = {"knows all: price and delay": Selfish, "knows all: and the others' loss": Market}


def baseline(name: str) -> MakeRouter:
    """The rule of this name, which is told nothing of what the nodes hold."""
    return lambda service, _, rng: ROUTERS[name](service.seen, rng)


class Served(Struct, frozen=True):
    """A run: its answers as they ended, the share of the cores' time that was used, and how long it took."""

    answers: list[Answer]
    load: float
    lasted_s: float

    def figures(self) -> dict[str, float]:
        """Means over the answers, and 95th percentiles."""
        cached = [answer.lease.cached_tokens for answer in self.answers if answer.lease]
        first_s = np.array([answer.first_s - answer.asked_s for answer in self.answers])
        end_s = np.array([answer.ended_s - answer.asked_s for answer in self.answers])
        return {
            "hit": sum(cached) / sum(answer.turn.prompt_tokens for answer in self.answers),
            "ttft_ms": 1_000 * float(first_s.mean()),
            "ttft_p95_ms": 1_000 * float(np.percentile(first_s, 95)),
            "end_ms": 1_000 * float(end_s.mean()),
            "end_p95_ms": 1_000 * float(np.percentile(end_s, 95)),
            "price": float(np.mean([price(a.turn, held) for a, held in zip(self.answers, cached, strict=True)])),
            "load": self.load,
            "lasted_s": self.lasted_s,
        }


def serve(turns: Sequence[Turn], service: Service, pause_s: float, make: MakeRouter, seed: int) -> Served:
    """One router on one trace; `pause_s` is the mean pause."""
    nodes = [Node(service) for _ in range(service.nodes)]
    router = make(service, nodes, Random(seed))
    after = {(turn.conversation, turn.number - 1): turn for turn in turns}
    due = [(pause_s * turn.pause, turn.conversation, turn) for turn in turns if turn.number == 0]
    heapq.heapify(due)
    coming: deque[tuple[float, Answer]] = deque()
    answers: list[Answer] = []
    now_s = used_s = 0.0
    while len(answers) < len(turns):
        busy = [node for node in nodes if node.left_s is not None]
        rate = min(1.0, service.cores / max(1, len(busy)))
        moments = [now_s + (node.left_s or 0.0) / rate for node in busy]
        then_s = min([*moments, *(at_s for at_s, *_ in due[:1]), *(at_s for at_s, _ in list(coming)[:1])])
        for node in busy:
            node.left_s = (node.left_s or 0.0) - (then_s - now_s) * rate
        used_s += (then_s - now_s) * rate * len(busy)
        now_s = then_s
        while due and due[0][0] <= now_s:
            turn = heapq.heappop(due)[-1]
            coming.append((now_s + service.wire_s, Answer(turn, router.route(turn, now_s), now_s)))
        while coming and coming[0][0] <= now_s:
            answer = coming.popleft()[1]
            nodes[answer.node].waiting.append(answer)
        for node, at_s in zip(busy, moments, strict=True):
            for answer in node.end(now_s) if at_s <= now_s else ():
                answers.append(answer)
                router.answered(answer.turn, answer.node, now_s)
                following = after.get((answer.turn.conversation, answer.turn.number))
                if following:
                    heapq.heappush(due, (now_s + pause_s * following.pause, following.conversation, following))
        for node in nodes:
            if node.left_s is None:
                node.begin()
    return Served(answers, used_s / (service.cores * now_s), now_s)


def table(shape: Shape, service: Service, seeds: Sequence[int], routers: dict[str, MakeRouter]) -> list[str]:
    """A row per router, means over the traces of `seeds`, with prices over the load-only ones' and the worst TTFT."""
    traces = [(seed, draw(shape, service.block_tokens, Random(seed))) for seed in seeds]
    reach = float(np.mean([ceiling(turns, service.block_tokens) for _, turns in traces]))
    blocks = np.mean([len({(turn.domain, name) for turn in turns for name in turn.chain}) for _, turns in traces])
    rows: dict[str, dict[str, float]] = {}
    for name, make in routers.items():
        runs = [serve(turns, service, pause_s(turns, service), make, seed).figures() for seed, turns in traces]
        rows[name] = {figure: float(np.mean([run[figure] for run in runs])) for figure in runs[0]}
    load_only = float(np.mean([rows[name]["price"] for name in LOAD_ONLY]))
    worst_ms = max(rows[name]["ttft_ms"] for name in ROUTERS if name in rows)
    head = "hit  of c.  TTFT   p95   end   p95 ms  worst/   cost    vs l.o. load lasts"
    return [
        f"ceiling {reach:.3f}; working set {blocks:.0f} blocks, {service.blocks} per node; {len(traces)} traces",
        f"at .95 of the ceiling {spent(shape, 0.95 * reach):.0f}: {spent(shape, 0.95 * reach) / load_only - 1:+.1%}",
        f"{'':32} {head:>5}",
        *(line(name, row, reach, load_only, worst_ms) for name, row in rows.items()),
    ]


def line(name: str, row: dict[str, float], reach: float, load_only: float, worst_ms: float) -> str:
    """One row of the table."""
    times = " ".join(f"{row[figure]:5.0f}" for figure in ("ttft_ms", "ttft_p95_ms", "end_ms", "end_p95_ms"))
    return (
        f"{name:32} {row['hit']:.3f} {row['hit'] / reach:.3f} {times}     {worst_ms / row['ttft_ms']:5.2f} "
        f"{row['price']:6.0f}  {row['price'] / load_only - 1:+7.1%} {row['load']:5.2f} {row['lasted_s']:4.0f} s"
    )


def pause_s(turns: Sequence[Turn], service: Service) -> float:
    """The mean pause of the bench: a miss is timed while all nodes are at work."""
    shared = max(1.0, service.nodes / service.cores)
    return PAUSE_MISSES * shared * service.prefill(0, sum(turn.prompt_tokens for turn in turns) // len(turns))


def spent(shape: Shape, hit: float) -> float:
    """The mean price of an answer at a hit rate."""
    computed, cached, output = RATES
    prompt_tokens = shape.document_tokens + shape.first_tokens + (shape.turns - 1) / 2 * shape.turn_tokens
    return prompt_tokens * (computed * (1 - hit) + cached * hit) + output * shape.output_tokens


if __name__ == "__main__":
    print("\n".join(table(Shape(), Service(), range(SEEDS), {**{name: baseline(name) for name in ROUTERS}, **KNOWING})))
