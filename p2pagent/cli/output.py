"""How values look on a terminal: money, tables, JSON."""

import re
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import typer

from p2pagent.api.tree import to_tree

_MICROCREDITS = 1_000_000


def parse_credits(text: str) -> int:
    """Microcredits in `text`, a number of credits with at most six decimals.

    Raises:
        typer.BadParameter: it is not that.
    """
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) is None:
        raise typer.BadParameter(f"{text!r} is not a number of credits like 0.25, to six decimals")
    return int(Decimal(text) * _MICROCREDITS)


def credits_text(microcredits: int | None) -> str:
    """`microcredits` in credits."""
    return "-" if microcredits is None else f"{Decimal(microcredits) / _MICROCREDITS:.6f}"


def note(text: str) -> None:
    """Tell the user something that is not the data asked for."""
    typer.echo(text, err=True)


def emit_json(value: object) -> None:
    """Print `value`, structs in it by name, as JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(to_tree(value)), indent=2).decode())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns under `header`."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows])
    return "\n".join(line.rstrip() for line in lines)


def short(peer: str) -> str:
    """A peer id as people tell them apart: all ed25519 ids begin alike."""
    return f"…{peer[-8:]}"
