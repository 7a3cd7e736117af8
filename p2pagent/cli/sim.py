"""`p2pagent sim`."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from p2pagent.cli.app import JsonOption, app, examples
from p2pagent.cli.output import credits_text, emit_json, table
from p2pagent.sim.scenarios import SCENARIOS

if TYPE_CHECKING:
    from p2pagent.sim.metrics import Spread
    from p2pagent.sim.results import Results

PLOT_SUFFIXES = {".png", ".svg", ".pdf"}


class Cost(msgspec.Struct, frozen=True):
    """What a run took of this machine."""

    wall_s: float
    events_per_s: int
    memory_mb: int


def _scenario(name: str) -> str:
    if name not in SCENARIOS:
        raise typer.BadParameter(f"there is no scenario {name!r}; those that exist: {', '.join(SCENARIOS)}")
    return name


def _drawable(file: Path | None) -> Path | None:
    """Refuse what could not be drawn before minutes are spent on it."""
    if file is None:
        return None
    if file.suffix not in PLOT_SUFFIXES or not file.parent.is_dir():
        raise typer.BadParameter(f"{file} is no {', '.join(sorted(PLOT_SUFFIXES))} in a folder that exists")
    from p2pagent.sim.plots import can_plot

    if not can_plot():
        raise typer.BadParameter("matplotlib is not installed: python -m pip install 'p2pagent[plots]'")
    return file


def _told() -> str:
    lines = [f"  {name:<11}{scenario.about}" for name, scenario in SCENARIOS.items()]
    called = examples("p2pagent sim churn", "p2pagent sim scale --peers 1000 --minutes 2 --seed 7 --json")
    return "\n".join(["Scenarios:", "", "\b", *lines, "", called])


@app.command("sim", epilog=_told())
def run_sim(
    *,
    scenario: Annotated[str, typer.Argument(callback=_scenario, metavar="SCENARIO", help="What is to happen.")],
    peers: Annotated[
        int | None, typer.Option("--peers", min=2, max=100_000, show_default="the scenario's", help="Devices.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws everything random.")] = 0,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", min=1, max=1440, show_default="the scenario's", help="Virtual minutes measured."),
    ] = None,
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", callback=_drawable, help="Draw the figures there.")
    ] = None,
) -> None:
    """Simulate a network of many devices in virtual time.

    Every device runs the daemon's own decisions; engines, links and users are models, and nothing is sent anywhere. The
    same scenario, size and seed give the same run, to the byte. Two virtual minutes, in which the devices find each
    other, come before those that are measured.
    """
    from p2pagent.sim.stage import length_ms, play

    chosen = SCENARIOS[scenario]
    chosen = msgspec.structs.replace(chosen, peers=peers or chosen.peers, minutes=minutes or chosen.minutes)
    start_s = perf_counter()
    with _progress(length_ms(chosen)) as progress:
        results, samples = play(scenario, chosen, seed, progress)
    wall_s = perf_counter() - start_s
    cost = Cost(round(wall_s, 1), round(results.events / wall_s), _memory_mb())
    if plot is not None:
        from p2pagent.sim.plots import draw

        draw(results, samples, plot)
    if as_json:
        emit_json(msgspec.structs.asdict(results) | msgspec.structs.asdict(cost))
    else:
        typer.echo(table(("simulated", scenario), rows(results, cost)))


def rows(results: "Results", cost: Cost) -> list[tuple[str, str]]:
    """The table of a run: what was measured, and how much it was."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    def number(value: float | None, digits: int = 0) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    def spread(of: "Spread") -> str:
        return " / ".join(number(value) for value in (of.mean, of.p50, of.p95, of.p99))

    price = results.price_microcredits.mean
    gossip = results.gossip_out_bytes_per_s, results.gossip_in_bytes_per_s
    return [
        ("peers / virtual minutes / seed", f"{results.peers} / {results.minutes:g} / {results.seed}"),
        ("asked / of these by a peer that left", f"{results.asked} / {results.abandoned}"),
        ("answered", share(results.answered_share)),
        ("answered by others", share(results.delegated_share)),
        ("right answers", share(results.accuracy)),
        ("  each alone", share(results.accuracy_local)),
        ("  had each seen all who are alive", share(results.accuracy_informed)),
        ("  had each asked the best claim alive", share(results.accuracy_claimed)),
        ("  had each asked the most able alive", share(results.accuracy_oracle)),
        ("latency, ms, mean / p50 / p95 / p99", spread(results.latency_ms)),
        ("first token, ms, mean / p50 / p95 / p99", spread(results.ttft_ms)),
        ("calls per question", number(results.calls_per_query, 2)),
        ("restarts per question", number(results.restarts_per_query, 4)),
        ("price, credits, mean", credits_text(None if price is None else round(price))),
        ("gossip of a peer, bytes/s, out / in", f"{number(gossip[0])} / {number(gossip[1])}"),
        ("peers known to a peer, mean", number(results.directory.mean)),
        ("deaths / never noticed", f"{results.deaths} / {results.deaths_unknown}"),
        ("death suspected by 99 % of its cell, ms, mean / p50 / p95 / p99", spread(results.death_suspected_ms)),
        ("death known to 99 % of its cell, ms, mean / p50 / p95 / p99", spread(results.death_known_ms)),
        ("events / per second", f"{results.events:,} / {cost.events_per_s:,}"),
        ("wall, s / peak memory, MB", f"{cost.wall_s:,.1f} / {cost.memory_mb:,}"),
        ("digest", results.digest),
    ]


def _memory_mb() -> int:
    """The most that this process has ever held."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


@contextmanager
def _progress(total_ms: int) -> Iterator[Callable[[int], None]]:
    """A bar in virtual time on a stderr that is a terminal; call what is given with the milliseconds that are over."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("virtual minute {task.fields[minute]:.1f}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task("", total=total_ms, minute=0.0)
        yield lambda over_ms: progress.update(task, completed=over_ms, minute=over_ms / 60_000)
