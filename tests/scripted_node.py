"""A node that says what a test wrote down for it, served for real on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from msgspec import structs

from p2pagent.api.node import (
    AccountView,
    AgentView,
    EngineView,
    LedgerView,
    PeerView,
    RatingView,
    ReceiptView,
    StatusView,
    Verdict,
)
from p2pagent.config import Preferences
from p2pagent.errors import Exit, LocalError
from p2pagent.peer import pinned
from p2pagent.peer.events import Policy
from p2pagent.peer.updates import Answered, Candidate, Text, Unanswered, Update
from p2pagent.types import AgentRef, ChatMessage, PeerId, Sampling, Usage

PEER = PeerId("12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X")
SELLER = PeerId("12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3")

CANDIDATE = Candidate(AgentRef(SELLER, "reverse"), "reverse", 0.9, 0.05, 420, 880_000, "awarded", 1_000, 0, 12, 3)
ANSWERED = Answered(
    text="olleh",
    agent=AgentRef(SELLER, "reverse"),
    model="reverse",
    delegated=True,
    usage=Usage(20, 8, 5),
    how="posted",
    price_microcredits=328,
    prompt_microcredits=10,
    cached_microcredits=1,
    output_microcredits=40,
    slot_price_microcredits=0,
    sheet="",
    receipt_id="ab" * 32,
    finish_reason="stop",
    ttft_ms=12,
    total_ms=30,
    restarts=0,
    candidates=(CANDIDATE,),
    why="reverse is worth most: 0.880000 credits",
)
SAID: tuple[Update, ...] = (Text("ol"), Text("leh"), ANSWERED)
RECEIPT = ReceiptView("ab" * 32, "buyer", SELLER, "reverse", 20, 8, 5, 328, 1_700_000_000_000, True, "settled")
NOBODY = Unanswered("every candidate refused", False, (CANDIDATE,))


class ScriptedNode:
    """Says `script` in answer to each question; without a last word in it, it goes on being silent."""

    def __init__(self) -> None:
        self.preferences = Preferences()
        self.script: tuple[Update, ...] = SAID
        self.asked: list[tuple[tuple[ChatMessage, ...], Sampling, Policy]] = []
        self.left = trio.Event()
        self.ready = True
        self.disputed: tuple[ReceiptView, ...] = ()
        self.rated: Verdict | None = None
        self.expected: list[str] = []

    def agent(self, text: str) -> AgentRef:
        return pinned.find(text, [CANDIDATE.agent])

    @asynccontextmanager
    async def ask(
        self, turns: tuple[ChatMessage, ...], sampling: Sampling, policy: Policy, expect: str = ""
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Update]]:
        if not turns[-1].content.strip():
            raise LocalError("the question is empty", "ask something", Exit.EMPTY_QUESTION)
        if len(turns[-1].content) > 10_000:
            raise LocalError("the question is longer than any context", "shorten it", Exit.TOO_LONG)
        self.asked.append((turns, sampling, policy))
        self.expected.append(expect)
        send, receive = trio.open_memory_channel[Update](len(self.script))
        for update in self.script:
            send.send_nowait(update)
        try:
            with send, receive:
                yield receive
        finally:
            self.left.set()

    def status(self) -> StatusView:
        return StatusView(
            peer=PEER,
            version="0.1.0",
            network="main",
            space="hashing",
            addresses=("/ip4/192.0.2.7/tcp/4101",),
            uptime_s=5,
            agents=(EngineView("agent", "reverse", self.ready, 0, 3, 1, 0),),
            neighbours=0,
            known_peers=1,
            queries_running=0,
            frames_in=1,
            frames_out=2,
            cells=("/",),
            members=1,
            distrust=0,
            faults=0,
            warnings=("the clock is off",),
        )

    async def peers(self) -> tuple[PeerView, ...]:
        agent = AgentView("reverse", "reverse", 0.9, 512, 4, 10, 40, 7)
        return (PeerView(SELLER, True, 30_000, (agent,), -328, 0), PeerView(PEER, False, 0, (), 0, 2))

    async def ledger(self, limit: int) -> LedgerView:
        account = AccountView(-328, 1_000_164, 0, 328, 0)
        receipt = structs.replace(RECEIPT, rating=self.rated)
        return LedgerView({SELLER: account}, (receipt,) * min(limit, 2), self.disputed)

    async def dispute(self, receipt: str, reason: str) -> ReceiptView:
        if not RECEIPT.receipt_id.startswith(receipt):
            raise LocalError(f"no receipt here begins with {receipt}", "look", Exit.STORE)
        self.disputed = (structs.replace(RECEIPT, state="disputed", reason=reason, raised_ms=RECEIPT.issued_ms),)
        return self.disputed[0]

    async def rate(self, receipt: str, rating: Verdict) -> RatingView:
        if not RECEIPT.receipt_id.startswith(receipt):
            raise LocalError(f"no receipt here begins with {receipt}", "look", Exit.STORE)
        earlier, self.rated = self.rated, rating
        return RatingView(structs.replace(RECEIPT, rating=rating), earlier, 0.62, 3)

    async def refund(self, receipt: str) -> ReceiptView:
        raise LocalError(f"receipt {receipt} is of an answer that you bought", "dispute it", Exit.STORE)
