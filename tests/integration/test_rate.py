"""A user's word on answers moves what its device expects of an agent, outlives the daemon, and is told to nobody."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from p2pagent.peer.updates import Answered, Candidate
from p2pagent.testnet.fleet import Daemon, fleet
from tests.integration.paced import FAMILIES, Endpoint, agents

pytestmark = pytest.mark.integration

START_LIMIT_S = 120
LIMIT_S = 60
SOLD = FAMILIES[1]
"""What the second daemon is good at, and the first is not."""

FOUND_OUT = 12
"""Questions whose answers are all judged bad at once: after that no claim helps any more."""


@pytest.fixture
async def endpoint(nursery: trio.Nursery) -> Endpoint:
    endpoint = Endpoint()
    await nursery.start(endpoint.run)
    return endpoint


@pytest.fixture
async def daemons(endpoint: Endpoint, tmp_path: Path) -> AsyncIterator[list[Daemon]]:
    async with fleet(tmp_path, agents(endpoint, 2, tmp_path)) as started:
        with trio.fail_after(START_LIMIT_S):
            await ready(*started)
        yield started


async def ready(*daemons: Daemon) -> None:
    for daemon in daemons:
        await daemon.until_status(lambda status: bool(status.agents))
        await daemon.until_peers(lambda peers: any(peer.agents for peer in peers))


async def p2pagent(daemon: Daemon, *arguments: str, exit_code: int = 0) -> str:
    """What the command line prints for the owner of `daemon`."""
    command = [sys.executable, "-m", "p2pagent", *arguments, "--home", str(daemon.folder)]
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == exit_code, done.stderr.decode()
    return done.stdout.decode()


async def known_outcomes(daemon: Daemon) -> int:
    """Answers of the other's agent that were judged here, as the list of peers tells."""
    (other,) = await daemon.until_peers(lambda peers: any(peer.agents for peer in peers))
    return other.agents[0].outcomes


def of_agent(answer: Answered, daemon: Daemon) -> Candidate:
    """How the agent of `daemon` was seen when it was decided who answers."""
    return next(candidate for candidate in answer.candidates if candidate.agent.peer == daemon.peer)


async def test_ratings_move_what_is_expected_and_live_through_a_restart(
    daemons: list[Daemon], endpoint: Endpoint, tmp_path: Path
) -> None:
    buyer, seller = daemons
    bought, later, *checked = await endpoint.known(SOLD, 2 + FOUND_OUT)
    questions, expected = tmp_path / "questions", tmp_path / "expected"
    questions.write_text("\n".join(question.prompt for question in checked))
    expected.write_text("nothing like it\n" * FOUND_OUT)
    with trio.fail_after(LIMIT_S):
        answer = await buyer.ask(bought.prompt)
        assert answer is not None
        assert answer.agent.peer == seller.peer
        receipt = answer.receipt_id
        rated = json.loads(await p2pagent(buyer, "rate", receipt[:8], "bad", "--json"))
        assert (rated["receipt"]["rating"], rated["earlier"], rated["outcomes"]) == ("bad", None, 0)
        assert rated["expected_quality"] > 0.5
        assert "was rated bad" in await p2pagent(buyer, "rate", receipt, "good")
        await p2pagent(seller, "rate", receipt, "good", exit_code=14)
        assert await known_outcomes(buyer) == 1

        batch = ("--batch", str(questions), "--expect-file", str(expected))
        told = [json.loads(line) for line in (await p2pagent(buyer, "ask", "--json", *batch)).splitlines()]
        assert [line["good"] for line in told] == [False] * FOUND_OUT
        judged = await known_outcomes(buyer)
        assert judged == 1 + sum(line["delegated"] for line in told)
        assert await known_outcomes(seller) == 0
        again = await buyer.ask(later.prompt)
        assert again is not None
        before, after = (of_agent(seen, seller) for seen in (answer, again))
        assert (before.outcomes, after.outcomes) == (0, judged)
        assert after.quality < 0.75 * before.quality

        await buyer.stop()
        await buyer.start()
        await ready(buyer)
        assert await known_outcomes(buyer) == judged
        shown = json.loads(await p2pagent(buyer, "auction", "show", receipt, "--json"))
        assert shown["rating"]["good"] is True
        assert shown["fault"] == ""
