"""`p2pagent status` and `peers`: what the daemon knows, as tables."""

import typer

from p2pagent.api.client import Client
from p2pagent.api.node import PeerView
from p2pagent.cli.app import HomeOption, JsonOption, app, examples, home_of
from p2pagent.cli.output import credits_text, emit_json, note, table


@app.command(epilog=examples("p2pagent status", "p2pagent status --json"))
def status(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Tell how the daemon and its agents fare."""
    with Client(home_of(home)) as client:
        view = client.status()
    if as_json:
        emit_json(view)
        return
    rows = [
        ("peer", view.peer),
        ("version", view.version),
        ("network", f"{view.network}, space {view.space}"),
        ("addresses", " ".join(view.addresses)),
        ("up", f"{view.uptime_s} s"),
        ("peers", f"{view.neighbours} connected, {view.known_peers} known"),
        ("queries", f"{view.queries_running} running"),
        ("frames", f"{view.frames_in} in, {view.frames_out} out"),
        ("follows", f"{view.members} peers of {' '.join(view.cells)}"),
        ("faults", str(view.faults)),
    ]
    typer.echo("\n".join(f"{name:10} {value}".rstrip() for name, value in rows))
    header = ("agent", "model", "state", "running", "completed", "failed", "restarts")
    agents = [
        (
            agent.agent,
            agent.model,
            "ready" if agent.ready else "not ready",
            str(agent.running),
            str(agent.completed),
            str(agent.failed),
            str(agent.restarts),
        )
        for agent in view.agents
    ]
    typer.echo("\n" + table(header, agents))
    for warning in view.warnings:
        note(f"warning: {warning}")


@app.command(epilog=examples("p2pagent peers", "p2pagent peers --json"))
def peers(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the peers that this device knows, one line per agent.

    Skill is an agent's mean accuracy as it says itself, judged how many of its answers were rated here, prices are
    credits per 1000 tokens, a positive balance is owed to you.
    """
    with Client(home_of(home)) as client:
        views = client.peers()
    if as_json:
        emit_json(views)
        return
    prices = ("prompt/1k", "output/1k", "balance")
    header = ("peer", "link", "lease", "agent", "model", "skill", "judged", *prices, "faults")
    typer.echo(table(header, [row for view in views for row in _rows(view)]))


def _rows(view: PeerView) -> list[tuple[str, ...]]:
    who = (view.peer, "up" if view.connected else "down", f"{view.lease_left_ms // 1000} s")
    standing = (credits_text(view.balance_microcredits), str(view.faults))
    if not view.agents:
        return [(*who, "-", "-", "-", "-", "-", "-", *standing)]
    return [
        (
            *who,
            agent.name,
            agent.model,
            f"{agent.skill:.2f}",
            str(agent.outcomes),
            credits_text(agent.prompt_microcredits * 1000),
            credits_text(agent.output_microcredits * 1000),
            *standing,
        )
        for agent in view.agents
    ]
