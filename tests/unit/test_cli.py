"""The command line against a real server: what goes to stdout, what to stderr, and how it exits."""

import json
import socket
import stat
from functools import partial

import pytest
import trio
from typer.testing import CliRunner

from p2pagent import config as settings
from p2pagent import home as homes
from p2pagent.api.server import serve
from p2pagent.cli import app
from p2pagent.cli.output import credits_text
from p2pagent.config import Config, Network
from p2pagent.errors import Exit
from p2pagent.invite import Invite, decode, encode
from p2pagent.peer.events import Policy, Restarted, Text, Unanswered
from p2pagent.types import AgentRef
from tests.scripted_node import ANSWERED, NOBODY, PEER, SELLER, ScriptedNode


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def p2pagent(home, *arguments, stdin=None):
    return CliRunner().invoke(app, [*arguments, "--home", str(home)], prog_name="p2pagent", input=stdin)


@pytest.fixture
async def node(home, nursery):
    """A scripted node that is served for `home`."""
    node = ScriptedNode()
    port = await nursery.start(serve, node, 0, homes.token(home))
    with homes.announced(home, port):
        yield node


async def run(home, *arguments, stdin=None):
    return await trio.to_thread.run_sync(partial(p2pagent, home, *arguments, stdin=stdin))


async def test_answer_alone_is_on_stdout(node, home):
    result = await run(home, "ask", "reverse hello")
    assert result.exit_code == 0
    assert result.stdout == "olleh\n"
    assert "0.000328 credits" in result.stderr


async def test_explain_tells_the_candidates_on_stderr(node, home):
    result = await run(home, "ask", "--explain", "reverse hello")
    assert result.stdout == "olleh\n"
    assert "0.90±0.05" in result.stderr
    assert ANSWERED.why in result.stderr


async def test_flags_override_the_preferences(node, home):
    flags = ["--value", "2", "--delay-cost", "0.000001", "--max-price", "0.5", "--privacy", "local", "--raw"]
    result = await run(home, "ask", *flags, "--max-tokens", "7", "-", stdin="reverse hello\n")
    assert result.exit_code == 0
    assert result.stdout == "olleh\n"
    (turns, sampling, policy) = node.asked[0]
    assert turns[0].content == "reverse hello\n"
    assert sampling.max_tokens == 7
    assert policy == Policy(2_000_000, 1, 500_000, "local", raw=True)


async def test_only_the_whole_answer_goes_into_a_pipe(node, home):
    node.script = (Text("zzz"), Restarted(AgentRef(SELLER, "reverse"), "timeout"), Text("olleh"), ANSWERED)
    result = await run(home, "ask", "reverse hello")
    assert not node.asked[0][2].raw
    assert result.stdout == "olleh\n"
    assert "went away (timeout)" in result.stderr


async def test_answer_as_json_is_the_record(node, home):
    record = json.loads((await run(home, "ask", "--json", "reverse hello")).stdout)
    assert record["text"] == "olleh"
    assert record["agent"] == {"peer": SELLER, "name": "reverse"}
    assert record["price_microcredits"] == 328


@pytest.mark.parametrize(
    ("script", "exit_code"),
    [((NOBODY,), Exit.NO_ANSWER), ((Text("ol"), Unanswered("it went away", True, ())), Exit.PARTIAL)],
)
async def test_no_answer(node, home, script, exit_code):
    node.script = script
    result = await run(home, "ask", "--json", "reverse hello")
    assert result.exit_code == exit_code
    assert json.loads(result.stdout)["type"] == "unanswered"
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["p2pagent", "hint"]


@pytest.mark.parametrize(
    ("question", "exit_code"),
    [(" ", Exit.EMPTY_QUESTION), ("x" * 20_000, Exit.TOO_LONG), ("x" * 300_000, Exit.TOO_LONG)],
)
async def test_questions_that_cannot_be_asked(node, home, question, exit_code):
    assert (await run(home, "ask", "-", stdin=question)).exit_code == exit_code


async def test_views(node, home):
    status = await run(home, "status")
    assert PEER in status.stdout
    assert "warning: the clock is off" in status.stderr
    peers = await run(home, "peers")
    assert SELLER in peers.stdout
    assert "-0.000328" in peers.stdout
    ledger = await run(home, "ledger", "--limit", "1")
    assert ledger.stdout.count("2023-11-14 22:13:20+00:00") == 1
    for view in ("status", "peers", "ledger"):
        assert json.loads((await run(home, view, "--json")).stdout)


async def test_wrong_token_is_told(node, home):
    (home / homes.TOKEN).write_text("00" * 32)
    result = await run(home, "status")
    assert result.exit_code == Exit.KEY


@pytest.mark.parametrize("command", [["ask", "x"], ["status"], ["peers"], ["ledger"], ["invite"]])
def test_no_daemon(home, command):
    p2pagent(home, "init")
    result = p2pagent(home, *command)
    assert result.exit_code == Exit.NO_DAEMON
    assert result.stdout == ""
    assert "hint: start it with `p2pagent up`" in result.stderr


def test_daemon_that_died_is_no_daemon(home):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    homes.token(home)
    with homes.announced(home, port):
        assert p2pagent(home, "status").exit_code == Exit.NO_DAEMON


def test_init_writes_settings_and_key_once(home):
    first = p2pagent(home, "init", "--expert", "sort")
    again = p2pagent(home, "init", "--expert", "sort")
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout
    assert first.stdout.startswith("12D3KooW")
    (agent,) = settings.load(home / homes.CONFIG).agents
    assert (agent.name, agent.engine.kind, agent.engine.model) == ("sort", "embedded", "sort")
    assert stat.S_IMODE((home / homes.IDENTITY).stat().st_mode) == 0o600


def test_init_overwrites_only_by_force(home):
    peer = p2pagent(home, "init").stdout
    refused = p2pagent(home, "init", "--name", "me")
    assert refused.exit_code == Exit.CONFIG
    assert "--force" in refused.stderr
    assert p2pagent(home, "init").exit_code == 0
    assert p2pagent(home, "init", "--name", "me", "--force").stdout == peer
    assert settings.load(home / homes.CONFIG).agents[0].name == "me"


def test_secret_that_others_can_read_is_refused(home):
    p2pagent(home, "init")
    (home / homes.IDENTITY).chmod(0o644)
    result = p2pagent(home, "init")
    assert result.exit_code == Exit.KEY
    assert "chmod 600" in result.stderr


def test_damaged_secret_is_not_replaced(home):
    home.mkdir()
    (home / homes.IDENTITY).write_text("what?")
    (home / homes.IDENTITY).chmod(0o600)
    assert p2pagent(home, "init").exit_code == Exit.KEY
    assert (home / homes.IDENTITY).read_text() == "what?"


async def test_invite_and_join(node, home, tmp_path):
    p2pagent(home, "init")
    other = tmp_path / "other"
    p2pagent(other, "init", "--name", "kept")
    invited = await run(home, "invite", "--private")
    assert "restart" in invited.stderr
    assert decode(invited.stdout).addresses == (f"/ip4/192.0.2.7/tcp/4101/p2p/{PEER}",)
    with socket.create_server(("127.0.0.1", 0)) as someone:
        address = f"/ip4/127.0.0.1/tcp/{someone.getsockname()[1]}/p2p/{PEER}"
        token = p2pagent(home, "invite", "--private", "--address", address).stdout
        joined = await run(other, "join", token)
    assert joined.exit_code == 0
    ours, theirs = settings.load(home / homes.CONFIG), settings.load(other / homes.CONFIG)
    assert ours.network.psk == theirs.network.psk != ""
    assert theirs.network.bootstrap == (address,)
    assert theirs.agents[0].name == "kept"


def test_join_where_nobody_answers_is_saved(home):
    p2pagent(home, "init")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    result = p2pagent(home, "join", encode(Invite("family", "", (f"/ip4/127.0.0.1/tcp/{port}",))))
    assert result.exit_code == Exit.UNREACHABLE
    assert settings.load(home / homes.CONFIG).network.name == "family"


def test_malformed_invite(home):
    p2pagent(home, "init")
    assert p2pagent(home, "join", "nonsense").exit_code == Exit.INVITE


def test_doctor_tells_what_is_missing_and_its_mend(home):
    findings = json.loads(p2pagent(home, "doctor", "--json").stdout)
    states = {finding["subject"]: finding["state"] for finding in findings}
    assert states["settings"] == states["key"] == "missing"
    assert "p2pagent init" in p2pagent(home, "doctor").stdout
    assert p2pagent(home, "doctor").exit_code == 1


def test_doctor_is_content(home):
    p2pagent(home, "init")
    settings.save(Config(network=Network(listen=("/ip4/127.0.0.1/tcp/0",)), api=settings.Api(0)), home / homes.CONFIG)
    result = p2pagent(home, "doctor")
    assert result.exit_code == 0, result.stdout
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings.save(Config(network=Network(listen=()), api=settings.Api(port)), home / homes.CONFIG)
        assert p2pagent(home, "doctor").exit_code == 1


async def test_doctor_finds_the_daemon(node, home):
    findings = json.loads((await run(home, "doctor", "--json")).stdout)
    assert {"daemon": "ok"}.items() <= {finding["subject"]: finding["state"] for finding in findings}.items()


def test_home_comes_from_the_environment(home):
    result = CliRunner().invoke(app, ["init"], env={"P2PAGENT_HOME": str(home)})
    assert result.exit_code == 0
    assert sorted(path.name for path in home.iterdir()) == ["config.toml", "identity"]


@pytest.mark.parametrize("money", ["-1", "0.0000001", "1e3", "lots", "9999999999", ""])
def test_money_that_is_none(home, money):
    result = p2pagent(home, "ask", "x", "--max-price", money)
    assert result.exit_code == 2
    assert "credits" in result.stderr


def test_credits():
    assert [credits_text(sum_) for sum_ in (1, -2_500_000, None)] == ["0.000001", "-2.500000", "-"]


def test_help_tells_the_exit_codes():
    result = CliRunner().invoke(app, ["--help"])
    assert "11 no answer" in " ".join(result.stdout.split())
    assert "\x1b" not in result.stdout
