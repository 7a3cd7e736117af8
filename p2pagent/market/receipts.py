"""What was promised, what was delivered, what is owed, and how far a debt may go. Integers only."""

from typing import Protocol

from p2pagent.types import Microcredits, Usage


class Rates(Protocol):
    """Microcredits per token of each kind."""

    @property
    def prompt(self) -> int:
        """Per prompt token that is computed."""

    @property
    def cached(self) -> int:
        """Per prompt token found in the cache."""

    @property
    def output(self) -> int:
        """Per token of the answer."""


def metered(rates: Rates, usage: Usage) -> Microcredits:
    """What `usage` costs at `rates`; cached tokens are part of the prompt's."""
    uncached = usage.prompt_tokens - usage.cached_tokens
    return rates.prompt * uncached + rates.cached * usage.cached_tokens + rates.output * usage.output_tokens


def price_cap(
    rates: Rates, prompt_tokens: int, max_tokens: int, slot_price: Microcredits, cached_tokens: int = 0
) -> Microcredits:
    """The most an answer can cost: no more cached than `cached_tokens`, every output token used, and the slot price."""
    dearest = max(rates.prompt, rates.cached)
    uncached = prompt_tokens - cached_tokens
    return dearest * uncached + rates.cached * cached_tokens + rates.output * max_tokens + slot_price


def credit_limit(newcomer: Microcredits, settled: Microcredits) -> Microcredits:
    """What a peer may owe: the newcomer's allowance, and as much again as half of what it has honestly settled.

    Half, because whoever means to default must first have paid twice what it then gains by the growth.
    """
    return newcomer + settled // 2
