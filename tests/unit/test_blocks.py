"""Names of blocks: the vectors, an encoder written by hand, and what vLLM itself computed."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.engine import vllm_events
from p2pagent.engine.blocks import NAME_BYTES, NONE_HASH, chain, names, reusable_tokens

VECTORS = json.loads((Path(__file__).parents[2] / "protocols" / "vectors" / "blocks.json").read_text("utf-8"))
SALT = "00" * 32
FIRST, SECOND = tuple(range(32)), tuple(range(200, 232))
WIDE = (70_000, 1 << 31, 256, 65_536) * 8

prompts = st.lists(st.one_of(st.integers(0, 300), st.integers(0, (1 << 32) - 1)), max_size=100)
sizes = st.integers(1, 40)
salts = st.text("0123456789abcdef", min_size=1, max_size=64)


def head(kind: int, value: int) -> bytes:
    """The first bytes of a CBOR item, in the shortest form (RFC 8949, 3 and 4.2.1)."""
    if value < 24:
        return bytes([kind << 5 | value])
    size = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
    return bytes([kind << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[size]]) + value.to_bytes(size, "big")


def text(value: str) -> bytes:
    return head(3, len(value.encode())) + value.encode()


def by_hand(tokens: list[int], block_tokens: int, salt: str) -> list[bytes]:
    hashes = []
    parent = sha256(text("vllm-none-hash")).digest()
    for k in range(len(tokens) // block_tokens):
        block = tokens[k * block_tokens : (k + 1) * block_tokens]
        keys = head(4, 1) + head(4, 2) + text("cache_salt") + text(salt) if salt and k == 0 else b"\xf6"
        items = head(2, 32) + parent + head(4, block_tokens) + b"".join(head(0, token) for token in block) + keys
        parent = sha256(head(4, 3) + items).digest()
        hashes.append(parent)
    return hashes


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector):
    prompt = vector["tokens"], vector["block_tokens"], vector["salt"]
    assert [block.hex() for block in chain(*prompt)] == vector["hashes"]
    assert [block.hex() for block in by_hand(*prompt)] == vector["hashes"]


@pytest.mark.parametrize(
    ("tokens", "salt", "last"),
    [
        (FIRST, "", "30653d0f357fa985ff3562ec776f5216ffbff896fa64a7fa05860120ecc90928"),
        (FIRST + SECOND, "", "9d828edf720343cc9f1e60ce254079dd91c1a87eb0599039d663e73c1379bc4f"),
        (FIRST, SALT, "c536299a7a353cdb2d6c6b7545da2c6867ceecbccd429b439a24022b9306958d"),
        (FIRST + SECOND, SALT, "75d66316844a6e6c8c500cc99750a06f2ea0f6513dfda643920348f3eaf64fe0"),
        (WIDE, "", "7fd48180e314e9001e6d52a911b53982bd347d7fa45540d9b1d2d543958325c4"),
    ],
)
def test_vllm_computed_the_same(tokens, salt, last):
    """The hashes are those of vLLM 0.32's own `hash_block_tokens`."""
    assert NONE_HASH.hex() == "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0"
    assert chain(tokens, 32, salt)[-1].hex() == last


@settings(deadline=None)
@given(prompts, sizes, st.one_of(st.just(""), salts))
def test_any_prompt_is_named_as_by_hand(tokens, block_tokens, salt):
    assert list(chain(tokens, block_tokens, salt)) == by_hand(tokens, block_tokens, salt)


@settings(deadline=None)
@given(prompts, prompts, sizes, salts)
def test_prompts_share_names_as_far_as_they_share_whole_blocks(tokens, more, block_tokens, salt):
    one, other = chain(tokens, block_tokens, salt), chain(tokens + more, block_tokens, salt)
    assert other[: len(one)] == one
    assert len(one) == len(tokens) // block_tokens
    assert set(one).isdisjoint(chain(tokens, block_tokens, salt + "0"))
    assert set(one).isdisjoint(chain(tokens, block_tokens))
    if one:
        changed = [tokens[0] + 1, *tokens[1:]]
        assert set(one).isdisjoint(chain(changed, block_tokens, salt))


@settings(deadline=None)
@given(prompts, sizes)
def test_a_name_is_the_end_of_a_hash(tokens, block_tokens):
    assert NAME_BYTES == vllm_events.NAME_BYTES
    row = names(tokens, block_tokens, SALT)
    hashes = chain(tokens, block_tokens, SALT)
    assert len(row) == 8 * len(hashes)
    assert all(row[8 * k : 8 * k + 8] == block[-8:] for k, block in enumerate(hashes))
    assert int.from_bytes(names(FIRST, 32), "big") == 398006857992046888


@pytest.mark.parametrize(
    ("prompt", "cached_blocks", "expected"),
    [(0, 0, 0), (1, 5, 0), (32, 1, 0), (33, 1, 32), (64, 2, 32), (65, 2, 64), (65, 1, 32), (1000, 99, 992)],
)
def test_the_last_token_is_always_computed(prompt, cached_blocks, expected):
    assert reusable_tokens(prompt, cached_blocks, 32) == expected
