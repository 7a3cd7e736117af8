"""The daemon as its HTTP API sees it: questions in, updates out, and views of what is going on."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import trio
from msgspec import Struct, structs

from p2pagent import __version__
from p2pagent.api.node import (
    AccountView,
    AgentView,
    EngineView,
    LedgerView,
    PeerView,
    Question,
    RatingView,
    ReceiptView,
    StatusView,
    Verdict,
)
from p2pagent.books import Booked
from p2pagent.config import Config, Preferences
from p2pagent.driver import Driver
from p2pagent.engine.base import Engine
from p2pagent.engine.openai_wire import estimate_tokens, most_tokens
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.keys import Keys
from p2pagent.net import Network
from p2pagent.peer import pinned
from p2pagent.peer.disputes import make_refund
from p2pagent.peer.events import Ask, Disputed, Policy, Rating, RefundPosted
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import Dispute
from p2pagent.peer.peer import Peer
from p2pagent.peer.updates import Update
from p2pagent.peer.wire import FRAME_BYTES_MAX
from p2pagent.routing.prototypes import Space
from p2pagent.store import Store
from p2pagent.tokenisers import Tokenisers
from p2pagent.types import AgentRef, ChatMessage, Sampling

WARNINGS_MAX = 16
DISPUTES_SHOWN_MAX = 1000
QUESTION_BYTES_MAX = FRAME_BYTES_MAX // 2
"""Leaves room in a frame for what surrounds the turns."""


class LocalNode(Struct):
    """Everything that one device runs. `engines` grows as they become ready."""

    keys: Keys
    config: Config
    space: Space
    peer: Peer
    driver: Driver
    network: Network
    store: Store
    engines: Mapping[str, Engine]
    tokenisers: Tokenisers
    warnings: deque[str]
    started_s: float

    @property
    def preferences(self) -> Preferences:
        """The owner's settings for questions."""
        return self.config.preferences

    def agent(self, text: str) -> AgentRef:
        """The agent that is meant; see `p2pagent.api.node.Node.agent`."""
        own = [AgentRef(self.network.peer, name) for name in self.engines]
        others = [AgentRef(peer, a.name) for peer, entry in self.peer.directory.entries() for a in entry.record.agents]
        return pinned.find(text, [*own, *others])

    @asynccontextmanager
    async def ask(
        self, turns: tuple[ChatMessage, ...], sampling: Sampling, policy: Policy, expect: str = ""
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Update]]:
        """Ask the network; see `p2pagent.api.node.Node.ask`."""
        async with self.driver.ask(await self._question(turns, sampling, policy, expect)) as updates:
            yield updates

    @asynccontextmanager
    async def ask_all(
        self, questions: Sequence[Question], sampling: Sampling, policy: Policy
    ) -> AsyncIterator[tuple[trio.MemoryReceiveChannel[Update], ...]]:
        """Ask the network many questions together; see `p2pagent.api.node.Node.ask_all`."""
        makes = []
        for number, question in enumerate(questions, 1):
            try:
                turns = (ChatMessage("user", question.text),)
                makes.append(await self._question(turns, sampling, policy, question.expect))
            except LocalError as error:
                raise LocalError(f"question {number}: {error.cause}", error.hint, error.exit_code) from error
        async with self.driver.ask_all(makes) as updates:
            yield updates

    async def _question(
        self, turns: tuple[ChatMessage, ...], sampling: Sampling, policy: Policy, expect: str
    ) -> Callable[[str], Ask]:
        """What makes the event of a query id.

        Raises:
            LocalError: it cannot be asked.
        """
        if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
            raise LocalError(
                "the question is empty", "end the conversation with what you want to know", Exit.EMPTY_QUESTION
            )
        size = sum(len(turn.content.encode()) for turn in turns)
        if size > QUESTION_BYTES_MAX:
            cause = f"the question has {size} bytes; {QUESTION_BYTES_MAX} fit into a message"
            raise LocalError(cause, "shorten it", Exit.TOO_LONG)
        own = [(can.tokeniser, can.context_tokens) for can in (e.capabilities() for e in self.engines.values())]
        known = [(a.tokeniser, a.context_tokens) for _, e in self.peer.directory.entries() for a in e.record.agents]
        counted = await self.tokenisers.count_prompt((tokeniser for tokeniser, _ in [*own, *known]), turns)
        expected = await self._expected_tokens(turns)
        ask = Ask("", turns, sampling, expected, policy, "", expect, most_tokens(turns), counted)
        longest = max([*own, *known], key=lambda agent: agent[1], default=None)
        if longest is not None and all(ask.tokens_by(tokeniser) >= context for tokeniser, context in [*own, *known]):
            hint = "shorten it, or host an agent with a longer context"
            cause = f"the question has {ask.tokens_by(longest[0])} tokens; no agent takes {longest[1]} or more"
            raise LocalError(cause, hint, Exit.TOO_LONG)
        return lambda query: structs.replace(ask, query=query)

    def status(self) -> StatusView:
        """How the daemon fares now."""
        net = self.network.statistics()
        return StatusView(
            peer=self.network.peer,
            version=__version__,
            network=self.config.network.name,
            space=self.space.name,
            addresses=self.network.addresses(),
            uptime_s=int(trio.current_time() - self.started_s),
            agents=tuple(_engine_view(name, engine) for name, engine in self.engines.items()),
            neighbours=net.neighbours,
            known_peers=len(self.peer.directory),
            queries_running=self.peer.buyer.running,
            frames_in=net.frames_in,
            frames_out=net.frames_out,
            cells=self.peer.membership.cells.names(),
            members=len(self.peer.directory.members),
            distrust=self.peer.membership.detector.health,
            faults=self.driver.faults + self.driver.events_dropped + net.guarded_exceptions,
            warnings=tuple(self.warnings),
        )

    async def peers(self) -> tuple[PeerView, ...]:
        """All peers in the directory."""
        balances = await self.store.balances()
        now_ms = self.driver.now_ms()
        return tuple(
            PeerView(
                peer=peer,
                connected=peer in self.peer.membership.neighbours,
                lease_left_ms=max(0, entry.expires_ms - now_ms),
                agents=tuple(
                    _agent_view(agent, self.peer.memory.outcomes(AgentRef(peer, agent.name)))
                    for agent in entry.record.agents
                ),
                balance_microcredits=balances.get(peer, 0),
                faults=round(self.peer.directory.faults(peer, now_ms)),
            )
            for peer, entry in self.peer.directory.entries()
        )

    async def ledger(self, limit: int) -> LedgerView:
        """Accounts, the latest `limit` receipts, and what is in dispute."""
        # In this order, so that what a receipt shown has moved is in the sums shown beside it.
        receipts, disputed = await self.store.receipts(limit), await self.store.disputed(DISPUTES_SHOWN_MAX)
        balances, turnovers = await self.store.balances(), await self.store.turnovers()
        now_ms = self.driver.now_ms()
        return LedgerView(
            accounts={
                peer: AccountView(
                    balance_microcredits=balances.get(peer, 0),
                    limit_microcredits=self.peer.credit.limit(peer),
                    used_microcredits=max(0, self.peer.credit.used(peer, now_ms)),
                    bought_microcredits=turnover.bought_microcredits,
                    sold_microcredits=turnover.sold_microcredits,
                )
                for peer, turnover in turnovers.items()
            },
            receipts=tuple(map(_receipt_view, receipts)),
            disputed=tuple(map(_receipt_view, disputed)),
        )

    async def dispute(self, receipt: str, reason: str) -> ReceiptView:
        """Dispute a receipt; see `p2pagent.api.node.Node.dispute`."""
        booked = await self.store.find(receipt)
        name = booked.receipt_id.hex()
        if booked.role != "buyer":
            hint = f"its buyer may dispute it; to give its price back: `p2pagent ledger refund {name[:12]}`"
            raise LocalError(f"receipt {name} is of an answer that you sold", hint, Exit.STORE)
        dispute, now_ms = Dispute(booked.receipt_id, reason), self.driver.now_ms()
        if await self.store.raise_dispute(dispute, now_ms):
            self.driver.put(Disputed(booked.other, dispute))
        view = _receipt_view(await self.store.find(name))
        if view.state == "refunded":
            raise LocalError(f"receipt {name} is refunded already", "there is nothing left to dispute", Exit.STORE)
        return view

    async def refund(self, receipt: str) -> ReceiptView:
        """Give a receipt's price back; see `p2pagent.api.node.Node.refund`."""
        booked = await self.store.find(receipt)
        name = booked.receipt_id.hex()
        if booked.role != "seller":
            hint = f"its seller may refund it; to ask for that: `p2pagent ledger dispute {name[:12]} REASON`"
            raise LocalError(f"receipt {name} is of an answer that you bought", hint, Exit.STORE)
        refund = make_refund(booked.receipt_id, booked.receipt, self.keys, self.driver.now_ms())
        outcome = await self.store.book_refund(refund)
        if outcome == "new":
            self.driver.put(RefundPosted(refund, outcome))
        return _receipt_view(await self.store.find(name))

    async def rate(self, receipt: str, rating: Verdict) -> RatingView:
        """Say how good an answer was; see `p2pagent.api.node.Node.rate`."""
        booked = await self.store.find(receipt)
        name = booked.receipt_id.hex()
        if booked.role != "buyer":
            hint = "its buyer may rate it; `p2pagent ledger` lists what you bought"
            raise LocalError(f"receipt {name} is of an answer that you sold", hint, Exit.STORE)
        rated = await self.store.rate(booked.receipt_id, Rating(rating == "good", self.driver.now_ms()))
        if rated is None:
            hint = "rate answers while they are among the latest few thousand"
            raise LocalError(f"of receipt {name} too little is kept to learn from it", hint, Exit.STORE)
        outcomes = self.peer.memory.outcomes(rated.delivery.agent)
        self.driver.put(rated)
        return RatingView(
            receipt=_receipt_view(await self.store.find(name)),
            earlier=None if rated.earlier is None else _verdict(rated.earlier.good),
            expected_quality=rated.delivery.quality,
            outcomes=outcomes,
        )

    async def _expected_tokens(self, turns: tuple[ChatMessage, ...]) -> int:
        """What a prompt is expected to have by a tokeniser that we do not know: as much as by an own one like that."""
        for engine in self.engines.values():
            if engine.capabilities().tokeniser not in self.tokenisers.known:
                try:
                    return await engine.count_tokens(turns)
                except EngineUnavailableError:
                    continue
        return estimate_tokens(turns)


def _engine_view(name: str, engine: Engine) -> EngineView:
    statistics = engine.statistics()
    return EngineView(
        agent=name,
        model=engine.capabilities().model,
        ready=statistics.ready,
        running=statistics.running,
        completed=statistics.completed,
        failed=statistics.failed,
        restarts=statistics.restarts,
        prompt_tokens=statistics.prompt_tokens,
        cached_tokens=statistics.cached_tokens,
    )


def _verdict(good: bool) -> Verdict:
    return "good" if good else "bad"


def _receipt_view(booked: Booked) -> ReceiptView:
    return ReceiptView(
        receipt_id=booked.receipt_id.hex(),
        role=booked.role,
        other=booked.other,
        agent=booked.receipt.agent,
        prompt_tokens=booked.receipt.prompt_tokens,
        cached_tokens=booked.receipt.cached_tokens,
        output_tokens=booked.receipt.output_tokens,
        price_microcredits=booked.receipt.price_microcredits,
        issued_ms=booked.receipt.issued_ms,
        acknowledged=booked.acknowledged,
        state=booked.state,
        reason=booked.reason,
        raised_ms=booked.raised_ms,
        raised_by=_raised_by(booked),
        rating=None if booked.good is None else _verdict(booked.good),
    )


def _raised_by(booked: Booked) -> Literal["buyer", "user", "recount"] | None:
    if booked.reason is None:
        return None
    if booked.role == "seller":
        return "buyer"
    return "recount" if booked.automatic else "user"


def _agent_view(advert: AgentAdvert, outcomes: int) -> AgentView:
    return AgentView(
        name=advert.name,
        model=advert.model,
        skill=round(sum(advert.capability) / (255 * max(1, len(advert.capability))), 3),
        context_tokens=advert.context_tokens,
        slots=advert.slots,
        prompt_microcredits=advert.rates.prompt,
        output_microcredits=advert.rates.output,
        outcomes=outcomes,
    )
