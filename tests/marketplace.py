"""A buyer among sellers that do what a test tells them, driven through `Peer.handle`."""

from collections.abc import Callable
from hashlib import sha256

from p2pagent.peer.effects import Blame, Effect, Generate, Learned, Remember, SetTimer, Tell
from p2pagent.peer.events import PeerUp, Timer, TimerFired
from p2pagent.peer.messages import Award, Call, Chunk, Release
from p2pagent.peer.wire import WireMessage
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import AgentRef
from tests.scenario import START_MS, make_advert, make_ask
from tests.strangers import ALICE, BOB, CAROL, make_delta, make_final, make_peer, make_quote, receive, sent

SUBJECT = 1
EXPERTS = (ALICE, BOB, CAROL)


class Market:
    """`ME`, poor at `SUBJECT`, among experts on it; `effects` are those of the latest event."""

    def __init__(self, space: Space, experts: tuple[SimKeys, ...] = EXPERTS, *, local: bool = True) -> None:
        self.space = space
        self.peer = make_peer(space, *([make_advert("agent", {0: 0.95})] if local else []))
        self.effects: list[Effect] = []
        self.told: list[object] = []
        self.due: list[tuple[int, Timer]] = []
        self.calls: dict[SimKeys, Call] = {}
        for rank, keys in enumerate(experts):
            self.get(keys, make_delta(keys, space, make_advert("agent", {SUBJECT: 0.95 - rank / 10})))

    def handle(self, event: object, after_ms: int = 0) -> list[Effect]:
        """Something happens, so long after the start."""
        self.effects = self.peer.handle(event, START_MS + after_ms)  # type: ignore[arg-type]
        self._notice()
        return self.effects

    def get(self, sender: SimKeys, message: WireMessage, after_ms: int = 0) -> list[Effect]:
        """A message comes."""
        self.effects = receive(self.peer, sender, message, after_ms)
        self._notice()
        return self.effects

    def ask(self, **changes: object) -> None:
        """The user asks about `SUBJECT`, with these wishes."""
        self.handle(make_ask("q", SUBJECT, **changes))

    def quote(self, *sellers: SimKeys, **changes: object) -> None:
        """These answer their calls."""
        for keys in sellers:
            self.get(keys, make_quote(keys, self.calls[keys], **changes))

    def pass_time(self, after_ms: int) -> None:
        """The progress timers that are due by then go off."""
        for at_ms, timer in self.due[:]:
            if timer.kind == "progress" and at_ms <= START_MS + after_ms:
                self.handle(TimerFired(timer), after_ms)

    def fire(self, kind: str, after_ms: int) -> list[Effect]:
        """The latest timer of this kind goes off."""
        return self.handle(TimerFired([timer for _, timer in self.due if timer.kind == kind][-1]), after_ms)

    @property
    def awarded(self) -> list[SimKeys]:
        """Who has just been awarded."""
        return [k for k in EXPERTS if any(isinstance(m, Award) for m in sent(self.effects, k))]

    @property
    def released(self) -> list[SimKeys]:
        """Who has just been let go."""
        return [k for k in EXPERTS if any(isinstance(m, Release) for m in sent(self.effects, k))]

    @property
    def blamed(self) -> list[str]:
        """Who has just been blamed."""
        return [e.peer for e in self.effects if isinstance(e, Blame)]

    def _notice(self) -> None:
        self.due += [(e.at_ms, e.timer) for e in self.effects if isinstance(e, SetTimer)]
        self.told += [e.update for e in self.effects if isinstance(e, Tell)]
        for keys in EXPERTS:
            for message in sent(self.effects, keys):
                if isinstance(message, Call):
                    self.calls[keys] = message


def local_job(effects: list[Effect]) -> bytes:
    """The job that the own agent is given."""
    (job,) = [e.job for e in effects if isinstance(e, Generate)]
    return job


def connect(market: Market, after_ms: int = 0) -> None:
    """Connections to all experts stand."""
    for keys in EXPERTS:
        market.handle(PeerUp(keys.peer), after_ms)


def judged(market: Market) -> list[int]:
    """How many answers of each expert count."""
    return [market.peer.memory.outcomes(AgentRef(keys.peer, "agent")) for keys in EXPERTS]


def answer(market: Market, seller: SimKeys, text: str = "abc", **changes: object) -> list[Effect]:
    """The whole answer and its receipt, changed so."""
    call = market.calls[seller]
    market.get(seller, Chunk(call.conversation, 0, text))
    return market.get(seller, make_final(seller, call, text, **changes))


FAULTS: list[tuple[str, Callable[[Market], list[Effect]]]] = [
    ("out of order", lambda m: [m.get(ALICE, Chunk(m.calls[ALICE].conversation, 0, "x")) for _ in range(2)][-1]),
    ("receipt at another price", lambda m: answer(m, ALICE, price_microcredits=1)),
    ("receipt for another answer", lambda m: answer(m, ALICE, answer_sha256=sha256(b"other").digest())),
    ("receipt for a longer prompt", lambda m: answer(m, ALICE, prompt_tokens=1_000)),
    ("receipt for a longer answer", lambda m: answer(m, ALICE, output_tokens=65)),
    ("receipt for another buyer", lambda m: answer(m, ALICE, buyer=BOB.peer)),
    ("receipt signed by another", lambda m: m.get(ALICE, make_final(BOB, m.calls[ALICE], ""))),
]


def learned(effects: list[Effect]) -> list[AgentRef]:
    """Of whom something was learned."""
    return [e.agent for e in effects if isinstance(e, Learned)]


def remembered(effects: list[Effect]) -> list[Remember]:
    """What is to be kept to be rated."""
    return [e for e in effects if isinstance(e, Remember)]
