"""The commands that a newcomer types first: the testnet, and taking a device into a private network."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from p2pagent import config, home, invite
from p2pagent.config import Agent, Api, Config, Engine, Network
from p2pagent.testnet.fleet import Daemon

pytestmark = pytest.mark.integration

LIMIT_S = 120


def p2pagent(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2pagent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_a_small_testnet_answers_everything_and_its_books_balance(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    ran = p2pagent("testnet", "--nodes", "3", "--questions", "24", "--seed", "5", "--json", str(result))
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(result.read_text())
    assert figures["answered"] == figures["questions"] == 24
    assert figures["accuracy_network"] >= 0.9
    assert figures["accuracy_network"] >= figures["accuracy_oracle"] - 0.05
    assert figures["accuracy_local"] <= 0.7
    assert figures["receipts"] == figures["delegated"] > 0
    assert figures["balance_sum_microcredits"] == figures["signatures_bad"] == figures["receipts_one_sided"] == 0
    assert "Who answered" in ran.stdout
    assert "Next: p2pagent init" in ran.stdout
    assert "asking the network" in ran.stderr


def test_under_churn_every_question_is_answered(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    options = ("--churn", "--nodes", "5", "--questions", "100", "--seed", "3", "--json", str(result))
    ran = p2pagent("testnet", *options)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(result.read_text())
    assert figures["answered"] == figures["questions"] == 100
    assert figures["kills"] > 0
    assert figures["receipts"] >= figures["delegated"] > 0
    assert figures["balance_sum_microcredits"] == figures["signatures_bad"] == figures["receipts_one_sided"] == 0
    assert "daemons killed" in ran.stdout


async def test_an_invite_takes_a_device_into_a_private_network(tmp_path: Path) -> None:
    def daemon(name: str, expert: str) -> Daemon:
        agent = Agent(name=expert, engine=Engine(model=expert))
        network = Network(listen=("/ip4/127.0.0.1/tcp/0",))
        return Daemon(tmp_path / name, Config(agents=(agent,), network=network, api=Api(port=0)))

    host, guest, outsider = daemon("host", "add"), daemon("guest", "reverse"), daemon("outsider", "sort")
    with trio.fail_after(LIMIT_S):
        await host.start()
        await host.until_status(lambda status: bool(status.agents))
        invited = await trio.to_thread.run_sync(p2pagent, "invite", "--private", "--home", str(host.folder))
        assert invited.returncode == 0, invited.stderr
        address = invite.decode(invited.stdout.strip()).addresses[0]
        await host.stop()
        own = config.load(host.folder / home.CONFIG)
        assert own.network.psk == invite.decode(invited.stdout.strip()).psk
        assert len(own.network.psk) == 64
        kept = msgspec.structs.replace(own.network, listen=(address.partition("/p2p/")[0],))
        config.save(msgspec.structs.replace(own, network=kept), host.folder / home.CONFIG)
        await host.start()
        joined = await trio.to_thread.run_sync(p2pagent, "join", invited.stdout.strip(), "--home", str(guest.folder))
        assert joined.returncode in (0, 12), joined.stderr
        open_network = config.load(outsider.folder / home.CONFIG)
        meet = msgspec.structs.replace(open_network.network, bootstrap=(address,))
        config.save(msgspec.structs.replace(open_network, network=meet), outsider.folder / home.CONFIG)
        await guest.start()
        await outsider.start()
        await guest.until_status(lambda status: bool(status.agents) and status.known_peers == 1)
        await guest.until_peers(lambda peers: any(peer.agents for peer in peers))
        answered = await guest.ask("What is 47 plus 38?")
        assert answered is not None
        assert (answered.text, answered.delegated, answered.agent.peer) == ("85", True, host.peer)
        alone = await outsider.until_status(lambda status: bool(status.agents))
        assert alone.known_peers == 0
        for one in (host, guest, outsider):
            await one.aclose()
