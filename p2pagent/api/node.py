"""What the HTTP API needs of the daemon, and the views of it that leave this process as JSON."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio
from msgspec import Struct

from p2pagent.config import Preferences
from p2pagent.peer.events import Policy, Update
from p2pagent.types import ChatMessage, Microcredits, PeerId, Sampling


class AgentView(Struct, frozen=True):
    """An agent as the directory holds it. `skill` is its mean measured accuracy over all prototypes."""

    name: str
    model: str
    skill: float
    context_tokens: int
    slots: int
    prompt_microcredits: Microcredits
    output_microcredits: Microcredits


class PeerView(Struct, frozen=True):
    """A peer as this device sees it now. `balance_microcredits` is positive where it owes us."""

    peer: PeerId
    connected: bool
    lease_left_ms: int
    agents: tuple[AgentView, ...]
    balance_microcredits: Microcredits
    faults: int


class ReceiptView(Struct, frozen=True):
    """One settled delegation. `role` is ours in it."""

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


class LedgerView(Struct, frozen=True):
    """Balances by peer (positive where it owes us) and the latest receipts."""

    balances: dict[PeerId, Microcredits]
    receipts: tuple[ReceiptView, ...]


class EngineView(Struct, frozen=True):
    """One local agent and its engine."""

    agent: str
    model: str
    ready: bool
    running: int
    completed: int
    failed: int
    restarts: int


class StatusView(Struct, frozen=True):
    """How the daemon fares."""

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
    gossip_in: int
    gossip_out: int
    faults: int
    warnings: tuple[str, ...]


class Node(Protocol):
    """The daemon, as the API sees it."""

    @property
    def preferences(self) -> Preferences:
        """The owner's settings for questions."""

    def ask(
        self, turns: tuple[ChatMessage, ...], sampling: Sampling, policy: Policy
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Update]]:
        """Ask the network; the channel ends after `Answered` or `Unanswered`. Leaving the block early cancels it.

        Raises:
            LocalError: an empty question, or one longer than any context.
        """

    def status(self) -> StatusView:
        """How the daemon fares now."""

    async def peers(self) -> tuple[PeerView, ...]:
        """All peers in the directory."""

    async def ledger(self, limit: int) -> LedgerView:
        """Balances, and the latest `limit` receipts."""
