"""What one engine's prefix cache holds, block by block, by vLLM's rules.

Blocks are named as in `conversations.Turn.chain`, per domain. All domains share the room. While an answer is at work
its blocks are pinned; after it they are evicted least recently used first, by when the answer ended, and of one prompt
its tail before its head (vLLM 0.32, v1/core/block_pool.py `free_blocks` and v1/core/single_type_kv_cache_manager.py
`free`). Only whole blocks can be reused.

Two ways in which this is simpler. Blocks that the answer will need are taken with those of the prompt, not one by one
as it is decoded, so nothing is ever preempted. And a block that is there already is not kept twice, as vLLM does when
a prompt of whole blocks only is asked again.
"""

from collections import Counter, OrderedDict
from itertools import islice
from typing import NamedTuple

Name = tuple[int, int]
"""Domain and block."""


class Lease(NamedTuple):
    """What an answer at work has pinned: its prompt's whole blocks, and blocks that no prompt can name.

    `decoded` of the latter hold tokens of the answer; they stay for a while, of use to nobody.
    """

    names: tuple[Name, ...]
    nameless: int
    decoded: int
    cached_tokens: int


class BlockCache:
    """A cache of `blocks` blocks of `block_tokens` tokens each; of vLLM's N blocks one is not usable."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self._blocks = blocks
        self._block_tokens = block_tokens
        self._pinned: Counter[Name] = Counter()
        self._idle: OrderedDict[Name, None] = OrderedDict()
        self._nameless = 0
        self._waste = 0

    def cached_tokens(self, domain: int, chain: tuple[int, ...], prompt_tokens: int) -> int:
        """How much of a prompt need not be computed: the leading blocks held, never the last token."""
        held = 0
        for block in chain[: (prompt_tokens - 1) // self._block_tokens]:
            if (domain, block) not in self:
                break
            held += self._block_tokens
        return held

    def __contains__(self, name: Name) -> bool:
        return name in self._pinned or name in self._idle

    def victims(self, domain: int, chain: tuple[int, ...], prompt_tokens: int) -> tuple[Name, ...]:
        """Which blocks would go for this prompt, waste left out: it would be nobody's loss."""
        names = [(domain, block) for block in chain]
        ours = set(names)
        missing = sum(name not in self for name in names) + -(-prompt_tokens // self._block_tokens) - len(names)
        out = islice((name for name in self._idle if name not in ours), max(0, missing - self._room()))
        return tuple(name for name in out if name[1] >= 0)

    def admit(self, domain: int, chain: tuple[int, ...], prompt_tokens: int, output_tokens: int) -> Lease | None:
        """Pin what an answer needs; None while too much is pinned.

        The last token of an answer is decoded but never fed, so prompt and answer take one token less than they have.
        """
        cached_tokens = self.cached_tokens(domain, chain, prompt_tokens)
        tokens = prompt_tokens + output_tokens - 1
        names = tuple((domain, block) for block in chain)
        nameless = -(-tokens // self._block_tokens) - len(names)
        fresh = sum(name not in self for name in names)
        if fresh + nameless > self._room() + len(self._idle) - sum(name in self._idle for name in names):
            return None
        for name in names:
            self._idle.pop(name, None)
        self._pinned.update(names)
        self._nameless += nameless
        while self._room() < 0:
            self._idle.popitem(last=False)
        return Lease(names, nameless, tokens // self._block_tokens - len(names), cached_tokens)

    def release(self, lease: Lease) -> None:
        """The answer has ended: what nobody else has pinned may go from now on."""
        self._nameless -= lease.nameless
        for _ in range(lease.decoded):
            self._waste -= 1
            self._idle[lease.names[0][0] if lease.names else 0, self._waste] = None
        for name in reversed(lease.names):
            self._pinned[name] -= 1
            if not self._pinned[name]:
                del self._pinned[name]
                self._idle[name] = None

    def _room(self) -> int:
        """Blocks that hold nothing."""
        return self._blocks - len(self._pinned) - len(self._idle) - self._nameless
