"""The bench `routing`: its parts, one after another, into one report."""

from pathlib import Path
from time import perf_counter

from threadpoolctl import threadpool_limits

from scripts.benches import intervals, routing_accuracy, routing_plot, routing_speed
from scripts.benches.report import Report, machine
from scripts.benches.routing_data import load
from scripts.benches.run import PROGRESS, Run


def bench(run: Run, folder: Path) -> Report:
    """Measure every part, in one thread.

    Raises:
        typer.BadParameter: the folder does not hold what is needed.
    """
    start = perf_counter()
    data = load(folder, run)
    with threadpool_limits(1):
        # Times first, before the others have filled caches and memory.
        speed = routing_speed.measure(run)
        accuracy = routing_accuracy.measure(run, data)
    seconds = perf_counter() - start
    PROGRESS.print(f"routing: {seconds:.1f} s", highlight=False)
    return Report(
        bench="routing",
        seed=run.seed,
        quick=run.quick,
        seconds=round(seconds, 1),
        confidence=intervals.CONFIDENCE,
        machine=machine(),
        figures=accuracy.figures | speed.figures,
        targets=accuracy.targets + speed.targets,
    )


def draw(report: Report, file: Path) -> None:
    """The report's figure, into `file`."""
    routing_plot.plot(report.figures["accuracy"], file)
