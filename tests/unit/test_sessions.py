"""Conversations that are kept, in files that nobody else reads, and gone on with by `ask` and `chat --session`."""

import json
import stat
from functools import partial

import pytest
import trio
from typer.testing import CliRunner

from p2pagent import home as homes
from p2pagent.api.server import serve
from p2pagent.cli import app
from p2pagent.errors import Exit, LocalError
from p2pagent.sessions import FOLDER, TURNS_MAX, Sessions
from p2pagent.types import ChatMessage
from tests.batch_node import BatchNode
from tests.scripted_node import ANSWERED, NOBODY

HELLO = (ChatMessage("user", "hello"), ChatMessage("assistant", "Grüße"))


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path)


def test_what_was_kept_is_there_again_until_it_is_forgotten(sessions, tmp_path):
    assert sessions.names() == []
    assert sessions.turns("trip") == ()
    sessions.keep("trip", HELLO)
    sessions.keep("a-b.c_1", HELLO[:1])
    assert Sessions(tmp_path).turns("trip") == HELLO
    assert sessions.names() == ["a-b.c_1", "trip"]
    assert sessions.forget("trip")
    assert not sessions.forget("trip")
    assert sessions.names() == ["a-b.c_1"]


def test_nobody_else_can_read_it(sessions, tmp_path):
    sessions.keep("trip", HELLO)
    folder = tmp_path / FOLDER
    (path,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", ".", "..", "../identity", "a/b", "-x", ".hidden", "a b", "x" * 65, "ü"])
def test_a_name_is_no_path(sessions, name):
    for use in (sessions.turns, sessions.forget, partial(sessions.keep, turns=HELLO)):
        with pytest.raises(LocalError, match="no name for a session"):
            use(name)


@pytest.mark.parametrize("content", [b"", b"{", b"[[1, 2]]", b'[["robot", "x"]]'])
def test_a_damaged_file_is_told_and_left_alone(sessions, tmp_path, content):
    sessions.keep("trip", HELLO)
    (path,) = (tmp_path / FOLDER).iterdir()
    path.write_bytes(content)
    with pytest.raises(LocalError, match="is damaged") as raised:
        sessions.turns("trip")
    assert "session forget trip" in raised.value.hint
    assert path.read_bytes() == content


def test_what_cannot_be_written_leaves_what_there_was(sessions, tmp_path, monkeypatch):
    sessions.keep("trip", HELLO)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(LocalError, match="No space left"):
        sessions.keep("trip", HELLO * 2)
    assert sessions.turns("trip") == HELLO
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_a_conversation_ends_where_no_prompt_could_hold_it(sessions):
    sessions.keep("long", HELLO * (TURNS_MAX // 2))
    assert len(sessions.go_on("long")) == TURNS_MAX - 1
    sessions.keep("long", HELLO * (TURNS_MAX // 2 + 1))
    with pytest.raises(LocalError, match="no more fit") as raised:
        sessions.go_on("long")
    assert raised.value.exit_code == Exit.TOO_LONG


@pytest.fixture
async def node(tmp_path, nursery):
    node = BatchNode()
    port = await nursery.start(serve, node, 0, homes.token(tmp_path))
    with homes.announced(tmp_path, port):
        yield node


async def run(home, *arguments, stdin=None):
    invoke = partial(CliRunner().invoke, app, [*arguments, "--home", str(home)], prog_name="p2pagent", input=stdin)
    return await trio.to_thread.run_sync(invoke)


def said(node):
    """The prompt of each question that was asked."""
    return [[(turn.role, turn.content) for turn in turns] for turns, _, _ in node.asked]


async def test_a_session_is_asked_with_all_that_was_said_before(node, tmp_path):
    first = await run(tmp_path, "ask", "--session", "trip", "one")
    await run(tmp_path, "ask", "--session", "trip", "two")
    await run(tmp_path, "ask", "three")
    assert first.stdout == "olleh\n"
    answer = ("assistant", ANSWERED.text)
    assert said(node) == [[("user", "one")], [("user", "one"), answer, ("user", "two")], [("user", "three")]]
    listed = json.loads((await run(tmp_path, "session", "list", "--json")).stdout)
    assert listed == {"trip": 4}
    assert (await run(tmp_path, "session", "list")).stdout == "trip\t4\n"


async def test_a_question_without_an_answer_leaves_the_session_as_it_was(node, tmp_path):
    await run(tmp_path, "ask", "--session", "trip", "one")
    node.script = (NOBODY,)
    assert (await run(tmp_path, "ask", "--session", "trip", "two")).exit_code == Exit.NO_ANSWER
    assert len(Sessions(tmp_path).turns("trip")) == 2


async def test_a_chat_goes_on_from_line_to_line_and_keeps_nothing_unless_told_to(node, tmp_path):
    result = await run(tmp_path, "chat", stdin="one\n\n  \ntwo\n")
    assert result.exit_code == 0
    answer = ("assistant", ANSWERED.text)
    assert said(node) == [[("user", "one")], [("user", "one"), answer, ("user", "two")]]
    assert Sessions(tmp_path).names() == []
    await run(tmp_path, "chat", "--session", "trip", stdin="one\n")
    await run(tmp_path, "chat", "--session", "trip", stdin="two")
    assert said(node)[-1] == [("user", "one"), answer, ("user", "two")]
    assert len(Sessions(tmp_path).turns("trip")) == 4


async def test_a_line_without_an_answer_ends_no_chat(node, tmp_path):
    node.script = (NOBODY,)
    result = await run(tmp_path, "chat", stdin="one\ntwo\n")
    assert result.exit_code == 0
    assert result.stderr.count(NOBODY.reason) == 2
    assert said(node) == [[("user", "one")], [("user", "two")]]


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("ask", "--session", "a", "--batch", "-"), 2),
        (("ask", "--session", "../a", "x"), Exit.CONFIG),
        (("session", "forget", "never"), Exit.CONFIG),
        (("chat",), Exit.NO_DAEMON),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path, arguments, exit_code):
    result = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path)], prog_name="p2pagent", input="x\n")
    assert result.exit_code == exit_code
    assert result.stderr
