"""Small traces by hand, and a view that says what a test wants a policy to see."""

import numpy as np

from p2pagent.routing.beliefs import Snapshot
from p2pagent.sim.policy import Quote
from p2pagent.sim.traces import Agent, Calibration, Population, Query, Trace, draw_population, draw_trace

AGENT = Agent(slots=1, prefill_tokens_per_s=100.0, decode_tokens_per_s=10.0, cache_tokens=1_000, access_s=0.01)


def query(index: int = 0, at_s: float = 0.0, **fields: object) -> Query:
    """A question of asker 0 to three candidates, of a hundred tokens and ten of answer: 2 s of service."""
    usual: dict[str, object] = {
        "asker": 0,
        "conversation": index,
        "subject": 0,
        "candidates": (0, 1, 2),
        "quality": (0.5, 0.8, 0.7),
        "right": (False, True, True),
        "prompt_tokens": 100,
        "output_tokens": 10,
    }
    return Query(index=index, at_s=at_s, **(usual | fields))  # type: ignore[arg-type]


def trace(
    *queries: Query, agents: tuple[Agent, ...] = (AGENT,) * 3, busy_s: tuple[tuple[float, ...], ...] = ()
) -> Trace:
    """A trace of these questions; two subjects, near the axes of the plane; agent 1 knows the first, 2 the other."""
    count = len(agents)
    angles = np.random.default_rng(0).normal(0, 0.1, 120)
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    embeddings[60:] = embeddings[60:, ::-1]
    right = np.zeros((120, count), dtype=bool)
    right[:60, 1] = True
    right[60:, 2 % count] = True
    skill = np.full((count, 2), 0.5)
    population = Population(
        agents, skill, skill, skill > 0, np.eye(2), Calibration(embeddings, np.repeat([0, 1], 60), right)
    )
    conversations = 1 + max(q.conversation for q in queries)
    subjects = np.zeros(conversations, dtype=np.int64)
    for q in queries:
        subjects[q.conversation] = q.subject
    return Trace(population, busy_s or ((),) * count, queries, np.eye(2)[subjects], 0.5)


def drawn(seed: int, peers: int, queries: int, load: float) -> Trace:
    """A trace as the bench draws it."""
    rng = np.random.default_rng(seed)
    return draw_trace(draw_population(peers, rng), queries, load, rng)


def snapshot(at_ms: int = 0, running: int = 0, waiting: int = 0, slots: int = 1) -> Snapshot:
    return Snapshot(at_ms, running, waiting, slots, 0, 0, 0)


class Scene:
    """A view of nothing but what is put into it."""

    def __init__(self, seen: dict[int, Snapshot] | None = None, own: Quote | None = None) -> None:
        self.snapshots = seen or {}
        self.quote = own or quoted(0)

    def seen(self, agent: int, now_s: float) -> Snapshot | None:
        return self.snapshots.get(agent)

    def own(self, query: Query, now_s: float) -> Quote:
        return self.quote

    def round_trip_s(self, one: int, other: int) -> float:
        return 0.0 if one == other else 0.04


def quoted(agent: int, wait_s: float = 0.0, service_s: float = 2.0, at_s: float = 0.0) -> Quote:
    return Quote(agent, at_s, 1, int(wait_s <= 0), int(wait_s > 0), wait_s, service_s)
