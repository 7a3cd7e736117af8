"""Every check of the terms, one deviation at a time."""

from hashlib import sha256

import msgspec
import pytest

from p2pagent.errors import RemoteError
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import Call, Final, Quote, RateCard, Receipt
from p2pagent.peer.terms import QUOTE_MS_MAX, check_final, check_quote
from p2pagent.peer.wire import encode, sealed
from p2pagent.sim.keys import SimKeys

BUYER, SELLER, STRANGER = SimKeys(0), SimKeys(1), SimKeys(2)
RATES = RateCard(prompt=10, cached=1, output=40)
ANSWER = "Grüße, 85"
ADVERT = AgentAdvert("sums", "add", b"\xff", RATES, 4096, 4)
CALL = Call(bytes(16), "sums", "space", b"\x7f", prompt_tokens=24, max_tokens=64, deadline_ms=2_000)
QUOTE = Quote(
    conversation=CALL.conversation,
    buyer=BUYER.peer,
    agent="sums",
    free_slots=1,
    queued=0,
    wait_ms=0,
    ttft_ms=120,
    ttft_high_ms=190,
    tpot_us=8_000,
    cached_tokens=8,
    evicted_microcredits=256,
    rates=RATES,
    sheet=b"",
    slot_price_microcredits=0,
    price_cap_microcredits=10 * 16 + 1 * 8 + 40 * 64,
    expires_ms=QUOTE_MS_MAX,
)
RECEIPT = Receipt(
    conversation=CALL.conversation,
    buyer=BUYER.peer,
    seller=SELLER.peer,
    agent="sums",
    prompt_tokens=24,
    cached_tokens=8,
    output_tokens=64,
    rates=RATES,
    sheet=b"",
    slot_price_microcredits=0,
    price_microcredits=10 * 16 + 1 * 8 + 40 * 64,
    answer_sha256=sha256(ANSWER.encode()).digest(),
    issued_ms=1_800_000_000_000,
)


def final_of(receipt: Receipt, signer: SimKeys = SELLER) -> Final:
    return Final(CALL.conversation, "stop", *sealed(receipt, signer))


def test_an_honest_quote_passes():
    check_quote(QUOTE, CALL, ADVERT, BUYER.peer, 0)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"buyer": STRANGER.peer}, "quote is for another buyer"),
        ({"agent": "other"}, "quote is for another agent"),
        ({"rates": RateCard(11, 1, 40)}, "quote departs from the signed rate card"),
        ({"rates": RateCard(10, 0, 40)}, "quote departs from the signed rate card"),
        ({"rates": RateCard(10, 1, 39)}, "quote departs from the signed rate card"),
        ({"slot_price_microcredits": 1}, "slot price without a sheet"),
        ({"price_cap_microcredits": QUOTE.price_cap_microcredits + 1}, "price cap does not follow from the rate card"),
        ({"price_cap_microcredits": QUOTE.price_cap_microcredits - 1}, "price cap does not follow from the rate card"),
        ({"price_cap_microcredits": 10 * 24 + 40 * 64}, "price cap does not follow from the rate card"),
        ({"cached_tokens": 9}, "price cap does not follow from the rate card"),
        ({"cached_tokens": 25}, "more cached tokens than the prompt has"),
        ({"expires_ms": QUOTE_MS_MAX + 1}, "quote lasts too long"),
    ],
)
def test_a_quote_that_departs_is_refused(changes, fault):
    with pytest.raises(RemoteError, match=f"^{fault}$"):
        check_quote(msgspec.structs.replace(QUOTE, **changes), CALL, ADVERT, BUYER.peer, 0)


def test_cached_tokens_dearer_than_computed_ones_are_in_the_cap():
    rates = RateCard(prompt=1, cached=10, output=40)
    advert = msgspec.structs.replace(ADVERT, rates=rates)
    quote = msgspec.structs.replace(QUOTE, rates=rates, price_cap_microcredits=10 * 24 + 40 * 64)
    check_quote(quote, CALL, advert, BUYER.peer, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt_tokens": 20, "cached_tokens": 20, "price_microcredits": 20 + 40 * 64},
        {"output_tokens": 0, "price_microcredits": 10 * 16 + 8},
        {"cached_tokens": 24, "price_microcredits": 24 + 40 * 64},
        {"prompt_tokens": 5, "cached_tokens": 5, "price_microcredits": 5 + 40 * 64},
    ],
)
def test_an_honest_receipt_passes(changes):
    receipt = msgspec.structs.replace(RECEIPT, **changes)
    assert check_final(final_of(receipt), CALL, QUOTE, ANSWER, SELLER.peer, BUYER) == receipt


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"conversation": b"\x01" * 16}, "receipt for another conversation"),
        ({"buyer": STRANGER.peer}, "receipt between others"),
        ({"seller": STRANGER.peer}, "receipt between others"),
        ({"agent": "other"}, "receipt for another agent"),
        ({"rates": RateCard(9, 1, 40)}, "receipt departs from the quoted rates"),
        ({"slot_price_microcredits": 1}, "receipt departs from the slot price"),
        ({"cached_tokens": 25}, "receipt claims a longer prompt"),
        ({"prompt_tokens": 25}, "receipt claims a longer prompt"),
        (
            {"cached_tokens": 7, "price_microcredits": 10 * 17 + 7 + 40 * 64},
            "receipt denies cached tokens that were quoted",
        ),
        ({"output_tokens": 65}, "receipt claims a longer answer"),
        ({"price_microcredits": RECEIPT.price_microcredits + 1}, "receipt's price does not follow from its tokens"),
        ({"price_microcredits": RECEIPT.price_microcredits - 1}, "receipt's price does not follow from its tokens"),
        ({"answer_sha256": sha256(b"").digest()}, "receipt is for another answer"),
    ],
)
def test_a_receipt_that_departs_is_refused(changes, fault):
    final = final_of(msgspec.structs.replace(RECEIPT, **changes))
    with pytest.raises(RemoteError, match=f"^{fault}$"):
        check_final(final, CALL, QUOTE, ANSWER, SELLER.peer, BUYER)


def test_a_receipt_over_the_cap_is_refused():
    # No quote that `check_quote` accepted lets it come to this; the check stands for itself all the same.
    quote = msgspec.structs.replace(QUOTE, price_cap_microcredits=RECEIPT.price_microcredits - 1)
    with pytest.raises(RemoteError, match=r"^receipt exceeds the quoted cap$"):
        check_final(final_of(RECEIPT), CALL, quote, ANSWER, SELLER.peer, BUYER)


@pytest.mark.parametrize("answer", ["", "Grüße, 86", ANSWER + " "])
def test_a_receipt_is_for_the_answer_as_received(answer):
    with pytest.raises(RemoteError, match=r"^receipt is for another answer$"):
        check_final(final_of(RECEIPT), CALL, QUOTE, answer, SELLER.peer, BUYER)


@pytest.mark.parametrize("signer", [BUYER, STRANGER])
def test_a_receipt_signed_by_another_is_refused(signer):
    with pytest.raises(RemoteError, match="receipt is not signed by"):
        check_final(final_of(RECEIPT, signer), CALL, QUOTE, ANSWER, SELLER.peer, BUYER)


def test_a_quote_in_place_of_a_receipt_is_refused():
    final = Final(CALL.conversation, "stop", *sealed(QUOTE, SELLER))
    with pytest.raises(RemoteError, match="malformed"):
        check_final(final, CALL, QUOTE, ANSWER, SELLER.peer, BUYER)


def test_a_receipt_signed_under_another_domain_is_refused():
    body = encode(RECEIPT)
    final = Final(CALL.conversation, "stop", body, SELLER.sign("p2pagent/quote/1", body))
    with pytest.raises(RemoteError, match="receipt is not signed by"):
        check_final(final, CALL, QUOTE, ANSWER, SELLER.peer, BUYER)
