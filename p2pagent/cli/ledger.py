"""`p2pagent ledger`: who owes whom, what is in dispute, and whether the books hold."""

import csv
import io
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from p2pagent.api.client import Client
from p2pagent.api.node import LedgerView, ReceiptView
from p2pagent.archive import read_book
from p2pagent.cli.app import HomeOption, JsonOption, app, examples, home_of, id_prefix
from p2pagent.cli.output import credits_text, emit_json, short, table
from p2pagent.errors import Exit, LocalError, RemoteError
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import Movement, movements
from p2pagent.peer.disputes import REASON_CHARACTERS_MAX
from p2pagent.store import FILE
from p2pagent.verification import Finding, compare, verify

group = typer.Typer(cls=TyperGroup)
app.add_typer(
    group,
    name="ledger",
    invoke_without_command=True,
    epilog=examples(
        "p2pagent ledger",
        "p2pagent ledger --limit 5 --json",
        "p2pagent ledger --csv > ledger.csv",
        "p2pagent ledger dispute 3f9a02c4 'half of the answer is missing'",
        "p2pagent ledger verify",
    ),
)

_LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""

_COLUMNS = (
    "time",
    "kind",
    "receipt",
    "role",
    "peer",
    "agent",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "price_microcredits",
    "slot_price_microcredits",
    "balance_microcredits",
    "state",
)


def _reason(text: str) -> str:
    try:
        reason = os.fsencode(text).decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    if not 0 < len(reason) <= REASON_CHARACTERS_MAX:
        raise typer.BadParameter(f"it has {len(reason)} characters, not 1 to {REASON_CHARACTERS_MAX}")
    return reason


ReceiptArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECEIPT", parser=id_prefix, help="At least the first 6 hex digits of its id, which must be its alone."
    ),
]


@group.callback()
def ledger(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many receipts to show.")] = 20,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print all receipts and refunds as CSV, money in microcredits.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Show who owes whom, the latest receipts, and what is in dispute.

    A positive balance is owed to you. A peer may owe you up to its limit, which grows with what it has settled; bought
    and sold are without what was refunded. A receipt is settled once its seller is known to have booked it. CSV comes
    from the database, whether the daemon runs or not: a line per receipt and refund, in the order of booking.
    """
    if context.invoked_subcommand is not None:
        sources = map(context.get_parameter_source, context.params)
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            raise typer.BadParameter(f"options of `ledger {context.invoked_subcommand}` go behind it")
        return
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two forms of output")
    if as_csv:
        typer.echo(_csv(home_of(home) / FILE), nl=False)
        return
    with Client(home_of(home)) as client:
        view = client.ledger(limit)
    if as_json:
        emit_json(view)
    else:
        _show(view)


@group.command(epilog=examples("p2pagent ledger dispute 3f9a02c4 'half of the answer is missing'"))
def dispute(
    receipt: ReceiptArgument,
    reason: Annotated[
        str, typer.Argument(metavar="REASON", parser=_reason, help="What is wrong, in 256 characters at most.")
    ],
    *,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Dispute a receipt of something you bought.

    Its seller is told now and at every new connection until it refunds it, and no question of yours goes to that seller
    meanwhile. A dispute moves no money: only the seller can give it back. A receipt that claims more tokens than its
    agent's own tokeniser makes of the answer is disputed without you, if this device has that tokeniser.
    """
    with Client(home_of(home)) as client:
        view = client.dispute(receipt, reason)
    if as_json:
        emit_json(view)
        return
    price = credits_text(view.price_microcredits)
    typer.echo(f"in dispute: receipt {view.receipt_id}, {price} credits, sold by {view.other}\n{_shown(view.reason)}")


@group.command(epilog=examples("p2pagent ledger refund 3f9a02c4"))
def refund(receipt: ReceiptArgument, *, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Give back all that a receipt brought you.

    The signed refund goes to the buyer now, or as soon as it is met. It cannot be taken back.
    """
    with Client(home_of(home)) as client:
        view = client.refund(receipt)
    if as_json:
        emit_json(view)
        return
    typer.echo(f"refunded: receipt {view.receipt_id}, {credits_text(view.price_microcredits)} credits to {view.other}")


@group.command(
    "verify",
    epilog=examples("p2pagent ledger verify", "p2pagent ledger verify --with /mnt/laptop/p2pagent --json"),
)
def run_verify(
    *,
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="HOME", help="Compare with this device's ledger; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Check the ledger of this device from its signed bytes on.

    All signatures; that each price follows from its tokens and rates, and each entry from its receipt or refund; that
    all entries sum to 0, and balances are their sums. What is wrong is named by receipt id, and the exit code is 14.
    Reads the database, whether the daemon runs or not; receipts on their way are missing in one of two ledgers.
    """
    book = read_book(home_of(home) / FILE)
    keys = Ed25519Keys(bytes(32))  # verifies; nothing is signed
    findings = verify(book, keys)
    if others:
        findings += compare(book, [read_book(folder / FILE) for folder in others], keys)
    if as_json:
        emit_json(findings)
    else:
        _tell(findings)
    failed = sum(bool(finding.wrong) for finding in findings)
    if failed:
        hint = "what is signed by both still counts: restore a backup, or settle what is named with its other party"
        raise LocalError(f"{failed} of {len(findings)} checks of the ledger failed", hint, Exit.STORE)


def _show(view: LedgerView) -> None:
    accounts = [
        (
            peer,
            credits_text(account.balance_microcredits),
            credits_text(account.limit_microcredits),
            credits_text(account.used_microcredits),
            credits_text(account.bought_microcredits),
            credits_text(account.sold_microcredits),
        )
        for peer, account in sorted(view.accounts.items())
    ]
    typer.echo(table(("peer", "balance", "limit", "used", "bought", "sold"), accounts))
    header = ("receipt", "when", "you", "peer", "agent", "tokens in", "cached", "out", "price", "state", "rated")
    receipts = [
        (
            *_head(receipt, receipt.issued_ms),
            receipt.agent,
            str(receipt.prompt_tokens),
            str(receipt.cached_tokens),
            str(receipt.output_tokens),
            credits_text(receipt.price_microcredits),
            receipt.state,
            receipt.rating or "-",
        )
        for receipt in view.receipts
    ]
    typer.echo("\n" + table(header, receipts))
    if view.disputed:
        rows = [
            (
                *_head(each, each.raised_ms or 0),
                credits_text(each.price_microcredits),
                each.raised_by or "-",
                _shown(each.reason),
            )
            for each in view.disputed
        ]
        typer.echo("\n" + table(("in dispute", "since", "you", "peer", "price", "raised by", "reason"), rows))


def _head(receipt: ReceiptView, at_ms: int) -> tuple[str, str, str, str]:
    return receipt.receipt_id[:12], _utc(at_ms).isoformat(" ", "seconds"), receipt.role, short(receipt.other)


def _utc(at_ms: int) -> datetime:
    """A time as far as a calendar goes: it is the seller's word, and may be any number."""
    return datetime.fromtimestamp(min(at_ms, _LAST_MS) / 1000, UTC)


def _shown(reason: str | None) -> str:
    """What a stranger wrote, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in reason or "")


def _csv(path: Path) -> bytes:
    book = read_book(path)
    try:
        moves = movements(book)
    except RemoteError as error:
        hint = "`p2pagent ledger verify` names it"
        raise LocalError(f"the ledger {path} holds what is no receipt or refund", hint, Exit.STORE) from error
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows(map(_line, moves))
    return text.getvalue().encode()


def _line(move: Movement) -> Iterable[str | int]:
    receipt = move.receipt
    return (
        _utc(move.at_ms).isoformat(timespec="milliseconds"),
        move.kind,
        move.receipt_id.hex(),
        move.role,
        move.other,
        receipt.agent,
        receipt.prompt_tokens,
        receipt.cached_tokens,
        receipt.output_tokens,
        receipt.price_microcredits,
        receipt.slot_price_microcredits,
        move.balance_microcredits,
        move.state,
    )


def _tell(findings: Iterable[Finding]) -> None:
    rows = [(each.check, str(each.checked), str(len(each.wrong)) if each.wrong else "ok") for each in findings]
    typer.echo(table(("check", "checked", "wrong"), rows))
    for each in findings:
        for name in each.wrong:
            typer.echo(f"{each.check}: {name}")
