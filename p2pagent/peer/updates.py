"""What the user is told of a query. Frozen values."""

from typing import Literal

from msgspec import Struct

from p2pagent.types import AgentRef, Microcredits, Usage


class Candidate(Struct, frozen=True):
    """One agent as the buyer saw it. Quality is a probability; `worth` is what choosing it is expected to gain.

    What it has quoted is in its worth, the wait and the slot's price; of who has not quoted, what was believed of both.
    """

    agent: AgentRef
    model: str
    quality: float
    uncertainty: float
    expected_cost_microcredits: Microcredits
    worth_microcredits: Microcredits
    outcome: Literal["not called", "called", "refused", "quoted", "awarded", "failed"]
    price_cap_microcredits: Microcredits | None = None
    slot_price_microcredits: Microcredits | None = None
    ttft_ms: int | None = None
    free_slots: int | None = None
    reason: str = ""
    outcomes: int = 0
    """Answers of this agent that were judged here."""
    wait_ms: int | None = None
    """What was believed of the wait for a slot before anybody was asked; None where that was of no interest."""
    toll_microcredits: Microcredits | None = None
    """What an answer there would have made others wait, beyond the slot's price: in its worth, but not paid."""
    chance: float | None = None
    """Probability with which this one was drawn first among those that could be asked; the own agent always is."""
    cached_tokens: int = 0
    """Of the prompt, in its cache: as it quoted, and else as was believed."""


class Text(Struct, frozen=True, tag="text"):
    """The next piece of the answer."""

    text: str


class Restarted(Struct, frozen=True, tag="restarted"):
    """The agent went away in mid-answer; what came so far is void and the answer starts again elsewhere."""

    lost: AgentRef
    reason: str


class Answered(Struct, frozen=True, tag="answered"):
    """The whole answer, who gave it, at what price, and why that agent.

    Attributes:
        how: who made the price: nobody for the own agent, the seller's signed card and quote, a hub's clearing.
        prompt_microcredits: per prompt token that was computed; so for `cached_` and `output_microcredits`.
        sheet: id of the sheet that the slot price comes from, in hex; empty without one.
        good: whether it is what was expected; None where only the user can tell.
    """

    text: str
    agent: AgentRef
    model: str
    delegated: bool
    usage: Usage
    how: Literal["own", "posted", "cleared"]
    price_microcredits: Microcredits
    prompt_microcredits: Microcredits
    cached_microcredits: Microcredits
    output_microcredits: Microcredits
    slot_price_microcredits: Microcredits
    sheet: str
    receipt_id: str
    finish_reason: Literal["stop", "length"]
    ttft_ms: int
    total_ms: int
    restarts: int
    candidates: tuple[Candidate, ...]
    why: str
    good: bool | None = None


class Unanswered(Struct, frozen=True, tag="unanswered"):
    """No answer: nobody could, or the user's raw stream broke off after `partial` pieces."""

    reason: str
    partial: bool
    candidates: tuple[Candidate, ...]


Update = Text | Restarted | Answered | Unanswered
