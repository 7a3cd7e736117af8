"""How vLLM names the blocks of its prefix cache, and what of a prompt cached blocks save.

A block's hash is over the hash before it, its own tokens and, in a prompt's first block, the cache salt:
`h_k = SHA-256(CBOR([h_(k-1), [tokens of block k], keys]))`, in canonical CBOR, where `keys` is `[["cache_salt", salt]]`
in the first block of a prompt with a salt and null else. Before the first block stands a hash of a fixed text. So two
prompts share hashes exactly as far as they share tokens from the start, and salt.

Source: vLLM 0.32, vllm/v1/core/kv_cache_utils.py (`init_none_hash`, `hash_block_tokens`,
`generate_block_hash_extra_keys`) and vllm/utils/hashing.py (`sha256_cbor`). It holds under
`--prefix-caching-hash-algo sha256_cbor` and without `PYTHONHASHSEED`, for text without adapters.
"""

from collections.abc import Sequence
from hashlib import sha256

import cbor2

from p2pagent.engine.vllm_events import NAME_BYTES


def _hash(value: object) -> bytes:
    return sha256(cbor2.dumps(value, canonical=True)).digest()


NONE_HASH = _hash("vllm-none-hash")
"""Stands before the first block (`DEFAULT_NONE_HASH_SEED`)."""


def chain(tokens: Sequence[int], block_tokens: int, salt: str = "") -> tuple[bytes, ...]:
    """The hashes of the whole blocks of a prompt, 32 bytes each; what is left after the last of them has none."""
    hashes: list[bytes] = []
    keys = (("cache_salt", salt),) if salt else None
    parent = NONE_HASH
    for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
        parent = _hash((parent, tuple(tokens[start : start + block_tokens]), None if start else keys))
        hashes.append(parent)
    return tuple(hashes)


def names(tokens: Sequence[int], block_tokens: int, salt: str = "") -> bytes:
    """The names of a prompt's whole blocks in a row, `NAME_BYTES` each.

    4,096 tokens take about two milliseconds, a hundred thousand a tenth of a second.
    """
    return b"".join(block[-NAME_BYTES:] for block in chain(tokens, block_tokens, salt))


def reusable_tokens(prompt_tokens: int, cached_blocks: int, block_tokens: int) -> int:
    """Of a prompt whose first `cached_blocks` blocks are cached, the tokens that are not computed again.

    The last token always is, since the answer starts from it; its block goes with it
    (vllm/v1/core/kv_cache_manager.py, `get_computed_blocks`).
    """
    return max(0, min(cached_blocks, (prompt_tokens - 1) // block_tokens)) * block_tokens
