"""A small network that both drivers can run: six subjects, each peer skilled in one, answers that name the peer."""

from functools import partial
from random import Random

import numpy as np

from p2pagent.config import Preferences
from p2pagent.market.receipts import metered
from p2pagent.peer.choice import Habit, Option, expected_cost
from p2pagent.peer.events import AgentsChanged, Ask, Policy
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import RateCard
from p2pagent.peer.peer import Peer
from p2pagent.routing.prototypes import HashingEmbedder, Space
from p2pagent.routing.qos_lengths import EXPECTED
from p2pagent.routing.scoring import Score
from p2pagent.sim.engine import EngineModel
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef, ChatMessage, PeerId, Sampling

SUBJECTS = (
    "reverse the word",
    "sort the letters of",
    "add the numbers",
    "shift every letter of",
    "count",
    "minutes in",
)
RATES = RateCard(10, 1, 40)
METER = partial(metered, RATES)
START_MS = 1_800_000_000_000


def make_space() -> Space:
    """One prototype per subject, in the order of SUBJECTS."""
    embedder = HashingEmbedder()
    return Space(embedder, np.concatenate([embedder.embed([f"{s} abc"]) for s in SUBJECTS]))


def make_policy(**changes: object) -> Policy:
    """A user who values an answer at one credit."""
    wishes = {
        "value_microcredits": 1_000_000,
        "delay_microcredits_per_s": 20_000,
        "price_max_microcredits": 1_000_000,
    } | changes
    return Policy(**wishes)  # type: ignore[arg-type]


def make_advert(name: str, skills: dict[int, float], slots: int = 2) -> AgentAdvert:
    """An agent with these accuracies per prototype, 0.05 elsewhere."""
    capability = bytes(round(255 * skills.get(m, 0.05)) for m in range(len(SUBJECTS)))
    return AgentAdvert(name, "test", capability, RATES, 4096, slots)


def make_ask(query: str, subject: int, word: str = "abc", **changes: object) -> Ask:
    """A question on `subject`."""
    turns = (ChatMessage("user", f"{SUBJECTS[subject]} {word}"),)
    return Ask(query, turns, Sampling(max_tokens=64), len(turns[0].content), make_policy(**changes))


def make_option(
    agent: AgentRef, worth_microcredits: int, ask: Ask, quality: float = 0.5, uncertainty: float = 0.1
) -> Option:
    """An agent of whose habits nothing is known."""
    advert, habit = make_advert(agent.name, {}), Habit(0, min(ask.sampling.max_tokens, EXPECTED))
    cost = expected_cost(advert, ask, habit.cached_tokens, habit.output_tokens)
    return Option(agent, advert, Score(quality, uncertainty), cost, worth_microcredits, habit)


def answer_of(index: int) -> str:
    """What the agent of device `index` answers to everything."""
    return f"answer of {index}"


class Device:
    """One peer of the scenario, with what any driver needs to run it."""

    def __init__(self, index: int, space: Space, seed: int = 1, skill: int | None = None, incarnation: int = 1) -> None:
        self.index = index
        self.keys = SimKeys(index)
        self.name: PeerId = self.keys.peer
        self.peer = Peer(self.keys, space, "test", Preferences(), Random(f"{seed} {index}"), incarnation)
        self.advert = make_advert("agent", {index % len(SUBJECTS) if skill is None else skill: 0.95})
        self.engine = EngineModel(lambda _prompt: answer_of(index))
        self.ready = AgentsChanged((self.advert,), (f"/ip4/127.0.0.1/tcp/{4000 + index}",))
