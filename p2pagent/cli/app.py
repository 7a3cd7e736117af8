"""The root of all commands: what is said on an error, how help is rendered, and options that several share.

Data goes to stdout, everything else to stderr. Help has a fixed width and no markup, so that its copy in README.md is
the same wherever it is made.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from p2pagent import __version__
from p2pagent.api.node import RECEIPT_PREFIX
from p2pagent.cli.output import note, parse_credits
from p2pagent.errors import Exit, LocalError
from p2pagent.home import default

_COLUMNS = 100


def tell(error: LocalError) -> None:
    """Say what is wrong, and the way out."""
    note(f"p2pagent: {error.cause}")
    note(f"hint: {error.hint}")


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LocalError as error:
            tell(error)
            raise typer.Exit(error.exit_code) from None


def examples(*lines: str) -> str:
    """An epilog of example calls, shown as they are written."""
    return "\n".join(["Examples:", "", "\b", *(f"  {line}" for line in lines)])


def _exit_codes() -> str:
    named = [(0, "success"), (2, "wrong usage"), *((int(code), code.name.lower().replace("_", " ")) for code in Exit)]
    return "Exit codes: " + ", ".join(f"{code} {name}" for code, name in sorted(named)) + "."


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"terminal_width": _COLUMNS, "max_content_width": _COLUMNS},
    epilog=_exit_codes(),
)

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="P2PAGENT_HOME",
        metavar="FOLDER",
        show_default="this system's data folder",
        help="Folder with this device's settings, key and ledger.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, money in microcredits.")]
PrivacyOption = Annotated[
    Literal["local", "trusted", "any"] | None,
    typer.Option("--privacy", help="How far the prompt may travel: this device, trusted peers, anyone."),
]


def _money(flag: str, text: str) -> Any:
    return typer.Option(flag, parser=parse_credits, metavar="CREDITS", help=text)


ValueOption = Annotated[int | None, _money("--value", "What a good answer is worth.")]
DelayOption = Annotated[int | None, _money("--delay-cost", "What a second of waiting costs.")]
AgentOption = Annotated[
    str | None,
    typer.Option(
        "--agent",
        metavar="NAME@PEER",
        help="Ask this agent and nobody else; of the peer's id as much of its beginning or end as is enough.",
    ),
]
SessionOption = Annotated[
    str | None,
    typer.Option(
        "--session", metavar="NAME", help="Go on with the conversation of this name, and keep what is said in it."
    ),
]
PriceOption = Annotated[int | None, _money("--max-price", "The most one answer may cost.")]


def home_of(folder: Path | None) -> Path:
    """The home folder that a command works in."""
    return folder if folder is not None else default()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Join your LLM agent to a peer-to-peer network of personal agents.

    A question goes to the agent that answers it best, soonest and cheapest: yours, or a peer's.
    """


def id_prefix(text: str) -> str:
    """Enough of the id of a receipt or a sheet to look for.

    Raises:
        typer.BadParameter: it is nothing of the kind.
    """
    if re.fullmatch(RECEIPT_PREFIX, text) is None:
        raise typer.BadParameter(f"{text!r} is not 6 to 64 hex digits")
    return text
