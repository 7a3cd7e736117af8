"""Traces: who asks what, when, and who would be right; drawn once from one seed, the same for every policy.

Every peer asks and has one agent. An agent is good at one or two subjects and weak elsewhere. Askers' rates follow
Zipf's law, subjects are asked for in proportion to the skilled capacity that there is for them, and a question is one
turn of a conversation whose earlier turns are the prefix of its prompt. Whether an agent answers a question right is
drawn once per question and agent, so that all policies meet the same luck; part of a question's difficulty is common to
all agents (a Gaussian copula), so that voting cannot average all of it away.
"""

from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.special import ndtri

Arrivals = Literal["poisson", "bursty"]

CANDIDATES = 8
"""Strangers that the scorer offers per question, beside the asker's own agent."""

MARGIN = 0.25
"""Who is expected to be this much worse than the best stranger is no candidate: nobody asks a poet for a proof."""

SUBJECTS = 3, 8
PEERS_PER_SUBJECT = 6
DIMENSIONS = 16
EMBEDDING_NOISE = 0.15
GOOD = (0.74, 0.86)
WEAK = (0.40, 0.58)
TWO_SUBJECTS_SHARE = 0.5
COMMON_DIFFICULTY = 0.5
"""Share of the variance of a question's difficulty that all agents have in common."""

CALIBRATION_QUESTIONS = 100
"""Per subject, what every agent was measured on before it joined; the noise of that is all that scores know."""

SHRINKAGE = 10.0
ZIPF = 0.8
SLOTS = (1, 2, 4)
SLOTS_SHARE = (0.5, 0.3, 0.2)
PREFILL_TOKENS_PER_S = 2_000.0
DECODE_TOKENS_PER_S = 60.0
SPEED_SPREAD = 0.35
CACHE_TOKENS_PER_SLOT = 16_384
ACCESS_S = (0.010, 0.025)
"""One way between a device and the middle of the network; a round trip between two devices crosses four of them."""

TURN_TOKENS = (150.0, 0.8)
OUTPUT_TOKENS = (100.0, 0.7)
"""Mean, and standard deviation of the logarithm."""

CONTINUES = 0.75
PROMPT_TOKENS_MAX = 8_192
BURST_RATE, CALM_RATE = 1.8, 0.6
BURST_S, CALM_S = 5.0, 10.0
"""The two states of the bursty arrivals: rates over the mean rate, and mean stays; the mean over both is one."""


class Agent(Struct, frozen=True):
    """One peer's agent: `slots` answers at a time, each at constant speed; `access_s` is its device's way in or out."""

    slots: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    cache_tokens: int
    access_s: float

    def service_s(self, prompt_tokens: float, cached_tokens: float, output_tokens: float) -> float:
        """Seconds that a slot is busy with one answer."""
        prefill_s = (prompt_tokens - cached_tokens) / self.prefill_tokens_per_s
        return prefill_s + output_tokens / self.decode_tokens_per_s


class Calibration(Struct, frozen=True):
    """What agents were measured on: embeddings (c, d), the subject of each (c,), who was right (c, n)."""

    embeddings: NDArray[np.float64]
    subjects: NDArray[np.int64]
    right: NDArray[np.bool_]


class Population(Struct, frozen=True):
    """All agents: their true skill (n, subjects), the estimate of it that everybody has, subjects' centres."""

    agents: tuple[Agent, ...]
    skill: NDArray[np.float64]
    quality: NDArray[np.float64]
    good: NDArray[np.bool_]
    centres: NDArray[np.float64]
    calibration: Calibration


class Query(Struct, frozen=True):
    """One question: its candidates, the asker's own agent first, with the quality expected of each and who is right."""

    index: int
    at_s: float
    asker: int
    conversation: int
    subject: int
    candidates: tuple[int, ...]
    quality: tuple[float, ...]
    right: tuple[bool, ...]
    prompt_tokens: int
    output_tokens: int


class Trace(Struct, frozen=True):
    """All questions in order of time, with the embedding of each conversation (conversations, d).

    `busy_s` says for how long some slots of each agent are busy at the start, so that a run need not fill up first.
    """

    population: Population
    busy_s: tuple[tuple[float, ...], ...]
    queries: tuple[Query, ...]
    embeddings: NDArray[np.float64]
    load: float

    @property
    def end_s(self) -> float:
        """When the last question is asked."""
        return self.queries[-1].at_s


def draw_population(peers: int, rng: np.random.Generator) -> Population:
    """`peers` devices with one agent each."""
    subjects = min(max(peers // PEERS_PER_SUBJECT, SUBJECTS[0]), SUBJECTS[1])
    speed = np.exp(SPEED_SPREAD * rng.standard_normal(peers))
    slots = rng.choice(SLOTS, peers, p=SLOTS_SHARE)
    access = rng.uniform(*ACCESS_S, peers)
    agents = tuple(
        Agent(
            int(c), float(PREFILL_TOKENS_PER_S * v), float(DECODE_TOKENS_PER_S * v), int(CACHE_TOKENS_PER_SLOT * c), a
        )
        for c, v, a in zip(slots, speed, access.tolist(), strict=True)
    )
    good = np.zeros((peers, subjects), dtype=bool)
    first = rng.permutation(peers) % subjects
    good[np.arange(peers), first] = True
    second = (first + rng.integers(1, subjects, peers)) % subjects
    both = rng.random(peers) < TWO_SUBJECTS_SHARE
    good[np.flatnonzero(both), second[both]] = True
    skill = np.where(good, rng.uniform(*GOOD, good.shape), rng.uniform(*WEAK, good.shape))
    centres = np.linalg.qr(rng.standard_normal((DIMENSIONS, DIMENSIONS)))[0][:subjects]
    of = np.repeat(np.arange(subjects), CALIBRATION_QUESTIONS)
    calibration = Calibration(embedded(centres[of], rng), of, _right(skill.T[of], rng))
    hits = calibration.right.reshape(subjects, CALIBRATION_QUESTIONS, peers).sum(axis=1).T
    pooled = hits.mean(axis=1, keepdims=True) / CALIBRATION_QUESTIONS
    quality = (hits + SHRINKAGE * pooled) / (CALIBRATION_QUESTIONS + SHRINKAGE)
    return Population(agents, skill, quality, good, centres, calibration)


def draw_trace(
    population: Population, count: int, load: float, rng: np.random.Generator, arrivals: Arrivals = "poisson"
) -> Trace:
    """`count` questions that offer `load` of what all slots could serve if nothing were cached."""
    peers = len(population.agents)
    shares = np.arange(1, peers + 1) ** -ZIPF
    askers = rng.choice(rng.permutation(peers), count, p=shares / shares.sum())
    output_tokens = _tokens(OUTPUT_TOKENS, count, rng)
    conversations, prompt_tokens = _conversations(askers, output_tokens, rng)
    tokens = float(prompt_tokens.mean()), 0.0, float(output_tokens.mean())
    capacity = np.array([agent.slots / agent.service_s(*tokens) for agent in population.agents])
    at_s = _times(count, load * float(capacity.sum()), rng, arrivals)

    # Each agent's capacity is shared out among its subjects, so that no subject is asked for more than it can bear.
    skilled = ((capacity / population.good.sum(axis=1))[:, None] * population.good).sum(axis=0)
    _, first = np.unique(conversations, return_index=True)
    topics = rng.choice(len(skilled), len(first), p=skilled / skilled.sum())
    embeddings = embedded(population.centres[topics], rng)
    seen = np.argmax(embeddings @ population.centres.T, axis=1)
    offers = [_candidates(population.quality[:, s], int(a), rng) for s, a in zip(seen, askers[first], strict=True)]
    qualities = [tuple(population.quality[list(o), s].tolist()) for o, s in zip(offers, seen, strict=True)]
    padded = np.array([offer + (offer[0],) * (CANDIDATES + 1 - len(offer)) for offer in offers])
    right = _right(population.skill[padded[conversations], topics[conversations][:, None]], rng)

    columns = at_s, askers, conversations, topics[conversations], prompt_tokens, output_tokens, right
    queries = tuple(
        Query(i, at, asker, c, topic, offers[c], qualities[c], tuple(known[: len(offers[c])]), prompt, output)
        for i, (at, asker, c, topic, prompt, output, known) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    )
    return Trace(population, _busy(population, capacity, load, rng), queries, embeddings, load)


def embedded(centres: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Unit vectors near `centres`, shape (..., d)."""
    drawn = centres + EMBEDDING_NOISE * rng.standard_normal(centres.shape)
    unit: NDArray[np.float64] = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    return unit


def _candidates(quality: NDArray[np.float64], asker: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The asker, and strangers among those near the best; where there are more, chance decides.

    All askers see the same scores, so that without chance eight agents of a thousand would be everybody's candidates.
    """
    strangers = np.delete(np.arange(len(quality)), asker)
    near = strangers[quality[strangers] >= quality[strangers].max() - MARGIN]
    return asker, *rng.permutation(near)[:CANDIDATES].tolist()


def _conversations(
    askers: NDArray[np.int64], output_tokens: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per question its conversation, numbered in order of their first turns, and its prompt with all earlier turns."""
    turn_tokens = _tokens(TURN_TOKENS, len(askers), rng)
    continues = rng.random(len(askers)) < CONTINUES
    open_at: dict[int, tuple[int, int]] = {}
    conversations, prompts, opened = [], [], 0
    rows = zip(askers.tolist(), turn_tokens.tolist(), output_tokens.tolist(), continues.tolist(), strict=True)
    for asker, turn, output, goes_on in rows:
        conversation, history = open_at.get(asker, (-1, PROMPT_TOKENS_MAX))
        if not goes_on or history + turn > PROMPT_TOKENS_MAX:
            conversation, history, opened = opened, 0, opened + 1
        open_at[asker] = conversation, history + turn + output
        conversations.append(conversation)
        prompts.append(history + turn)
    return np.array(conversations), np.array(prompts)


def _busy(
    population: Population, capacity: NDArray[np.float64], load: float, rng: np.random.Generator
) -> tuple[tuple[float, ...], ...]:
    """Each slot busy with chance `load`, for what an exponential service has left."""
    slots = [agent.slots for agent in population.agents]
    usual_s = slots / capacity
    count = rng.binomial(slots, min(load, 1.0))
    return tuple(tuple(rng.exponential(mean, busy).tolist()) for mean, busy in zip(usual_s, count, strict=True))


def _tokens(shape: tuple[float, float], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Lognormal lengths of the given mean."""
    mean, spread = shape
    drawn = mean * np.exp(spread * rng.standard_normal(count) - spread**2 / 2)
    return np.clip(np.rint(drawn), 4, 8 * mean).astype(np.int64)


def _times(count: int, rate_per_s: float, rng: np.random.Generator, arrivals: Arrivals) -> NDArray[np.float64]:
    """Times of a Poisson process, or of a Markov-modulated one of two states, at the given mean rate."""
    unit = np.cumsum(rng.exponential(1 / rate_per_s, count))
    if arrivals == "poisson":
        return unit
    # A process of changing rate is one of constant rate on a clock that runs as fast as the rate is high.
    stays = int(unit[-1] / min(BURST_S, CALM_S)) + 2
    pairs = rng.exponential((CALM_S, BURST_S), (stays, 2)).ravel()
    speeds = np.tile((CALM_RATE, BURST_RATE), stays)
    wall, clock = (np.concatenate([[0.0], np.cumsum(steps)]) for steps in (pairs, pairs * speeds))
    burst: NDArray[np.float64] = np.interp(unit, clock, wall)
    return burst


def _right(skill: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Who is right, with probability `skill` (questions, agents), where a question is as hard for all in part."""
    common = np.sqrt(COMMON_DIFFICULTY) * rng.standard_normal((len(skill), 1))
    own = np.sqrt(1 - COMMON_DIFFICULTY) * rng.standard_normal(skill.shape)
    right: NDArray[np.bool_] = common + own < ndtri(skill)
    return right
