"""The buyer's arithmetic: what each agent is expected to be worth, whom to call, whom to award. Pure.

worth = value * cautious quality - delay cost * predicted seconds - expected cost,  in whole microcredits.

The local agent is a candidate like any other, so its own worth is the opt-out: a stranger is called only where it is
expected to gain more than the local agent does.
"""

from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from msgspec import Struct

from p2pagent.market.clearing import OUT, WEIGHT_MAX, assign
from p2pagent.market.receipts import metered, price_cap
from p2pagent.peer.events import Ask
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.loads import Prospect
from p2pagent.peer.messages import Quote
from p2pagent.routing import game
from p2pagent.routing.qos import WAIT_MS_MAX
from p2pagent.routing.scoring import Score
from p2pagent.types import AgentRef, Microcredits, PeerId, Usage


class _Ordered(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


Gain = tuple[AgentRef, Microcredits]
_P = TypeVar("_P", bound=_Ordered)

STRANGER_MS = 100
"""Two round trips before a stranger's first token; a stranger no better than the local agent is not worth them."""

DIAL_MS = 200
"""Four more before anything can be said to somebody who is not connected."""


class Habit(NamedTuple):
    """What this buyer expects of an agent by what it knows of earlier answers.

    Attributes:
        cached_tokens: of the prompt, those that it has in its cache.
        output_tokens: of its answer.
        late_ms: by which it ends later than it quotes.
    """

    cached_tokens: int
    output_tokens: int
    late_ms: int = 0


class Option(Struct):
    """One agent that might answer.

    Attributes:
        worth_microcredits: what it is worth if it answers at once and its slot costs nothing.
        prospect: what its load was believed to be when it was decided whom to ask; None if it was not considered.
        habit: what is expected of this answer by its earlier ones.
        chance: probability with which it was the first to be asked; None where it was not drawn for.
        outcomes: answers of it that were judged here.
        trial: it is new here, and valued by what it may be, not by its score.
    """

    agent: AgentRef
    advert: AgentAdvert
    score: Score
    cost_microcredits: Microcredits
    worth_microcredits: Microcredits
    habit: Habit
    prospect: Prospect | None = None
    chance: float | None = None
    outcomes: int = 0
    trial: bool = False


def options(
    adverts: list[tuple[PeerId, AgentAdvert]],
    scores: list[tuple[Score, Score]],
    habits: list[Habit],
    ask: Ask,
    caution: float,
    me: PeerId,
) -> list[Option]:
    """All agents in `adverts`, best first; equals keep the order in which they were given.

    `scores` are what is expected of each and what to value it by; they differ where a newcomer is tried. The local
    agents are not: their claims are our own.
    """
    found = []
    for (peer, advert), (expected, valued), habit in zip(adverts, scores, habits, strict=True):
        rated = valued if peer != me else expected
        cost = expected_cost(advert, ask, habit.cached_tokens, habit.output_tokens)
        delay = ask.policy.delay_microcredits(STRANGER_MS) if peer != me else 0
        worth = int(ask.policy.value_microcredits * rated.cautious(caution)) - cost - delay
        agent, trial = AgentRef(peer, advert.name), rated != expected
        found.append(Option(agent, advert, expected, cost, worth, habit, trial=trial))
    return sorted(found, key=lambda option: -option.worth_microcredits)


def expected_cost(advert: AgentAdvert, ask: Ask, cached_tokens: int, output_tokens: int) -> Microcredits:
    """What an answer of this length costs at an agent, with so many tokens of the prompt cached."""
    prompt_tokens = ask.tokens_by(advert.tokeniser)
    return metered(advert.rates, Usage(prompt_tokens, min(cached_tokens, prompt_tokens), output_tokens))


def utility(option: Option, prospect: Prospect, ask: Ask) -> Microcredits:
    """The worth of an agent as long as it has not quoted, less its believed times, price and toll."""
    taken_ms = prospect.dial_ms + prospect.wait_ms + prospect.answer_ms + prospect.later_ms
    waited = ask.policy.delay_microcredits(taken_ms)
    return option.worth_microcredits - waited - prospect.slot_price - toll(prospect, prospect.slot_price, ask)


def toll(prospect: Prospect, slot_price: Microcredits, ask: Ask) -> Microcredits:
    """What an answer there makes others wait, in this user's money, as far as the slot's price does not say it.

    Nobody is paid it. Were it left out, all would queue for a little quality until nobody gained by it (Pigou). Where
    it would be large a hub clears, and makes a price of it.
    """
    heeded_ms = int(game.heeded(prospect.toll_ms, prospect.wait_ms + prospect.answer_ms))
    return max(0, ask.policy.delay_microcredits(heeded_ms) - slot_price)


def patience_ms(option: Option, floor: Microcredits, ask: Ask) -> int:
    """How long a slot of an agent may be away until nothing is gained over `floor`; `WAIT_MS_MAX` is for ever."""
    gain, delay_cost = option.worth_microcredits - floor, ask.policy.delay_microcredits_per_s
    return min(WAIT_MS_MAX, max(0, gain) * 1000 // delay_cost) if delay_cost else WAIT_MS_MAX


def worth_at(option: Option, quote: Quote, ask: Ask) -> Microcredits:
    """The worth of an agent now that it has said how long it will take, what a slot costs, and what it has cached."""
    cost = expected_cost(option.advert, ask, quote.cached_tokens, option.habit.output_tokens)
    saved = option.cost_microcredits - cost
    return option.worth_microcredits + saved - quote.slot_price_microcredits - delay_cost(option, quote, ask)


def gains(ranked: list[Option], waiting: Option, quote: Quote, local: Microcredits, ask: Ask, me: PeerId) -> list[Gain]:
    """What a slot at each agent would gain over what the query gets otherwise; waits are deducted by the clearing.

    Otherwise it has its local agent, worth `local`, or waits at `waiting` as `quote` says and one answer longer, since
    then another has won the next slot. An answer elsewhere takes as long as it is believed to, with what is to be
    computed there, and holds up whom it finds there. No toll above a gain is ever charged, so what the user's price
    limit leaves caps it.
    """
    there = answer_cost(waiting, quote, ask)
    otherwise = max(0, local, worth_at(waiting, quote, ask) - there)
    held_up_ms = waiting.prospect.held_up_ms if waiting.prospect else 0
    found = []
    for option in ranked:
        most = price_cap(option.advert.rates, ask.tokens_called(option.advert), ask.sampling.max_tokens, 0)
        room = ask.policy.price_max_microcredits - most
        answer = there
        if option.agent != waiting.agent and option.prospect is not None:
            answer = ask.policy.delay_microcredits(option.prospect.answer_ms + option.prospect.held_up_ms - held_up_ms)
        gain = min(option.worth_microcredits - answer - otherwise, room, WEIGHT_MAX - 1)
        if option.agent.peer != me and gain > 0:
            found.append((option.agent, gain))
    return found


def delay_cost(option: Option, quote: Quote, ask: Ask) -> Microcredits:
    """What it costs the user to wait for one answer as long as `quote` says, and its agent's habit."""
    wait_ms = max(0, quote.ttft_ms + option.habit.late_ms) + quote.tpot_us * option.habit.output_tokens // 1000
    return ask.policy.delay_microcredits(wait_ms)


def answer_cost(option: Option, quote: Quote, ask: Ask) -> Microcredits:
    """What it costs the user to wait for one answer more there."""
    answer_ms = quote.tpot_us * option.habit.output_tokens // 1000 + quote.ttft_ms - quote.wait_ms
    return ask.policy.delay_microcredits(answer_ms)


def clear(worths: list[dict[_P, Microcredits]], free: dict[_P, int]) -> list[_P | None]:
    """The owner's waiting queries cleared together: per query the place that serves it, None where nothing gains.

    Args:
        worths: per query, the worth of each place that was quoted for it.
        free: how many queries each place can take.
    """
    places = sorted(free)
    limit = WEIGHT_MAX - 1  # a thousand million credits either way; a place that was not quoted loses as much
    bounded = [[max(-limit, min(limit, worth.get(place, -limit))) for place in places] for worth in worths]
    weights = np.array(bounded, dtype=np.int64)
    chosen = assign(weights.reshape(len(worths), len(places)), [free[place] for place in places])
    return [None if column == OUT else places[column] for column in chosen]
