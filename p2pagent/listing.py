"""Being listed in the DHT: what nobody took note of is told again, until somebody does."""

from collections.abc import Awaitable, Callable

import trio

RETRY_FIRST_S = 30.0
RETRY_MAX_S = 3600.0
"""Waits double up to this. In an hour all is told anew in any case (`peer/lookout.py`)."""


class Listing:
    """The cells that this device serves."""

    def __init__(self) -> None:
        self._missing: list[str] = []
        self._retry_s = RETRY_FIRST_S
        self._again = trio.Event()

    def want(self, cells: tuple[str, ...]) -> None:
        """Tell of these, and no more of those before."""
        self._missing = list(cells)
        self.retry()

    def retry(self) -> None:
        """Tell at once of what nobody has taken note of: there is somebody to tell now."""
        self._retry_s = RETRY_FIRST_S
        self._again.set()

    async def run(self, provide: Callable[[str], Awaitable[bool]]) -> None:
        """Tell until cancelled, each cell by `provide`, which returns whether anybody took note."""
        while True:
            self._again = trio.Event()
            missing = self._missing
            for cell in missing.copy():
                if await provide(cell):
                    missing.remove(cell)
                if self._missing is not missing:
                    break
            with trio.move_on_after(self._retry_s if self._missing else float("inf")) as wait:
                await self._again.wait()
            if wait.cancelled_caught:
                self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
