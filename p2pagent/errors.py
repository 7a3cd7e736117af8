"""What can go wrong, told apart by whose fault it is.

A `LocalError` is for the owner of this device: one line with the cause, a hint with the way out, an exit code of its
own. A `RemoteError` is a peer's fault: it is counted against that peer and travels no further than who found it.
Everything else is a bug.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `p2pagent`; 0 is success, 2 is typer's own for wrong usage."""

    UNEXPECTED = 1
    CONFIG = 3
    PORT_TAKEN = 4
    KEY = 5
    ENGINE_MISSING = 6
    MODEL = 7
    EMPTY_QUESTION = 8
    TOO_LONG = 9
    NO_DAEMON = 10
    NO_ANSWER = 11
    UNREACHABLE = 12
    PARTIAL = 13
    STORE = 14
    INVITE = 15
    NO_AGENT = 16


class LocalError(Exception):
    """A fault that the owner of this device can mend."""

    def __init__(self, cause: str, hint: str, exit_code: Exit) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint
        self.exit_code = exit_code


class RemoteError(Exception):
    """Bytes or behaviour of a peer that break the protocol."""


class EngineUnavailableError(Exception):
    """The engine cannot answer now (starting, restarting, gone): the question goes elsewhere."""


@contextmanager
def bare_local_errors() -> Iterator[None]:
    """Let a `LocalError` that nurseries wrapped into groups leave the block by itself; of several, the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        local, others = group.split(LocalError)
        if local is None or others is not None:
            raise
        raise first(local) from None


def first(group: BaseExceptionGroup[LocalError]) -> LocalError:
    """The first error in `group`, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, LocalError)
    return error
