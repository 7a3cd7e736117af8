"""Whoever was chosen to answer is killed in the middle of its answer, time and again: nothing is lost or paid twice.

Real daemons, the shipped experts behind them, and an endpoint that holds each answer after its first piece until its
daemon has died.
"""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import trio

from p2pagent.api.chat_request import Extension
from p2pagent.api.client import Client
from p2pagent.api.node import Question as Put
from p2pagent.experts.families import Question, check
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import audit
from p2pagent.peer.updates import Answered, Restarted, Text, Update
from p2pagent.testnet.fleet import Daemon, fleet
from tests.integration.paced import ANSWER_TOKENS, FAMILIES, Endpoint, agents

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROUNDS = 20
HOLDERS = 2
"""Daemons per family."""

START_LIMIT_S = 180
ROUND_LIMIT_S = 60
"""Both for busy machines: on a quiet one it is ten seconds and two."""


@pytest.fixture
async def endpoint(nursery: trio.Nursery) -> Endpoint:
    endpoint = Endpoint()
    await nursery.start(endpoint.run)
    return endpoint


async def meets(daemon: Daemon, others: list[Daemon]) -> None:
    """Wait until `daemon` is connected to `others`, and knows their agents."""
    wanted = {other.peer for other in others}
    await daemon.until_peers(lambda peers: wanted <= {view.peer for view in peers if view.connected and view.agents})


async def ready(daemon: Daemon) -> None:
    await daemon.until_status(lambda status: bool(status.agents))


def ask(daemon: Daemon, question: str, tell: Callable[[Update], None]) -> None:
    """Ask as `p2pagent ask` does; blocks until the answer is whole."""
    put = Put(question)
    with Client(daemon.folder) as client, closing(client.ask(put, Extension(raw=False), ANSWER_TOKENS)) as updates:
        for update in updates:
            trio.from_thread.run_sync(tell, update)


async def kill_the_winner(endpoint: Endpoint, daemons: list[Daemon], asker: Daemon, question: Question) -> Daemon:
    """Ask, kill whoever begins to answer, and see another holder answer in its place; returns the one killed."""
    send, updates = trio.open_memory_channel[Update](256)
    endpoint.stall_at = question.prompt
    async with trio.open_nursery() as nursery:
        asking = partial(trio.to_thread.run_sync, ask, asker, question.prompt, send.send_nowait)
        nursery.start_soon(partial(asking, abandon_on_cancel=True))
        assert isinstance(await updates.receive(), Text)
        victim = daemons[int(endpoint.stalled)]
        await victim.kill()
    send.close()
    told = [update async for update in updates]
    assert [update.lost.peer for update in told if isinstance(update, Restarted)] == [victim.peer]
    answered = told[-1]
    assert isinstance(answered, Answered)
    assert answered.agent.peer != victim.peer
    assert answered.agent.name == question.family, "; ".join(
        f"{c.agent.name} {c.agent.peer[-4:]} {c.quality} {c.outcomes} {c.outcome} {c.reason} {c.worth_microcredits}"
        for c in answered.candidates
    )
    assert answered.delegated
    assert answered.restarts == 1
    assert check(question, answered.text)
    return victim


async def test_the_winner_is_killed_in_mid_answer(endpoint: Endpoint, tmp_path: Path) -> None:
    asked = [await endpoint.known(family, ROUNDS // len(FAMILIES)) for family in FAMILIES]
    async with fleet(tmp_path, agents(endpoint, HOLDERS * len(FAMILIES), tmp_path)) as daemons:
        with trio.fail_after(START_LIMIT_S):
            for daemon in daemons:
                await ready(daemon)
        longest_up = daemons.copy()
        for question in chain(*zip(*asked, strict=True)):
            holders = [daemon for daemon in daemons if daemon.config.agents[0].name == question.family]
            asker = next(daemon for daemon in longest_up if daemon not in holders)
            with trio.fail_after(ROUND_LIMIT_S):
                for daemon in (asker, *holders):
                    await ready(daemon)
                await meets(asker, holders)
                victim = await kill_the_winner(endpoint, daemons, asker, question)
            longest_up.remove(victim)
            longest_up.append(victim)
            await victim.start()
        with trio.fail_after(ROUND_LIMIT_S):
            for daemon in daemons:
                await settled(daemon)
        ledgers = [await daemon.until_ledger(lambda _: True) for daemon in daemons]
        books = {daemon.peer: daemon.receipts() for daemon in daemons}
    report = audit(books, Ed25519Keys(bytes(32)))
    assert report.receipts == ROUNDS
    assert (report.bad_signatures, report.one_sided, report.residue_microcredits) == ((), (), 0)
    assert sum(map(len, books.values())) == 2 * ROUNDS
    assert sum(sum(ledger.balances.values()) for ledger in ledgers) == 0


async def settled(daemon: Daemon) -> None:
    """Wait until all that `daemon` owes has been acknowledged."""
    await ready(daemon)
    await daemon.until_ledger(lambda ledger: all(r.role == "seller" or r.acknowledged for r in ledger.receipts))
