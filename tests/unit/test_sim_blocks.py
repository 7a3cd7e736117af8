"""The cache of blocks: cases by hand, and a pool of physical blocks in a queue, as slow as it is plain."""

from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.sim.blocks import BlockCache, Lease

BLOCK_TOKENS = 4


def used(cache: BlockCache, chain: tuple[int, ...], tokens: int, output: int = 1, domain: int = 0) -> int:
    """What was cached for an answer that has come and gone."""
    lease = cache.admit(domain, chain, tokens, output)
    assert lease is not None
    cache.release(lease)
    return lease.cached_tokens


def held(cache: BlockCache, *chain: int, domain: int = 0) -> int:
    return cache.cached_tokens(domain, chain, BLOCK_TOKENS * len(chain) + 1)


def test_the_leading_blocks_are_found_again_but_not_the_last_token() -> None:
    cache = BlockCache(10, BLOCK_TOKENS)
    assert used(cache, (1, 2), 8) == 0
    assert used(cache, (1, 2), 8) == 4
    assert used(cache, (1, 2), 9) == 8
    assert used(cache, (1, 3, 4), 13) == 4
    assert used(cache, (5, 2), 9) == 0


def test_domains_share_room_but_no_blocks() -> None:
    cache = BlockCache(4, BLOCK_TOKENS)
    used(cache, (1, 2), 8, domain=1)
    assert held(cache, 1, 2, domain=2) == 0
    used(cache, (3, 4, 5), 12, domain=2)
    assert held(cache, 1, 2, domain=1) == 4


def test_a_tail_goes_before_its_head_and_the_old_before_the_new() -> None:
    cache = BlockCache(6, BLOCK_TOKENS)
    used(cache, (1, 2, 3), 12)
    used(cache, (4, 5, 6), 12)
    used(cache, (1, 2, 7), 12)  # takes the place of 3
    assert (held(cache, 1, 2, 3), held(cache, 4, 5, 6), held(cache, 1, 2, 7)) == (8, 12, 12)
    used(cache, (8,), 4)
    assert (held(cache, 4, 5, 6), held(cache, 1, 2, 7), held(cache, 8)) == (8, 12, 4)


def test_what_is_at_work_is_not_evicted() -> None:
    cache = BlockCache(4, BLOCK_TOKENS)
    first = cache.admit(0, (1, 2), 8, 1)
    assert first is not None
    used(cache, (3, 4), 8)
    used(cache, (5, 6), 8)
    assert (held(cache, 1, 2), held(cache, 3), held(cache, 5, 6)) == (8, 0, 8)
    assert cache.admit(0, (7, 8, 9), 12, 1) is None
    cache.release(first)
    assert cache.admit(0, (7, 8, 9), 12, 1) is not None


def test_an_answer_needs_blocks_that_nobody_finds_again() -> None:
    cache = BlockCache(4, BLOCK_TOKENS)
    assert cache.admit(0, (1, 2, 3), 12, 6) is None  # 17 tokens
    lease = cache.admit(0, (1, 2), 10, 7)  # 16 tokens: two blocks of the prompt, one of both, one of the answer
    assert lease == Lease(((0, 1), (0, 2)), 2, 2, 0)
    assert cache.admit(0, (), 1, 1) is None
    cache.release(lease)
    assert used(cache, (3, 4), 8) == 0  # in the place of what was decoded
    assert held(cache, 1, 2) == 8


def test_two_at_work_on_one_prompt_hold_it_once_and_until_both_have_ended() -> None:
    cache = BlockCache(3, BLOCK_TOKENS)
    first, second = cache.admit(0, (1, 2), 9, 1), None
    assert first is not None
    assert cache.admit(0, (1, 2), 9, 1) is None  # each needs a last block of its own
    second = cache.admit(0, (1, 2), 8, 1)
    assert second is not None
    assert second.cached_tokens == 4
    cache.release(first)
    assert cache.admit(0, (3, 4), 8, 1) is None
    cache.release(second)
    assert cache.admit(0, (3, 4), 8, 1) is not None


def test_victims_are_what_goes() -> None:
    cache = BlockCache(5, BLOCK_TOKENS)
    used(cache, (1, 2), 10, 3)  # leaves one block to nobody
    used(cache, (3,), 4)
    assert cache.victims(0, (1, 2, 4), 12) == ()
    assert cache.victims(0, (4, 5, 6), 12) == ((0, 2),)
    assert cache.victims(0, (4, 5, 6), 14) == ((0, 2), (0, 1))
    used(cache, (4, 5, 6), 12)
    assert (held(cache, 1, 2), held(cache, 3)) == (4, 4)


class Block:
    def __init__(self) -> None:
        self.name: Hashable = None
        self.users = 0


class Pool:
    """vLLM's BlockPool, but for the duplicate of a prompt's last block: the queue of free blocks is a plain list."""

    def __init__(self, blocks: int) -> None:
        self.blocks = [Block() for _ in range(blocks)]
        self.free = list(self.blocks)

    def find(self, name: Hashable) -> Block | None:
        return next((block for block in self.blocks if block.name == name), None)

    def cached_tokens(self, names: list[Hashable], tokens: int) -> int:
        count = 0
        for name in names:
            if self.find(name) is None or (count + 1) * BLOCK_TOKENS > tokens - 1:
                break
            count += 1
        return count * BLOCK_TOKENS

    def admit(self, names: list[Hashable], tokens: int, output: int) -> list[Block] | None:
        there = [block for block in map(self.find, names) if block is not None]
        total = -(-(tokens + output - 1) // BLOCK_TOKENS)
        if total - len(there) > len([block for block in self.free if block not in there]):
            return None
        self.free = [block for block in self.free if block not in there]
        taken = []
        for place in range(total):
            block = self.find(names[place]) if place < len(names) else None
            if block is None:
                block = self.free.pop(0)
                full = (place + 1) * BLOCK_TOKENS <= tokens + output - 1
                block.name = names[place] if place < len(names) else object() if full else None
            block.users += 1
            taken.append(block)
        return taken

    def release(self, taken: list[Block]) -> None:
        for block in reversed(taken):
            block.users -= 1
            if block.users == 0:
                self.free.insert(len(self.free) if block.name is not None else 0, block)


PATHS = st.lists(st.integers(0, 1), max_size=5).map(tuple)
"""A prompt as turns left or right in a tree: two have in common what they begin with."""

ASKED = st.tuples(st.integers(0, 1), PATHS, st.integers(0, BLOCK_TOKENS - 1), st.integers(1, 9))


def chain_of(path: tuple[int, ...]) -> tuple[int, ...]:
    """Names by the whole way to a block."""
    return tuple(int("1" + "".join(map(str, path[: end + 1])), 2) for end in range(len(path)))


@pytest.mark.parametrize("blocks", [6, 9, 14])
@given(st.lists(st.one_of(ASKED, st.integers(0, 5)), max_size=60))
@settings(deadline=None)
def test_like_a_pool_of_physical_blocks(blocks: int, moves: list[tuple[int, tuple[int, ...], int, int] | int]) -> None:
    cache, pool = BlockCache(blocks, BLOCK_TOKENS), Pool(blocks)
    work: list[tuple[Lease, list[Block]]] = []
    for move in moves:
        if isinstance(move, int):
            if work:
                lease, taken = work.pop(move % len(work))
                cache.release(lease)
                pool.release(taken)
            continue
        domain, path, rest, output = move
        chain, tokens = chain_of(path), max(1, BLOCK_TOKENS * len(path) + rest)
        names: list[Hashable] = [(domain, block) for block in chain]
        cached, going = cache.cached_tokens(domain, chain, tokens), cache.victims(domain, chain, tokens)
        assert cached == pool.cached_tokens(names, tokens)
        before = {block.name for block in pool.blocks}
        admitted, taken = cache.admit(domain, chain, tokens, output), pool.admit(names, tokens, output)
        assert (admitted is None) == (taken is None)
        if admitted is None or taken is None:
            continue
        assert admitted.cached_tokens == cached
        work.append((admitted, taken))
        gone = before - {block.name for block in pool.blocks}
        assert set(going) <= gone
        if -(-tokens // BLOCK_TOKENS) == -(-(tokens + output - 1) // BLOCK_TOKENS):
            assert set(going) == {name for name in gone if isinstance(name, tuple)}
