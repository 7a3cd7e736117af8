"""A whole network on one machine: real daemons, each with one expert, asked questions whose answers are known."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from p2pagent.config import Agent, Engine
from p2pagent.errors import Exit, LocalError, bare_local_errors
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import audit
from p2pagent.peer.updates import Answered
from p2pagent.testnet import exam
from p2pagent.testnet.churn import Churn
from p2pagent.testnet.exam import Outcome, Report, Task
from p2pagent.testnet.fleet import Daemon, fleet
from p2pagent.types import PrivacyClass

EXAMPLES = 8
SETTLE_S = 20
START_S = 600


def main(
    *,
    nodes: int,
    questions: int,
    engine: Literal["embedded", "vllm"],
    engine_python: str,
    concurrency: int,
    churn: bool,
    seed: int,
    json_path: Path | None,
    home: Path | None,
) -> int:
    """Run a testnet and print who answered what, at what price, and how much better that was than going alone.

    Returns:
        0 if the run met its targets, else 1.

    Raises:
        LocalError: `home` is in use, or a daemon did not come up.
    """
    if home is not None and home.exists() and any(home.iterdir()):
        hint = "name a new folder: old receipts would count as this run's"
        raise LocalError(f"{home} is not empty", hint, Exit.CONFIG)
    kept = nullcontext(str(home)) if home else tempfile.TemporaryDirectory(prefix="p2pagent-testnet-")
    with kept as folder:
        run = partial(_run, Path(folder), engine, engine_python, nodes, questions, concurrency, churn, seed)
        with bare_local_errors():
            outcomes, report = trio.run(run)
    _print(outcomes, report)
    if json_path is not None:
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return 0 if all(target.met for target in report.targets) else 1


async def _run(
    folder: Path,
    engine: Literal["embedded", "vllm"],
    engine_python: str,
    nodes: int,
    count: int,
    concurrency: int,
    churning: bool,
    seed: int,
) -> tuple[list[Outcome], Report]:
    runs = partial(Engine, kind=engine, python=engine_python)
    agents = [Agent(name=exam.family_of(i), engine=runs(model=exam.family_of(i))) for i in range(nodes)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started_s = trio.current_time()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        async with fleet(folder, agents) as daemons:
            bar = progress.add_task(f"starting {nodes} daemons ({engine})", total=nodes)
            with trio.move_on_after(START_S) as starting:
                async with trio.open_nursery() as nursery:
                    for daemon in daemons:
                        nursery.start_soon(_ready, daemon, daemons, partial(progress.advance, bar))
            if starting.cancelled_caught:
                hint = "a busy machine may need fewer --nodes; with --home, each daemon.log stays to be read"
                raise LocalError(f"not all daemons met within {START_S} s", hint, Exit.UNREACHABLE)
            startup_s = trio.current_time() - started_s
            tasks = exam.draw(nodes, count, seed)
            churn = Churn(daemons, seed)
            asking = partial(_ask_all, churn, tasks, concurrency, progress)
            asking_s = -trio.current_time()
            async with trio.open_nursery() as nursery:
                if churning:
                    nursery.start_soon(churn.run)
                network, latencies = await asking("asking the network", [t.asked_at for t in tasks], "any")
                nursery.cancel_scope.cancel()
            asking_s += trio.current_time()
            await churn.mend(partial(_ready, daemons=daemons))
            local, _ = await asking("asking only oneself", [t.asked_at for t in tasks], "local")
            oracle, _ = await asking("asking the right expert", [t.expert_at for t in tasks], "local")
            await _settled(daemons)
        books = {daemon.peer: daemon.receipts() for daemon in daemons}
    outcomes = [Outcome(*row) for row in zip(tasks, network, local, oracle, strict=True)]
    audited = audit(books, Ed25519Keys(bytes(32)))
    figures = exam.report(
        outcomes,
        audited,
        latencies,
        engine=engine,
        nodes=nodes,
        seed=seed,
        startup_s=startup_s,
        asking_s=asking_s,
        churn=churn.tally,
    )
    return outcomes, msgspec.structs.replace(figures, targets=exam.targets(figures))


async def _ready(daemon: Daemon, daemons: list[Daemon], advance: Callable[[], None] = lambda: None) -> None:
    """Wait until a daemon's agent is measured and it knows everybody else's."""
    await daemon.until_status(lambda status: bool(status.agents))
    await daemon.until_peers(lambda peers: sum(bool(peer.agents) for peer in peers) == len(daemons) - 1)
    advance()


async def _ask_all(
    churn: Churn,
    tasks: list[Task],
    concurrency: int,
    progress: Progress,
    title: str,
    at: list[int],
    privacy: PrivacyClass,
) -> tuple[list[Answered | None], list[float]]:
    """Ask every task at its node, `concurrency` at a time; the answers, and the ms that each took."""
    answers: list[Answered | None] = [None] * len(tasks)
    latencies_ms: list[float] = []
    bar = progress.add_task(title, total=len(tasks))
    places = trio.CapacityLimiter(concurrency)

    async def ask(index: int) -> None:
        async with places:
            start_s = trio.current_time()
            answers[index] = await churn.ask(at[index], tasks[index].question.prompt, privacy)
            latencies_ms.append((trio.current_time() - start_s) * 1000)
        progress.advance(bar)

    async with trio.open_nursery() as nursery:
        for index in range(len(tasks)):
            nursery.start_soon(ask, index)
    return answers, latencies_ms


async def _settled(daemons: list[Daemon]) -> None:
    """Give the last receipts time to be acknowledged; what is not by then shows in the audit."""
    with trio.move_on_after(SETTLE_S):
        for daemon in daemons:
            await daemon.until_ledger(lambda ledger: all(r.role == "seller" or r.acknowledged for r in ledger.receipts))


def _print(outcomes: list[Outcome], report: Report) -> None:
    out = Console()
    some = Table("question", "asked at", "answered by", "answer", "right", "credits", title="Some of the questions")
    for outcome in outcomes[:EXAMPLES]:
        task, answer = outcome.task, outcome.network
        credit = f"{answer.price_microcredits / 1e6:.6f}" if answer else "-"
        who = answer.agent.name if answer else "nobody"
        mark = "yes" if exam.right(task, answer) else "no"
        asker = exam.family_of(task.asked_at)
        some.add_row(task.question.prompt, asker, who, answer.text if answer else "", mark, credit)
    out.print(some)
    agents = Table("agent", "peer", "answers", "right", "earned, credits", title="Who answered")
    for agent, (answers, good, price) in sorted(exam.earned(outcomes).items(), key=lambda row: row[0].name):
        agents.add_row(agent.name, f"…{agent.peer[-8:]}", str(answers), f"{good / answers:.3f}", f"{price / 1e6:.6f}")
    out.print(agents)
    sums = Table("", "", title=f"{report.questions} questions, {report.nodes} daemons, {report.engine} engine")
    sums.add_row("right answers, each alone", f"{report.accuracy_local:.3f}")
    sums.add_row("right answers, as a network", f"{report.accuracy_network:.3f}")
    sums.add_row("right answers, had each asked the right expert", f"{report.accuracy_oracle:.3f}")
    sums.add_row("answered / delegated / receipts", f"{report.answered} / {report.delegated} / {report.receipts}")
    if report.kills:
        sums.add_row("daemons killed / questions asked again", f"{report.kills} / {report.asked_again}")
    sums.add_row("bad signatures, one-sided receipts", f"{report.signatures_bad}, {report.receipts_one_sided}")
    sums.add_row("sum over all balances, microcredits", str(report.balance_sum_microcredits))
    sums.add_row("latency p50 / p99, ms", f"{report.latency_ms_p50} / {report.latency_ms_p99}")
    sums.add_row("start-up / asking, s", f"{report.startup_s} / {report.asking_s}")
    out.print(sums)
    for target in report.targets:
        if not target.met:
            out.print(f"[red]missed[/red]: {target.name} should be {target.target}, was {target.measured}")
    out.print("Next: p2pagent init && p2pagent up, and in another terminal: p2pagent ask 'What is 47 plus 38?'")
