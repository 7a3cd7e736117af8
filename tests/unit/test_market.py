"""What is owed, at most, and to whom one may owe it."""

from hypothesis import given
from hypothesis import strategies as st

from p2pagent.config import Rates
from p2pagent.market.receipts import credit_limit, metered, price_cap
from p2pagent.types import Usage

rates_of_any_kind = st.builds(Rates, *[st.integers(0, 1 << 32)] * 3)
tokens = st.integers(0, 1 << 24)


def test_cached_tokens_are_part_of_the_prompt() -> None:
    assert metered(Rates(10, 1, 40), Usage(100, 30, 5)) == 10 * 70 + 1 * 30 + 40 * 5


def test_nothing_costs_nothing() -> None:
    assert metered(Rates(10, 1, 40), Usage(0, 0, 0)) == 0
    assert price_cap(Rates(10, 1, 40), 0, 0, 7) == 7


@given(rates_of_any_kind, tokens, tokens, st.integers(0, 1 << 50), st.data())
def test_no_admissible_answer_exceeds_the_cap(
    rates: Rates, prompt: int, max_tokens: int, slot_price: int, data: st.DataObject
) -> None:
    used = data.draw(st.integers(0, prompt))
    usage = Usage(used, data.draw(st.integers(0, used)), data.draw(st.integers(0, max_tokens)))
    assert 0 <= metered(rates, usage) + slot_price <= price_cap(rates, prompt, max_tokens, slot_price)


@given(rates_of_any_kind, tokens, tokens)
def test_the_cap_is_reached_by_the_dearest_answer(rates: Rates, prompt: int, max_tokens: int) -> None:
    dearest = Usage(prompt, prompt if rates.cached > rates.prompt else 0, max_tokens)
    assert metered(rates, dearest) == price_cap(rates, prompt, max_tokens, 0)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_credit_grows_by_half_of_what_was_settled(newcomer: int, settled: int, more: int) -> None:
    assert credit_limit(newcomer, 0) == newcomer
    growth = credit_limit(newcomer, settled + more) - credit_limit(newcomer, settled)
    assert growth in (more // 2, more // 2 + more % 2)
