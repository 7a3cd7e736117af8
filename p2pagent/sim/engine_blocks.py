"""A simulated engine whose prefix cache is vLLM's: whole blocks, pinned while an answer is at work.

Time passes as in `engine.Batching`; what is cached, and how many answers there is room for, is `blocks.BlockCache`.
"""

from hashlib import blake2b

from p2pagent.sim.blocks import BlockCache, Lease
from p2pagent.sim.engine import Batching, BatchingModel, Job
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN, tokens_of

BLOCK_TOKENS = 32
"""As vLLM has them on a CPU."""

NAME_BYTES = 7


class BlockModel(BatchingModel, frozen=True):
    """Continuous batching with room for `blocks` blocks of `BLOCK_TOKENS` tokens."""

    blocks: int = 300

    def open(self) -> "Blockwise":
        """An engine with an empty cache."""
        return Blockwise(self)


class Blockwise(Batching):
    """An engine of a `BlockModel`."""

    def __init__(self, model: BlockModel) -> None:
        super().__init__(model)
        self._blocks = BlockCache(model.blocks, BLOCK_TOKENS)
        self._leases: dict[bytes, Lease] = {}

    def enter(self, job: Job) -> int | None:
        """See `Batching`."""
        lease = self._blocks.admit(0, names(job.salt, job.prompt), job.usage.prompt_tokens, job.usage.output_tokens)
        if lease is None:
            return None
        self._leases[job.job] = lease
        return lease.cached_tokens

    def leave(self, job: Job, *, whole: bool) -> None:  # noqa: ARG002
        """See `Batching`. Of one that was stopped the whole prompt is held to be computed: it rarely matters."""
        self._blocks.release(self._leases.pop(job.job))


def names(salt: str, turns: tuple[str, ...]) -> tuple[int, ...]:
    """Names of the whole blocks of a prompt, each of all text before its end: alike only under one salt."""
    text = "".join(turn.ljust(CHARACTERS_PER_TOKEN * tokens_of(turn)) for turn in turns)
    size = CHARACTERS_PER_TOKEN * BLOCK_TOKENS
    found = []
    name = blake2b(salt.encode(), digest_size=NAME_BYTES).digest()
    for start in range(0, len(text) - size + 1, size):
        name = blake2b(text[start : start + size].encode(), key=name, digest_size=NAME_BYTES).digest()
        found.append(int.from_bytes(name, "big"))
    return tuple(found)
