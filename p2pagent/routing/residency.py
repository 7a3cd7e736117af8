"""What is believed to be in the cache of an engine: by its own device, and by those that it has answered."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from p2pagent.bounded import bound
from p2pagent.routing.marks import Link, Prefix
from p2pagent.routing.returns import Returns
from p2pagent.types import AgentRef, Usage

MARKS_MAX = 8192
"""Remembered of all buyers of an agent."""

BLOCK_TOKENS = 32
"""An engine caches whole blocks, vLLM on a CPU of so many tokens; where they are smaller a little less is promised."""

BLOCK_TOKENS_MAX = 128
"""Of blocks elsewhere. One that a prefix ends in is held, but not said to be."""

SHARE_MAX = 0.8
"""Of a cache's size, what is counted on at most: answers under way keep some of it from others."""

SHARE_KEPT, SHARE_REGAINED = 0.9, 0.005
"""What is counted on shrinks by a factor when less was held than believed, and else grows again a little with each
answer: others may use the engine, too."""

LINKS_KEPT = 65_536
"""Remembered of all agents that have answered us, those used least recently forgotten first."""

TOKENS_PER_BYTE = 0.25
"""Of text, as long as none was counted; usual ones have about so many."""

TOLD_APART = 0.9
"""Weight of the past after one more prompt was counted: the last ten count."""

STEEPNESS = 8
"""How sharply a cache forgets what it last used its own size ago; infinitely, if all that it has met were known."""


class Prompt(Protocol):
    """A prompt as it was called."""

    @property
    def prefix(self) -> Sequence[Prefix]:
        """Its prefixes, the shortest first."""

    @property
    def prompt_tokens(self) -> int:
        """Of all of it."""


class Entry(NamedTuple):
    """A prefix that an engine holds: its tokens, those of them that no shorter one has, and when it was last used."""

    end_tokens: int
    added_tokens: int
    used_ms: int


class Held(NamedTuple):
    """Of marks of a domain, how many leading tokens an engine has in its cache; 0 may also be forgotten."""

    domain: bytes
    entries: tuple[tuple[bytes, int], ...]


class Shelf:
    """The prefixes that one engine holds: the least recently used give way, longer ones before those they begin with.

    So does vLLM's cache (`vllm/v1/core/block_pool.py`). `capacity_tokens` is its size; of 0 nothing is expected.
    Prefixes of one domain are nothing to another: what parts them is the cache salt. Of an engine that tells what it
    holds, that is believed, and nothing else.
    """

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self._share = SHARE_MAX
        self._entries: OrderedDict[tuple[bytes, bytes], Entry] = OrderedDict()
        self._held_tokens = 0
        self._returns = Returns()
        self._tokens_per_byte = TOKENS_PER_BYTE
        self._told: dict[tuple[bytes, bytes], int] | None = None

    def told(self, held: Held | None) -> None:
        """The engine says what it holds; with None, that it does not tell any more."""
        if held is None:
            self._told = None
            return
        if self._told is None:
            self._told = {}
        for tag, tokens in held.entries:
            if tokens:
                self._told[held.domain, tag] = tokens
            else:
                self._told.pop((held.domain, tag), None)

    def held_tokens(
        self, domain: bytes, prefix: Sequence[Prefix], prompt_tokens: int, begun: Iterable[Prompt] = ()
    ) -> int:
        """How many tokens of a prompt need not be computed, in whole blocks; the last token always is.

        `begun` are prompts of the domain that are at work: they are computed before it, so that what they begin with is
        there for it, if the engine has a cache.
        """
        names = [(domain, mark.tag) for mark in prefix]
        if self._told is not None:
            longest = max((self._told.get(name, 0) for name in names), default=0)
        else:
            known = (self._entries[name] for name in names if name in self._entries)
            longest = max((entry.end_tokens for entry in known), default=0)
        if self.capacity_tokens:
            longest = max([longest, *(self._shared_tokens(prompt, prefix) for prompt in begun)])
        return max(0, min(longest, prompt_tokens - 1)) // BLOCK_TOKENS * BLOCK_TOKENS

    def displaced_tokens(self, domain: bytes, prefix: Iterable[Prefix], room_tokens: int, now_ms: int) -> int:
        """How many tokens that would have been used again are expected to go if so many are to be computed."""
        own = {(domain, mark.tag) for mark in prefix}
        short = self._held_tokens + room_tokens - self._room_tokens
        lost = 0.0
        for name, entry in self._entries.items():
            if short <= 0:
                break
            if name not in own:
                lost += entry.added_tokens * self._returns.chance(now_ms - entry.used_ms)
                short -= entry.added_tokens
        return int(lost)

    def served(self, domain: bytes, prefix: Iterable[Prefix], usage: Usage, held_tokens: int, now_ms: int) -> None:
        """A prompt with these prefixes was computed, and is held; so is its answer, once a prompt goes on from it.

        `held_tokens` were believed to be held as it got its slot.
        """
        marks = list(prefix)
        if not marks or not self.capacity_tokens:
            return
        less = usage.cached_tokens < held_tokens
        self._share = SHARE_KEPT * self._share if less else min(SHARE_MAX, self._share + SHARE_REGAINED)
        bytes_in_all = max(1, marks[-1].end_bytes)
        per_byte = usage.prompt_tokens / bytes_in_all
        self._tokens_per_byte = TOLD_APART * self._tokens_per_byte + (1 - TOLD_APART) * per_byte
        before, names = 0, []
        for mark in marks:
            name = (domain, mark.tag)
            known = self._entries.get(name)
            if known is not None:
                self._returns.learn(now_ms - known.used_ms, used=True)
                end_tokens, added = known.end_tokens, known.added_tokens
            else:
                end_tokens = mark.end_bytes * usage.prompt_tokens // bytes_in_all
                added = max(0, end_tokens - before)
                self._held_tokens += added
            self._entries[name] = Entry(end_tokens, added, now_ms)
            before = end_tokens
            names.append(name)
        for name in reversed(names):
            self._entries.move_to_end(name)
        while self._held_tokens > self._room_tokens or len(self._entries) > MARKS_MAX:
            _, entry = self._entries.popitem(last=False)
            self._held_tokens -= entry.added_tokens
            self._returns.learn(now_ms - entry.used_ms, used=False)

    def _shared_tokens(self, prompt: Prompt, prefix: Sequence[Prefix]) -> int:
        """How many leading tokens of `prompt` are those of `prefix`.

        It may have been called with more tokens than it has, where its buyer could not count them.
        """
        tags = {mark.tag for mark in prefix}
        shared = max((mark.end_bytes for mark in prompt.prefix if mark.tag in tags), default=0)
        if not shared:
            return 0
        return int(shared * min(self._tokens_per_byte, prompt.prompt_tokens / prompt.prefix[-1].end_bytes))

    @property
    def _room_tokens(self) -> int:
        return int(self._share * self.capacity_tokens)


class Recall:
    """What this buyer believes of the caches of the agents that have answered it, by the links of its conversations."""

    def __init__(self) -> None:
        self._ends: OrderedDict[tuple[AgentRef, bytes], tuple[int, int]] = OrderedDict()

    def served(self, agent: AgentRef, links: Sequence[Link], usage: Usage, computed_tokens: int) -> None:
        """`agent` has answered a prompt of these links; its counter of computed tokens was `computed_tokens`."""
        self.told(agent, links, usage.prompt_tokens, usage.prompt_tokens, computed_tokens)

    def told(
        self, agent: AgentRef, links: Sequence[Link], cached_tokens: int, prompt_tokens: int, computed_tokens: int
    ) -> None:
        """`agent` holds the first `cached_tokens` of a prompt of these links, and no more of it."""
        bytes_in_all = max(1, links[-1].end_bytes) if links else 1
        for link in links:
            end_tokens = link.end_bytes * prompt_tokens // bytes_in_all
            name = agent, link.digest
            self._ends.pop(name, None)
            if end_tokens <= cached_tokens + BLOCK_TOKENS_MAX:
                self._ends[name] = end_tokens, computed_tokens
        bound(self._ends, LINKS_KEPT)

    def expected_tokens(
        self, agent: AgentRef, links: Sequence[Link], capacity_tokens: int, computed_tokens: int, prompt_tokens: int
    ) -> int:
        """How many tokens of a prompt of these links `agent` is expected to have in its cache.

        What was last used long ago may be gone, while a shorter prefix, which other prompts begin with too, is there.

        Args:
            agent: who may hold them.
            links: of the prompt, shortest first.
            capacity_tokens: size of its cache; 0 if it has none.
            computed_tokens: its counter of computed tokens now. What it has computed since it answered us stands for
                the stack distance of an LRU (Mattson et al. 1970, IBM Systems Journal 9:78).
            prompt_tokens: of the whole prompt.
        """
        most = 0
        for link in reversed(links) if capacity_tokens else ():
            known = self._ends.get((agent, link.digest))
            if known is None:
                continue
            tokens, then_tokens = min(known[0], prompt_tokens), known[1]
            if tokens <= most:  # nor can any shorter one be more
                break
            if computed_tokens < then_tokens:  # it has started anew, with an empty cache
                continue
            distance = (computed_tokens - then_tokens) / capacity_tokens
            most = max(most, int(tokens / (1 + distance**STEEPNESS)))
        return most
