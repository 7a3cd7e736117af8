"""Hub clearing in real daemons: more is asked of two experts than they have slots, and all agree on who gets them.

Eight processes over libp2p, each with a home of its own. Their engines take seconds to begin, so that a wait in line is
longer than an epoch and questions are contested.
"""

import signal
import subprocess
import sys
import time
from functools import partial
from itertools import chain, count
from pathlib import Path

import pytest
import trio
from msgspec import Struct

from p2pagent import archive, home
from p2pagent.cli.output import credits_text
from p2pagent.experts.families import Family, Question, check
from p2pagent.keys import Ed25519Keys, Keys
from p2pagent.ledger import audit, receipt_in
from p2pagent.market.receipts import metered
from p2pagent.peer.epochs import EPOCH_MS, epoch_at
from p2pagent.peer.hub_messages import Sheet, SignedSheet
from p2pagent.peer.messages import Receipt
from p2pagent.peer.sheet import SheetView, check_sheet, fill, slot_price
from p2pagent.peer.updates import Answered
from p2pagent.peer.wire import encode, opened, parsed
from p2pagent.routing.hubs import ROOT, draw
from p2pagent.store import FILE
from p2pagent.testnet.fleet import Daemon, fleet
from p2pagent.types import AgentRef, PeerId, PrivacyClass, Usage
from tests.integration.paced import Endpoint, hosts
from tests.integration.test_kill import meets, ready, settled
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONTESTED: Family = "add"
HOSTED: tuple[Family, ...] = (CONTESTED, CONTESTED, *2 * ("reverse", "count", "minutes"))
"""The experts, with a slot each, and six whose users ask them."""

EXPERTS = HOSTED.count(CONTESTED)
QUESTIONS = 48
FIRST_PIECE_S = 2.0
TRIES = 3
"""On a quiet machine the first does it. One that is busy elsewhere may be late for a book, a bid or an epoch."""

KILL_MS = 600
"""After the beginning of an epoch: time enough to ask and commit, and less than anybody waits for a sheet."""

START_LIMIT_S = 180
LIMIT_S = 120
"""Both for busy machines: on a quiet one it is fifteen seconds and twenty-five."""


class Clearing(Struct, frozen=True):
    """A sheet, and who has it."""

    view: SheetView
    holders: set[PeerId]


@pytest.fixture
async def endpoint(nursery: trio.Nursery) -> Endpoint:
    endpoint = Endpoint()
    await nursery.start(endpoint.run)
    return endpoint


async def test_daemons_clear_alike_and_go_on_when_an_auctioneer_is_killed(endpoint: Endpoint, tmp_path: Path) -> None:
    questions = await endpoint.known(CONTESTED, QUESTIONS)
    endpoint.first_piece_s = FIRST_PIECE_S
    async with fleet(tmp_path, hosts(endpoint, HOSTED, tmp_path, slots=1)) as daemons:
        with trio.fail_after(START_LIMIT_S):
            for daemon in daemons:
                await ready(daemon)
            for daemon in daemons:
                await meets(daemon, [other for other in daemons if other is not daemon])
        experts, owners = daemons[:EXPERTS], daemons[EXPERTS:]
        with trio.fail_after(LIMIT_S):
            await ask_all(experts, questions, "local")
            payer, answer = await ask_until_a_toll_is_paid(daemons, owners, questions)
            await is_shown(payer, answer)
            for daemon in daemons:
                await settled(daemon)
            survivors = await kill_until_it_matters(daemons, owners, questions)
            for daemon in survivors:
                await settled(daemon)
        clearings = held_alike(daemons)
        books = {daemon.peer: daemon.receipts() for daemon in daemons}
    assert all(is_charged_as_agreed(receipt_in(signed.body), clearings) for signed in chain(*books.values()))
    report = audit(books, Ed25519Keys(bytes(32)))
    assert report.receipts == QUESTIONS - len(questions) - EXPERTS
    assert (report.bad_signatures, report.one_sided, report.residue_microcredits) == ((), (), 0)


async def ask_all(daemons: list[Daemon], questions: list[Question], privacy: PrivacyClass = "any") -> list[Answered]:
    """Their users ask at the same moment, a question each; all are answered, and rightly."""
    answers: dict[PeerId, Answered] = {}

    async def ask(daemon: Daemon, question: Question) -> None:
        answered = await daemon.ask(question.prompt, privacy)
        assert answered is not None
        assert check(question, answered.text)
        answers[daemon.peer] = answered

    async with trio.open_nursery() as asking:
        for daemon in daemons:
            asking.start_soon(ask, daemon, questions.pop())
    return [answers[daemon.peer] for daemon in daemons]


async def ask_until_a_toll_is_paid(
    daemons: list[Daemon], owners: list[Daemon], questions: list[Question]
) -> tuple[Daemon, Answered]:
    """Who pays a toll by a sheet that every one of its participants holds, and for which answer."""
    for _ in range(TRIES):
        answers = await ask_all(owners, questions)
        clearings = held_alike(daemons)
        for owner, answer in zip(owners, answers, strict=True):
            if answer.how == "cleared" and answer.slot_price_microcredits:
                clearing = clearings[bytes.fromhex(answer.sheet)]
                if participants(clearing.view) <= clearing.holders:
                    return owner, answer
    raise AssertionError("no toll was paid by a sheet that all its participants hold")


def held_alike(daemons: list[Daemon]) -> dict[bytes, Clearing]:
    """All sheets that anybody holds, by id: of one clearing all hold the same, and each finds it right by itself."""
    clearings: dict[bytes, Clearing] = {}
    for daemon in daemons:
        keys = Ed25519Keys(home.identity(daemon.folder))
        for sheet_id, signed in archive.read_named(daemon.folder / FILE, "").sheets.items():
            view = replayed(signed, keys)
            assert view.sheet_id == sheet_id
            clearings.setdefault(sheet_id, Clearing(view, set())).holders.add(daemon.peer)
    books = [clearing.view.book.book for clearing in clearings.values()]
    assert len({(book.hub, book.epoch, book.auctioneer) for book in books}) == len(books)
    return clearings


def replayed(signed: SignedSheet, keys: Keys) -> SheetView:
    """What the signed bytes of a sheet say; they are right, and its book and bids cleared anew give the same."""
    sheet: Sheet = parsed(signed.body, Sheet)  # type: ignore[assignment]
    view = check_sheet(signed.body, sheet, keys)
    opened(Sheet, signed.body, signed.signature, view.auctioneer, keys)
    again = fill(sheet.book, sheet.book_signature, view.book, sheet.bids, sheet.cleared_ms)
    assert encode(again) == signed.body
    return view


def participants(view: SheetView) -> set[PeerId]:
    """All whom the book names."""
    return {PeerId(peer) for peer in (*(c.buyer for c in view.book.commits), *(o.seller for o in view.book.offers))}


def is_charged_as_agreed(receipt: Receipt, clearings: dict[bytes, Clearing]) -> bool:
    """Whether the price is that of the tokens, and above it what the sheet says that the receipt names."""
    usage = Usage(receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens)
    toll = receipt.price_microcredits - metered(receipt.rates, usage)
    if not receipt.sheet:
        return toll == 0
    view = clearings[receipt.sheet].view
    granted = [
        grant.toll_microcredits
        for grant in view.sheet.grants
        if (bid := view.bids[grant.bid]) is not None and bid.wants[grant.want].conversation == receipt.conversation
    ]
    if granted:
        return granted == [toll]
    # Whoever comes later pays what is left of the slot's price.
    return 0 < toll <= slot_price(view, AgentRef(PeerId(receipt.seller), receipt.agent), PeerId(receipt.buyer))


async def is_shown(payer: Daemon, answer: Answered) -> None:
    """`p2pagent auction show` tells the payer why it paid that toll."""
    command = [sys.executable, "-m", "p2pagent", "auction", "show", answer.receipt_id, "--home", str(payer.folder)]
    shown: subprocess.CompletedProcess[bytes] = await trio.run_process(command, capture_stdout=True)
    told = shown.stdout.decode()
    assert f"you pay a toll of {credits_text(answer.slot_price_microcredits)}" in told
    assert answer.sheet in told
    assert "replayed: " in told


async def kill_until_it_matters(daemons: list[Daemon], owners: list[Daemon], questions: list[Question]) -> list[Daemon]:
    """Kill auctioneers until one had commits of others; all that was asked is answered. Returns who is alive."""
    alive = daemons.copy()
    for _ in range(TRIES):
        epoch, victim = drawn([daemon for daemon in alive if daemon in owners], alive)
        alive.remove(victim)
        await until(partial(has_begun, epoch), LIMIT_S)
        async with trio.open_nursery() as killing:
            killing.start_soon(hang_and_die, victim, epoch)
            answers = await ask_all([daemon for daemon in alive if daemon in owners], questions)
        if any("the auctioneer went away" in answer.why for answer in answers):
            return alive
    raise AssertionError("nobody had committed to an auctioneer that was killed")


async def hang_and_die(victim: Daemon, epoch: int) -> None:
    """Nobody sees from outside how far a clearing has got; so it stands still until it is killed, before its end."""
    assert victim.process is not None
    victim.process.send_signal(signal.SIGSTOP)
    await until(partial(has_begun, epoch, KILL_MS), LIMIT_S)
    await victim.kill()


def drawn(candidates: list[Daemon], alive: list[Daemon]) -> tuple[int, Daemon]:
    """The next epoch that one of `candidates` clears, and which."""
    by_peer = {daemon.peer: daemon for daemon in candidates}
    peers = [daemon.peer for daemon in alive]
    firsts = ((epoch, draw(ROOT, epoch, peers)[0]) for epoch in count(epoch_at(now_ms()) + 1))
    return next((epoch, by_peer[first]) for epoch, first in firsts if first in by_peer)


def has_begun(epoch: int, before_ms: int = 0) -> bool:
    """Whether this epoch began at least `before_ms` ago."""
    return now_ms() >= epoch * EPOCH_MS + before_ms


def now_ms() -> int:
    """By the clock that epochs are counted by."""
    return time.time_ns() // 1_000_000
