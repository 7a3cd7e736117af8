"""What a score of everybody costs: beside one matrix-vector product of the same size."""

from collections.abc import Callable
from time import perf_counter

import numpy as np

from p2pagent.config import Preferences
from p2pagent.routing.prototypes import NEAREST, Relevance, one_family
from p2pagent.routing.scoring import Posterior, best
from p2pagent.routing.skills import Skills
from scripts.benches import intervals
from scripts.benches.report import Part, at_most
from scripts.benches.run import Run

AGENTS = 10_000
PROTOTYPES = 64
BEST = 16
RATIO_MAX = 2.0


def measure(run: Run) -> Part:
    """`score_over_matvec`: score with risk term and top-k, and product, timed in turn so that both meet one machine."""
    rng = run.rng("speed")
    skills: Skills[int] = Skills(one_family(PROTOTYPES))
    for agent, capability in enumerate(rng.integers(0, 256, (AGENTS, PROTOTYPES), dtype=np.uint8)):
        skills.put(agent, capability.tobytes())
    matrix = rng.random((AGENTS, PROTOTYPES), dtype=np.float32)
    scorer, caution = Posterior(), Preferences().caution
    times = []
    for turn in run.track(range(run.pick(4_000, 1_000)), "routing: speed"):
        weights = rng.dirichlet(np.ones(NEAREST))
        prototypes = rng.choice(PROTOTYPES, NEAREST, replace=False)
        # Cosine 0.3 is half way from new to familiar: the dearest case, in which pooled skill is mixed in.
        relevance = Relevance(tuple(map(int, prototypes)), tuple(map(float, weights)), 0.3)
        vector = rng.random(PROTOTYPES, dtype=np.float32)
        contenders = (lambda v=vector: matrix @ v, lambda r=relevance: best(scorer.score(r, skills), BEST, caution))
        times.append(in_turn(contenders, turn))
    matvec, score = np.array(times[len(times) // 10 :]).T
    figure = {
        "agents": AGENTS,
        "prototypes": PROTOTYPES,
        "best": BEST,
        "matvec_us": intervals.median(matvec),
        "score_us": intervals.median(score),
        "ratio": intervals.median(score / matvec),
    }
    return Part({"score_over_matvec": figure}, [at_most("score_over_matvec", RATIO_MAX, figure["ratio"].value)])


def in_turn(contenders: tuple[Callable[[], object], ...], turn: int) -> list[float]:
    """Microseconds of each, the first going second every other turn."""
    order = range(len(contenders)) if turn % 2 else reversed(range(len(contenders)))
    times = {which: timed(contenders[which]) for which in order}
    return [times[which] for which in range(len(contenders))]


def timed(work: Callable[[], object]) -> float:
    """How many microseconds `work` takes."""
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1e6
