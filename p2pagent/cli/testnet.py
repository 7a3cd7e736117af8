"""`p2pagent testnet`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from p2pagent.cli.app import app, examples


@app.command(
    "testnet",
    epilog=examples(
        "p2pagent testnet",
        "p2pagent testnet --churn",
        "p2pagent testnet --nodes 12 --questions 200 --seed 7 --json result.json",
    ),
)
def run_testnet(
    *,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, max=256, help="Daemons to run; 6 by default.")] = None,
    questions: Annotated[int, typer.Option("--questions", min=1, max=100_000, help="Questions to ask.")] = 240,
    engine: Annotated[Literal["embedded", "vllm"], typer.Option("--engine", help="What answers.")] = "embedded",
    engine_python: Annotated[
        str, typer.Option("--engine-python", metavar="PATH", help="The interpreter that has vLLM; default: this one.")
    ] = "",
    churn: Annotated[
        bool,
        typer.Option(
            "--churn", help="Kill daemons without a word and start them again meanwhile; 8 unless --nodes says."
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Questions at a time.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the questions and who asks them.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the measurements there as JSON.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="FOLDER", help="Keep the daemons' folders there instead of removing them."),
    ] = None,
) -> None:
    """Try a whole network on this device.

    Runs real daemons, asks them questions whose answers are known, and reports quality, price and latency.
    """
    from p2pagent import testnet as network

    raise typer.Exit(
        network.main(
            nodes=nodes or (8 if churn else 6),
            questions=questions,
            engine=engine,
            engine_python=engine_python,
            concurrency=concurrency,
            churn=churn,
            seed=seed,
            json_path=json_path,
            home=home,
        )
    )
