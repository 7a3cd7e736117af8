"""From the answers of all runs to a row per policy."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.benches import intervals
from scripts.benches.affinity_targets import BASELINES, OURS
from scripts.benches.affinity_vllm_fleet import Counted
from scripts.benches.affinity_vllm_play import Served
from scripts.benches.intervals import Interval

REASONS_SHOWN = 3


class Played(NamedTuple):
    """A policy's run on the trace of one repetition; what vLLM counted in it, and the seconds it took."""

    policy: str
    repetition: int
    served: list[Served]
    counted: Counted
    lasted_s: float

    @property
    def used(self) -> Counted:
        """The same counts by the receipts."""
        return Counted(sum(s.prompt_tokens for s in self.served), sum(s.cached_tokens for s in self.served))

    @property
    def agrees(self) -> bool:
        """Whether vLLM has counted the prompts that receipts are for, and no other, unless some answer broke off."""
        whole = not any(answer.denied or answer.restarts for answer in self.served)
        more = self.counted.prompt_tokens - self.used.prompt_tokens
        return more == 0 if whole else more >= 0


def rows(played: Sequence[Played], ceiling: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row per policy.

    Hit rates are by vLLM's own counters, their intervals over runs; what vLLM counts is not told by conversation. Those
    of times and prices are over conversations within the runs, whose turns hang together: they tell nothing of how runs
    differ. `broken_off` and `quoted_in_vain` are shares of all prompt tokens: of prompts whose answers were not
    delivered, and of prefixes that were evicted after they were quoted as cached, whose sellers bear that.
    """
    found = []
    for policy in (OURS, *BASELINES):
        runs = [run for run in played if run.policy == policy]
        answers = [answer for run in runs for answer in run.served]
        if not answers:
            continue
        total = Counted(*(sum(counts) for counts in zip(*(run.counted for run in runs), strict=True)))
        hit_rate = intervals.mean([run.counted.cached_tokens / max(1, run.counted.prompt_tokens) for run in runs])
        one = sums(runs, lambda _: 1)
        found.append(
            {
                "policy": policy,
                "answers": len(answers),
                "hit_rate": hit_rate,
                "of_ceiling": hit_rate.value / ceiling,
                "ttft_ms": intervals.ratio_of_sums(sums(runs, lambda s: s.first_ms), one, rng),
                "ttft_ms_p95": float(np.percentile([s.first_ms for s in answers], 95)),
                "end_to_end_ms": intervals.ratio_of_sums(sums(runs, lambda s: s.ended_ms), one, rng),
                "end_to_end_ms_p95": float(np.percentile([s.ended_ms for s in answers], 95)),
                "price_microcredits": intervals.ratio_of_sums(sums(runs, lambda s: s.price_microcredits), one, rng),
                "calls": float(np.mean([s.calls for s in answers])),
                "cleared": sum(s.cleared for s in answers),
                "broken_off": total.prompt_tokens / max(1, sum(r.used.prompt_tokens for r in runs)) - 1,
                "quoted_in_vain": sum(r.used.cached_tokens - r.counted.cached_tokens for r in runs)
                / max(1, total.prompt_tokens),
                "retries": sum(len(s.denied) for s in answers),
                "denied": _most([reason for s in answers for reason in s.denied]),
                "answers_per_node": " / ".join(map(str, np.bincount([s.node for s in answers]))),
                "lasted_s": sum(run.lasted_s for run in runs) / len(runs),
            }
        )
    return found


def paired(played: Sequence[Played], rng: np.random.Generator) -> dict[str, Interval]:
    """Ours over each baseline in mean TTFT, paired by conversation within the runs."""
    ours = sums([run for run in played if run.policy == OURS], lambda s: s.first_ms)
    others = {policy: [run for run in played if run.policy == policy] for policy in BASELINES}
    return {
        policy: intervals.ratio_of_sums(ours, sums(runs, lambda s: s.first_ms), rng)
        for policy, runs in others.items()
        if runs
    }


def sums(runs: Sequence[Played], figure: Callable[[Served], float]) -> NDArray[np.float64]:
    """A figure summed per conversation, runs in the order of their repetitions."""
    found: dict[tuple[int, int], float] = {}
    for run in runs:
        for answer in run.served:
            key = run.repetition, answer.conversation
            found[key] = found.get(key, 0.0) + figure(answer)
    return np.array([found[key] for key in sorted(found)])


def _most(reasons: Sequence[str]) -> str:
    """The reasons met most often, agents' ids left out, with how often."""
    counted = Counter(re.sub(r"^\S+@…\S+ |, and nobody else was to be asked$", "", reason) for reason in reasons)
    return ", ".join(f"{reason}: {count}" for reason, count in counted.most_common(REASONS_SHOWN))
