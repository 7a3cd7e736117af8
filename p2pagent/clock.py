"""The daemon's time: milliseconds since the Unix epoch that never go back, whatever the wall clock does."""

import time

BEHIND_MS_MAX = 1_000
"""Small steps of the wall clock are not followed; the clocks of two devices differ by more."""

AHEAD_MS_MAX = 30_000
"""How far the wall clock may be set back unheeded; others believe nothing that is dated a minute ahead."""


class Clock:
    """Called, it gives the time. It starts at the wall clock and runs with the monotonic one.

    Forward it follows the wall clock: while a machine sleeps its monotonic clock stands still, and a daemon whose time
    lags behind is one whose records nobody believes.
    """

    def __init__(self) -> None:
        self._epoch_ms, self._start_s = _wall_ms(), time.monotonic()

    def __call__(self) -> int:
        """Milliseconds since the Unix epoch, at least those given before."""
        elapsed_ms = int((time.monotonic() - self._start_s) * 1000)
        self._epoch_ms = max(self._epoch_ms, _wall_ms() - elapsed_ms - BEHIND_MS_MAX)
        return self._epoch_ms + elapsed_ms

    @property
    def is_wrong(self) -> bool:
        """Whether the wall clock was set back so far that nobody believes this one; only a new one mends that."""
        return self() - _wall_ms() > AHEAD_MS_MAX


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
