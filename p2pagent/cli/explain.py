"""Who was considered for a question and what its price is made of, in words and numbers. Values in, text out."""

from typing import Literal

from msgspec import Struct

from p2pagent.cli.output import credits_text, short, table
from p2pagent.market.receipts import Rates
from p2pagent.peer.messages import RateCard, Receipt
from p2pagent.peer.updates import Answered, Candidate
from p2pagent.types import Microcredits, Usage

ID_DIGITS = 12
"""Of an id in hex, where it is shown to be typed in again."""

How = Literal["own", "posted", "cleared"]

_LEGEND = """\
judged: answers of it that were rated here. wait: what was believed of its queue before it was
asked. chance: of being drawn first; the less is known of the waits, the more alike they are, and the more are asked.
toll: what an answer there makes others wait, in your money, beyond the slot's price; it decides, but is not paid."""


class Term(Struct, frozen=True):
    """One addend of a price; a slot has no tokens."""

    name: str
    tokens: int | None
    per_token_microcredits: Microcredits | None
    microcredits: Microcredits
    meaning: str


class Price(Struct, frozen=True):
    """A price and its terms. `adds_up`: they sum to it."""

    terms: tuple[Term, ...]
    microcredits: Microcredits
    adds_up: bool


def price_of_answer(answer: Answered) -> Price | None:
    """What the answer cost, taken apart; None for the own agent's, for which nothing is owed."""
    if answer.how == "own":
        return None
    rates = RateCard(answer.prompt_microcredits, answer.cached_microcredits, answer.output_microcredits)
    return _price(
        answer.usage, rates, answer.slot_price_microcredits, answer.price_microcredits, answer.how, answer.sheet
    )


def price_of_receipt(receipt: Receipt, how: How) -> Price:
    """What the receipt says is owed, taken apart."""
    usage = Usage(receipt.prompt_tokens, receipt.cached_tokens, receipt.output_tokens)
    slot, owed = receipt.slot_price_microcredits, receipt.price_microcredits
    return _price(usage, receipt.rates, slot, owed, how, receipt.sheet.hex())


def candidates_text(candidates: tuple[Candidate, ...]) -> str:
    """A line per agent that was considered, and how it was decided whom to ask."""
    terms = ("quality", "judged", "cost", "worth", "wait", "chance")
    header = ("agent", "model", *terms, "price at most", "slot", "toll", "first token", "outcome")
    asked = sum(candidate.outcome != "not called" for candidate in candidates)
    lines = table(header, [_candidate(candidate) for candidate in candidates])
    return f"{lines}\n{asked} of {len(candidates)} were asked. {_LEGEND}"


def judged_text(answer: Answered) -> str:
    """What is added to the account of an answer that was judged at once."""
    return "" if answer.good is None else ", as expected" if answer.good else ", not as expected"


def price_text(price: Price | None) -> str:
    """A line per term, their sum, and whether it is the price."""
    if price is None:
        return "nothing is owed for an answer of your own agent"
    rows = [
        (
            term.name,
            "-" if term.tokens is None else str(term.tokens),
            credits_text(term.per_token_microcredits),
            credits_text(term.microcredits),
            term.meaning,
        )
        for term in price.terms
    ]
    verdict = "the sum of the terms" if price.adds_up else "NOT the sum of the terms"
    total = ("price", "", "", credits_text(price.microcredits), verdict)
    return table(("term", "tokens", "each", "credits", "what it is"), [*rows, total])


def _price(usage: Usage, rates: Rates, slot: Microcredits, price: Microcredits, how: How, sheet: str) -> Price:
    kinds = (
        ("prompt", usage.prompt_tokens - usage.cached_tokens, rates.prompt, "prompt tokens that were computed"),
        ("cached", usage.cached_tokens, rates.cached, "prompt tokens found in the agent's cache"),
        ("output", usage.output_tokens, rates.output, "tokens of the answer"),
    )
    terms = [Term(name, tokens, rate, tokens * rate, meaning) for name, tokens, rate, meaning in kinds]
    terms.append(Term("slot", None, None, slot, _slot_meaning(slot, how, sheet)))
    return Price(tuple(terms), price, sum(term.microcredits for term in terms) == price)


def _slot_meaning(slot: Microcredits, how: How, sheet: str) -> str:
    if not sheet:
        return "nobody else was known to want this slot"
    if not slot:
        return f"nobody else could have gained by this slot, by sheet {sheet[:ID_DIGITS]}"
    when = "" if how == "cleared" else ", faded since"
    return f"what the best use of this slot by others was worth, by sheet {sheet[:ID_DIGITS]}{when}"


def _candidate(candidate: Candidate) -> tuple[str, ...]:
    return (
        f"{candidate.agent.name}@{short(candidate.agent.peer)}",
        candidate.model,
        f"{candidate.quality:.2f}±{candidate.uncertainty:.2f}",
        str(candidate.outcomes),
        credits_text(candidate.expected_cost_microcredits),
        credits_text(candidate.worth_microcredits),
        "-" if candidate.wait_ms is None else f"{candidate.wait_ms} ms",
        "-" if candidate.chance is None else f"{candidate.chance:.2f}",
        credits_text(candidate.price_cap_microcredits),
        credits_text(candidate.slot_price_microcredits),
        credits_text(candidate.toll_microcredits),
        "-" if candidate.ttft_ms is None else f"{candidate.ttft_ms} ms",
        f"{candidate.outcome} ({candidate.reason})" if candidate.reason else candidate.outcome,
    )
