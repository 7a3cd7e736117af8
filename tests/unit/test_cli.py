"""The command line against a real server: what goes to stdout, what to stderr, and how it exits."""

import csv
import io
import json
import socket
import stat
from functools import partial

import pytest
import trio
from msgspec import structs
from typer.testing import CliRunner

from p2pagent import config as settings
from p2pagent import home as homes
from p2pagent.api.node import Question
from p2pagent.api.server import serve
from p2pagent.cli import app
from p2pagent.cli.batch import answer_all
from p2pagent.cli.output import credits_text
from p2pagent.config import Config, Network
from p2pagent.errors import Exit, LocalError
from p2pagent.invite import Invite, decode, encode
from p2pagent.peer.events import Policy
from p2pagent.peer.updates import Restarted, Text, Unanswered
from p2pagent.store import FILE
from p2pagent.types import AgentRef
from tests.batch_node import BatchNode
from tests.booked import BACK, BOUGHT, DEALS, GIVEN, ME, OTHER, PRICE, SOLD, THIRD, keep, settled, tamper
from tests.scripted_node import ANSWERED, NOBODY, PEER, RECEIPT, SELLER


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def p2pagent(home, *arguments, stdin=None):
    return CliRunner().invoke(app, [*arguments, "--home", str(home)], prog_name="p2pagent", input=stdin)


@pytest.fixture
async def node(home, nursery):
    """A scripted node that is served for `home`."""
    node = BatchNode()
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


async def test_explain_tells_the_candidates_and_the_price_on_stderr(node, home):
    result = await run(home, "ask", "--explain", "reverse hello")
    assert result.stdout == "olleh\n"
    assert "0.90±0.05" in result.stderr
    assert ANSWERED.why in result.stderr
    terms = {line.split()[0]: line for line in result.stderr.splitlines() if line}
    assert terms["prompt"].split()[:4] == ["prompt", "12", "0.000010", "0.000120"]
    assert terms["price"].split()[1] == "0.000328"
    assert terms["price"].endswith("  the sum of the terms")


async def test_explain_tells_whom_nobody_was_left_of(node, home):
    node.script = (NOBODY,)
    result = await run(home, "ask", "--explain", "reverse hello")
    assert "0.90±0.05" in result.stderr
    assert NOBODY.reason in result.stderr


async def test_flags_override_the_preferences(node, home):
    flags = ["--value", "2", "--delay-cost", "0.000001", "--max-price", "0.5", "--privacy", "local", "--raw"]
    result = await run(home, "ask", *flags, "--max-tokens", "7", "-", stdin="reverse hello\n")
    assert result.exit_code == 0
    assert result.stdout == "olleh\n"
    (turns, sampling, policy) = node.asked[0]
    assert turns[0].content == "reverse hello\n"
    assert sampling.max_tokens == 7
    assert policy == Policy(2_000_000, 1, 500_000, "local", raw=True)


@pytest.mark.parametrize("arguments", [("ask",), ("ask", "--batch", "-"), ("chat",)])
async def test_a_named_agent_is_asked(node, home, arguments):
    asked = ("a",) if arguments == ("ask",) else ()
    result = await run(home, *arguments, "--agent", f"reverse@…{SELLER[-8:]}", *asked, stdin="a\n")
    assert result.exit_code == 0, result.output
    assert node.asked[0][2].only == AgentRef(SELLER, "reverse")


async def test_an_agent_that_is_not_known_is_told_with_who_is_there(node, home):
    result = await run(home, "ask", "--agent", "sort@…xxxxxxxx", "a")
    assert result.exit_code == Exit.NO_AGENT
    assert "no agent 'sort' is known at a peer '…xxxxxxxx'" in result.stderr
    assert f"hint: there is reverse@…{SELLER[-8:]}" in result.stderr


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


OTHER_ANSWER = structs.replace(ANSWERED, text="two\nlines", agent=AgentRef(PEER, "own"), price_microcredits=72)


async def test_answers_of_a_batch_come_in_the_order_of_its_questions(node, home):
    node.scripts = {"b": (OTHER_ANSWER,)}
    node.after = {"a": "b"}
    result = await run(home, "ask", "--batch", "-", "--max-tokens", "7", stdin="a\n\n  \n b \r\nc")
    assert result.exit_code == 0
    assert node.batches == [("a", "b", "c")]
    assert node.asked[0][1].max_tokens == 7
    assert not node.asked[0][2].raw
    assert result.stdout == "olleh\ntwo\nlines\nolleh\n"
    notes = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in notes[:3]] == ["question 1", "question 2", "question 3"]
    assert notes[3:] == ["3 of 3 answered by 2 agents for 0.000728 credits"]


async def test_an_expected_answer_is_told_and_judged(node, home):
    for good, said in [(True, ", as expected"), (False, ", not as expected")]:
        node.script = (Text("olleh"), structs.replace(ANSWERED, good=good))
        result = await run(home, "ask", "--expect", "olleh", "reverse hello")
        assert (result.exit_code, result.stdout) == (0, "olleh\n")
        assert result.stderr.rstrip().endswith(said)
    assert node.expected == ["olleh"] * 2
    await run(home, "ask", "--json", "reverse hello")
    assert node.expected[-1] == ""


async def test_expected_answers_of_a_batch_are_on_the_lines_of_their_questions(node, home, tmp_path):
    node.scripts = {"a": (structs.replace(ANSWERED, good=True),), "c": (structs.replace(ANSWERED, good=False),)}
    (tmp_path / "expected").write_text("olleh\n\n\nx \n")
    result = await run(home, "ask", "--batch", "-", "--expect-file", str(tmp_path / "expected"), stdin="a\n\nb\nc\nd\n")
    assert (node.batches, node.expected) == ([("a", "b", "c", "d")], ["olleh", "", "x", ""])
    assert result.exit_code == 0
    notes = result.stderr.splitlines()
    assert [line.rpartition(", ")[2] for line in notes[:3:2]] == ["as expected", "not as expected"]
    assert notes[-1] == "1 of 2 as expected"


async def test_an_answer_that_is_expected_to_no_question_is_an_error(node, home, tmp_path):
    (tmp_path / "expected").write_text("olleh\nx\n")
    result = await run(home, "ask", "--batch", "-", "--expect-file", str(tmp_path / "expected"), stdin="a\n\n")
    assert result.exit_code == Exit.EMPTY_QUESTION
    assert "line 2" in result.stderr
    assert node.batches == []


async def test_a_batch_as_json_is_a_line_per_question(node, home, tmp_path):
    node.scripts = {"b": (OTHER_ANSWER,), "c": (NOBODY,)}
    (tmp_path / "questions").write_text("a\nb\nc\n")
    result = await run(home, "ask", "--json", "--batch", str(tmp_path / "questions"))
    assert result.exit_code == Exit.PARTIAL
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["question"], line["type"]) for line in lines] == [
        ("a", "answered"),
        ("b", "answered"),
        ("c", "unanswered"),
    ]
    assert lines[1]["text"] == "two\nlines"
    assert lines[1]["agent"] == {"peer": PEER, "name": "own"}


@pytest.mark.parametrize(
    ("lacking", "exit_code", "stdout"),
    [(["b"], Exit.PARTIAL, "olleh\n\nolleh\n"), (["a", "b", "c"], Exit.NO_ANSWER, "\n\n\n")],
)
async def test_a_batch_with_questions_that_nobody_answers(node, home, lacking, exit_code, stdout):
    node.scripts = dict.fromkeys(lacking, (NOBODY,))
    result = await run(home, "ask", "--batch", "-", stdin="a\nb\nc\n")
    assert (result.exit_code, result.stdout) == (exit_code, stdout)
    assert f"question 2: no answer: {NOBODY.reason}" in result.stderr
    assert f"p2pagent: {len(lacking)} of 3 questions have no answer" in result.stderr


async def test_each_answer_of_a_batch_is_explained(node, home):
    node.scripts = {"b": (Restarted(AgentRef(SELLER, "reverse"), "timeout"), OTHER_ANSWER), "c": (NOBODY,)}
    result = await run(home, "ask", "--batch", "-", "--explain", stdin="a\nb\nc\n")
    assert result.stdout == "olleh\ntwo\nlines\n\n"
    assert result.stderr.count("0.90±0.05") == 3
    assert result.stderr.count("what it is") == 2
    assert "question 2: reverse@…c298L3 went away (timeout)".replace("…c298L3", f"…{SELLER[-8:]}") in result.stderr


@pytest.mark.parametrize(
    ("stdin", "exit_code", "cause"),
    [
        ("", Exit.EMPTY_QUESTION, "no question in the batch"),
        (" \n\n", Exit.EMPTY_QUESTION, "no question in the batch"),
        ("x\n" * 257, Exit.TOO_LONG, "257 questions; a batch may have 256"),
        ("x\n" + "y" * ((1 << 18) + 1), Exit.TOO_LONG, "line 2 has 262145 characters"),
        ("x" * ((1 << 20) + 1), Exit.TOO_LONG, "1048576 bytes"),
        ("x\n" + "y" * 20_000, Exit.TOO_LONG, "question 2"),
    ],
)
async def test_batches_that_cannot_be_asked(node, home, stdin, exit_code, cause):
    result = await run(home, "ask", "--batch", "-", stdin=stdin)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert cause in result.stderr
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["p2pagent", "hint"]
    assert node.batches == []


async def test_a_full_batch_is_asked(node, home):
    result = await run(home, "ask", "--batch", "-", stdin="x\n" * 256)
    assert result.stdout == "olleh\n" * 256


def test_what_was_answered_before_the_daemon_went_away_is_printed(capsys):
    def told():
        yield 1, Text("two")
        yield 1, OTHER_ANSWER
        raise LocalError("the daemon went away", "see its log", Exit.NO_DAEMON)

    with pytest.raises(LocalError, match="went away"):
        answer_all([Question(text) for text in "abc"], told(), explain=False, as_json=False)
    printed = capsys.readouterr()
    assert printed.out == "\ntwo\nlines\n"
    assert printed.err.splitlines()[0] == "question 1: no answer: the asking was broken off"
    assert printed.err.splitlines()[-1] == "1 of 3 answered by 1 agent for 0.000072 credits"


def test_a_daemon_that_is_gone_at_once_is_all_that_is_told(capsys):
    def told():
        raise LocalError("the daemon went away", "see its log", Exit.NO_DAEMON)
        yield

    with pytest.raises(LocalError, match="went away"):
        answer_all([Question(text) for text in "ab"], told(), explain=False, as_json=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "--agent", "reverse", "a"),
        ["x", "--batch", "-"],
        [],
        ["--batch", "-", "--raw"],
        ["--batch", "/nowhere/at/all"],
        ["--batch", "-", "--expect", "y"],
        ["x", "--expect-file", "-"],
        ["x", "--expect", " "],
        ["x", "--expect", "\udc80"],
    ],
)
def test_wrong_usage_of_ask(home, arguments):
    assert p2pagent(home, "ask", *arguments, stdin="x").exit_code == 2


def test_a_batch_that_is_not_utf8(home):
    assert p2pagent(home, "ask", "--batch", "-", stdin=b"\xff").exit_code == 2


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


async def test_accounts_are_shown_with_limit_and_use(node, home):
    shown = (await run(home, "ledger")).stdout.splitlines()
    assert shown[0].split() == ["peer", "balance", "limit", "used", "bought", "sold"]
    assert shown[1].split() == [SELLER, "-0.000328", "1.000164", "0.000000", "0.000328", "0.000000"]
    assert [line.split()[-2:] for line in shown[3:]] == [["state", "rated"], ["settled", "-"], ["settled", "-"]]


async def test_an_answer_is_rated(node, home):
    first = await run(home, "rate", "ababab", "good")
    assert first.stdout.splitlines()[0] == f"rated good: receipt {'ab' * 32}"
    assert "with probability 0.62; 3 answers of it judged before" in first.stdout
    again = await run(home, "rate", "ababab", "bad")
    assert again.stdout.splitlines()[0].endswith(", was rated good")
    assert (await run(home, "ledger")).stdout.splitlines()[4].split()[-1] == "bad"
    assert json.loads((await run(home, "rate", "--json", "ababab", "bad")).stdout)["earlier"] == "bad"
    refused = await run(home, "rate", "cdcdcd", "good")
    assert refused.exit_code == Exit.STORE


@pytest.mark.parametrize("arguments", [["abab", "good"], ["ababab", "fine"], ["ababab"]])
def test_wrong_usage_of_rate(home, arguments):
    assert p2pagent(home, "rate", *arguments).exit_code == 2


async def test_a_dispute_is_told_and_shown_without_what_a_terminal_would_obey(node, home):
    told = await run(home, "ledger", "dispute", "ababab", "\x1b[2Jhalf is missing")
    assert told.exit_code == 0
    assert told.stdout.startswith("in dispute: receipt abababab")
    assert node.disputed[0].reason == "\x1b[2Jhalf is missing"
    shown = (await run(home, "ledger")).stdout
    assert "\N{REPLACEMENT CHARACTER}[2Jhalf is missing" in shown
    assert "\x1b" not in told.stdout + shown


async def test_who_raised_a_dispute_is_shown(node, home):
    said = (("recount", "claims 90 output tokens, 41 by its own tokeniser"), ("user", "wrong"), ("buyer", "rude"))
    node.disputed = tuple(
        structs.replace(RECEIPT, state="disputed", reason=reason, raised_ms=RECEIPT.issued_ms, raised_by=who)
        for who, reason in said
    )
    header, *rows = (await run(home, "ledger")).stdout.splitlines()[-4:]
    assert header.index("raised by") == rows[0].index("recount")
    assert [row[header.index("raised by") :].split(maxsplit=1) for row in rows] == [list(each) for each in said]


async def test_what_the_daemon_refuses_has_the_exit_code_of_the_ledger(node, home):
    for arguments in (["dispute", "cdcdcd", "x"], ["refund", "ababab"]):
        refused = await run(home, "ledger", *arguments)
        assert refused.exit_code == Exit.STORE
        assert [line.partition(":")[0] for line in refused.stderr.splitlines()] == ["p2pagent", "hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["dispute", "abab", "x"],
        ["dispute", "xyzxyz", "x"],
        ["dispute", "ababab", ""],
        ["dispute", "ababab", "x" * 257],
        ["dispute", "ababab", "\udc80"],
        ["dispute", "ababab"],
        ["refund", "ab" * 33],
        ["--csv", "--json"],
        ["--limit", "5", "verify"],
    ],
)
def test_wrong_usage_of_the_ledger(home, arguments):
    assert p2pagent(home, "ledger", *arguments).exit_code == 2


@pytest.fixture
def booked(home):
    """A ledger with a purchase in dispute, and two deals that are refunded; no daemon runs."""
    p2pagent(home, "init")
    trio.run(keep, home / FILE, ME, DEALS, (BACK, GIVEN))
    return home


def test_the_ledger_as_csv(booked):
    result = CliRunner().invoke(app, ["ledger", "--csv", "--home", str(booked)])
    assert result.exit_code == 0
    assert result.stdout_bytes.count(b"\r\n") == result.stdout_bytes.count(b"\n") == 7
    lines = list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))
    assert [(line["kind"], line["balance_microcredits"], line["state"]) for line in lines] == [
        ("receipt", str(-PRICE), "disputed"),
        ("receipt", "0", "settled"),
        ("receipt", str(-PRICE), "refunded"),
        ("receipt", str(PRICE), "refunded"),
        ("refund", "0", "refunded"),
        ("refund", "0", "refunded"),
    ]
    assert lines[0] == {
        "time": "2023-11-14T22:13:20.001+00:00",
        "kind": "receipt",
        "receipt": BOUGHT.receipt_id.hex(),
        "role": "buyer",
        "peer": OTHER.peer,
        "agent": "agent",
        "prompt_tokens": "10",
        "cached_tokens": "4",
        "output_tokens": "5",
        "price_microcredits": str(PRICE),
        "slot_price_microcredits": "3",
        "balance_microcredits": str(-PRICE),
        "state": "disputed",
    }


def test_a_name_that_needs_quoting_and_a_time_beyond_all_calendars(home):
    p2pagent(home, "init")
    odd = settled(1, ME, OTHER, agent='a "b",\nc', issued_ms=1 << 53)
    trio.run(keep, home / FILE, ME, (odd,), ())
    (line,) = csv.DictReader(io.StringIO(p2pagent(home, "ledger", "--csv").stdout_bytes.decode(), newline=""))
    assert (line["agent"], line["time"][:10]) == ('a "b",\nc', "9999-12-31")


def test_verify_without_a_daemon(booked):
    good = p2pagent(booked, "ledger", "verify")
    assert good.exit_code == 0
    assert {line.split()[-1] for line in good.stdout.splitlines()[1:]} == {"ok"}
    tamper(booked / FILE, "DELETE FROM entries WHERE account = 'income' AND receipt_id = ?", SOLD.receipt_id)
    bad = p2pagent(booked, "ledger", "verify")
    assert bad.exit_code == Exit.STORE
    assert f"entries of receipts and refunds: {SOLD.receipt_id.hex()}" in bad.stdout
    assert "hint:" in bad.stderr
    findings = json.loads(p2pagent(booked, "ledger", "verify", "--json").stdout)
    assert {f["check"]: f["wrong"] for f in findings if f["wrong"]} == {
        "entries of receipts and refunds": [SOLD.receipt_id.hex()],
        "sum of all entries": [str(PRICE)],
    }


def test_verify_with_other_devices(booked, tmp_path):
    (other := tmp_path / "other").mkdir()
    (third := tmp_path / "third").mkdir()
    trio.run(keep, other / FILE, OTHER, (BOUGHT, SOLD, BACK), (BACK,))
    trio.run(keep, third / FILE, THIRD, (GIVEN,), ())
    assert p2pagent(booked, "ledger", "verify", "--with", str(other)).exit_code == 0
    lacking = p2pagent(booked, "ledger", "verify", "--with", str(other), "--with", str(third))
    assert lacking.exit_code == Exit.STORE
    assert f"refunds in both books: {GIVEN.receipt_id.hex()}" in lacking.stdout


@pytest.mark.parametrize("command", [["--csv"], ["verify"]])
def test_a_ledger_that_is_not_there_is_not_made(home, command):
    assert p2pagent(home, "ledger", *command).exit_code == Exit.STORE
    assert not home.exists()


async def test_wrong_token_is_told(node, home):
    (home / homes.TOKEN).write_text("00" * 32)
    result = await run(home, "status")
    assert result.exit_code == Exit.KEY


@pytest.mark.parametrize(
    "command",
    [
        ["ask", "x"],
        ["status"],
        ["peers"],
        ["ledger"],
        ["ledger", "dispute", "ababab", "x"],
        ["ledger", "refund", "ababab"],
        ["invite"],
    ],
)
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
