"""Which prefixes of the prompts it was asked an engine has in its cache now.

Two things are put together here: the blocks that the engine stores and removes, by name, and the prompts that it was
asked, each told as marks (names of its prefixes, see routing/marks.py) and as the names of its blocks. Of each mark is
kept up to date how many of its leading blocks are present, so that what changes can be told when it does.

Copies are counted: vLLM computes two equal prompts at once into two blocks of one name, and removes them one by one
(vLLM 0.32, v1/core/block_pool.py, `BlockHashToBlockMap`). Events are trusted, and whatever is doubtful counts as
absent. After a gap in them nothing is known to be present but what usage says: a prompt with c cached tokens had its
first c tokens there. What usage says is missing is taken to be there once, as the answer has just left it.

Of each prompt vLLM removes the tail before the head (`free_blocks` there), so that a removal can shorten a run of
leading blocks only at its end. That holds for all prompts together: whenever a block becomes removable, the block
before it becomes so later. So all blocks before one that is present are present, too.
"""

from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from itertools import islice

from msgspec import Struct

from p2pagent.engine.blocks import reusable_tokens
from p2pagent.engine.vllm_events import NAME_BYTES, Cleared, Ended, Lost, Record, Removed, Stored
from p2pagent.routing.marks import Prefix
from p2pagent.routing.residency import Held

PLACES_MAX = 4096
"""Marks that are followed; of those not seen for longest nothing is known any more."""

CHAIN_BYTES_MAX = 8 << 20
"""Of names of blocks, for all marks together: a million blocks."""

CHANGES_MAX = 256
"""Marks told at once; the rest is told the next time."""

STRANGERS_MAX = 8
"""Answers in a row of whose blocks none was stored, before this is taken for another way of naming blocks."""

SOME_BLOCK_TOKENS = 128
"""A prompt of so many tokens has a whole block, where the size of blocks is not known; vLLM has none larger."""

Key = tuple[bytes, bytes]
"""Domain and tag."""


class _Chain:
    """The names of a prompt's blocks, for all marks that were told with it."""

    def __init__(self, names: bytes) -> None:
        self.names = names
        self.users = 0

    def __getitem__(self, block: int) -> bytes:
        return self.names[block * NAME_BYTES : (block + 1) * NAME_BYTES]


class _Place(Struct, eq=False):
    """A prefix of `blocks` whole blocks, the first of `chain`, of which the first `present` are cached.

    It `is_sure` once its length was seen, and is an estimate before.
    """

    chain: _Chain
    blocks: int
    is_sure: bool
    told_tokens: int
    present: int = 0

    @property
    def edges(self) -> list[bytes]:
        """The block without which less is present, and the one with which more is, where there are such."""
        return [self.chain[block] for block in range(self.present - 1, self.present + 1) if 0 <= block < self.blocks]


class Resident:
    """What one engine holds. It is kept through restarts of the engine, and is told of them.

    `capacity_tokens` is the size of the cache, 0 where nobody says it; `block_tokens` that of a block, 0 until it is
    known. `is_verified` says whether blocks are named as we expect: None until that is seen, and False also where the
    engine tells nothing; then nothing is held as far as we know. `mispredictions` counts answers that found less
    cached than was expected.
    """

    def __init__(self) -> None:
        self.capacity_tokens = 0
        self.block_tokens = 0
        self.is_verified: bool | None = None
        self.mispredictions = 0
        self._strangers = 0
        self._is_given_up = False
        self._has_gaps = False
        self._copies: dict[bytes, int] = {}
        self._copies_total = 0
        self._chain_bytes = 0
        self._places: OrderedDict[Key, _Place] = OrderedDict()
        # The marks with an edge at a block. The inner dict serves as a set that keeps its order.
        self._at: defaultdict[bytes, dict[Key, None]] = defaultdict(dict)
        self._changed: dict[Key, None] = {}

    def on_start(self) -> None:
        """The engine starts, with an empty cache."""
        self.on_record(Cleared())
        self.is_verified = None
        self._strangers = 0
        self._is_given_up = False

    def on_record(self, record: Record) -> None:
        """Take in what the engine tells."""
        match record:
            case Stored(block_tokens, names):
                self.block_tokens = block_tokens
                self._add(_split(names))
                if 0 < self.capacity_tokens < self._copies_total * block_tokens:
                    self._lose(has_gaps=True)
            case Removed(names):
                self._remove(_split(names))
            case Cleared():
                self._lose(has_gaps=False)
            case Lost():
                self._lose(has_gaps=True)
            case Ended():
                self._lose(has_gaps=True)
                self.is_verified = False

    def on_prompt(self, domain: bytes, prefix: Sequence[Prefix], names: bytes, prompt_tokens: int) -> None:
        """A prompt is being computed, with these marks, the shortest first, and these blocks.

        `names` is `blocks.names` of its tokens under the salt of its domain. The last mark is all of the prompt; where
        the others end is estimated by their share of its bytes, until two prompts part there or it was a prompt itself.
        Nothing comes of it while `block_tokens` is 0.
        """
        if not self.block_tokens:
            return
        chain = _Chain(names)
        for mark in prefix:
            is_all = mark is prefix[-1]
            tokens = prompt_tokens if is_all else mark.end_bytes * prompt_tokens // max(1, prefix[-1].end_bytes)
            blocks = min(tokens // self.block_tokens, len(names) // NAME_BYTES)
            self._put((domain, mark.tag), chain, blocks, is_sure=is_all)
        while len(self._places) > PLACES_MAX or self._chain_bytes > CHAIN_BYTES_MAX:
            key, _ = next(iter(self._places.items()))
            self._pop(key)
            self._changed[key] = None

    def on_answer(self, names: bytes, prompt_tokens: int, cached_tokens: int, expected_tokens: int) -> None:
        """A prompt with these blocks has been answered, and `cached_tokens` of it were not computed.

        `expected_tokens` is what `held_tokens` said when it was asked.
        """
        self._verify(names, prompt_tokens)
        if not self.is_verified:
            return
        blocks = _split(names)
        cached = cached_tokens // self.block_tokens
        if self._has_gaps:
            self._add([name for name in blocks[:cached] if name not in self._copies])
        if reusable_tokens(prompt_tokens, expected_tokens // self.block_tokens, self.block_tokens) > cached_tokens:
            self.mispredictions += 1
            self._remove([name for name in blocks[cached:] for _ in range(1, self._copies.get(name, 0))])

    def held_tokens(self, domain: bytes, prefix: Sequence[Prefix]) -> int:
        """How many leading tokens of a prompt with these marks are cached now, in whole blocks."""
        places = (self._places.get((domain, mark.tag)) for mark in prefix)
        return max((place.present for place in places if place), default=0) * self.block_tokens

    def changes(self) -> tuple[Held | None, ...]:
        """What has changed since the last time, per domain; of `CHANGES_MAX` marks at most.

        None is told once `is_verified` is False: whatever was told before is void, and until the engine starts again
        nothing will be. Then all is told anew.
        """
        if self.is_verified is False:
            return self._give_up()
        told: defaultdict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
        for key in list(islice(self._changed, CHANGES_MAX)):
            del self._changed[key]
            place = self._places.get(key)
            tokens = place.present * self.block_tokens if place else 0
            if place is None or place.told_tokens != tokens:
                told[key[0]].append((key[1], tokens))
            if place is not None:
                place.told_tokens = tokens
        return tuple(Held(domain, tuple(entries)) for domain, entries in told.items())

    def _give_up(self) -> tuple[None, ...]:
        self._changed.clear()
        if self._is_given_up:
            return ()
        self._is_given_up = True
        for place in self._places.values():
            place.told_tokens = -1
        return (None,)

    def _verify(self, names: bytes, prompt_tokens: int) -> None:
        """The first block of a prompt that was answered must be one that was stored."""
        if names[:NAME_BYTES] in self._copies:
            self.is_verified = True
        elif self.is_verified is None and prompt_tokens >= (self.block_tokens or SOME_BLOCK_TOKENS):
            self._strangers += 1
            if self._strangers == STRANGERS_MAX:
                self.is_verified = False

    def _put(self, key: Key, chain: _Chain, blocks: int, *, is_sure: bool) -> None:
        """Follow a mark along this chain from now on."""
        # One that was forgotten, which is yet to be told, is told whatever becomes of it.
        told_tokens = -1 if key in self._changed else 0
        if key in self._places:
            earlier = self._pop(key)
            told_tokens = earlier.told_tokens
            common = _common_blocks(earlier.chain, chain, earlier.blocks)
            # Prompts that begin with the same text part no earlier than it ends.
            if not is_sure and (earlier.is_sure or common < earlier.blocks):
                blocks, is_sure = common, True
        if not chain.users:
            self._chain_bytes += len(chain.names)
        chain.users += 1
        place = self._places[key] = _Place(chain, blocks, is_sure, told_tokens)
        self._settle(key, place)

    def _pop(self, key: Key) -> _Place:
        place = self._places.pop(key)
        self._leave(key, place)
        place.chain.users -= 1
        if not place.chain.users:
            self._chain_bytes -= len(place.chain.names)
        return place

    def _settle(self, key: Key, place: _Place) -> None:
        """Find how much of a mark is present, and wait at its edges for that to change."""
        place.present = bisect_left(range(place.blocks), True, key=lambda block: place.chain[block] not in self._copies)
        for name in place.edges:
            self._at[name][key] = None
        self._changed[key] = None

    def _leave(self, key: Key, place: _Place) -> None:
        for name in place.edges:
            self._at[name].pop(key, None)
            if not self._at[name]:
                del self._at[name]

    def _add(self, names: list[bytes]) -> None:
        for name in names:
            self._copies[name] = self._copies.get(name, 0) + 1
        self._copies_total += len(names)
        self._touch(names)

    def _remove(self, names: list[bytes]) -> None:
        for name in names:
            copies = self._copies.pop(name, 0)
            self._copies_total -= copies > 0
            if copies > 1:
                self._copies[name] = copies - 1
        self._touch(names)

    def _touch(self, names: list[bytes]) -> None:
        """Blocks have come or gone, all of them already, so that a mark moves once, however far."""
        for name in names:
            for key in list(self._at.get(name, ())):
                place = self._places[key]
                self._leave(key, place)
                self._settle(key, place)

    def _lose(self, *, has_gaps: bool) -> None:
        """Hold everything for absent."""
        self._has_gaps = has_gaps
        self._copies.clear()
        self._copies_total = 0
        self._at.clear()
        for key, place in self._places.items():
            self._settle(key, place)


def _common_blocks(one: _Chain, other: _Chain, most: int) -> int:
    if other.names.startswith(one.names[: most * NAME_BYTES]):
        return most
    return next(block for block in range(most) if one[block] != other[block])


def _split(names: bytes) -> list[bytes]:
    return [names[start : start + NAME_BYTES] for start in range(0, len(names), NAME_BYTES)]
