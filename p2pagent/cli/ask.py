"""`p2pagent ask`."""

import os
import sys
from collections.abc import Generator
from contextlib import closing
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
)
from p2pagent.cli.batch import answer_all, expecting, questions_in
from p2pagent.cli.explain import candidates_text, judged_text, price_of_answer, price_text
from p2pagent.cli.output import credits_text, emit_json, note, short
from p2pagent.errors import Exit, LocalError
from p2pagent.peer.messages import TOKENS_MAX
from p2pagent.peer.updates import Answered, Restarted, Text, Unanswered, Update
from p2pagent.sessions import Sessions
from p2pagent.types import ChatMessage


@app.command(
    epilog=examples(
        "p2pagent ask 'reverse the word hello'",
        "p2pagent ask --explain --max-price 0.01 'add 12 and 30'",
        "p2pagent ask --privacy local - < question.txt",
        "p2pagent ask --agent add@dFuTzL5Y 'add 12 and 30'",
        "p2pagent ask --session trip 'where is it warm in March?'",
        "p2pagent ask --batch questions.txt > answers.txt",
        "p2pagent ask --expect 42 'add 12 and 30'",
    )
)
def ask(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question; - reads it from stdin.")
    ] = None,
    *,
    batch: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(
            "--batch",
            metavar="FILE",
            help="Ask all questions in FILE together, one per line, at most 256; - reads them from stdin.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", metavar="TEXT", help="What the answer has to be: rates it at once, case and spaces apart."
        ),
    ] = None,
    expect_file: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(
            "--expect-file",
            metavar="FILE",
            help="With --batch: what each answer has to be, on the line that its question is on.",
        ),
    ] = None,
    agent: AgentOption = None,
    value: ValueOption = None,
    delay_cost: DelayOption = None,
    max_price: PriceOption = None,
    privacy: PrivacyOption = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print each piece at once, and fail if the agent goes away after the first.")
    ] = False,
    session: SessionOption = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Tell on stderr who was considered, why this agent won and what each term of the price is.",
        ),
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, max=TOKENS_MAX, help="The longest answer.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Ask a question and print the answer.

    What is not given comes from the preferences in the settings. On a terminal the answer appears as it is made, and
    starts again below should its agent go away; into a pipe goes only a whole answer, unless --raw is given.

    The questions of a batch are cleared together, so that they never bid against each other and go to several agents
    where one is full. Their answers are printed in the order of the questions, with --json as a JSON object per line. A
    question without an answer has an empty line, and the exit code is 13 if there are some, 11 if none was answered.

    In a session the whole conversation is the prompt. It finds its way back to the agent that has it in its cache,
    where only what is new costs the full price, as long as that agent is good and free enough.

    With --agent the one that you name is asked, whatever it is worth: at no more than --max-price, not against your
    privacy class, and not while it leaves a dispute of yours open. If it does not answer, nobody does.

    Whether an answer is what was expected counts as `p2pagent rate` does, and leaves the exit code alone.
    """
    if (question is None) == (batch is None):
        raise typer.BadParameter("give either QUESTION or --batch FILE")
    if batch is not None and session is not None:
        raise typer.BadParameter("--session goes with QUESTION: those of a batch are of no conversation")
    if batch is not None and raw:
        raise typer.BadParameter("--raw prints pieces at once, --batch whole answers in order")
    if (expect is not None and batch is not None) or (expect_file is not None and batch is None):
        raise typer.BadParameter("--expect goes with QUESTION, --expect-file with --batch")
    if expect is not None and not expect.strip():
        raise typer.BadParameter("--expect needs a text; an empty answer is never good")
    worth = Worth(
        value_microcredits=value,
        delay_microcredits_per_s=delay_cost,
        price_max_microcredits=max_price,
        privacy=privacy,
        raw=raw,
    )
    if batch is not None:
        questions = questions_in(batch) if expect_file is None else expecting(batch, expect_file)
        with Client(home_of(home)) as client:
            updates = client.ask_all(questions, worth, max_tokens, named(agent))
            answer_all(questions, updates, explain=explain, as_json=as_json)
        return
    assert question is not None
    text = _utf8("question", sys.stdin.buffer.read() if question == "-" else os.fsencode(question))
    one = Question(text, "" if expect is None else _utf8("expected answer", os.fsencode(expect)))
    folder = home_of(home)
    said = Sessions(folder).go_on(session) if session is not None else ()
    with Client(folder) as client:
        told = client.ask(one, worth, max_tokens, said, named(agent))
        answer = show(told, at_once=not as_json and (raw or sys.stdout.isatty()), explain=explain, as_json=as_json)
    if session is not None:
        Sessions(folder).keep(session, (*said, ChatMessage("user", text), ChatMessage("assistant", answer.text)))


def show(told: Generator[Update, None, None], *, at_once: bool, explain: bool, as_json: bool) -> Answered:
    """Print what is told of a question, each piece `at_once` or the answer as a whole; the answer.

    Raises:
        LocalError: there is none.
    """
    with closing(told):
        for update in told:
            match update:
                case Text(piece) if at_once:
                    typer.echo(piece, nl=False)
                case Text():
                    pass
                case Restarted():
                    if at_once:
                        typer.echo()
                    note(f"{update.lost.name}@{short(update.lost.peer)} went away ({update.reason}); starting again")
                case Answered():
                    _show_answer(update, at_once=at_once, as_json=as_json)
                    if explain:
                        note(f"{candidates_text(update.candidates)}\n\n{update.why}\n")
                        note(price_text(price_of_answer(update)))
                    return update
                case Unanswered():
                    if as_json:
                        emit_json(update)
                    elif at_once and update.partial:
                        typer.echo()
                    if explain:
                        note(f"{candidates_text(update.candidates)}\n\n{update.reason}")
                    raise _failure(update)
    raise LocalError("the daemon ended the answer without a word", "see its log", Exit.NO_DAEMON)


def named(agent: str | None) -> str | None:
    """What --agent names.

    Raises:
        typer.BadParameter: it is no NAME@PEER.
    """
    if agent is not None and not agent.rpartition("@")[0]:
        raise typer.BadParameter(f"{agent!r} is not NAME@PEER; `p2pagent peers` shows who is there")
    return agent


def _show_answer(answer: Answered, *, at_once: bool, as_json: bool) -> None:
    if as_json:
        emit_json(answer)
        return
    typer.echo("" if at_once else answer.text)
    note(
        f"{answer.agent.name}@{short(answer.agent.peer)} ({answer.model}), "
        f"{credits_text(answer.price_microcredits)} credits, "
        f"first token after {answer.ttft_ms} ms, all after {answer.total_ms} ms"
        f"{judged_text(answer)}"
    )


def _failure(update: Unanswered) -> LocalError:
    if update.partial:
        return LocalError(f"the answer broke off: {update.reason}", "ask again without --raw", Exit.PARTIAL)
    return LocalError(
        f"no answer: {update.reason}",
        "--explain tells who was considered; `p2pagent status` how your own agent fares",
        Exit.NO_ANSWER,
    )


def _utf8(what: str, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"the {what} is not UTF-8: {error.reason} at byte {error.start}") from error
