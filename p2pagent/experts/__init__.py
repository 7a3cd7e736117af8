"""The experts that ship with the package: small language models, each good at one family of questions only."""

from importlib.resources import files
from pathlib import Path

from p2pagent.errors import Exit, LocalError
from p2pagent.experts.families import FAMILIES


def names() -> tuple[str, ...]:
    """The shipped experts, named after the families that they answer."""
    return FAMILIES


def path(name: str) -> Path:
    """The folder of a shipped expert, as engines load it.

    Raises:
        LocalError: there is no such expert.
    """
    if name not in FAMILIES:
        raise LocalError(f"there is no expert {name!r}", f"the shipped experts are {', '.join(FAMILIES)}", Exit.MODEL)
    return Path(str(files(__name__))) / name
