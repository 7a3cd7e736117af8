"""Waiting for what happens in other processes, which set no events here. The only place where tests let time pass."""

from collections.abc import Awaitable, Callable

import trio


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Look until `condition` holds."""

    async def look() -> bool:
        return condition()

    await until_succeeds(look, limit_s, every_s=0.02)


async def until_succeeds(attempt: Callable[[], Awaitable[bool]], limit_s: float, every_s: float) -> None:
    """Try again every `every_s` until `attempt` says that it has worked."""
    with trio.fail_after(limit_s):
        while not await attempt():
            await trio.sleep(every_s)
