"""`p2pagent chat` and `p2pagent session`: conversations with the network."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from p2pagent.api.chat_request import Worth
from p2pagent.api.client import Client
from p2pagent.api.node import Question
from p2pagent.cli.app import (
    AgentOption,
    DelayOption,
    HomeOption,
    JsonOption,
    PriceOption,
    PrivacyOption,
    SessionOption,
    ValueOption,
    app,
    examples,
    home_of,
    tell,
)
from p2pagent.cli.ask import named, show
from p2pagent.cli.output import emit_json, note
from p2pagent.errors import Exit, LocalError
from p2pagent.sessions import Sessions
from p2pagent.types import ChatMessage

session = typer.Typer(
    help="Conversations that were kept by `ask --session` or `chat --session`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(session, name="session")


@app.command(epilog=examples("p2pagent chat", "p2pagent chat --session trip"))
def chat(
    *,
    name: SessionOption = None,
    agent: AgentOption = None,
    value: ValueOption = None,
    delay_cost: DelayOption = None,
    max_price: PriceOption = None,
    privacy: PrivacyOption = None,
    home: HomeOption = None,
) -> None:
    """Talk with the network, one line at a time, until the end of the input.

    Each line goes out with all that was said before, to the agent that is worth most then: usually the one that has it
    in its cache. Without --session nothing is kept. A line without an answer can be asked again.
    """
    worth = Worth(value, delay_cost, max_price, privacy)
    sessions = Sessions(home_of(home))
    said = sessions.go_on(name) if name is not None else ()
    with Client(home_of(home)) as client:
        for line in _lines():
            try:
                told = client.ask(Question(line), worth, said=said, agent=named(agent))
                answer = show(told, at_once=True, explain=False, as_json=False)
            except LocalError as error:
                if error.exit_code not in {Exit.NO_ANSWER, Exit.PARTIAL, Exit.EMPTY_QUESTION}:
                    raise
                tell(error)
                continue
            said = (*said, ChatMessage("user", line), ChatMessage("assistant", answer.text))
            if name is not None:
                sessions.keep(name, said)


@session.command("list", epilog=examples("p2pagent session list"))
def show_all(*, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the conversations that are kept, each with the number of its turns."""
    sessions = Sessions(home_of(home))
    found = {name: len(sessions.turns(name)) for name in sessions.names()}
    if as_json:
        emit_json(found)
        return
    for name, turns in found.items():
        typer.echo(f"{name}\t{turns}")
    if not found:
        note("no conversation is kept; `p2pagent ask --session NAME` begins one")


@session.command("forget", epilog=examples("p2pagent session forget trip"))
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the conversation.")], *, home: HomeOption = None
) -> None:
    """Delete a conversation. What agents have answered is not taken back, and caches forget by themselves."""
    if not Sessions(home_of(home)).forget(name):
        hint = "`p2pagent session list` names those that there are"
        raise LocalError(f"no conversation of the name {name} is kept", hint, Exit.CONFIG)


def _lines() -> Iterator[str]:
    """What the user types, without empty lines; a terminal is shown where to."""
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")
