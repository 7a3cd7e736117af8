"""`p2pagent ask --batch`: many questions, a line each, and their answers in the order of the questions."""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from itertools import zip_longest
from typing import BinaryIO

import msgspec
import typer

from p2pagent.api.batch import QUESTIONS_MAX
from p2pagent.api.guard import BODY_BYTES_MAX
from p2pagent.api.node import Question
from p2pagent.api.tree import to_tree
from p2pagent.cli.explain import candidates_text, judged_text, price_of_answer, price_text
from p2pagent.cli.output import credits_text, note, short
from p2pagent.errors import Exit, LocalError
from p2pagent.peer.messages import TEXT_CHARACTERS_MAX
from p2pagent.peer.updates import Answered, Restarted, Unanswered, Update

End = Answered | Unanswered


def questions_in(file: BinaryIO) -> list[Question]:
    """The questions in `file`, one per line that is not blank.

    Raises:
        LocalError: there are none, too many, or too long ones.
        typer.BadParameter: it is not UTF-8.
    """
    return _questions([Question(line) for line in _lines(file)])


def expecting(file: BinaryIO, expected: BinaryIO) -> list[Question]:
    """The questions in `file`, each with what the line of its number in `expected` says that its answer has to be.

    Raises:
        LocalError: there are none, too many, or too long ones; or an answer is expected where there is no question.
        typer.BadParameter: they are not UTF-8.
    """
    questions, answers = _lines(file), _lines(expected)
    stray = next((n for n, (q, a) in enumerate(zip_longest(questions, answers, fillvalue=""), 1) if a and not q), None)
    if stray is not None:
        cause = f"an answer is expected on line {stray}, where there is no question"
        raise LocalError(cause, "give each question the same line in both files", Exit.EMPTY_QUESTION)
    return _questions([Question(*pair) for pair in zip_longest(questions, answers, fillvalue="")])


def _lines(file: BinaryIO) -> list[str]:
    data = file.read(BODY_BYTES_MAX + 1)
    if len(data) > BODY_BYTES_MAX:
        raise LocalError(f"a batch may have {BODY_BYTES_MAX} bytes", "split it", Exit.TOO_LONG)
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"the questions are not UTF-8: {error.reason} at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if len(line) > TEXT_CHARACTERS_MAX:
            cause = f"line {number} has {len(line)} characters; a question may have {TEXT_CHARACTERS_MAX}"
            raise LocalError(cause, "shorten it", Exit.TOO_LONG)
    return [line.strip() for line in lines]


def _questions(lines: list[Question]) -> list[Question]:
    questions = [line for line in lines if line.text]
    if not questions:
        raise LocalError("there is no question in the batch", "write one on each line", Exit.EMPTY_QUESTION)
    if len(questions) > QUESTIONS_MAX:
        cause = f"there are {len(questions)} questions; a batch may have {QUESTIONS_MAX}"
        raise LocalError(cause, "split it", Exit.TOO_LONG)
    return questions


def answer_all(
    questions: list[Question], updates: Generator[tuple[int, Update], None, None], *, explain: bool, as_json: bool
) -> None:
    """Print the answers in the order of `questions`, each as soon as it and those before it are there.

    Raises:
        LocalError: some question has no answer, or the daemon went away; what was answered is printed first.
    """
    ends: dict[int, End] = {}
    shown = 0
    try:
        with _progress(len(questions)) as advance, closing(updates):
            for index, update in updates:
                if isinstance(update, Restarted):
                    lost = f"{update.lost.name}@{short(update.lost.peer)}"
                    note(f"question {index + 1}: {lost} went away ({update.reason}); starting again")
                elif isinstance(update, Answered | Unanswered):
                    ends[index] = update
                    advance()
                    while shown in ends:
                        _show(shown, questions[shown], ends[shown], explain=explain, as_json=as_json)
                        shown += 1
    finally:  # what was bought is not lost because another answer never came
        for number in range(shown, max(ends, default=-1) + 1):
            end = ends.get(number, Unanswered("the asking was broken off", False, ()))
            _show(number, questions[number], end, explain=explain, as_json=as_json)
        answers = [end for end in ends.values() if isinstance(end, Answered)]
        if ends:
            _sum_up(len(questions), answers)
    missing = len(questions) - len(answers)
    if missing:
        cause = f"{missing} of {len(questions)} questions have no answer"
        hint = "--explain tells who was considered; `p2pagent status` how your own agent fares"
        raise LocalError(cause, hint, Exit.NO_ANSWER if missing == len(questions) else Exit.PARTIAL)


def _show(index: int, question: Question, end: End, *, explain: bool, as_json: bool) -> None:
    if as_json:
        tree = to_tree(end)
        assert isinstance(tree, dict)
        typer.echo(msgspec.json.encode({"question": question.text} | tree).decode())
    else:
        typer.echo(end.text if isinstance(end, Answered) else "")
    if isinstance(end, Answered):
        who = f"{end.agent.name}@{short(end.agent.peer)} ({end.model})"
        price = credits_text(end.price_microcredits)
        note(f"question {index + 1}: {who}, {price} credits, {end.total_ms} ms{judged_text(end)}")
    else:
        note(f"question {index + 1}: no answer: {end.reason}")
    if explain:
        note(f"{candidates_text(end.candidates)}\n\n{end.why if isinstance(end, Answered) else end.reason}\n")
        if isinstance(end, Answered):
            note(f"{price_text(price_of_answer(end))}\n")


def _sum_up(asked: int, answers: list[Answered]) -> None:
    agents = len({answer.agent for answer in answers})
    price = credits_text(sum(answer.price_microcredits for answer in answers))
    note(f"{len(answers)} of {asked} answered by {agents} agent{'' if agents == 1 else 's'} for {price} credits")
    judged = [answer.good for answer in answers if answer.good is not None]
    if judged:
        note(f"{sum(judged)} of {len(judged)} as expected")


@contextmanager
def _progress(count: int) -> Iterator[Callable[[], None]]:
    """A bar on a stderr that is a terminal; call what is given for each end."""
    from rich.console import Console  # slow to import, and most questions come alone
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("answered"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # rich would send what goes to stdout to its own console; that is right only where both are one screen.
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("", total=count)
        yield lambda: progress.advance(task)
