"""How a prefix of a conversation is spoken of: by opaque tags, which tell two prefixes apart and nothing else.

A conversation is cut into pieces: after each turn, and within one every `PIECE_BYTES`. The end of each is a link of a
hash chain, so that two conversations share the links of what they begin alike, and no more. Links never leave the
device, for whoever guesses a prompt could compute them. What travels are marks: links hashed again under a key that
only the buyer and its friends can have, another one for each seller. A seller remembers marks and knows them again; it
cannot test a guess by one, nor compare it with another seller's.

Hash chains are how vLLM names the blocks that it caches (`vllm/v1/core/kv_cache_utils.py`). These are over text, since
buyer and seller need not have a tokeniser in common.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple, Protocol

from p2pagent.bounded import bound
from p2pagent.types import ChatMessage, PeerId

PIECE_BYTES = 256
"""What is shared within a turn, such as a document with another question below it, is found to this many bytes."""

LINKS_MAX = 4096
"""Pieces of a conversation that are told apart: a megabyte."""

TAG_BYTES = 8
"""One false match in 10^16 pairs, and it costs no more than a wrong estimate."""

MARKS_MAX = 32
"""Of a prompt, so many prefixes are told: those that end with a turn first, as most that is asked goes on from one."""

DOMAIN_BYTES = 16

TEXTS_MAX = 16_384
"""Marks of which a seller remembers for which text they stood, those used least recently forgotten first."""


class Prefix(Protocol):
    """A prefix of a prompt: how it is called, and how many of the prompt's bytes it has."""

    @property
    def tag(self) -> bytes:
        """Its name within a domain."""

    @property
    def end_bytes(self) -> int:
        """Bytes of text."""


def is_ascending(prefix: Sequence[Prefix]) -> bool:
    """Whether marks come as they are told, the shortest first."""
    return all(one.end_bytes <= other.end_bytes for one, other in pairwise(prefix))


class Link(NamedTuple):
    """The end of a piece: a digest of all text before it, how many bytes that is, and whether a turn ends there."""

    digest: bytes
    end_bytes: int
    ends_turn: bool


class Mark(NamedTuple):
    """A link as a seller sees it."""

    tag: bytes
    end_bytes: int


class Told(NamedTuple):
    """What a seller is told of a conversation: for whom it may remember it, and its prefixes, the shortest first."""

    domain: bytes
    marks: tuple[Mark, ...]


def chain(turns: Sequence[ChatMessage]) -> tuple[Link, ...]:
    """The links of a conversation, shortest first. One that goes on from it begins with the same."""
    links: list[Link] = []
    digest, end_bytes = b"", 0
    for turn in turns:
        content = turn.content.encode()
        for start in range(0, max(1, len(content)), PIECE_BYTES):
            piece = content[start : start + PIECE_BYTES]
            ends_turn = start + PIECE_BYTES >= len(content)
            head = f"{turn.role} {len(piece)} {ends_turn} ".encode()
            digest = blake2b(head + piece, key=digest, digest_size=32).digest()
            end_bytes += len(piece)
            links.append(Link(digest, end_bytes, ends_turn))
            if len(links) == LINKS_MAX:
                return tuple(links)
    return tuple(links)


class Marker:
    """The marks of those who share a `secret`: they can use each other's caches, and see that they do."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def tell(self, links: Sequence[Link], seller: PeerId) -> Told:
        """What `seller` is told of a conversation. Whoever shows it that domain may use what it holds for it."""
        domain = self._keyed(f"domain {seller}", DOMAIN_BYTES)
        key = self._keyed(f"marks {seller}", 32)
        told = (links[place] for place in _told(links))
        marks = (Mark(blake2b(link.digest, key=key, digest_size=TAG_BYTES).digest(), link.end_bytes) for link in told)
        return Told(domain, tuple(marks))

    def _keyed(self, text: str, size: int) -> bytes:
        return blake2b(text.encode(), key=self._secret, digest_size=size).digest()


class Texts:
    """For which texts the marks of awarded prompts stood, so that none can be shown for another text later.

    A seller that promises a prompt at the price of a cached one has only the marks' word that it is.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()

    def known(self, domain: bytes, prefix: Sequence[Prefix]) -> list[Prefix]:
        """Those marks whose text is remembered."""
        return [mark for mark in prefix if (domain, mark.tag) in self._digests]

    def learn(self, domain: bytes, prefix: Sequence[Prefix], turns: Sequence[ChatMessage]) -> bool:
        """A prompt with these marks is awarded; False, and nothing is learned, if some stood for another text."""
        found = dict(zip(((domain, mark.tag) for mark in prefix), _digests(prefix, turns), strict=False))
        if len(found) < len(prefix) or any(self._digests.get(name, text) != text for name, text in found.items()):
            return False
        for name, text in found.items():
            self._digests[name] = text
            self._digests.move_to_end(name)
        bound(self._digests, TEXTS_MAX)
        return True


def _digests(prefix: Sequence[Prefix], turns: Sequence[ChatMessage]) -> list[bytes]:
    """Of the text up to each mark, as far as there is text; `prefix` is the shortest first."""
    ends = [mark.end_bytes for mark in prefix]
    found: list[bytes] = []
    hashed, at = blake2b(digest_size=TAG_BYTES), 0
    for turn in turns:
        content = turn.content.encode()
        hashed.update(f"{turn.role} {at} ".encode())
        start = at
        while len(found) < len(ends) and ends[len(found)] <= start + len(content):
            hashed.update(content[at - start : ends[len(found)] - start])
            at = ends[len(found)]
            found.append(hashed.digest())
        hashed.update(content[at - start :])
        at = start + len(content)
    return found


def _told(links: Sequence[Link]) -> list[int]:
    """Which links are told: the latest ends of turns, and the rest on a grid.

    The grid's step is a power of two: as a conversation grows, what is told of it later was told before.
    """
    if len(links) <= MARKS_MAX:
        return list(range(len(links)))
    turns = [place for place, link in enumerate(links) if link.ends_turn][-MARKS_MAX // 2 :]
    step = 1
    while len(links) > step * (MARKS_MAX // 2):
        step *= 2
    return sorted({*turns, *range(step - 1, len(links), step)})
