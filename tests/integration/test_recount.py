"""A seller that pads its receipts meets a buyer with the same tokeniser: two real daemons, and nobody says a word."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from p2pagent.config import Agent, Api, Config, Engine, Network
from p2pagent.engine.vllm_process import free_port
from p2pagent.experts.families import questions
from p2pagent.sim.liars import PADDING_TOKENS
from p2pagent.testnet.fleet import Daemon
from tests.integration.paced import calibration

pytestmark = pytest.mark.integration

START_LIMIT_S = 180
LIMIT_S = 60
PADDER = Path(__file__).with_name("padder.py")


class Padder(Daemon):
    """A daemon whose engine counts too much."""

    async def start(self) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            command = [sys.executable, str(PADDER), "up", "--stop-with-stdin", "--home", str(self.folder)]
            self.process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=log, stderr=log)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """Who can add, and who can reverse words and pads."""
    port, measured = free_port(), calibration(tmp_path)
    adds, reverses = (Agent(model, Engine(model=model), calibration=measured) for model in ("add", "reverse"))
    first = Network(name="testnet", listen=(f"/ip4/127.0.0.1/tcp/{port}",))
    honest = Daemon(tmp_path / "honest", Config(agents=(adds,), network=first, api=Api(port=0)))
    meet = (f"/ip4/127.0.0.1/tcp/{port}/p2p/{honest.peer}",)
    second = Network(name="testnet", listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=meet)
    padder = Padder(tmp_path / "padder", Config(agents=(reverses,), network=second, api=Api(port=0)))
    try:
        with trio.fail_after(START_LIMIT_S):
            for daemon in (honest, padder):
                await daemon.start()
            for daemon in (honest, padder):
                await daemon.until_status(lambda status: bool(status.agents))
                await daemon.until_peers(lambda peers: any(peer.agents for peer in peers))
        yield honest, padder
    finally:
        with trio.CancelScope(shield=True):
            for daemon in (padder, honest):
                await daemon.aclose()


async def p2pagent(daemon: Daemon, *arguments: str) -> str:
    """What the command line prints for the owner of `daemon`."""
    command = [sys.executable, "-m", "p2pagent", *arguments, "--home", str(daemon.folder)]
    done: subprocess.CompletedProcess[bytes] = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    return done.stdout.decode()


async def test_what_is_padded_is_disputed_without_a_word_and_what_is_not_is_settled(
    pair: tuple[Daemon, Daemon],
) -> None:
    honest, padder = pair
    (reverse, later), (add,) = questions("reverse", "test", 2, seed=0), questions("add", "test", 1, seed=0)
    with trio.fail_after(LIMIT_S):
        padded = await honest.ask(reverse.prompt)
        assert padded is not None
        assert padded.agent.peer == padder.peer
        assert padded.usage.prompt_tokens == len(reverse.prompt.encode()) + 2
        tokens = len(padded.text) + 1
        claimed = tokens + tokens // 2 + PADDING_TOKENS
        assert padded.usage.output_tokens == claimed

        (disputed,) = (await honest.until_ledger(lambda ledger: bool(ledger.disputed))).disputed
        reason = f"claims {claimed} output tokens, {len(padded.text)} by its own tokeniser"
        assert (disputed.receipt_id, disputed.raised_by, disputed.reason) == (padded.receipt_id, "recount", reason)
        (seen,) = (await padder.until_ledger(lambda ledger: bool(ledger.disputed))).disputed
        assert (seen.receipt_id, seen.raised_by, seen.reason) == (padded.receipt_id, "buyer", reason)
        shown = await p2pagent(honest, "ledger")
        assert "recount" in shown.splitlines()[-1]
        own = await honest.ask(later.prompt)
        assert own is not None
        assert not own.delegated

        sold = await padder.ask(add.prompt)
        assert sold is not None
        assert sold.agent.peer == honest.peer
        assert sold.usage.output_tokens == len(sold.text) + 1
        booked = await padder.until_ledger(lambda ledger: ledger.receipts[0].state == "settled")
        assert (booked.receipts[0].receipt_id, booked.receipts[0].raised_by) == (sold.receipt_id, None)

        await p2pagent(padder, "ledger", "refund", padded.receipt_id[:8])
        await honest.until_ledger(lambda ledger: not ledger.disputed)
        verified = json.loads(await p2pagent(honest, "ledger", "verify", "--json"))
        assert all(finding["wrong"] == [] for finding in verified)
