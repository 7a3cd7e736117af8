"""Who takes part in a simulated network: devices with one agent each, all drawn from one seed, one by one.

An agent is good at one or two subjects and weak elsewhere; subjects are as common among agents as among questions.
Whether it answers a question right is drawn once per question and agent, so that all policies meet the same luck.
"""

from collections.abc import Callable
from hashlib import blake2b
from itertools import accumulate
from random import Random

import numpy as np
from msgspec import Struct

from p2pagent.config import Rates
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import RateCard
from p2pagent.routing.prototypes import Space, Vector
from p2pagent.sim.engine import BatchingModel
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN, TOKENISER

AGENT = "agent"
SUBJECTS = 24
"""As many as the shipped space has prototypes."""

DIMENSIONS = 32
ZIPF = 0.8
GOOD, WEAK = (0.80, 0.95), (0.30, 0.55)
TWO_SUBJECTS_SHARE = 0.5
CALIBRATION_QUESTIONS = 100
"""Per subject, what an agent was measured on before it joined; the noise of that is in what it claims."""

SLOTS, SLOTS_WEIGHTS = (1, 2, 4), (0.5, 0.3, 0.2)
PREFILL_TOKENS_PER_S = 2_000.0
STEP_MS, STEP_MS_PER_ANSWER = 12.0, 1.0
SPEED_SPREAD = 0.35
"""Standard deviation of the logarithm of an engine's speed, and of its rates."""

CACHE_TOKENS_PER_SLOT = 16_384
ACCESS_MS = 8, 25
"""One way between a device and the middle of the network."""

CONTEXT_TOKENS = 8_192


class SubjectEmbedder:
    """Looks a question's subject up in a table; as an embedder it costs nothing and is never wrong."""

    name = "simulated-24-32/1"

    def __init__(self) -> None:
        self.vectors: Vector = np.random.default_rng(20260518).standard_normal((SUBJECTS, DIMENSIONS)).astype("float32")

    def embed(self, texts: list[str]) -> Vector:
        """The rows of the subjects that the texts begin with, shape (len(texts), DIMENSIONS), not yet units."""
        return self.vectors[[subject_of(text) for text in texts]]


class Question(Struct, frozen=True):
    """What is asked: of which subject, how long question and answer are."""

    name: str
    subject: int
    prompt_tokens: int
    output_tokens: int

    @property
    def text(self) -> str:
        """The prompt. It tells a simulated engine all that it needs."""
        head = f"{self.subject:02} {self.name} {self.output_tokens} "
        return head.ljust(CHARACTERS_PER_TOKEN * self.prompt_tokens, "?")

    @property
    def answer(self) -> str:
        """The right answer, but for full stops after it."""
        return f"{self.name} it is"


class Agent(Struct, frozen=True):
    """One device and its agent: per subject the chance to be right (`skills`), and that as measured (`claims`)."""

    index: int
    keys: SimKeys
    skills: tuple[float, ...]
    claims: tuple[float, ...]
    slots: int
    speed: float
    rates: RateCard
    access_ms: int

    @property
    def advert(self) -> AgentAdvert:
        """How it presents itself."""
        capability = bytes(round(255 * claim) for claim in self.claims)
        cache_tokens = CACHE_TOKENS_PER_SLOT * self.slots
        sizes = CONTEXT_TOKENS, self.slots
        return AgentAdvert(
            AGENT, "simulated", capability, self.rates, *sizes, cache_tokens=cache_tokens, tokeniser=TOKENISER
        )


class Population:
    """Everybody who may ever take part, by number; `space` is shared by all of them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        embedder = SubjectEmbedder()
        self.space = Space(embedder, embedder.vectors)
        self.weights = [(rank + 1) ** -ZIPF for rank in range(SUBJECTS)]
        self._cumulative = list(accumulate(self.weights))

    def draw(self, index: int) -> Agent:
        """Device number `index`."""
        rng = Random(f"agent {self._seed} {index}")
        good = {self.draw_subject(rng)}
        if rng.random() < TWO_SUBJECTS_SHARE:
            good.add(self.draw_subject(rng))
        skills = tuple(rng.uniform(*(GOOD if subject in good else WEAK)) for subject in range(SUBJECTS))
        dear = rng.lognormvariate(0, SPEED_SPREAD)
        card = Rates()
        return Agent(
            index=index,
            keys=SimKeys(index),
            skills=skills,
            claims=tuple(_measured(skill, rng) for skill in skills),
            slots=rng.choices(SLOTS, SLOTS_WEIGHTS)[0],
            speed=rng.lognormvariate(0, SPEED_SPREAD),
            rates=RateCard(round(card.prompt * dear), round(card.cached * dear), round(card.output * dear)),
            access_ms=rng.randint(*ACCESS_MS),
        )

    def draw_subject(self, rng: Random) -> int:
        """A subject, as often as it is asked for."""
        return rng.choices(range(SUBJECTS), cum_weights=self._cumulative)[0]

    def right(self, question: str, subject: int, agent: Agent) -> bool:
        """Whether `agent` answers this question right."""
        drawn = blake2b(f"{self._seed} {question} {agent.index}".encode(), digest_size=8).digest()
        return int.from_bytes(drawn, "big") / 2**64 < agent.skills[subject]

    def model(self, agent: Agent) -> BatchingModel:
        """The engine of `agent`."""
        return BatchingModel(
            answer=self._answering(agent),
            slots=agent.slots,
            prefill_tokens_per_s=PREFILL_TOKENS_PER_S * agent.speed,
            step_ms=STEP_MS / agent.speed,
            step_ms_per_answer=STEP_MS_PER_ANSWER / agent.speed,
            cache_tokens=CACHE_TOKENS_PER_SLOT * agent.slots,
        )

    def service_s(self, agent: Agent, prompt_tokens: float, output_tokens: float) -> float:
        """How long one answer takes while all slots of `agent` are busy."""
        step_ms = STEP_MS + STEP_MS_PER_ANSWER * agent.slots
        return (prompt_tokens / PREFILL_TOKENS_PER_S + output_tokens * step_ms / 1000) / agent.speed

    def alone_s(self, agent: Agent, question: Question, asker: Agent) -> float:
        """How long `asker` waits for an answer of `agent`, a call and its quote before it, if nobody else is there."""
        step_s = (STEP_MS + STEP_MS_PER_ANSWER) / 1000
        work_s = (question.prompt_tokens / PREFILL_TOKENS_PER_S + question.output_tokens * step_s) / agent.speed
        return work_s if agent is asker else work_s + 4 * (asker.access_ms + agent.access_ms) / 1000

    def _answering(self, agent: Agent) -> Callable[[str], str]:
        def answer(prompt: str) -> str:
            subject, name, tokens = prompt.rstrip("?").split(" ")[:3]
            question = Question(name, int(subject), 0, int(tokens))
            text = question.answer if self.right(name, question.subject, agent) else f"{name} who knows"
            return text.ljust(CHARACTERS_PER_TOKEN * question.output_tokens, ".")

        return answer


def subject_of(prompt: str) -> int:
    """The subject of a question's text."""
    return int(prompt[:2])


def _measured(skill: float, rng: Random) -> float:
    """The share of `CALIBRATION_QUESTIONS` that is right, drawn by the normal approximation to the binomial."""
    return min(1.0, max(0.0, rng.gauss(skill, (skill * (1 - skill) / CALIBRATION_QUESTIONS) ** 0.5)))
