"""`p2pagent rate`: the user's word on an answer, from which its device learns whom to ask."""

from typing import Annotated

import typer

from p2pagent.api.client import Client
from p2pagent.api.node import Verdict
from p2pagent.cli.app import HomeOption, JsonOption, app, examples, home_of
from p2pagent.cli.ledger import ReceiptArgument
from p2pagent.cli.output import emit_json, short


@app.command(epilog=examples("p2pagent rate 3f9a02c4 good", "p2pagent rate 3f9a02c4 bad --json"))
def rate(
    receipt: ReceiptArgument,
    rating: Annotated[Verdict, typer.Argument(help="What the answer was.")],
    *,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Say whether an answer that you bought was good.

    This device trusts its own experience more than what agents claim of themselves: whom it asks next is decided by
    both. Rating a receipt again replaces what was said before. Nobody else is told, and no money moves. Answers of your
    own agent have no receipt; `p2pagent ask --expect` judges them too.
    """
    with Client(home_of(home)) as client:
        view = client.rate(receipt, rating)
    if as_json:
        emit_json(view)
        return
    agent = f"{view.receipt.agent}@{short(view.receipt.other)}"
    known = f"{view.outcomes} answer{'' if view.outcomes == 1 else 's'} of it judged before"
    before = f", was rated {view.earlier}" if view.earlier not in {None, rating} else ""
    typer.echo(f"rated {rating}: receipt {view.receipt.receipt_id}{before}")
    typer.echo(f"{agent} was expected to answer well with probability {view.expected_quality:.2f}; {known}")
