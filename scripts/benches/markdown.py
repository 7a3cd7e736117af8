"""Tables and figures of README.md as benches write them."""

from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "not measured"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with these columns."""
    return "\n".join([_line(head), f"|{'---|' * len(head)}", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(interval: dict[str, Any] | None, digits: int) -> str:
    """A mean with its interval."""
    if interval is None:
        return MISSING
    return f"{interval['value']:.{digits}f} ({interval['low']:.{digits}f} to {interval['high']:.{digits}f})"


def against_target(title: str, targets: list[dict[str, Any]]) -> str:
    """A row per target, under this title."""
    return table([title, "target", "measured"], ([t["name"], t["target"], measured(t)] for t in targets))


def measured(target: dict[str, Any]) -> str:
    """What was measured, and whether that is a miss."""
    if target["measured"] is None:
        return MISSING
    digits = 3 if isinstance(target["measured"], float) else 0
    return f"{target['measured']:,.{digits}f}" + ("" if target["met"] else ", missed")
