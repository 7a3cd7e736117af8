"""The bench `game`: routing policies against one another, in simulation."""

from pathlib import Path
from time import perf_counter

from scripts.benches import game_plot, intervals
from scripts.benches.game_points import tables
from scripts.benches.game_runs import cases, play_all
from scripts.benches.game_targets import against, pairs, targets
from scripts.benches.report import Report, machine
from scripts.benches.run import Run


def bench(run: Run) -> Report:
    """Play every trace."""
    start = perf_counter()
    played = list(play_all(run, cases(run)))
    found = pairs(played)
    return Report(
        bench="game",
        seed=run.seed,
        quick=run.quick,
        seconds=round(perf_counter() - start, 1),
        confidence=intervals.CONFIDENCE,
        machine=machine(),
        figures={**tables(played), **against(found)},
        targets=targets(run, found),
    )


def draw(report: Report, file: Path) -> None:
    """The report's figure, into `file`."""
    game_plot.plot(report.figures, file)
