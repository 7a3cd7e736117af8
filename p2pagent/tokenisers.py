"""The tokenisers that this device has: those of its models, of the shipped experts, and in its home folder.

An agent tells the digest of its own. Whoever has that one knows how many tokens a prompt has before it is called, and
counts an answer again after it was paid.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import TypeVar

import trio

from p2pagent.bounded import bound
from p2pagent.tokeniser import Tokeniser, read
from p2pagent.types import ChatMessage

LOADED_MAX = 4
"""Tokenisers kept in memory, where one of a large vocabulary takes some hundred megabytes."""

_T = TypeVar("_T")


class Tokenisers:
    """Those that this device has, by digest. They are loaded when needed, and work in a thread, one at a time."""

    def __init__(self) -> None:
        self._folders: dict[bytes, Path] = {}
        self._loaded: OrderedDict[bytes, Tokeniser] = OrderedDict()
        self._worker = trio.CapacityLimiter(1)

    @property
    def known(self) -> Set[bytes]:
        """Their digests."""
        return self._folders.keys()

    def add(self, folder: Path) -> None:
        """Know the tokeniser in `folder`.

        Raises:
            OSError: it cannot be read.
            ValueError: it cannot be used.
        """
        self._folders.setdefault(read(folder).digest, folder)

    async def count_prompt(self, digests: Iterable[bytes], turns: tuple[ChatMessage, ...]) -> dict[bytes, int]:
        """The tokens of the prompt that `turns` become, for each of `digests` that is known and takes them."""
        found = [digest for digest in dict.fromkeys(digests) if digest in self._folders]
        counts = [await self._work(digest, lambda tokeniser: len(tokeniser.encode(turns))) for digest in found]
        return {digest: count for digest, count in zip(found, counts, strict=True) if count is not None}

    async def count_answer(self, digest: bytes, text: str) -> int | None:
        """The tokens of an answer; None where the tokeniser is not known, or has none for this text."""
        return await self._work(digest, lambda tokeniser: tokeniser.count_answer(text))

    async def _work(self, digest: bytes, task: Callable[[Tokeniser], _T]) -> _T | None:
        return await trio.to_thread.run_sync(self._try, digest, task, limiter=self._worker)

    def _try(self, digest: bytes, task: Callable[[Tokeniser], _T]) -> _T | None:
        try:
            return task(self._load(digest)) if digest in self._folders else None
        except (OSError, ValueError):
            return None

    def _load(self, digest: bytes) -> Tokeniser:
        """A tokeniser that is known.

        Raises:
            OSError: its files are gone.
            ValueError: they have changed, or cannot be used.
        """
        tokeniser = self._loaded.pop(digest, None) or Tokeniser(read(self._folders[digest]))
        if tokeniser.digest != digest:
            raise ValueError("its files have changed")
        self._loaded[digest] = tokeniser
        bound(self._loaded, LOADED_MAX)
        return tokeniser
