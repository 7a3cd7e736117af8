"""vLLM's prefix cache, as small as it can be and still exact: which blocks it has, which it gives up, what it tells.

Written from vLLM 0.32, for one group of full attention: v1/core/block_pool.py (`BlockPool`, `BlockHashToBlockMap`),
v1/core/kv_cache_manager.py (`get_computed_blocks`, `allocate_slots`, `free`) and v1/core/kv_cache_utils.py
(`FreeKVCacheBlockQueue`). Lists are searched where vLLM has links. A block is named by all that it follows from, its
salt and every token up to its end, so that two blocks of one name are the same by definition.
"""

from hashlib import blake2b

from p2pagent.engine.vllm_events import NAME_BYTES, Cleared, Record, Removed, Stored

Name = tuple[str, tuple[int, ...]]


def short(name: Name) -> bytes:
    return blake2b(repr(name).encode(), digest_size=NAME_BYTES).digest()


class Request:
    """A prompt under way, with the blocks that it has pinned."""

    def __init__(self, salt: str, tokens: list[int]) -> None:
        self.salt = salt
        self.tokens = tokens
        self.blocks: list[int] = []
        self.cached_tokens = 0

    def name(self, end: int) -> Name:
        return self.salt, tuple(self.tokens[:end])


class BlockPool:
    """A pool of `blocks` blocks of `block_tokens` tokens; the first is vLLM's null block."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.free = list(range(1, blocks))
        self.users = [0] * blocks
        self.names: dict[int, Name] = {}
        self.copies: dict[Name, list[int]] = {}
        self.records: list[Record] = []

    def hit(self, salt: str, tokens: list[int]) -> list[int]:
        """The blocks that a prompt would find."""
        request, found = Request(salt, tokens), []
        for end in range(self.block_tokens, len(tokens), self.block_tokens):
            if request.name(end) not in self.copies:
                break
            found.append(self.copies[request.name(end)][0])
        return found

    def admit(self, salt: str, tokens: list[int]) -> Request | None:
        """Compute a prompt at once; None while there is no room for all of it."""
        hit = self.hit(salt, tokens)
        missing = -(-len(tokens) // self.block_tokens) - len(hit)
        if missing + sum(not self.users[block] for block in hit) > len(self.free):
            return None
        request = Request(salt, list(tokens))
        request.cached_tokens = len(hit) * self.block_tokens
        for block in hit:
            if not self.users[block]:
                self.free.remove(block)
            self.users[block] += 1
        request.blocks = hit + [self._new() for _ in range(missing)]
        self._store(request, len(hit))
        return request

    def feed(self, request: Request, token: int) -> bool:
        """Compute one more token, as is done with each of an answer but its last; False where there is no room."""
        whole = len(request.tokens) // self.block_tokens
        if len(request.tokens) == len(request.blocks) * self.block_tokens:
            if not self.free:
                return False
            request.blocks.append(self._new())
        request.tokens.append(token)
        self._store(request, whole)
        return True

    def end(self, request: Request) -> None:
        """Let go of a request's blocks, whether it was answered, given up or must wait again."""
        last, first = [], []
        for block in reversed(request.blocks):
            self.users[block] -= 1
            if not self.users[block]:
                (last if block in self.names else first).append(block)
        self.free = first + self.free + last

    def clear(self) -> bool:
        """Forget everything; False while a request is under way."""
        if any(self.users):
            return False
        self.names.clear()
        self.copies.clear()
        self.records.append(Cleared())
        return True

    def present(self, salt: str, tokens: list[int]) -> int:
        """How many leading whole blocks of these tokens are cached."""
        return len(self.hit(salt, [*tokens, 0]))

    def _new(self) -> int:
        block = self.free.pop(0)
        if name := self.names.pop(block, None):
            self.copies[name].remove(block)
            if not self.copies[name]:
                del self.copies[name]
            self.records.append(Removed(short(name)))
        self.users[block] = 1
        return block

    def _store(self, request: Request, whole: int) -> None:
        """Name the blocks that are whole now, from the block `whole` on."""
        ends = range((whole + 1) * self.block_tokens, len(request.tokens) + 1, self.block_tokens)
        for end in ends:
            block = request.blocks[end // self.block_tokens - 1]
            self.names[block] = request.name(end)
            self.copies.setdefault(request.name(end), []).append(block)
        if ends:
            self.records.append(Stored(self.block_tokens, b"".join(short(request.name(end)) for end in ends)))
