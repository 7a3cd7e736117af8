"""Names of blocks in a prefix cache: what vLLM calls the blocks of a prompt."""

from typing import Any

from p2pagent.engine import blocks

BLOCK_TOKENS = 32
SALT = "00" * 32
FIRST, SECOND = list(range(32)), list(range(200, 232))

PROMPTS: list[tuple[str, list[int], int, str]] = [
    ("one block", FIRST, BLOCK_TOKENS, ""),
    ("two blocks", FIRST + SECOND, BLOCK_TOKENS, ""),
    ("one block, salted", FIRST, BLOCK_TOKENS, SALT),
    ("two blocks, of which the salt is in the first", FIRST + SECOND, BLOCK_TOKENS, SALT),
    ("another salt", FIRST + SECOND, BLOCK_TOKENS, "ff" * 32),
    ("the other way round", SECOND + FIRST, BLOCK_TOKENS, ""),
    (
        "tokens in one, two, three and five bytes",
        [23, 24, 255, 256, 65_535, 65_536, 70_000, 1 << 31] * 4,
        BLOCK_TOKENS,
        "",
    ),
    ("what is left after the last whole block has no name", FIRST + SECOND[:31], BLOCK_TOKENS, SALT),
    ("less than a block", FIRST[:31], BLOCK_TOKENS, SALT),
    ("no tokens", [], BLOCK_TOKENS, ""),
    ("blocks of 16", FIRST, 16, ""),
    ("a block of 256", list(range(256)), 256, ""),
]


def block_vectors() -> list[dict[str, Any]]:
    """Each prompt with the hashes of its blocks, in hex."""
    return [
        {
            "name": name,
            "tokens": tokens,
            "block_tokens": block_tokens,
            "salt": salt,
            "hashes": [block.hex() for block in blocks.chain(tokens, block_tokens, salt)],
        }
        for name, tokens, block_tokens, salt in PROMPTS
    ]
