"""Daemons that are killed without a word and started again while questions are asked: the schedule, and its doing."""

from collections.abc import Awaitable, Callable
from random import Random

import httpx
import trio

from p2pagent.errors import LocalError
from p2pagent.peer.updates import Answered
from p2pagent.testnet.exam import Tally
from p2pagent.testnet.fleet import Daemon
from p2pagent.types import PrivacyClass

KILL_EVERY_S = (3.0, 6.0)
"""Between two kills: a tenth of eight daemons and more are gone or coming back at any moment."""

DOWN_S = (0.5, 4.0)
"""How long a killed daemon stays away before it is started again."""

DOWN_SHARE_MAX = 0.25
PAUSE_S = 1.0
"""What a user waits on average before a question, so that the questions last as long as many kills do."""


class Churn:
    """Kills and restarts, drawn from a seed, in an order that repeats; the moments follow the machine's pace."""

    def __init__(self, daemons: list[Daemon], seed: int) -> None:
        self._daemons = daemons
        self._rng = Random(f"churn {seed}")
        self._up = [trio.Event() for _ in daemons]
        for event in self._up:
            event.set()
        self._stirring = False
        self.tally = Tally()

    async def run(self) -> None:
        """Kill and restart until cancelled; who is down then stays down until `mend`."""
        self._stirring = True
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._rng.uniform(*KILL_EVERY_S))
                victim, down_s = self._rng.randrange(len(self._daemons)), self._rng.uniform(*DOWN_S)
                down = sum(not event.is_set() for event in self._up)
                if self._up[victim].is_set() and down + 1 <= max(1, DOWN_SHARE_MAX * len(self._daemons)):
                    self._up[victim] = trio.Event()
                    self.tally.kills += 1
                    nursery.start_soon(self._restart, victim, down_s)

    async def mend(self, ready: Callable[[Daemon], Awaitable[None]]) -> None:
        """Bring everybody back."""
        self._stirring = False
        for daemon, up in zip(self._daemons, self._up, strict=True):
            if not up.is_set():
                await daemon.kill()
                await daemon.start()
        async with trio.open_nursery() as nursery:
            for daemon in self._daemons:
                nursery.start_soon(ready, daemon)
        for up in self._up:
            up.set()

    async def ask(self, at: int, question: str, privacy: PrivacyClass) -> Answered | None:
        """As a user would: if the own device is down, or goes down meanwhile, ask again when it is back."""
        if self._stirring:
            await trio.sleep(Random(question).uniform(0, 2 * PAUSE_S))
        while True:
            await self._up[at].wait()
            up = self._up[at]
            try:
                answer = await self._daemons[at].ask(question, privacy)
            except (httpx.HTTPError, LocalError):
                answer = None
            if answer is not None or up is self._up[at]:
                return answer
            self.tally.asked_again += 1

    async def _restart(self, victim: int, down_s: float) -> None:
        daemon, up = self._daemons[victim], self._up[victim]
        await daemon.kill()
        await trio.sleep(down_s)
        await daemon.start()
        await daemon.until_status(lambda status: bool(status.agents))
        up.set()
