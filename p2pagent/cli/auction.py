"""`p2pagent auction show`: why a price is what it is, from this device's own books."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from p2pagent import home as homes
from p2pagent.api.tree import to_tree
from p2pagent.archive import Named, read_named
from p2pagent.cli.app import HomeOption, JsonOption, app, examples, home_of, id_prefix
from p2pagent.cli.explain import ID_DIGITS, How, candidates_text, price_of_receipt, price_text
from p2pagent.cli.output import emit_json, note
from p2pagent.cli.story import Story, granted_toll, slot_fault, story_of, story_text
from p2pagent.errors import Exit, LocalError, RemoteError
from p2pagent.keys import Ed25519Keys, Keys
from p2pagent.ledger import receipt_in, side
from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.sheet import SheetView, body_id, check_sheet, open_sheet
from p2pagent.peer.updates import Answered
from p2pagent.ratings import Judged
from p2pagent.store import FILE
from p2pagent.types import PeerId

auction = typer.Typer(no_args_is_help=True, help="Look into the clearings that set prices.")
app.add_typer(auction, name="auction")


@auction.command(epilog=examples("p2pagent auction show 3f9a02c4", "p2pagent auction show --json 3f9a02c4"))
def show(
    ident: Annotated[
        str,
        typer.Argument(
            metavar="ID", parser=id_prefix, help="At least the first 6 hex digits of the id of a receipt or a sheet."
        ),
    ],
    *,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show why an agent won, what its price is made of, and how its hub was cleared.

    A receipt (see `p2pagent ledger`) shows who was considered and each term of the price, and its sheet if the price
    has one. A sheet holds all bids, slots and grants of one hub's epoch; it is replayed, and the exit code is 14 if
    it does not hold. Reads this device's books only, whether its daemon runs or not.
    """
    folder = home_of(home)
    path = folder / FILE
    named = read_named(path, ident)
    found = sorted(named.receipts.keys() | named.sheets.keys())
    if len(found) != 1:
        cause = f"{len(found)} receipts and sheets begin with" if found else "no receipt or sheet here begins with"
        raise LocalError(f"{cause} {ident}", "`p2pagent ledger` lists the latest receipts", Exit.STORE)
    keys = Ed25519Keys(homes.identity(folder))
    (key,) = found
    if key in named.sheets:
        _show_sheet(key, named.sheets[key], keys, as_json=as_json)
    else:
        _show_receipt(key, named, path, keys, as_json=as_json)


def _show_sheet(sheet_id: bytes, signed: SignedSheet, keys: Keys, *, as_json: bool) -> None:
    try:
        view = _replayed(sheet_id, signed, keys)
    except RemoteError as error:
        if as_json:
            emit_json({"sheet": sheet_id.hex(), "fault": str(error)})
        raise _does_not_hold("sheet", sheet_id, str(error)) from error
    story = story_of(view, keys.peer)
    if as_json:
        emit_json(_sheet_tree(story))
        return
    _print_story(story, keys.peer)


def _show_receipt(key: bytes, named: Named, path: Path, keys: Keys, *, as_json: bool) -> None:
    signed, explanation, judged = named.receipts[key], named.explanations.get(key), named.judged.get(key)
    if signed.receipt_id != key:
        raise _does_not_hold("receipt", key, _OTHER_BYTES)
    receipt = receipt_in(signed.body)
    answer = _answer_in(explanation) if explanation else None
    view, fault = None, ""
    kept = read_named(path, receipt.sheet.hex()).sheets.get(receipt.sheet) if receipt.sheet else None
    if kept is not None:
        try:
            view = _replayed(receipt.sheet, kept, keys)
            fault = slot_fault(view, receipt)
        except RemoteError as error:
            fault = f"its sheet does not hold: {error}"
    granted = view is not None and granted_toll(view, receipt.conversation) is not None
    how: How = answer.how if answer else "cleared" if granted else "posted"
    price = price_of_receipt(receipt, how)
    if not price.adds_up:
        fault = fault or "its price is not the sum of its terms"
    story = story_of(view, keys.peer) if view is not None else None
    role, other = side(receipt, keys.peer)
    if as_json:
        told = to_tree(answer)
        if isinstance(told, dict):
            del told["text"]
        emit_json(
            {
                "receipt": key.hex(),
                "role": role,
                "other": other,
                "how": how,
                "price": price,
                "explanation": told,
                "expected_quality": judged.delivery.quality if judged else None,
                "rating": judged.rating if judged else None,
                "sheet": _sheet_tree(story) if story else None,
                "fault": fault,
            }
        )
    else:
        deal = "bought from" if role == "buyer" else "sold to"
        typer.echo(f"receipt {key.hex()}\n{deal} {other}, agent {receipt.agent}\n")
        if answer is not None:
            typer.echo(f"{candidates_text(answer.candidates)}\n\n{answer.why}\n")
        elif role == "buyer":
            note("why this agent was chosen is not kept here")
        else:
            note("why you were chosen is kept by the buyer alone")
        if judged is not None:
            typer.echo(f"{_judged(key, judged)}\n")
        typer.echo(price_text(price))
        if story is not None:
            typer.echo()
            _print_story(story, keys.peer)
        elif receipt.sheet:
            note(f"its sheet {receipt.sheet.hex()} is no longer kept here")
    if fault:
        raise _does_not_hold("receipt", key, fault)


def _judged(key: bytes, judged: Judged) -> str:
    chance = f"a good answer was expected with probability {judged.delivery.quality:.2f}"
    if judged.rating is None:
        return f"{chance}; `p2pagent rate {key.hex()[:ID_DIGITS]} good` or `bad` says whether it was one"
    return f"{chance}; it was rated {'good' if judged.rating.good else 'bad'}"


def _print_story(story: Story, me: PeerId) -> None:
    typer.echo(f"sheet {story.sheet}\n{story_text(story, me)}\n\n{_VERDICT}")


def _answer_in(explanation: bytes) -> Answered | None:
    """What was kept of the answer; nothing if another version of this program wrote it in other words."""
    try:
        return msgspec.json.decode(explanation, type=Answered)
    except msgspec.DecodeError:
        return None


_VERDICT = "replayed: all signatures, the assignment and every price in it hold"
_OTHER_BYTES = "its bytes are not those of its id"


def _sheet_tree(story: Story) -> dict[str, object]:
    tree = to_tree(story)
    assert isinstance(tree, dict)
    return tree | {"fault": ""}


def _replayed(sheet_id: bytes, signed: SignedSheet, keys: Keys) -> SheetView:
    """The sheet, checked from its bytes on.

    Raises:
        RemoteError: they are not those of the id, not signed by the auctioneer, or not a clearing that holds.
    """
    if body_id(signed.body) != sheet_id:
        raise RemoteError(_OTHER_BYTES)
    sheet, _ = open_sheet(signed, keys)
    return check_sheet(signed.body, sheet, keys)


def _does_not_hold(what: str, key: bytes, fault: str) -> LocalError:
    return LocalError(
        f"{what} {key.hex()} does not hold: {fault}",
        "all was checked when it came, so this device's store has been changed since: restore it from a backup",
        Exit.STORE,
    )
