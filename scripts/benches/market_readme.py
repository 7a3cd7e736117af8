"""README.md's account of a run of the market bench, from its JSON alone."""

from typing import Any

from scripts.benches.markdown import spread, table

WEIGHTS = {"uniform": "uniform weights", "prototype": "experts and prototypes"}


def tables(result: dict[str, Any]) -> str:
    """What was held to a target, what lying brings a seller as the market gets thicker, what hubs cost."""
    return "\n\n".join([held(result), thickness(result["seller_gain_by_thickness"]), hubs(result["hub_welfare_ratio"])])


def held(result: dict[str, Any]) -> str:
    """A row per figure that has a target, or that shows why the others matter."""
    oracle, lies = result["oracle_mismatches"], result["profitable_misreports"]
    controls = {name: found for name, found in result["caught_controls"].items() if name != "caught"}
    budget, alone = result["budget_residue_microcredits"], result["per_query_pricing"]
    rows = [
        ("prices that differ from re-solves", "0", of(oracle["mismatch_share"]) + f", {oracle['markets']:,} markets"),
        ("lies that pay, owners and sellers", "0", of(lies["profitable_share"])),
        *(
            (f"the same hunt in a market that invites lies: {name.replace('_', ' ')}", "some", counted(found))
            for name, found in controls.items()
        ),
        ("withdrawals that would pay, were queries charged one by one", "", percent(alone["share_that_pays"])),
        ("left in the books, microcredits", "0", f"{budget['total']:,} in {budget['markets']:,} markets"),
    ]
    limits = {target["name"]: target["target"] for target in result["targets"]}
    for row in result["clear_over_lsa"]:
        size = f"{row['queries']}x{row['agents']}x{row['slots']}"
        label = f"clearing with all client payments over one assignment, {size}, {WEIGHTS[row['weights']]}"
        rows.append((label, limits[f"clear_over_lsa {size} {row['weights']}"], spread(row["ratio"], 2)))
    for row in result["naive_speedup"]:
        limit = limits[f"naive_speedup {row['weights']}"]
        rows.append(
            (f"a re-solve per payment over clearing, {WEIGHTS[row['weights']]}", limit, spread(row["speedup"], 0))
        )
        label = f"all seller payments over one assignment, {WEIGHTS[row['weights']]}"
        rows.append((label, "", spread(row["seller_gains_over_lsa"], 2)))
    return table(["", "target", "measured"], rows)


def thickness(rows: list[dict[str, Any]]) -> str:
    """A column per thickness."""
    lines = {
        "sellers": [str(row["sellers"]) for row in rows],
        "a lying seller's mean gain, share of a trade's value": [percent(row["gain_share_of_trade"]) for row in rows],
        "its largest gain": [f"{row['gain_largest_share_of_trade']:.1%}" for row in rows],
        "paid over cost, balanced": [spread(row["paid_over_cost"], 2) for row in rows],
        "received over paid, contingent": [spread(row["contingent_received_over_paid"], 2) for row in rows],
    }
    head, *body = ([label, *cells] for label, cells in lines.items())
    return table(head, body)


def hubs(rows: list[dict[str, Any]]) -> str:
    """A row per population."""
    columns = {
        "agents": lambda r: str(r["agents"]),
        "demand over prototypes": lambda r: r["demand"],
        "queries per slot": lambda r: str(r["load"]),
        "welfare over one global market": lambda r: f"{r['ratio']['value']:.3f}",
        "in the first epoch": lambda r: f"{r['ratio_first_epoch']['value']:.3f}",
        "messages per query": lambda r: str(r["messages_per_query"]),
        "kB per query": lambda r: str(r["kilobytes_per_query"]),
        "added ms": lambda r: str(r["latency_ms_mean"]),
        "round trips": lambda r: str(r["latency_round_trips_mean"]),
    }
    return table([*columns], ([cell(row) for cell in columns.values()] for row in rows))


def of(share: dict[str, Any]) -> str:
    return f"{round(share['value'] * share['n']):,} of {share['n']:,}"


def counted(tally: dict[str, Any]) -> str:
    return f"{tally['profitable']:,} of {tally['tried']:,}"


def percent(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.1%} ({interval['low']:.1%} to {interval['high']:.1%})"
