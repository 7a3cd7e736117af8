"""Receipts whose answers are counted again after they were booked, and disputed where they claim too much."""

import codecs
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from p2pagent import experts
from p2pagent.peer.effects import Effect, Post, RaiseDispute, Recount, Send
from p2pagent.peer.events import Disputed, Posted, Recounted
from p2pagent.peer.messages import Dispute, Receipt, Settle
from p2pagent.peer.recounts import BOOKING_MAX, Recounts, proper_tokens
from p2pagent.peer.wire import parsed
from p2pagent.routing.prototypes import Space
from p2pagent.tokeniser import Tokeniser, read
from tests.marketplace import SUBJECT, Market, answer
from tests.scenario import make_advert
from tests.strangers import ALICE, make_call, make_delta, make_final, sent

DIGEST = b"digest 8"
TEXT = "reversed, so to speak"


def receipt(space: Space, claimed: int) -> Receipt:
    return parsed(make_final(ALICE, make_call(space, 1), TEXT, output_tokens=claimed).receipt, Receipt)


@settings(deadline=None)
@given(st.integers(0, 1 << 24))
def test_a_little_more_than_the_text_has_is_proper(tokens: int) -> None:
    most = proper_tokens(tokens)
    assert tokens + 4 <= most <= 1.0625 * tokens + 4
    assert most <= proper_tokens(tokens + 1)


@pytest.mark.parametrize("excess", [0, 1])
def test_what_claims_more_than_is_proper_is_disputed_with_the_reason(excess: int) -> None:
    claimed = proper_tokens(100) + excess
    raised = Recounts().on_recounted(Recounted(bytes(32), ALICE.peer, claimed, 100))
    reason = f"claims {claimed} output tokens, 100 by its own tokeniser"
    assert raised == ([RaiseDispute(ALICE.peer, Dispute(bytes(32), reason))] if excess else [])


def test_what_nobody_here_can_count_is_believed() -> None:
    assert Recounts().on_recounted(Recounted(bytes(32), ALICE.peer, 1 << 24, None)) == []


def test_an_answer_is_counted_once_its_receipt_is_booked_and_only_once(space: Space) -> None:
    recounts = Recounts()
    recounts.on_bought(b"one", receipt(space, 30), DIGEST, TEXT)
    recounts.on_bought(b"two", receipt(space, 30), b"", TEXT)
    recounts.on_bought(b"few", receipt(space, proper_tokens(0)), DIGEST, "")
    assert recounts.on_posted(b"one") == [Recount(b"one", ALICE.peer, DIGEST, 30, TEXT)]
    assert [recounts.on_posted(ident) for ident in (b"one", b"two", b"few", b"never")] == [[]] * 4


def test_of_many_that_are_being_booked_the_oldest_are_let_go(space: Space) -> None:
    recounts = Recounts()
    for number in range(BOOKING_MAX + 2):
        recounts.on_bought(str(number).encode(), receipt(space, 30), DIGEST, TEXT)
    counted = [bool(recounts.on_posted(str(number).encode())) for number in range(BOOKING_MAX + 2)]
    assert counted == [False, False, *[True] * BOOKING_MAX]


# --- honest answers -------------------------------------------------------------------------------------------------


def shown(tokens: list[int]) -> str:
    """What the embedded engine shows of these."""
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return "".join(text.decode(bytes([token]) if token < 256 else b"") for token in tokens)


@pytest.mark.parametrize("letters", [range(128), range(256)], ids=["letters", "bytes"])
def test_no_honest_answer_of_random_tokens_is_too_long(letters: range) -> None:
    """Drawn with all tokens alike, special ones that are not shown among them: worse than any model draws."""
    shipped, rng = Tokeniser(read(experts.path("add"))), Random(1)
    strayed = 0
    for _ in range(1_000):
        drawn = [rng.choice([*letters, 256, 257, 258, 259]) for _ in range(rng.randrange(1, 400))]
        tokens = drawn[: drawn.index(257) + 1] if 257 in drawn else drawn
        counted = shipped.count_answer(shown(tokens))
        assert len(tokens) <= proper_tokens(counted)
        strayed += len(tokens) > counted
    assert strayed > 500 or len(letters) == 256  # a broken character is shown as three bytes for each


@pytest.mark.parametrize("character", ["é", "€", "🙂"])
def test_a_character_that_the_limit_cuts_short_is_no_lie(character: str) -> None:
    shipped = Tokeniser(read(experts.path("add")))
    for cut in range(1, len(character.encode())):
        tokens = list(character.encode()[:cut])
        assert shown(tokens) == ""
        assert cut + 1 <= proper_tokens(shipped.count_answer(""))


# --- through the peer -----------------------------------------------------------------------------------------------


def of_type(effects: list[Effect], kind: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def test_the_user_and_the_seller_wait_for_nothing_and_the_padder_is_not_asked_again(space: Space) -> None:
    market = Market(space, ())
    advert = structs.replace(make_advert("agent", {SUBJECT: 0.95}), tokeniser=DIGEST)
    market.get(ALICE, make_delta(ALICE, space, advert))
    market.ask()
    market.quote(ALICE)
    price = 10 * market.calls[ALICE].prompt_tokens + 40 * 50
    ended = answer(market, ALICE, TEXT, output_tokens=50, price_microcredits=price)
    (post,) = of_type(ended, Post)
    assert of_type(ended, Recount) == []
    booked = market.handle(Posted(post.receipt_id, new=True))
    assert [type(message) for message in sent(booked, ALICE)] == [Settle]
    (recount,) = of_type(booked, Recount)
    assert (recount.tokeniser, recount.claimed_tokens, recount.text) == (DIGEST, 50, TEXT)
    (raised,) = market.handle(Recounted(recount.receipt_id, recount.seller, recount.claimed_tokens, 21))
    assert isinstance(raised, RaiseDispute)
    assert market.handle(Disputed(raised.seller, raised.dispute)) == [Send(ALICE.peer, raised.dispute)]
    market.ask()
    assert sent(market.effects, ALICE) == []
