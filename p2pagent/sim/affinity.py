"""Conversations of many owners on a network of caches, served by the daemons' own peers.

Nodes host one agent each, all as good, as fast and as dear; owners have devices without agents and put every turn to
their own peer, which calls, hears quotes, awards and pays as it does in a daemon. The run is a closed loop: the next
turn of a conversation is asked a pause after the answer.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from p2pagent.config import Preferences
from p2pagent.peer.effects import Send, Tell
from p2pagent.peer.events import AgentsChanged, Ask, GenerationEnded, Policy
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import Final, RateCard
from p2pagent.peer.peer import Peer
from p2pagent.peer.readers import heartbeat_in, record_in
from p2pagent.peer.updates import Answered, Unanswered
from p2pagent.peer.wire import receipt_id
from p2pagent.routing.prototypes import Space
from p2pagent.sim.conversations import Turn
from p2pagent.sim.crowds import QUESTION, Crowd, prompt, topics
from p2pagent.sim.engine_blocks import BLOCK_TOKENS, BlockModel
from p2pagent.sim.keys import SimKeys
from p2pagent.sim.links import accessed
from p2pagent.sim.population import ACCESS_MS, AGENT, SubjectEmbedder
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN
from p2pagent.sim.world import Handled, World
from p2pagent.types import ChatMessage, PeerId, Sampling

START_MS = 1_800_000_000_000
APART_MS = 10_000
"""In which peers start: who speaks when is not to be the same for all."""

BEFORE = 4
"""Questions that every node has answered to its own owner before: nobody knows what it costs, or it, how fast it is."""

BEFORE_MS = 10_000
"""In which it has."""

HALVING_MS = 8_000
"""In which cells that are too large are halved often enough."""

SETTLE_MS = APART_MS + BEFORE_MS + HALVING_MS + 2_000
"""Before anybody asks whose answers count."""

CONTACTS = 60
"""Connections to nodes that an owner's device has already: most of those that it keeps."""

STEP_MS = 1_000
RATES = RateCard(10, 1, 40)
CLAIM = 230
"""What every agent claims to be right, of 255: only service decides."""

CONTEXT_TOKENS = 8_192
WISHES = Policy(value_microcredits=1_000_000, delay_microcredits_per_s=20_000, price_max_microcredits=1_000_000)
OWN_WISHES = replace(WISHES, privacy="local")
PREFERENCES = Preferences(newcomer_credit_microcredits=10**12)
"""All owners are trusted to pay: how credit grows is not what is measured."""


class Site(Struct, frozen=True):
    """The network: how many nodes, their engine, and a conversation's mean pause."""

    nodes: int
    slots: int
    blocks: int
    prefill_tokens_per_s: float
    step_ms: float
    step_ms_per_answer: float
    pause_ms: float

    @property
    def cache_tokens(self) -> int:
        """Of one node."""
        return self.blocks * BLOCK_TOKENS

    def engine(self, output_tokens: int) -> BlockModel:
        """One node's; it says nothing, at length."""
        return BlockModel(
            answer=lambda _: CHARACTERS_PER_TOKEN * output_tokens * ".",
            slots=self.slots,
            prefill_tokens_per_s=self.prefill_tokens_per_s,
            step_ms=self.step_ms,
            step_ms_per_answer=self.step_ms_per_answer,
            blocks=self.blocks,
        )


class Service(NamedTuple):
    """A turn that was answered: by which node, and when, in ms from the start of the run.

    `cached_tokens` is what the engine found, `billed_tokens` what was charged as cached: no less, for a quote counts.
    """

    turn: Turn
    node: int
    asked_ms: int
    first_ms: int
    ended_ms: int
    cached_tokens: int
    billed_tokens: int
    price_microcredits: int


def access_ms(seed: int, devices: int) -> list[int]:
    """Every device's way into the middle of the network: nodes first, then owners."""
    rng = Random(f"access {seed}")
    return [rng.randint(*ACCESS_MS) for _ in range(devices)]


class Network:
    """One run of a crowd's turns on a site of peers. `run` once.

    `answers` are those of `served` as owners see them, `unanswered` the reasons why there was none.
    """

    def __init__(self, site: Site, crowd: Crowd, turns: Sequence[Turn], seed: int) -> None:
        self._site = site
        self._crowd = crowd
        self._topics = topics(crowd)
        self._after = {(turn.conversation, turn.number - 1): turn for turn in turns}
        self._open: dict[str, tuple[Turn, int]] = {}
        self._found_tokens: dict[str, int] = {}
        self._begin_ms = START_MS + SETTLE_MS
        self._turns = turns
        self.served: list[Service] = []
        self.answers: list[Answered] = []
        self.unanswered: list[str] = []
        devices = site.nodes + crowd.owners
        self._names: list[PeerId] = [SimKeys(index).peer for index in range(devices)]
        self._index = {name: index for index, name in enumerate(self._names)}
        link = accessed(dict(zip(self._names, access_ms(seed, devices), strict=True)))
        self.world = World(link, START_MS, self._observe)
        embedder = SubjectEmbedder()
        space, self._rng = Space(embedder, embedder.vectors[:1]), Random(f"affinity {seed}")
        for index, name in enumerate(self._names):
            peer = Peer(SimKeys(index), space, "sim", PREFERENCES, Random(f"peer {seed} {index}"), START_MS)
            hosts = index < site.nodes
            self.world.add(name, peer, {AGENT: site.engine(crowd.each.output_tokens)} if hosts else {})
            adverts = (self._advert(),) if hosts else ()
            address = f"/ip4/10.0.{index >> 8}.{index & 255}/tcp/4101"
            start_ms = START_MS + self._rng.randrange(APART_MS)
            self.world.at(start_ms, name, AgentsChanged(adverts, (address,)))
            for number in range(BEFORE if hosts else 0):
                self.world.at(start_ms + number * BEFORE_MS // BEFORE, name, self._before(number))

    def run(self) -> list[Service]:
        """Let all be asked and answered."""
        self._settle()
        for turn in self._turns:
            if turn.number == 0:
                self._ask(turn, self._begin_ms + round(self._site.pause_ms * turn.pause))
        while self._open:
            self.world.run(self.world.now_ms + STEP_MS)
            self.world.told.clear()
        return self.served

    def _settle(self) -> None:
        """Let everybody know whom it would know by gossip in the end, and owners be connected to some of the nodes.

        All have spoken to all; then each follows the part of the network that is its own, and forgets the others. To
        let them meet one by one would cost more time than all that is measured.
        """
        self.world.run(START_MS + APART_MS + BEFORE_MS)
        memberships = [self._peer(name).membership for name in self._names]
        for membership in memberships:
            membership.herald.speak(self.world.now_ms)
        known = [each for each in (membership.herald.known() for membership in memberships) if each is not None]
        read = [(record_in(each.record.body), heartbeat_in(each.heartbeat.body), each) for each in known]
        for membership in memberships:
            directory = membership.directory
            for record, heartbeat, signed in read:
                name = PeerId(record.peer)
                paths = membership.cells.paths(name, record.agents)
                directory.learn(record, signed.record, heartbeat, signed.heartbeat, paths)
                directory.up(name)
        self.world.run(self.world.now_ms + HALVING_MS)
        for membership in memberships:
            directory = membership.directory
            for name in [name for name, _ in directory.entries() if name not in directory.members]:
                directory.forget(name)
        for name in self._names[self._site.nodes :]:
            hosts = [peer for peer, entry in self._peer(name).directory.entries() if entry.record.agents]
            for host in self._rng.sample(hosts, min(CONTACTS, len(hosts))):
                self.world.connect(name, host)
        self.world.run(self._begin_ms)

    def _before(self, number: int) -> Ask:
        """A question of a node's owner to its own agent, as long as others' are."""
        each = self._crowd.each
        tokens = each.document_tokens + each.first_tokens + each.turns // 2 * each.turn_tokens
        said = (ChatMessage("user", f"{QUESTION}{number} ".ljust(CHARACTERS_PER_TOKEN * tokens, "?")),)
        return Ask(f"own {number}", said, Sampling(max_tokens=each.output_tokens), tokens, OWN_WISHES)

    def _peer(self, name: PeerId) -> Peer:
        node = self.world.node(name)
        assert node is not None
        return node.peer

    def _advert(self) -> AgentAdvert:
        return AgentAdvert(
            AGENT,
            "simulated",
            bytes([CLAIM]),
            RATES,
            CONTEXT_TOKENS,
            self._site.slots,
            cache_tokens=self._site.cache_tokens,
        )

    def _ask(self, turn: Turn, at_ms: int) -> None:
        query = f"{turn.conversation} {turn.number}"
        topic = self._topics[turn.conversation]
        said = prompt(self._crowd, topic, turn.conversation, turn.number)
        ask = Ask(query, said, Sampling(max_tokens=turn.output_tokens), turn.prompt_tokens, WISHES)
        self._open[query] = turn, at_ms
        self.world.at(at_ms, self._names[self._site.nodes + topic.owner], ask)

    def _observe(self, handled: Handled) -> None:
        hosts = self._index[handled.peer] < self._site.nodes
        for effect in handled.effects:
            if hosts and isinstance(handled.event, GenerationEnded):
                if isinstance(effect, Send) and isinstance(effect.message, Final):
                    self._found_tokens[receipt_id(effect.message.receipt).hex()] = handled.event.usage.cached_tokens
            elif not hosts and isinstance(effect, Tell) and isinstance(effect.update, Answered | Unanswered):
                self._ended(effect.query, effect.update, handled.at_ms)

    def _ended(self, query: str, update: Answered | Unanswered, now_ms: int) -> None:
        turn, asked_ms = self._open.pop(query)
        if isinstance(update, Unanswered):
            self.unanswered.append(update.reason)
        else:
            self.answers.append(update)
            self.served.append(
                Service(
                    turn,
                    self._index[update.agent.peer],
                    asked_ms - self._begin_ms,
                    asked_ms + update.ttft_ms - self._begin_ms,
                    now_ms - self._begin_ms,
                    self._found_tokens.pop(update.receipt_id),
                    update.usage.cached_tokens,
                    update.price_microcredits,
                )
            )
        following = self._after.get((turn.conversation, turn.number))
        if following is not None:
            self._ask(following, now_ms + round(self._site.pause_ms * following.pause))
