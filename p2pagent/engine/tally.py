"""Counts the answers of an engine."""

from collections.abc import Iterator
from contextlib import contextmanager

from p2pagent.engine.base import EngineStatistics
from p2pagent.errors import EngineUnavailableError


class Tally:
    """Answers in work, completed and failed. One that was given up, or too long a question, counts as neither."""

    def __init__(self) -> None:
        self._running = 0
        self._completed = 0
        self._failed = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what the block does as one answer."""
        self._running += 1
        try:
            yield
            self._completed += 1
        except EngineUnavailableError:
            self._failed += 1
            raise
        finally:
            self._running -= 1

    def statistics(
        self, *, ready: bool, restarts: int, prompt_tokens: int = 0, cached_tokens: int = 0
    ) -> EngineStatistics:
        """Tell the counts so far, with what only the engine knows."""
        return EngineStatistics(
            ready, self._running, self._completed, self._failed, restarts, prompt_tokens, cached_tokens
        )
