"""Fraud proofs: statements that an honest auctioneer cannot have signed, checked by anybody from the bytes alone.

Provable are: two books or two sheets for one epoch; a book or sheet that is not what its parts make it; a message that
was acknowledged and is in neither. What was never acknowledged cannot be proved, and costs local standing only.
"""

from typing import Literal

from msgspec import Struct

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.hub_messages import Acknowledgement, Book, Clearing, Proof, Sheet, Statement
from p2pagent.peer.sheet import body_id, check_book, check_sheet
from p2pagent.peer.wire import check_signature, parsed
from p2pagent.types import PeerId

Crime = Literal["wrong book", "wrong sheet", "equivocation", "omission"]


class Verdict(Struct, frozen=True):
    """Who is guilty of what, and what exactly is wrong."""

    culprit: PeerId
    crime: Crime
    detail: str


class _Read(Struct, frozen=True):
    """A statement, its signature checked. A sheet brings the book that it is made of."""

    kind: Literal["ack", "book", "sheet"]
    body: bytes
    clearing: Clearing
    acknowledgement: Acknowledgement | None = None
    book: Book | None = None
    sheet: Sheet | None = None


def verdict(proof: Proof, keys: Keys) -> Verdict:
    """What `proof` proves.

    Raises:
        RemoteError: it proves nothing: not signed by one auctioneer about one clearing, or nothing is wrong with it.
    """
    read = [_read(statement, keys) for statement in proof.statements]
    if len({r.clearing for r in read}) != 1:
        raise RemoteError("proof: statements of different clearings")
    culprit = read[0].clearing[2]
    if len(read) == 1:
        return _wrong(read[0], culprit, keys)
    one, other = sorted(read, key=lambda r: r.kind)  # ack, book, sheet
    if one.acknowledgement is not None:
        return _omission(one.acknowledgement, other, culprit)
    if one.kind == other.kind and one.body != other.body:
        return Verdict(culprit, "equivocation", f"two {one.kind}s for one epoch")
    if one.kind == "book" and other.sheet is not None and other.sheet.book != one.body:
        return Verdict(culprit, "equivocation", "a sheet of another book than the one shown")
    raise RemoteError("proof: the statements agree")


def _read(statement: Statement, keys: Keys) -> _Read:
    match statement.kind:
        case "ack":
            ack = parsed(statement.body, Acknowledgement)
            read = _Read("ack", statement.body, ack.clearing, acknowledgement=ack)
            said: Acknowledgement | Book | Sheet = ack
        case "book":
            said = book = parsed(statement.body, Book)
            read = _Read("book", statement.body, book.clearing, book=book)
        case "sheet":
            said = sheet = parsed(statement.body, Sheet)
            inner = parsed(sheet.book, Book)
            read = _Read("sheet", statement.body, inner.clearing, book=inner, sheet=sheet)
    check_signature(said, read.clearing[2], statement.body, statement.signature, keys)
    return read


def _wrong(read: _Read, culprit: PeerId, keys: Keys) -> Verdict:
    try:
        if read.sheet is not None:
            check_sheet(read.body, read.sheet, keys)
        elif read.book is not None:
            check_book(read.book, keys)
    except RemoteError as error:
        return Verdict(culprit, "wrong sheet" if read.sheet is not None else "wrong book", str(error))
    raise RemoteError("proof: nothing is wrong with the statement")


def _omission(ack: Acknowledgement, other: _Read, culprit: PeerId) -> Verdict:
    if other.book is None:
        raise RemoteError("proof: two acknowledgements prove nothing")
    if ack.what == "bid":
        if other.sheet is None:
            raise RemoteError("proof: a book holds no bids")
        there = {body_id(bid) for bid in other.sheet.bids}
    else:
        parts = other.book.commits if ack.what == "commit" else other.book.offers
        there = {body_id(part.body) for part in parts}
    if ack.sha256 in there:
        raise RemoteError("proof: the acknowledged message is there")
    return Verdict(culprit, "omission", f"an acknowledged {ack.what} is not there")
