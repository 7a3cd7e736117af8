"""What the HTTP API needs of the daemon, and the views of it that leave this process as JSON."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, Protocol

import trio
from msgspec import Meta, Struct

from p2pagent.config import Preferences
from p2pagent.ledger import State
from p2pagent.peer.events import Policy
from p2pagent.peer.updates import Update
from p2pagent.types import AgentRef, ChatMessage, Microcredits, PeerId, Sampling

Verdict = Literal["good", "bad"]


class AgentView(Struct, frozen=True):
    """An agent as the directory holds it.

    `skill` is its mean measured accuracy over all prototypes; `outcomes` are answers of it that were judged here.
    """

    name: str
    model: str
    skill: float
    context_tokens: int
    slots: int
    prompt_microcredits: Microcredits
    output_microcredits: Microcredits
    outcomes: int = 0


class PeerView(Struct, frozen=True):
    """A peer as this device sees it now. `balance_microcredits` is positive where it owes us."""

    peer: PeerId
    connected: bool
    lease_left_ms: int
    agents: tuple[AgentView, ...]
    balance_microcredits: Microcredits
    faults: int


RECEIPT_PREFIX = "[0-9a-fA-F]{6,64}"
"""What names a receipt: the first digits of its id."""


class DisputeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says to dispute a receipt."""

    reason: Annotated[str, Meta(min_length=1, max_length=256)]


class RateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says of an answer."""

    rating: Verdict


class AccountView(Struct, frozen=True):
    """What lies between us and a peer.

    Attributes:
        balance_microcredits: what it owes us; negative where we owe it. It is what was sold less what was bought.
        limit_microcredits: what it may owe us at most.
        used_microcredits: how much of that is used up by its balance, by answers that it has not signed for yet, and by
            charges for slots that it kept for nothing.
        bought_microcredits: by us of it, refunds taken off; `sold_microcredits` likewise.
    """

    balance_microcredits: Microcredits
    limit_microcredits: Microcredits
    used_microcredits: Microcredits
    bought_microcredits: Microcredits
    sold_microcredits: Microcredits


class ReceiptView(Struct, frozen=True):
    """One settled delegation. `role` is ours in it.

    `reason` is why its buyer disputes it, or did before the refund; `raised_by` a buyer who is another, this device's
    user, or a recount of the answer's tokens.
    """

    receipt_id: str
    role: str
    other: PeerId
    agent: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    price_microcredits: Microcredits
    issued_ms: int
    acknowledged: bool
    state: State
    reason: str | None = None
    raised_ms: int | None = None
    raised_by: Literal["buyer", "user", "recount"] | None = None
    rating: Verdict | None = None


class RatingView(Struct, frozen=True):
    """A receipt that was rated.

    Attributes:
        earlier: what was said of it before, which counts no more.
        expected_quality: the probability of a good answer when its agent was chosen.
        outcomes: answers of that agent that were judged here before this one.
    """

    receipt: ReceiptView
    earlier: Verdict | None
    expected_quality: float
    outcomes: int


class LedgerView(Struct, frozen=True):
    """Accounts by peer, the latest receipts, and the latest 1000 open disputes, ours and others'."""

    accounts: dict[PeerId, AccountView]
    receipts: tuple[ReceiptView, ...]
    disputed: tuple[ReceiptView, ...]

    @property
    def balances(self) -> dict[PeerId, Microcredits]:
        """What each peer owes us; negative where we owe it."""
        return {peer: account.balance_microcredits for peer, account in self.accounts.items()}


class EngineView(Struct, frozen=True):
    """One local agent and its engine."""

    agent: str
    model: str
    ready: bool
    running: int
    completed: int
    failed: int
    restarts: int
    prompt_tokens: int = 0
    """Of all prompts since the engine started, as it counts them itself; 0 where it does not."""
    cached_tokens: int = 0
    """Those of them that it found in its prefix cache."""


class StatusView(Struct, frozen=True):
    """How the daemon fares.

    Attributes:
        cells: the parts of the network that this device follows; `/` is all of it.
        members: known peers there.
        distrust: failed pings that may be our own fault, 0 to 8: while it is above 0, others are given more time.
    """

    peer: PeerId
    version: str
    network: str
    space: str
    addresses: tuple[str, ...]
    uptime_s: int
    agents: tuple[EngineView, ...]
    neighbours: int
    known_peers: int
    queries_running: int
    frames_in: int
    frames_out: int
    cells: tuple[str, ...]
    members: int
    distrust: int
    faults: int
    warnings: tuple[str, ...]


class Question(Struct, frozen=True):
    """One question of a batch. Where `expect` is not empty, an answer that equals it is rated good, any other bad."""

    text: str
    expect: str = ""


class Node(Protocol):
    """The daemon, as the API sees it."""

    @property
    def preferences(self) -> Preferences:
        """The owner's settings for questions."""

    def agent(self, text: str) -> AgentRef:
        """The agent named as NAME@PEER: all of the peer's id, or as much of its beginning or end as is enough.

        Raises:
            LocalError: no such agent is known, or several are.
        """

    def ask(
        self, turns: tuple[ChatMessage, ...], sampling: Sampling, policy: Policy, expect: str = ""
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Update]]:
        """Ask the network; the channel ends after `Answered` or `Unanswered`. Leaving the block early cancels it.

        An answer that equals `expect` is rated good, any other bad; without it none is.

        Raises:
            LocalError: an empty question, or one longer than any context.
        """

    def ask_all(
        self, questions: Sequence[Question], sampling: Sampling, policy: Policy
    ) -> AbstractAsyncContextManager[tuple[trio.MemoryReceiveChannel[Update], ...]]:
        """Ask many questions so that they are cleared together, each with a channel as in `ask`, in their order.

        Raises:
            LocalError: one of them cannot be asked, as in `ask`; then none is.
        """

    def status(self) -> StatusView:
        """How the daemon fares now."""

    async def peers(self) -> tuple[PeerView, ...]:
        """All peers in the directory."""

    async def ledger(self, limit: int) -> LedgerView:
        """Accounts, the latest `limit` receipts, and what is in dispute."""

    async def dispute(self, receipt: str, reason: str) -> ReceiptView:
        """Dispute a receipt that we bought by, named by the first 6 or more hex digits of its id; again is no fault.

        Raises:
            LocalError: none or several begin so, we did not buy by it, or it is refunded already.
        """

    async def rate(self, receipt: str, rating: Verdict) -> RatingView:
        """Say how good the answer of a receipt was that we bought by, named in the same way; the last word counts.

        Raises:
            LocalError: none or several begin so, we did not buy by it, or what rating it needs is not kept any more.
        """

    async def refund(self, receipt: str) -> ReceiptView:
        """Give back what a receipt brought us, named in the same way; again is no fault.

        Raises:
            LocalError: none or several begin so, or we did not sell by it.
        """
