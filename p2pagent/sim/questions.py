"""Questions under way in a simulated network: put to their askers' peers, and what becomes of them."""

from functools import partial

from msgspec import Struct

from p2pagent.config import Preferences
from p2pagent.market.receipts import metered
from p2pagent.peer.events import Ask, Policy
from p2pagent.peer.updates import Answered, Unanswered
from p2pagent.sim.demand import OUTPUT_TOKENS, TOKENS_OVER_MEAN_MAX
from p2pagent.sim.experts import Experts
from p2pagent.sim.metrics import Tally
from p2pagent.sim.population import Agent, Population, Question
from p2pagent.sim.world import World
from p2pagent.types import ChatMessage, PeerId, Sampling, Usage

MAX_TOKENS = round(TOKENS_OVER_MEAN_MAX * OUTPUT_TOKENS[0])


class Open(Struct, eq=False):
    """A question under way, and who would have been right.

    Attributes:
        right_local: its asker's own agent.
        right_informed: the one that its asker would choose if it saw all who are alive, all of them idle.
        right_claimed: the best by claim.
        right_oracle: the best by true skill.
    """

    asker: PeerId
    question: Question
    asked_ms: int
    right_local: bool
    right_informed: bool
    right_claimed: bool
    right_oracle: bool


class Questions:
    """All questions of a run."""

    def __init__(self, world: World, population: Population, experts: Experts) -> None:
        self._world = world
        self._population = population
        self._experts = experts
        self._open: dict[str, Open] = {}
        self.tally = Tally()

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, question: Question, asker: PeerId, agent: Agent, *, checked: bool) -> None:
        """Let `asker`, whose own agent is `agent`, ask now; if `checked` it finds out whether the answer is right."""
        wishes = Preferences()
        ask = Ask(
            query=question.name,
            turns=(ChatMessage("user", question.text),),
            sampling=Sampling(max_tokens=MAX_TOKENS),
            prompt_tokens=question.prompt_tokens,
            policy=Policy(wishes.value_microcredits, wishes.delay_microcredits_per_s, wishes.price_max_microcredits),
            expect=question.answer if checked else "",
        )
        rivals = (
            agent,
            self._experts.most_useful(
                question.subject, wishes.value_microcredits, partial(self._cost, question, agent, wishes)
            ),
            self._experts.most_promising(question.subject),
            self._experts.most_able(question.subject),
        )
        right = (self._population.right(question.name, question.subject, rival) for rival in rivals)
        self._open[question.name] = Open(asker, question, self._world.now_ms, *right)
        self.tally.asked += 1
        self._world.at(self._world.now_ms, asker, ask)

    def _cost(self, question: Question, asker: Agent, wishes: Preferences, rival: Agent) -> float:
        """What an answer by `rival`, idle, costs the owner of `asker`: time on the way and at work, and the price."""
        price = 0
        if rival is not asker:
            price = metered(rival.rates, Usage(question.prompt_tokens, 0, question.output_tokens))
        return price + wishes.delay_microcredits_per_s * self._population.alone_s(rival, question, asker)

    def abandon(self, asker: PeerId) -> None:
        """`asker` is gone, and nobody waits for its answers."""
        for query in [query for query, open_ in self._open.items() if open_.asker == asker]:
            del self._open[query]
            self.tally.abandoned += 1

    def collect(self) -> None:
        """Take in what users were told."""
        told, self._world.told = self._world.told, []
        for _, _, query, update in told:
            if isinstance(update, Answered | Unanswered) and query in self._open:
                self._end(self._open.pop(query), update)

    def _end(self, ended: Open, update: Answered | Unanswered) -> None:
        tally = self.tally
        tally.right_local += ended.right_local
        tally.right_informed += ended.right_informed
        tally.right_claimed += ended.right_claimed
        tally.right_oracle += ended.right_oracle
        if isinstance(update, Unanswered):
            tally.unanswered += 1
            return
        tally.right.append(update.text.rstrip(".") == ended.question.answer)
        tally.asked_ms.append(ended.asked_ms)
        tally.delegated += update.delegated
        tally.restarts += update.restarts
        tally.latency_ms.append(update.total_ms)
        tally.ttft_ms.append(update.ttft_ms)
        tally.price_microcredits.append(update.price_microcredits)
