"""What a simulated engine keeps of the prompts that it has computed, per cache salt, least recently used out first.

A prefix is a number of whole turns. Real engines keep blocks of sixteen tokens; here nothing is shared within a turn.
"""

from collections import OrderedDict
from hashlib import blake2b

CHARACTERS_PER_TOKEN = 4
TOKENISER = b"sim/4chr"
"""The digest under which simulated agents tell that `tokens_of` counts theirs."""


def tokens_of(text: str) -> int:
    """How many tokens a text has."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


class PrefixCache:
    """Prefixes of at most `tokens_max` tokens in all; 0 keeps none."""

    def __init__(self, tokens_max: int) -> None:
        self._tokens_max = tokens_max
        self._held: OrderedDict[bytes, int] = OrderedDict()
        self._held_tokens = 0

    def tokens(self, salt: str, turns: tuple[str, ...]) -> int:
        """How many tokens of a prompt of these turns need not be computed."""
        if not self._tokens_max:
            return 0
        found = []
        for name, tokens in _prefixes(salt, turns):
            if name not in self._held:
                break
            found.append((name, tokens))
        self._touch([name for name, _ in found])
        return sum(tokens for _, tokens in found)

    def put(self, salt: str, turns: tuple[str, ...]) -> None:
        """Keep all prefixes of these turns."""
        if not self._tokens_max:
            return
        prefixes = _prefixes(salt, turns)
        for name, tokens in prefixes:
            if name not in self._held:
                self._held[name] = tokens
                self._held_tokens += tokens
        self._touch([name for name, _ in prefixes])
        while self._held_tokens > self._tokens_max:
            self._held_tokens -= self._held.popitem(last=False)[1]

    def _touch(self, names: list[bytes]) -> None:
        """The shortest last: what is longer is of no use without it, and goes before it."""
        for name in reversed(names):
            self._held.move_to_end(name)


def _prefixes(salt: str, turns: tuple[str, ...]) -> list[tuple[bytes, int]]:
    """Per turn the name of the prefix that ends with it, and how many tokens it adds."""
    prefixes = []
    name = salt.encode()
    for turn in turns:
        name = blake2b(name + b"\0" + turn.encode(), digest_size=16).digest()
        prefixes.append((name, tokens_of(turn)))
    return prefixes
