"""A price taken apart: each term, what it means, and whether they are the price."""

import msgspec
import pytest

from p2pagent.cli.explain import candidates_text, price_of_answer, price_of_receipt, price_text
from p2pagent.peer.messages import Receipt
from p2pagent.peer.wire import parsed
from p2pagent.routing.prototypes import Space
from p2pagent.types import Usage
from tests.scripted_node import ANSWERED, CANDIDATE
from tests.strangers import ALICE, make_call, make_final


def test_terms_are_tokens_times_rates_and_the_slot() -> None:
    cleared = msgspec.structs.replace(
        ANSWERED, how="cleared", slot_price_microcredits=300, price_microcredits=628, sheet="ab" * 32
    )
    price = price_of_answer(cleared)
    assert price is not None
    assert [(t.name, t.tokens, t.per_token_microcredits, t.microcredits) for t in price.terms] == [
        ("prompt", 12, 10, 120),
        ("cached", 8, 1, 8),
        ("output", 5, 40, 200),
        ("slot", None, None, 300),
    ]
    lines = price_text(price).splitlines()
    assert lines[4].split()[:3] == ["slot", "-", "-"]
    assert lines[4].endswith("what the best use of this slot by others was worth, by sheet abababababab")
    assert lines[5].split(maxsplit=2) == ["price", "0.000628", "the sum of the terms"]


@pytest.mark.parametrize(
    ("how", "sheet", "slot", "meaning"),
    [
        ("posted", "", 0, "nobody else was known to want this slot"),
        ("cleared", "ab" * 32, 0, "nobody else could have gained by this slot, by sheet abababababab"),
        ("posted", "ab" * 32, 9, "by others was worth, by sheet abababababab, faded since"),
    ],
)
def test_what_a_slot_price_means(how: str, sheet: str, slot: int, meaning: str) -> None:
    answer = msgspec.structs.replace(ANSWERED, how=how, sheet=sheet, slot_price_microcredits=slot)
    price = price_of_answer(answer)
    assert price is not None
    assert price.terms[-1].meaning.endswith(meaning)


def test_a_price_that_its_terms_do_not_make_is_told() -> None:
    price = price_of_answer(msgspec.structs.replace(ANSWERED, price_microcredits=329))
    assert price is not None
    assert not price.adds_up
    assert "0.000329  NOT the sum of the terms" in price_text(price)


def test_a_receipt_is_taken_apart_as_the_answer_is(space: Space) -> None:
    final = make_final(ALICE, make_call(space, 1), "abc", cached_tokens=4, price_microcredits=1)
    receipt = parsed(final.receipt, Receipt)
    assert isinstance(receipt, Receipt)
    answer = msgspec.structs.replace(
        ANSWERED, usage=Usage(receipt.prompt_tokens, 4, 3), price_microcredits=1, how="posted"
    )
    assert price_of_receipt(receipt, "posted") == price_of_answer(answer)


def test_nothing_is_owed_for_the_own_agent() -> None:
    own = price_of_answer(msgspec.structs.replace(ANSWERED, how="own", price_microcredits=0))
    assert own is None
    assert "nothing is owed" in price_text(own)


def test_candidates_show_what_was_believed_before_they_were_asked() -> None:
    drawn = msgspec.structs.replace(CANDIDATE, wait_ms=1_250, chance=0.375, outcomes=7)
    passed = msgspec.structs.replace(drawn, outcome="not called", chance=0.0)
    own = msgspec.structs.replace(CANDIDATE, wait_ms=0)
    header, first, second, third, *legend = candidates_text((drawn, passed, own)).splitlines()
    at = {name: header.index(name) for name in ("judged", "wait", "chance")}
    assert [[line[where:].split()[0] for where in at.values()] for line in (first, second, third)] == [
        ["7", "1250", "0.38"],
        ["7", "1250", "0.00"],
        ["0", "0", "-"],
    ]
    assert legend[0].startswith("2 of 3 were asked.")


def test_candidates_show_slot_prices_and_reasons() -> None:
    refused = msgspec.structs.replace(
        CANDIDATE, outcome="refused", reason="busy", slot_price_microcredits=None, price_cap_microcredits=None
    )
    header, awarded, other, *_ = candidates_text((CANDIDATE, refused)).splitlines()
    at = header.index("slot")
    assert awarded[at:].split()[0] == "0.000000"
    assert other[at:].split()[0] == "-"
    assert other.endswith("refused (busy)")
