"""Tables that forget what was put into them first."""

from collections.abc import Hashable
from typing import Any, TypeVar

_K = TypeVar("_K", bound=Hashable)


def bound(table: dict[_K, Any], most: int) -> None:
    """Forget what was put into `table` first until it holds `most`."""
    while len(table) > most:
        del table[next(iter(table))]
