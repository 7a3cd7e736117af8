"""Whom a query may go to, best first, and whom of them to ask for a quote.

The answer to load that cannot be seen is mixed, as `routing/game.py` says: utilities are worths less what is believed
of waits and slot prices, and what the own agent is exactly known to be worth is what strangers have to beat.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from math import inf
from random import Random
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from p2pagent.bounded import bound
from p2pagent.config import Preferences
from p2pagent.market.receipts import price_cap
from p2pagent.peer import choice, versions
from p2pagent.peer.choice import Habit, Option
from p2pagent.peer.directory import Directory
from p2pagent.peer.disputes import Disputes
from p2pagent.peer.events import Ask
from p2pagent.peer.gossip_messages import AgentAdvert, Load
from p2pagent.peer.loads import Loads, Prospect
from p2pagent.peer.memory import Memory
from p2pagent.peer.messages import Quote
from p2pagent.peer.query import Conversation, Query
from p2pagent.peer.stall import QUEUE_PER_SLOT_MAX, OwnLoad
from p2pagent.routing import game
from p2pagent.routing.promises import Promises
from p2pagent.routing.prototypes import Space
from p2pagent.routing.qos import WAIT_MS_MAX, Task
from p2pagent.routing.regulars import Regulars
from p2pagent.routing.residency import Recall
from p2pagent.routing.speeds import Speeds
from p2pagent.types import AgentRef, Microcredits, PeerId, Usage

CANDIDATES = 64
"""Strangers among whom it is drawn whom to ask. In simulation with 16 of them two answers of a hundred fewer are right
where most agents are idle; at a load of 0.4 answers are 6 % sooner, since fewer buyers meet."""

ALIKE = 0.25
"""Strangers whose worth is this close to the best one's, in answers, are candidates alike. Were it always the best, all
buyers of a large network would meet at the same few."""

HELD_UP = 2
"""Answers that a prompt holds up while it is computed, for each that is there as it comes. In simulation 50 nodes with
caches begin answers 3 % sooner than with 1."""

FURTHER = 3.0
"""What goes on from a question, where it is remembered, takes so many answers longer for each that is usually at work,
times the share of the slots that are, beyond the same at the least used agent: waits grow faster than load. In
simulation 500 nodes with caches begin answers 18 % sooner than with 1.5 for each, however many, and `OWN_SHARE` 1."""

OWN_SHARE = 0.5
"""How much a turn that is to come of an own conversation counts beside what an agent is known to have at work: some of
it is known already. In simulation 3 nodes begin answers 2 to 9 % sooner than with 0 where one owner begins many
conversations at once."""

HELD_SHARE = 0.25
"""Who is expected to hold more than this share of a prompt in its cache is asked in any case."""

BARRED_MS = 120_000
BARRED_MAX = 1024
"""Who was awarded and gave up is asked nothing for this long."""

Bound = Mapping[AgentRef, Sequence[tuple[int, float]]]
"""Own questions by the agent to which they go: since when, and with which probability."""


class OwnAgents(Protocol):
    """The agents of this device, whose state is known exactly."""

    def load(self, agent: str) -> Load:
        """How busy one is."""

    def own_load(self, agent: str, task: Task, now_ms: int) -> OwnLoad:
        """What a question of the owner meets there now."""


class Scout(Struct):
    """Finds the agents that a query may go to.

    `local` are this device's own, `own` says how busy they are; `neighbours` are connected.
    """

    me: PeerId
    space: Space
    preferences: Preferences
    directory: Directory
    disputes: Disputes
    rng: Random
    own: OwnAgents
    memory: Memory
    neighbours: Set[PeerId]
    local: tuple[AgentAdvert, ...] = ()
    loads: Loads = field(default_factory=Loads)
    recall: Recall = field(default_factory=Recall)
    promises: Promises = field(default_factory=Promises)
    speeds: Speeds = field(default_factory=Speeds)
    regulars: Regulars = field(default_factory=Regulars)
    barred: dict[AgentRef, int] = field(default_factory=dict)
    """Until when."""

    def rank(self, query: Query, now_ms: int) -> list[Option]:
        """Whom the query admits by name, privacy class, price and length, and who has not failed it; best first.

        Who leaves a dispute of ours open is asked nothing; who is barred, only if there is nobody else.
        """
        adverts = [(self.me, advert) for advert in self.local]
        if query.ask.policy.privacy != "local":
            disputed = self.disputes.sellers
            for peer, entry in self.directory.reachable(now_ms):
                if self._admits(query, peer) and peer not in disputed:
                    adverts += [(peer, advert) for advert in versions.adverts(entry.record, self.space)]
        fitting = [
            (peer, advert)
            for peer, advert in sorted(adverts, key=lambda found: (found[0], found[1].name))
            if query.ask.tokens_by(advert.tokeniser) < advert.context_tokens
            and (peer == self.me or self._affordable(query, advert))
            and len(advert.capability) == len(self.space.prototypes)
            and AgentRef(peer, advert.name) not in query.failed
            and query.ask.policy.only in (None, AgentRef(peer, advert.name))
        ]
        fitting = [each for each in fitting if not self._bars(AgentRef(each[0], each[1].name), now_ms)] or fitting
        agents = [(AgentRef(peer, advert.name), advert.capability) for peer, advert in fitting]
        habits = [self._habit(query, peer, advert) for peer, advert in fitting]
        # What goes on, or begins like what was asked before, is remembered where that was.
        begins = not query.ask.goes_on and not any(habit.cached_tokens for habit in habits)
        scores = self.memory.scores(query.relevance, agents, Random(query.seed), now_ms, trials=begins)
        order = list(range(len(fitting)))
        self.rng.shuffle(order)  # equals must not all meet at the peer that everybody lists first
        fitting, scores = [fitting[place] for place in order], [scores[place] for place in order]
        habits = [habits[place] for place in order]
        ranked = choice.options(fitting, scores, habits, query.ask, self.preferences.caution, self.me)
        for option in ranked:
            option.outcomes = self.memory.outcomes(option.agent)
        return ranked

    def spoken(self, peer: PeerId) -> str:
        """The name of the space in which to call `peer`."""
        entry = self.directory.get(peer)
        return versions.spoken(entry.record, self.space) if entry is not None else self.space.name

    def to_call(self, query: Query, bound: Bound, now_ms: int) -> list[tuple[Option, int]]:
        """Whom of those ranked to ask for a quote: the strangers that the game draws, and the best local agent.

        Each with the ms after which a slot there is worth no more than the local agent is now. Who is the only one to
        be asked is, whatever it is worth.
        """
        if query.ask.policy.only is not None:
            return [(option, WAIT_MS_MAX) for option in self._considered(query, bound, now_ms) or query.ranked]
        local, floor = self._local(query, now_ms)
        strangers, least = self._considered(query, bound, now_ms), float(floor)
        if local is None or query.ask.batch:
            # Without a local agent, because what is believed of waits may be wrong and there is no other way to an
            # answer. In a batch, because what one question hears is of use to all that are cleared together with it,
            # and their waits at the local agent are for the clearing to weigh.
            beaten = local.worth_microcredits if local else 0
            strangers, least = [option for option in strangers if option.worth_microcredits > beaten], -inf
        asked = self._drawn(query, strangers, least)
        holder = max(strangers, key=lambda option: option.habit.cached_tokens, default=None)
        if holder is not None and self.is_holder(holder, query.ask) and holder not in asked:
            asked.append(holder)
        called = [(option, choice.patience_ms(option, floor, query.ask)) for option in asked]
        return [*called, *([(local, WAIT_MS_MAX)] if local else [])]

    def to_call_besides(
        self, query: Query, quoted: Microcredits, bound: Bound, now_ms: int
    ) -> list[tuple[Option, int]]:
        """Whom to ask, too, where the best that was quoted is worth `quoted`: as `to_call`, of those not asked yet."""
        if query.ask.policy.only is not None or query.ask.batch:
            return []
        tried = {conversation.option.agent for conversation in query.conversations}
        left = [option for option in self._considered(query, bound, now_ms) if option.agent not in tried]
        return [(o, choice.patience_ms(o, quoted, query.ask)) for o in self._drawn(query, left, float(quoted))]

    def _drawn(self, query: Query, strangers: list[Option], least: float) -> list[Option]:
        """Whom of these the game draws, where `least` can be had without asking."""
        prospects = [option.prospect for option in strangers if option.prospect is not None]
        utilities = [choice.utility(o, prospect, query.ask) for o, prospect in zip(strangers, prospects, strict=True)]
        unseen_s = [prospect.unseen_s for prospect in prospects]
        utilisation = [prospect.utilisation for prospect in prospects]
        delay_cost = query.ask.policy.delay_microcredits_per_s
        for option, chance in zip(strangers, game.chances(utilities, unseen_s, utilisation, delay_cost), strict=True):
            option.chance = float(chance)
        every = bool(query.ask.batch)
        drawn = game.choose(utilities, unseen_s, utilisation, delay_cost, self.rng, least, every=every)
        return [strangers[n] for n in drawn]

    def is_holder(self, option: Option, ask: Ask) -> bool:
        """Whether an agent is believed to hold enough of the prompt in its cache to be asked for that alone."""
        return is_much(option.habit.cached_tokens, option, ask)

    def on_holds(self, agent: AgentRef, query: Query, cached_tokens: int) -> None:
        """An agent says how much of the prompt it has in its cache."""
        computed = self._computed_tokens(agent)
        tokeniser = next((option.advert.tokeniser for option in query.ranked if option.agent == agent), b"")
        self.recall.told(agent, query.links, cached_tokens, query.ask.tokens_by(tokeniser), computed)

    def on_quoted(self, query: Query, conversation: Conversation, quote: Quote, now_ms: int, *, holding: bool) -> None:
        """Learn of the load and the cache of who quotes, and what an answer there would cost others.

        `holding` says whether another of our queries has a slot there already. What is cleared together is not charged
        for that cost: an owner's own queries are not others to each other.
        """
        option, ask = conversation.option, query.ask
        prospect = option.prospect
        if option.agent.peer != self.me:
            self.loads.quoted(option.agent, quote, option.advert.slots, now_ms, holding=holding)
            usual = self.loads.prospect(option.agent, option.advert.slots, (), now_ms)
            tokens = ask.tokens_by(option.advert.tokeniser)
            computed = self._computed_tokens(option.agent)
            self.recall.told(option.agent, query.links, quote.cached_tokens, tokens, computed)
            later_ms = prospect.later_ms if prospect is not None else 0
            prospect = replace(self._prospect(usual, max(0, tokens - quote.cached_tokens)), later_ms=later_ms)
        if prospect is not None and not ask.batch:
            toll = choice.toll(prospect, quote.slot_price_microcredits, ask)
            later = ask.policy.delay_microcredits(prospect.later_ms)
            conversation.toll_microcredits = toll + later + self._evicted(option, prospect, quote, ask)

    def on_awarded(self, query: Query, conversation: Conversation, now_ms: int) -> None:
        """An agent is to answer: what comes meanwhile and begins alike finds the prompt in its cache."""
        agent, tokens = conversation.option.agent, conversation.call.prompt_tokens
        self.recall.told(agent, query.links, tokens, tokens, self._computed_tokens(agent))
        self.regulars.awarded(agent, query.links, now_ms)

    def on_served(self, query: Query, conversation: Conversation, usage: Usage, now_ms: int) -> None:
        """An agent has answered: its cache has the prompt now, and it has kept to its quote or not.

        What a hub granted was not quoted; what is asked in batches waits less than each of them is quoted.
        """
        agent, quote = conversation.option.agent, conversation.quote
        self.recall.served(agent, query.links, usage, self._computed_tokens(agent))
        if query.first_ms and conversation.was_promised_a_slot and agent.peer != self.me:
            usual = self.loads.prospect(agent, conversation.option.advert.slots, (), now_ms)
            first_ms = query.first_ms - conversation.awarded_ms
            self.speeds.learn(usage.prompt_tokens - usage.cached_tokens, first_ms, usual.answer_ms)
        if quote is not None and conversation.epoch is None and not query.ask.batch:
            quoted_ms = quote.ttft_ms + quote.tpot_us * max(0, usage.output_tokens - 1) // 1_000
            late_ms = now_ms - conversation.awarded_ms - quoted_ms
            self.promises.learn(agent, late_ms, usage.output_tokens, query.ask.sampling.max_tokens)

    def on_failed(self, query: Query, agent: AgentRef) -> None:
        """An agent was to answer and has not: nothing of the prompt is believed to be in its cache."""
        self.recall.told(agent, query.links, 0, query.ask.prompt_tokens, self._computed_tokens(agent))

    def on_full(self, option: Option, now_ms: int) -> None:
        """An agent has refused for want of room."""
        slots = option.advert.slots
        self.loads.full(option.agent, QUEUE_PER_SLOT_MAX * slots, slots, now_ms)

    def bar(self, agent: AgentRef, now_ms: int) -> None:
        """`agent` was awarded and gave up, which may be nobody's fault, but may happen again."""
        self.barred.pop(agent, None)
        self.barred[agent] = now_ms + BARRED_MS
        bound(self.barred, BARRED_MAX)

    def best_left(self, query: Query, bound: Bound, now_ms: int) -> Microcredits | None:
        """The utility of the best stranger that was ranked and can still be called or quote; None if there is none."""
        tried = {c.option.agent for c in query.conversations if c.state != "called"} | query.failed
        there = {peer for peer, _ in self.directory.reachable(now_ms)}
        left = [
            option
            for option in self._considered(query, bound, now_ms)
            if option.agent.peer in there and option.agent not in tried and not self._bars(option.agent, now_ms)
        ]
        return max((choice.utility(o, o.prospect, query.ask) for o in left if o.prospect), default=None)

    def _considered(self, query: Query, bound: Bound, now_ms: int) -> list[Option]:
        """The strangers among whom is drawn, with what is believed of them now."""
        strangers = [option for option in query.ranked if option.agent.peer != self.me]
        if len(strangers) > CANDIDATES:
            least = strangers[0].worth_microcredits - int(ALIKE * query.ask.policy.value_microcredits)
            alike = sum(option.worth_microcredits >= least for option in strangers)
            drawn = {*Random(query.seed).sample(range(max(alike, CANDIDATES)), CANDIDATES)}
            drawn |= {place for place, option in enumerate(strangers) if self.is_holder(option, query.ask)}
            strangers = [strangers[place] for place in sorted(drawn)]
        for option in strangers:
            entry = self.directory.get(option.agent.peer)
            load = entry.load(option.agent.name) if entry is not None else None
            slots = option.advert.slots
            if entry is not None and load is not None:
                self.loads.heard(option.agent, load, slots, entry.heartbeat.issued_ms, now_ms)
            usual = self.loads.prospect(option.agent, slots, bound.get(option.agent, ()), now_ms)
            uncached = query.ask.tokens_by(option.advert.tokeniser) - option.habit.cached_tokens
            dial_ms = 0 if option.agent.peer in self.neighbours else choice.DIAL_MS
            option.prospect = replace(self._prospect(usual, uncached), dial_ms=dial_ms)
        if not query.ask.goes_on:
            _count_what_follows(strangers, self.regulars.answers_per_s(now_ms))
        return strangers

    def _prospect(self, usual: Prospect, uncached_tokens: int) -> Prospect:
        """What a question with so much to compute meets where one of the usual kind meets `usual`.

        It takes as long as that takes. So do slots that it keeps from others; and while its prompt is computed no other
        answer goes on.
        """
        prefill_ms = self.speeds.prefill_ms(uncached_tokens, usual.answer_ms)
        answer_ms = self.speeds.answer_ms(uncached_tokens, usual.answer_ms)
        kept_ms = usual.toll_ms * answer_ms / max(1, usual.answer_ms)
        held_up_ms = round(HELD_UP * usual.inside * prefill_ms)
        return replace(usual, answer_ms=answer_ms, toll_ms=round(kept_ms) + held_up_ms, held_up_ms=held_up_ms)

    def _evicted(self, option: Option, usual: Prospect, quote: Quote, ask: Ask) -> Microcredits:
        """What it costs others to compute again what leaves the agent's cache: the tokens, and the time they take."""
        saved = option.advert.rates.prompt - option.advert.rates.cached
        if saved <= 0:
            return 0
        again_ms = self.speeds.prefill_ms(quote.evicted_microcredits // saved, usual.answer_ms)
        return quote.evicted_microcredits + ask.policy.delay_microcredits(again_ms)

    def _local(self, query: Query, now_ms: int) -> tuple[Option | None, Microcredits]:
        """The local agent that is worth most now, and its utility; nothing without one."""
        own = [option for option in query.ranked if option.agent.peer == self.me]
        best, floor = None, 0
        for option in own:
            ask, slots = query.ask, option.advert.slots
            tokens = ask.tokens_by(option.advert.tokeniser)
            task = Task(tokens, option.habit.cached_tokens, ask.sampling.max_tokens)
            now = self.own.own_load(option.agent.name, task, now_ms)
            self.loads.heard(option.agent, now.load, slots, now_ms, now_ms)
            seen = self.loads.prospect(option.agent, slots, (), now_ms)
            option.prospect = Prospect(now.wait_ms, now.answer_ms, seen.toll_ms)
            utility = choice.utility(option, option.prospect, query.ask)
            if best is None or utility > floor:
                best, floor = option, utility
        return best, floor

    def _habit(self, query: Query, peer: PeerId, advert: AgentAdvert) -> Habit:
        agent, size, ask = AgentRef(peer, advert.name), advert.cache_tokens, query.ask
        computed = self._computed_tokens(agent)
        tokens = ask.tokens_by(advert.tokeniser)
        cached = self.recall.expected_tokens(agent, query.links, size, computed, tokens)
        output = self.promises.output_tokens(agent, ask.sampling.max_tokens)
        return Habit(cached, output, self.promises.late_ms(agent))

    def _computed_tokens(self, agent: AgentRef) -> int:
        """The agent's counter of tokens that went into its cache, as last heard."""
        if agent.peer == self.me:
            there = any(advert.name == agent.name for advert in self.local)
            return self.own.load(agent.name).computed_tokens if there else 0
        entry = self.directory.get(agent.peer)
        load = entry.load(agent.name) if entry is not None else None
        return load.computed_tokens if load is not None else 0

    def _bars(self, agent: AgentRef, now_ms: int) -> bool:
        return self.barred.get(agent, now_ms) > now_ms

    def _affordable(self, query: Query, advert: AgentAdvert) -> bool:
        """Whether the most that the agent's signed rate card allows it to charge is within the user's limit."""
        most = price_cap(advert.rates, query.ask.tokens_called(advert), query.ask.sampling.max_tokens, 0)
        return most <= query.ask.policy.price_max_microcredits

    def _admits(self, query: Query, peer: PeerId) -> bool:
        return query.ask.policy.privacy == "any" or peer in self.preferences.trusted


def is_much(cached_tokens: int, option: Option, ask: Ask) -> bool:
    """Whether so many tokens are enough of the prompt, as an agent counts it, to go there for that alone."""
    return cached_tokens > HELD_SHARE * ask.tokens_by(option.advert.tokeniser)


def _count_what_follows(options: list[Option], own_per_s: Mapping[AgentRef, float]) -> None:
    """Have options say what it costs a conversation that begins to go on there, among those who usually are.

    And among our own, of which `own_per_s` are to come.
    """
    caching = [(o, o.prospect) for o in options if o.prospect is not None and o.advert.cache_tokens]
    crowded = []
    for option, prospect in caching:
        own = own_per_s.get(option.agent, 0.0) * prospect.answer_ms / 1_000
        inside = prospect.utilisation * option.advert.slots + OWN_SHARE * own
        crowded.append(inside**2 / option.advert.slots)
    least = min(crowded, default=0.0)
    for (option, prospect), usual in zip(caching, crowded, strict=True):
        later_ms = round(FURTHER * (usual - least) * prospect.answer_ms)
        option.prospect = replace(prospect, later_ms=later_ms)


def bound_for(queries: Iterable[Query], now_ms: int) -> Bound:
    """Where one owner's queries go: surely where they were awarded, with equal chances where they have called."""
    found: defaultdict[AgentRef, list[tuple[int, float]]] = defaultdict(list)
    for query in queries:
        under_way = [c for c in query.conversations if c.state in ("called", "quoted", "awarded")]
        awarded = [c for c in under_way if c.state == "awarded"]
        for conversation in awarded or under_way:
            since_ms = conversation.awarded_ms if awarded else now_ms  # whoever quotes does not count its own quote
            found[conversation.option.agent].append((since_ms, 1 / len(awarded or under_way)))
    return found
