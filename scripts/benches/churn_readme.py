"""README.md's account of a run of the churn bench, from its JSON alone."""

from typing import Any

from scripts.benches.markdown import spread, table


def tables(result: dict[str, Any]) -> str:
    """What churn costs, what gossip costs, what the largest run took."""
    return "\n\n".join([churn(result["by_churn"]), gossip(result["gossip"]), scale(result["scale"])])


def churn(rows: list[dict[str, Any]]) -> str:
    """A column per level."""
    lines = {
        "peers that leave without a word, a minute": [f"{row['churn_per_minute']:.0%}" for row in rows],
        "questions answered": [f"{row['answered_share']['value']:.2%} of {row['questions']:,}" for row in rows],
        "right answers": [f"{row['accuracy']['value']:.1%}" for row in rows],
        "had each seen all who are alive": [f"{row['accuracy_knowing_who_is_alive']['value']:.1%}" for row in rows],
        "had each asked the best claim alive": [f"{row['accuracy_best_claim']['value']:.1%}" for row in rows],
        "had each asked its own agent": [f"{row['accuracy_local']['value']:.1%}" for row in rows],
        "latency, mean, ms": [spread(row["latency_ms_mean"], 0) for row in rows],
        "added by churn, ms": [spread(row["latency_ms_added"], 0) for row in rows],
        "a death suspected by 99 % of those who follow its cell, s": [spread(row["suspected_s"], 1) for row in rows],
        "known to them, s": [spread(row["gone_s"], 1) for row in rows],
    }
    head, *body = ([label, *cells] for label, cells in lines.items())
    return table(head, body)


def gossip(rows: list[dict[str, Any]]) -> str:
    """A row per size and churn."""
    lines = (
        [
            f"{row['peers']:,}",
            f"{row['churn_per_minute']:.0%}",
            f"{row['out_bytes_per_s']['value']:,.0f}",
            f"{row['in_bytes_per_s']['value']:,.0f}",
            f"{row['peers_known_mean']['value']:,.0f}",
        ]
        for row in rows
    )
    return table(["peers", "leaving a minute", "sent by one, bytes/s", "received, bytes/s", "peers known"], lines)


def scale(run: dict[str, Any]) -> str:
    """In a sentence."""
    return (
        f"{run['peers']:,} peers for {run['virtual_minutes']:g} virtual minutes: {run['wall_s']:,.0f} s of wall time on"
        f" one core, {run['events']:,} events ({run['events_per_s']:,} a second), {run['memory_mb']:,} MB."
    )
