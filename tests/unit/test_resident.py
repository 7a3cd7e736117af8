"""What is known of an engine's cache: worked examples; tests/property/test_resident.py has the general case."""

import pytest

from p2pagent.engine import resident as module
from p2pagent.engine.resident import CHANGES_MAX, STRANGERS_MAX, Held, Resident
from p2pagent.engine.vllm_events import Cleared, Ended, Lost, Removed, Stored
from p2pagent.routing.marks import Mark

US, THEM = b"us", b"them"


def names(text: str) -> bytes:
    """A block per letter; as in a chain of hashes, a block's name says all that is before it."""
    return b"".join(text[: end + 1].encode().rjust(8, b"-")[-8:] for end in range(len(text)))


def gone(text: str, kept: int) -> Removed:
    """Of a prompt all blocks but the first so many go, the last one first."""
    return Removed(b"".join(names(text)[8 * block :][:8] for block in reversed(range(kept, len(text)))))


def marks(*ends: int, of: str = "abcdefgh") -> list[Mark]:
    """Of a prompt of a byte per token and ten tokens per block, the prefixes that end there."""
    return [Mark(f"{of[: end // 10]}{end}".encode(), end) for end in ends]


@pytest.fixture
def resident() -> Resident:
    """One that knows the size of its engine's cache."""
    made = Resident()
    made.capacity_tokens, made.block_tokens = 80, 10
    return made


def held(resident: Resident, *ends: int, of: str = "abcdefgh", domain: bytes = US) -> list[int]:
    return [resident.held_tokens(domain, [mark]) for mark in marks(*ends, of=of)]


def test_marks_follow_the_blocks_that_come_and_go(resident):
    resident.on_prompt(US, marks(20, 37, 45), names("abcd"), 45)
    assert held(resident, 20, 37, 45) == [0, 0, 0]
    resident.on_record(Stored(10, names("abcd")))
    assert held(resident, 20, 37, 45) == [20, 30, 40]
    assert resident.held_tokens(US, marks(20, 37)) == 30
    resident.on_record(gone("abcd", 3))
    assert held(resident, 20, 37, 45) == [20, 30, 30]
    resident.on_record(gone("abc", 1))
    assert held(resident, 20, 37, 45) == [10, 10, 10]
    resident.on_record(Stored(10, names("abc")[8:]))
    assert held(resident, 20, 37, 45) == [20, 30, 30]
    assert held(resident, 20, 37, 45, domain=THEM) == [0, 0, 0]


def test_of_two_copies_one_is_left(resident):
    resident.on_prompt(US, marks(20), names("ab"), 20)
    for _ in range(2):
        resident.on_record(Stored(10, names("ab")))
    resident.on_record(gone("ab", 0))
    assert held(resident, 20) == [20]
    resident.on_record(gone("ab", 0))
    assert held(resident, 20) == [0]


def test_a_copy_from_before_a_gap_goes_with_one_that_is_known(resident):
    resident.on_prompt(US, marks(20), names("ab"), 20)
    resident.on_record(Lost())
    resident.on_record(Stored(10, names("ab")))
    resident.on_record(Removed(names("ab")[8:] * 2))
    assert held(resident, 20) == [10]
    resident.on_record(Stored(10, names("ab")[8:]))
    assert held(resident, 20) == [20]


def test_the_length_of_a_prefix_is_estimated_until_it_is_seen(resident):
    resident.on_record(Stored(10, names("abcdef")))
    # A fifth of the bytes, but 30 of the 60 tokens are in it.
    resident.on_prompt(US, [Mark(b"short", 100), Mark(b"long", 500)], names("abcdef"), 60)
    assert resident.held_tokens(US, [Mark(b"short", 0)]) == 10
    resident.on_prompt(US, [Mark(b"short", 100)], names("abc"), 30)
    assert resident.held_tokens(US, [Mark(b"short", 0)]) == 30
    resident.on_prompt(US, [Mark(b"short", 100), Mark(b"other", 1000)], names("abcxyz"), 60)
    assert resident.held_tokens(US, [Mark(b"short", 0)]) == 30


def test_prompts_that_part_show_where_what_they_share_ends(resident):
    resident.on_record(Stored(10, names("abcdef")))
    resident.on_record(Stored(10, names("abx")[16:]))
    shared = Mark(b"shared", 400)
    resident.on_prompt(US, [shared, Mark(b"one", 600)], names("abcdef"), 60)
    assert resident.held_tokens(US, [shared]) == 40
    resident.on_prompt(US, [shared, Mark(b"other", 600)], names("abxyz"), 60)
    assert resident.held_tokens(US, [shared]) == 20
    resident.on_prompt(US, [shared, Mark(b"one", 600)], names("abcdef"), 60)
    assert resident.held_tokens(US, [shared]) == 20


def test_a_prefix_that_was_seen_to_be_shorter_is_not_held_beyond_its_end(resident):
    resident.on_record(Stored(10, names("abcdef")))
    resident.on_prompt(US, [Mark(b"dense", 900)], names("ab"), 20)
    prefix = [Mark(b"estimated", 700), Mark(b"dense", 900), Mark(b"all", 1000)]
    resident.on_prompt(US, prefix, names("abcdef"), 60)
    assert [resident.held_tokens(US, [mark]) for mark in prefix] == [40, 20, 60]


def test_after_a_gap_only_what_was_used_is_known_to_be_there(resident):
    resident.on_record(Stored(10, names("abcd")))
    resident.on_prompt(US, marks(20, 45), names("abcd"), 45)
    resident.on_answer(names("abcd"), 45, 0, 0)
    resident.on_record(Lost())
    assert held(resident, 20, 45) == [0, 0]
    for _ in range(2):
        resident.on_answer(names("abcd"), 45, 30, 0)
        assert held(resident, 20, 45) == [20, 30]
    resident.on_record(gone("abc", 2))
    assert held(resident, 20, 45) == [20, 20]


def test_while_nothing_was_missed_usage_adds_nothing(resident):
    """Whatever it says was there when the prompt came in may be gone since."""
    resident.on_record(Stored(10, names("abcd")))
    resident.on_prompt(US, marks(45), names("abcd"), 45)
    resident.on_answer(names("abcd"), 45, 0, 0)
    resident.on_record(gone("abcd", 3))
    resident.on_answer(names("abcd"), 45, 40, 0)
    assert held(resident, 45) == [30]


def test_a_cache_that_was_cleared_is_known_again(resident):
    resident.on_record(Stored(10, names("ab")))
    resident.on_prompt(US, marks(20), names("ab"), 20)
    resident.on_answer(names("ab"), 20, 0, 0)
    resident.on_record(Lost())
    resident.on_record(Cleared())
    resident.on_record(Stored(10, names("a")))
    resident.on_answer(names("ab"), 20, 20, 0)
    assert held(resident, 20) == [10]


def test_a_copy_that_is_not_there_is_found_out_when_it_is_missed(resident):
    resident.on_record(Stored(10, names("abcd")))
    resident.on_record(Stored(10, names("abcd")[16:]))  # and the removal of the first copies was not heard
    resident.on_prompt(US, marks(45), names("abcd"), 45)
    resident.on_answer(names("abcd"), 45, 20, 40)
    assert resident.mispredictions == 1
    assert held(resident, 45) == [40]
    resident.on_record(gone("abcd", 2))
    assert held(resident, 45) == [20]


def test_the_last_token_that_is_always_computed_is_no_misprediction(resident):
    resident.on_record(Stored(10, names("abcd")))
    resident.on_record(Stored(10, names("abcd")[24:]))
    resident.on_prompt(US, marks(40), names("abcd"), 40)
    resident.on_answer(names("abcd"), 40, 30, 40)
    assert resident.mispredictions == 0
    resident.on_record(gone("abcd", 3))
    assert held(resident, 40) == [40]


def test_more_blocks_than_there_are_mean_that_something_was_missed(resident):
    resident.on_prompt(US, marks(20), names("ab"), 20)
    resident.on_record(Stored(10, names("abcdefgh")))
    assert held(resident, 20) == [20]
    resident.on_record(Stored(10, names("x")))
    assert held(resident, 20) == [0]


def test_blocks_that_are_named_otherwise_are_noticed(resident):
    assert resident.is_verified is None
    resident.on_record(Stored(10, names("abcdefgh")[:64]))
    for _ in range(STRANGERS_MAX - 1):
        resident.on_answer(names("xyz"), 35, 30, 0)
        resident.on_answer(b"", 9, 0, 0)  # has no whole block
    assert resident.is_verified is None
    resident.on_answer(names("xyz"), 35, 30, 0)
    assert resident.is_verified is False
    assert resident.changes() == (None,)
    resident.on_record(Lost())
    resident.on_prompt(US, marks(35), names("xyz"), 35)
    resident.on_answer(names("xyz"), 35, 30, 0)
    assert held(resident, 35) == [0]


def test_an_engine_that_tells_nothing_is_noticed():
    resident = Resident()
    for _ in range(STRANGERS_MAX):
        resident.on_answer(b"", 200, 100, 0)
    assert resident.is_verified is False
    assert resident.changes() == (None,)
    assert resident.held_tokens(US, marks(20)) == 0


def test_an_engine_that_starts_again_is_looked_at_anew(resident):
    for _ in range(2):
        resident.on_start()
        for _ in range(STRANGERS_MAX - 1):
            resident.on_answer(names("xyz"), 35, 30, 0)
    assert resident.is_verified is None
    for _ in range(2):
        resident.on_record(Ended())
        assert resident.changes() == (None,)
        resident.on_start()


def test_one_known_block_is_enough(resident):
    resident.on_record(Stored(10, names("ab")))
    resident.on_answer(names("ab"), 20, 0, 0)
    for _ in range(STRANGERS_MAX):
        resident.on_answer(names("xyz"), 35, 0, 0)
    assert resident.is_verified


def test_nothing_is_held_once_the_engine_has_fallen_silent_until_it_starts_again(resident):
    resident.on_record(Stored(10, names("ab")))
    resident.on_prompt(US, marks(20), names("ab"), 20)
    resident.on_answer(names("ab"), 20, 0, 0)
    told = (Held(US, ((marks(20)[0].tag, 20),)),)
    assert resident.changes() == told
    resident.on_record(Ended())
    resident.on_answer(names("ab"), 20, 10, 0)
    assert held(resident, 20) == [0]
    assert resident.is_verified is False
    assert [resident.changes() for _ in range(2)] == [(None,), ()]
    resident.on_start()
    assert resident.is_verified is None
    resident.on_record(Stored(10, names("ab")))
    assert resident.changes() == told, "as it was before, which is void"
    resident.on_record(gone("ab", 1))
    assert held(resident, 20) == [10]
    resident.on_answer(names("ab"), 20, 20, 0)
    assert held(resident, 20) == [10]
    assert resident.is_verified


def test_what_has_changed_is_told_once_and_as_it_is_now(resident):
    resident.on_record(Stored(10, names("abcd")))
    resident.on_prompt(US, marks(20, 45), names("abcd"), 45)
    resident.on_prompt(THEM, marks(15), names("x"), 15)
    short, long = marks(20, 45)
    assert resident.changes() == (Held(US, ((short.tag, 20), (long.tag, 40))),)
    assert resident.changes() == ()
    resident.on_record(gone("abcd", 3))
    resident.on_record(Stored(10, names("abcd")[24:]))
    assert resident.changes() == ()
    resident.on_record(gone("abcd", 1))
    resident.on_record(Stored(10, names("x")))
    assert dict(resident.changes()) == {
        US: ((long.tag, 10), (short.tag, 10)),
        THEM: ((marks(15)[0].tag, 10),),
    }
    resident.on_start()
    assert {entry for _, entries in resident.changes() for entry in entries} == {
        (short.tag, 0),
        (long.tag, 0),
        (marks(15)[0].tag, 0),
    }


def test_a_flood_of_changes_is_told_in_parts(resident):
    resident.on_record(Stored(10, names("a")))
    for number in range(CHANGES_MAX + 1):
        resident.on_prompt(US, [Mark(f"{number}".encode(), 10)], names("a"), 10)
    told = [resident.changes() for _ in range(3)]
    assert [[len(entries) for _, entries in part] for part in told] == [[CHANGES_MAX], [1], []]


def test_the_marks_that_were_not_seen_for_longest_are_forgotten(resident, monkeypatch):
    monkeypatch.setattr(module, "PLACES_MAX", 3)
    resident.on_prompt(US, marks(10, 20, 30), names("abc"), 30)
    for block in range(4):  # one after the other, so that every mark waits at each of its blocks
        resident.on_record(Stored(10, names("abcd")[8 * block :][:8]))
    resident.changes()
    resident.on_prompt(US, marks(10, 45), names("abcd"), 45)
    assert held(resident, 10, 20, 30, 45) == [10, 0, 30, 40]
    ((_, entries),) = resident.changes()
    assert set(entries) == {(marks(20)[0].tag, 0), (marks(45)[0].tag, 40)}
    resident.on_record(gone("abcd", 0))  # touches nobody who is forgotten
    resident.on_record(Stored(10, names("abcd")))
    assert held(resident, 10, 20, 30, 45) == [10, 0, 30, 40]


def test_after_a_gap_marks_are_forgotten_as_before(resident, monkeypatch):
    monkeypatch.setattr(module, "PLACES_MAX", 1)
    resident.on_record(Stored(10, names("abc")))
    resident.on_prompt(US, marks(25), names("ab"), 25)
    resident.on_record(Lost())
    resident.on_prompt(US, marks(10, of="x"), names("x"), 10)
    resident.on_record(Stored(10, names("abcx")))
    resident.on_record(gone("abc", 0))
    assert held(resident, 25) == [0]


def test_a_mark_that_is_forgotten_and_seen_again_at_once_is_told(resident, monkeypatch):
    monkeypatch.setattr(module, "PLACES_MAX", 1)
    resident.on_record(Stored(10, names("ab")))
    resident.on_prompt(US, marks(20), names("ab"), 20)
    resident.changes()
    resident.on_prompt(US, marks(10, of="x"), names("x"), 10)
    resident.on_record(gone("ab", 0))
    resident.on_prompt(US, marks(20), names("ab"), 20)
    assert dict(resident.changes()[0].entries)[marks(20)[0].tag] == 0


def test_names_are_bounded_and_kept_once_for_the_marks_of_a_prompt(resident, monkeypatch):
    monkeypatch.setattr(module, "CHAIN_BYTES_MAX", 8 * 8)
    resident.on_record(Stored(10, names("abcdefgh")))
    resident.on_prompt(US, marks(10, 20, 30, 40, 50), names("abcde"), 50)
    resident.on_prompt(US, marks(30, of="xyz"), names("xyz"), 30)
    assert held(resident, 10, 50) == [10, 50]
    resident.on_prompt(US, marks(20, of="uv"), names("uv"), 20)
    assert held(resident, 10, 50) == [0, 0]
    # Marks that are told again belong to the new prompt, and leave the old one.
    resident.on_prompt(US, marks(10, 20, 30), names("abc"), 30)
    assert held(resident, 10, 20, 30) == [10, 20, 30]


def test_prompts_are_followed_once_the_size_of_blocks_is_known():
    resident = Resident()
    resident.on_prompt(US, marks(20, 30), b"", 30)
    assert resident.changes() == ()
    resident.on_record(Stored(10, names("abc")))
    resident.on_prompt(US, marks(20, 30, 40), names("abcd"), 40)
    assert held(resident, 20, 30, 40) == [20, 30, 30]


def test_a_prompt_without_marks_is_not_followed(resident):
    resident.on_record(Stored(10, names("ab")))
    resident.on_prompt(US, [], names("ab"), 20)
    assert resident.held_tokens(US, []) == 0
    assert resident.changes() == ()


def test_an_empty_prompt_is_no_harm(resident):
    resident.on_prompt(US, [Mark(b"nothing", 0)], b"", 3)
    assert resident.held_tokens(US, [Mark(b"nothing", 0)]) == 0
    assert resident.changes() == ()
