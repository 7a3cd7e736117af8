"""What a seller is told of a conversation, and what two of them have in common."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pagent.routing.marks import (
    DOMAIN_BYTES,
    LINKS_MAX,
    MARKS_MAX,
    PIECE_BYTES,
    TAG_BYTES,
    TEXTS_MAX,
    Link,
    Mark,
    Marker,
    Texts,
    chain,
)
from p2pagent.sim.keys import SimKeys
from p2pagent.types import ChatMessage

SELLER, OTHER = SimKeys(1).peer, SimKeys(2).peer
OURS, THEIRS = Marker(b"ours" * 8), Marker(b"theirs" * 5)

texts = st.text("ab\n é", max_size=3 * PIECE_BYTES)
turns = st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant"]), texts)
conversations = st.lists(turns, min_size=1, max_size=8)


def talk(turns: int, size: int = 10) -> list[ChatMessage]:
    return [ChatMessage(("user", "assistant")[n % 2], f"{n} ".ljust(size, "x")) for n in range(turns)]


def bytes_in(turns: list[ChatMessage]) -> int:
    return sum(len(turn.content.encode()) for turn in turns)


def common_bytes(one: list[ChatMessage], other: list[ChatMessage]) -> int:
    """Bytes of text in which two conversations begin alike."""
    whole = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            alike = zip(a.content.encode(), b.content.encode(), strict=False)
            return whole + next((n for n, (x, y) in enumerate(alike) if x != y), min(bytes_in([a]), bytes_in([b])))
        whole += bytes_in([a])
    return whole


@given(conversations, conversations, st.integers(0, 8))
def test_two_conversations_share_the_links_of_what_they_begin_alike_and_no_more(one, other, turns):
    other = [*one[:turns], *other]
    shared = set(chain(one)) & set(chain(other))
    assert set(chain(one[:turns])) <= shared
    assert shared == set(chain(one)[: len(shared)]) == set(chain(other)[: len(shared)])
    assert max((link.end_bytes for link in shared), default=0) <= common_bytes(one, other)


@given(conversations)
def test_links_end_where_the_text_does(conversation):
    links = chain(conversation)
    assert links[-1].end_bytes == bytes_in(conversation)
    assert sum(link.ends_turn for link in links) == len(conversation)
    assert all(a.end_bytes <= b.end_bytes <= a.end_bytes + PIECE_BYTES for a, b in pairwise(links))
    assert len({link.digest for link in links}) == len(links)


def test_a_document_is_shared_whatever_is_asked_below_it():
    document = "d" * (4 * PIECE_BYTES)
    one, other = (chain([ChatMessage("user", document + question)]) for question in ("why?", "who else?"))
    assert one[:4] == other[:4]
    assert one[4] != other[4]


def test_the_same_text_in_another_role_or_cut_otherwise_is_another():
    whole = chain([ChatMessage("user", "ab")])
    assert not set(whole) & set(chain([ChatMessage("user", "a"), ChatMessage("user", "b")]))
    assert not set(whole) & set(chain([ChatMessage("assistant", "ab")]))


def test_a_prompt_without_end_has_links_all_the_same():
    assert len(chain([ChatMessage("user", "x" * (LINKS_MAX * PIECE_BYTES + 1))])) == LINKS_MAX


def test_nobody_else_can_make_a_mark_or_know_it_again():
    links = chain(talk(5))
    told = OURS.tell(links, SELLER)
    assert len(told.domain) == DOMAIN_BYTES
    assert {len(mark.tag) for mark in told.marks} == {TAG_BYTES}
    assert told == OURS.tell(links, SELLER)
    for unlike in (OURS.tell(links, OTHER), THEIRS.tell(links, SELLER)):
        assert told.domain != unlike.domain
        assert not {mark.tag for mark in told.marks} & {mark.tag for mark in unlike.marks}
    shown = b"".join([told.domain, *(mark.tag for mark in told.marks)])
    assert not any(link.digest[start : start + TAG_BYTES] in shown for link in links for start in range(24))


@pytest.mark.parametrize("turns", [1, 16, 32, 33, 64, 255])
@pytest.mark.parametrize("size", [10, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_what_is_told_is_bounded_ends_with_the_whole_prompt_and_goes_on_from_what_was_told_before(turns, size):
    conversation = talk(turns, size)
    told = OURS.tell(chain(conversation), SELLER).marks
    assert len(told) <= MARKS_MAX
    assert told[-1].end_bytes == bytes_in(conversation)
    assert [mark.end_bytes for mark in told] == sorted(mark.end_bytes for mark in told)
    longer = OURS.tell(chain([*conversation, *talk(2, size)]), SELLER).marks
    again = [mark for mark in longer if mark in told]
    assert again[-1] == told[-1]


@pytest.mark.parametrize("pieces", [33, 100, 1_000, 4_000])
def test_of_a_long_document_the_marks_of_a_shorter_one_that_it_begins_with_are_found(pieces):
    text = "".join(f"{n:04}".ljust(PIECE_BYTES, ".") for n in range(pieces))
    whole = OURS.tell(chain([ChatMessage("user", text)]), SELLER).marks
    half = OURS.tell(chain([ChatMessage("user", text[: len(text) // 2])]), SELLER).marks
    common = max((mark.end_bytes for mark in half if mark in whole), default=0)
    assert common >= len(text) // 2 * 3 // 4


def test_links_tell_turns_apart():
    assert [link.ends_turn for link in chain(talk(2, PIECE_BYTES + 1))] == [False, True, False, True]
    assert isinstance(chain(talk(1))[0], Link)


def learned(texts: Texts, *turns: str, domain: bytes = b"d") -> bool:
    conversation = [ChatMessage("user", content) for content in turns]
    return texts.learn(domain, OURS.tell(chain(conversation), SELLER).marks, conversation)


@pytest.mark.parametrize("turns", [("",), ("", "a"), ("a", "", "b"), ("ä" * PIECE_BYTES, "b"), ("x" * 5_000, "y")])
def test_whoever_goes_on_from_a_text_shows_its_marks_again(turns):
    texts = Texts()
    for _ in range(2):
        assert all(learned(texts, *turns[:length], "more") for length in range(len(turns) + 1))
        assert learned(texts, *turns)


def test_a_mark_stands_for_one_text_within_its_domain():
    texts, conversation = Texts(), [ChatMessage("user", "one " * 100)]
    marks = OURS.tell(chain(conversation), SELLER).marks
    other = [ChatMessage("user", "two " * 100)]
    assert texts.known(b"d", marks) == []
    assert texts.learn(b"d", marks, conversation)
    assert texts.known(b"d", marks) == list(marks)
    assert not texts.learn(b"d", marks, other)
    assert not texts.learn(b"d", marks[-1:], [ChatMessage("assistant", "one " * 100)])
    assert texts.learn(b"e", marks, other)
    assert not texts.learn(b"f", marks, [ChatMessage("user", "short")]), "a mark beyond the text"
    assert texts.known(b"f", marks) == []


def test_no_more_texts_are_remembered_than_there_is_room_for():
    texts = Texts()
    for number in range(TEXTS_MAX + 10):
        assert texts.learn(b"d", [Mark(number.to_bytes(8, "big"), 1)], [ChatMessage("user", "x")])
    assert len(texts._digests) == TEXTS_MAX
