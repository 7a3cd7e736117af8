"""The bench `qos`: how well latencies, lengths and costs of a real engine's answers are predicted, and how surely."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import msgspec
import trio
from rich.progress import Progress

from scripts.benches import intervals
from scripts.benches.qos_predictors import CONTENDERS
from scripts.benches.qos_record import record
from scripts.benches.qos_replay import MEANT, METER, TARGETS, Trace, Window, compared, replay, scores
from scripts.benches.report import Report, Target, at_most, machine
from scripts.benches.run import PROGRESS, Run

OURS, REFERENCE = "physical", "Hoeffding tree"
TRACES = 5
ANSWERS, ONSET = 1_200, 700
ANSWERS_QUICK, ONSET_QUICK = 24, 14
RATIO_MAX = {"cold": 0.8, "warm": 0.9, "drift": 0.8}
"""Of the Hoeffding tree's error, by window."""

COVERAGE_MIN, COVERAGE_MAX = 0.87, 0.93


def bench(run: Run, python: Path, folder: Path | None = None) -> Report:
    """Record traces, replay them through every predictor; traces that are in `folder` are taken from there.

    Raises:
        LocalError: vLLM does not start.
    """
    start = perf_counter()
    traces = trio.run(_recorded, run, python, folder)
    scored = {
        name: [scores(trace, replay(trace, make(trace.samples)), METER) for trace in traces]
        for name, make in run.track(list(CONTENDERS.items()), "predictors")
    }
    found = compared(traces, scored, REFERENCE)
    return Report(
        bench="qos",
        seed=run.seed,
        quick=run.quick,
        seconds=round(perf_counter() - start, 1),
        confidence=intervals.CONFIDENCE,
        machine=machine(),
        figures={"traces": [_described(trace) for trace in traces], "predicted": rows(found)},
        targets=targets(found[OURS], measured=not run.quick),
    )


def rows(found: Mapping[str, Mapping[str, Mapping[str, Window]]]) -> list[dict[str, Any]]:
    """A row per predictor, figure and window."""
    return [
        {
            "predictor": name,
            "figure": figure,
            "window": window,
            "error": round(seen.error, 1),
            "error_over_tree": seen.against,
            "coverage": seen.coverage,
        }
        for name, figures in found.items()
        for figure, windows in figures.items()
        for window, seen in windows.items()
    ]


def targets(ours: Mapping[str, Mapping[str, Window]], *, measured: bool) -> list[Target]:
    """Each figure in each window, and the mean over those of `MEANT`; short traces have no such windows."""

    def given(value: float) -> float | None:
        return value if measured else None

    held = []
    for window, most in RATIO_MAX.items():
        errors = {figure: ours[figure][window].against.value for figure in TARGETS}
        held += [
            at_most(f"{figure} error over the tree's, {window}", most, given(errors[figure])) for figure in TARGETS
        ]
        mean = fmean(errors[figure] for figure in MEANT)
        held.append(at_most(f"mean of {len(MEANT)} figures' errors over the tree's, {window}", most, given(mean)))
    return held + [
        _covers(f"{figure} band coverage, {window}", given(ours[figure][window].coverage.value))
        for window in RATIO_MAX
        for figure in TARGETS
    ]


def _covers(name: str, share: float | None) -> Target:
    met = None if share is None else COVERAGE_MIN <= share <= COVERAGE_MAX
    return Target(name, f"{COVERAGE_MIN:g} to {COVERAGE_MAX:g}", share, met)


async def _recorded(run: Run, python: Path, folder: Path | None) -> list[Trace]:
    count, onset = run.pick((ANSWERS, ONSET), (ANSWERS_QUICK, ONSET_QUICK))
    traces = []
    with Progress(console=PROGRESS, transient=PROGRESS.is_terminal) as progress:
        bar = progress.add_task("answers", total=run.pick(TRACES, 1) * count)
        for number in range(run.pick(TRACES, 1)):
            file = folder / f"qos-{run.seed}-{number}-{count}.msgpack" if folder else None
            if file and file.exists():
                traces.append(msgspec.msgpack.decode(file.read_bytes(), type=Trace))
                progress.advance(bar, count)
                continue
            rng = run.rng("qos", number)
            traces.append(await record(rng, python, count, onset, lambda: progress.advance(bar)))
            if file:
                file.write_bytes(msgspec.msgpack.encode(traces[-1]))
    return traces


def _described(trace: Trace) -> dict[str, Any]:
    """What a trace is like."""
    answers = trace.answers
    before = [answer for answer in answers if answer.start_ms < trace.onset_ms]
    after = [answer for answer in answers if answer.start_ms >= trace.onset_ms]
    prompt = sum(answer.task.prompt_tokens for answer in answers)
    return {
        "answers": len(answers),
        "measured_at_start": len(trace.samples),
        "prompt_tokens_mean": round(prompt / len(answers), 1),
        "cached_share": round(sum(answer.outcome.cached_tokens for answer in answers) / prompt, 3),
        "running_mean": round(fmean(answer.task.running for answer in answers), 2),
        "ttft_ms_before": round(fmean(answer.outcome.ttft_us for answer in before) / 1_000, 1),
        "ttft_ms_after": round(fmean(answer.outcome.ttft_us for answer in after) / 1_000, 1),
        "tpot_ms_before": round(fmean(answer.outcome.tpot_us for answer in before) / 1_000, 2),
        "tpot_ms_after": round(fmean(answer.outcome.tpot_us for answer in after) / 1_000, 2),
    }
