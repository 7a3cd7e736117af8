"""Failure detection: whom to ping, whom to suspect, when a suspect is gone, and how far to trust ourselves in that.

SWIM (Das, Gupta and Motivala 2002, doi:10.1109/DSN.2002.1028914): every peer pings one member each period, in a
shuffled round; without an answer it has others ping it, and only then suspects. A suspect has time to refute it.
Lifeguard (Dadgar, Phillips and Currey 2017, arXiv:1707.00788): a peer whose own pings fail more than others' do slows
down and waits longer (local health), and a suspicion lasts the shorter the more peers share it. Constants are those of
HashiCorp's memberlist for a local network, its period made longer.
"""

from math import ceil, log, log10
from random import Random

from msgspec import Struct, field

from p2pagent.bounded import bound
from p2pagent.peer.gossip_messages import Proof
from p2pagent.types import PeerId

TICK_MS = 2_000
"""One member is pinged in each."""

ACK_MS = 500
"""A ping is answered by then, or others are asked."""

RELAYS = 3
HEALTH_MAX = 8
SUSPICION_MULTIPLE = 4
SUSPICION_MAX_MULTIPLE = 6
CONFIRMATIONS = 2
"""Further accusers after which a suspicion lasts no longer than the least."""

PROBES_MAX = 64
ACCUSERS_MAX = 16
NUMBERS = 1 << 16


class Probe(Struct):
    """A ping whose answer is awaited; `helpers` were asked to ping for us, and those in `tried` did so in vain."""

    target: PeerId
    ends_ms: int
    helpers: frozenset[PeerId] = frozenset()
    tried: set[PeerId] = field(default_factory=set)
    vouched: bool = False
    """A helper had an answer: the target lives, and yet it does not answer us."""


class Detector:
    """Pings under way, and how well we ourselves seem to be connected (`health`, 0 is best)."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._round: list[PeerId] = []
        self._probes: dict[int, Probe] = {}
        self._number = rng.randrange(NUMBERS)
        self.health = 0

    @property
    def tick_ms(self) -> int:
        """Until the next ping."""
        return TICK_MS * (1 + self.health)

    @property
    def ack_ms(self) -> int:
        """How long an answer is waited for before others are asked."""
        return ACK_MS * (1 + self.health)

    def next_target(self, members: list[PeerId]) -> PeerId | None:
        """The member whose turn it is; each comes once in a round, rounds are shuffled, newcomers wait for the next.

        So nobody waits for longer than two rounds, however many newcomers somebody invents.
        """
        present = set(members)
        while present:
            if not self._round:
                self._round = self._rng.sample(sorted(present), len(present))
            target = self._round.pop()
            if target in present:
                return target
        return None

    def number(self) -> int:
        """A number for a ping that has not been used for long."""
        self._number = (self._number + 1) % NUMBERS
        return self._number

    def begin(self, target: PeerId, now_ms: int) -> int:
        """Await an answer of `target`; the number of its ping."""
        number = self.number()
        self._probes[number] = Probe(target, now_ms + self.tick_ms)
        bound(self._probes, PROBES_MAX)
        return number

    def pings_of(self, target: PeerId) -> list[int]:
        """Numbers of the pings that `target` has not answered."""
        return [number for number, probe in self._probes.items() if probe.target == target]

    def forget(self, target: PeerId) -> None:
        """No answer of `target` is awaited any more."""
        for number in self.pings_of(target):
            del self._probes[number]

    def reached(self, target: PeerId) -> None:
        """A new connection to `target` stands: an answer to what was asked, even if that was lost with an old one."""
        for number in self.pings_of(target):
            self.on_ack(number, target)

    def unanswered(self, number: int) -> Probe | None:
        """The ping of this number if it is still unanswered."""
        return self._probes.get(number)

    def helpers(self, number: int, members: list[PeerId]) -> list[PeerId]:
        """Members to ask to ping the target of an unanswered ping; nobody if they were asked before."""
        probe = self._probes.get(number)
        if probe is None or probe.helpers:
            return []
        others = sorted(set(members) - {probe.target})
        chosen = self._rng.sample(others, min(RELAYS, len(others)))
        probe.helpers = frozenset(chosen)
        return chosen

    def on_ack(self, number: int, source: PeerId) -> None:
        """An answer: of the target itself, or of a helper that had one. Nobody else can answer for it."""
        probe = self._probes.get(number)
        if probe is None:
            return
        if source == probe.target:
            del self._probes[number]
            self.health = max(0, self.health - 1)
        elif source in probe.helpers:
            probe.vouched = True

    def on_nack(self, number: int, source: PeerId) -> None:
        """A helper has got no answer either, but hears us."""
        probe = self._probes.get(number)
        if probe is not None and source in probe.helpers:
            probe.tried.add(source)

    def overdue(self, now_ms: int) -> list[Probe]:
        """Pings that their targets left unanswered, given up now.

        Where no helper had an answer either, those of whom we heard nothing at all are our own fault.
        """
        late = [number for number, probe in self._probes.items() if probe.ends_ms <= now_ms]
        given_up = [self._probes.pop(number) for number in late]
        for probe in given_up:
            if not probe.vouched:
                self.worse(len(probe.helpers - probe.tried) if probe.helpers else 1)
        return given_up

    def worse(self, by: int = 1) -> None:
        """Something went wrong that may be our fault."""
        self.health = min(HEALTH_MAX, self.health + by)


class Case(Struct):
    """A suspicion as it stands: what the accused had to say for itself, since when, and who says so."""

    proof: Proof
    since_ms: int
    accusers: set[PeerId] = field(default_factory=set)

    def ends_ms(self, members: int) -> int:
        """When the accused is gone if it does not refute; `members` could have shared it (Lifeguard, section IV-B)."""
        least_ms = SUSPICION_MULTIPLE * max(1.0, log10(max(1, members))) * TICK_MS
        wanted = min(CONFIRMATIONS, members - 2)
        if wanted < 1:
            return self.since_ms + ceil(least_ms)
        share = log(len(self.accusers)) / log(wanted + 1)
        most_ms = SUSPICION_MAX_MULTIPLE * least_ms
        return self.since_ms + ceil(max(least_ms, most_ms - share * (most_ms - least_ms)))


class Suspicions:
    """All suspicions that have been neither refuted nor confirmed."""

    def __init__(self) -> None:
        self._cases: dict[PeerId, Case] = {}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._cases

    def heard(self, accused: PeerId, proof: Proof, accuser: PeerId) -> bool:
        """Whether this accusation, or one against something later, is known."""
        case = self._cases.get(accused)
        return case is not None and (case.proof > proof or (case.proof == proof and accuser in case.accusers))

    def accuse(self, accused: PeerId, proof: Proof, accuser: PeerId, now_ms: int) -> bool:
        """Take in an accusation against what `accused` last said; whether it is news."""
        case = self._cases.get(accused)
        if case is None or case.proof < proof:
            case = self._cases[accused] = Case(proof, now_ms)
        if accuser in case.accusers or case.proof > proof or len(case.accusers) >= ACCUSERS_MAX:
            return False
        case.accusers.add(accuser)
        return True

    def refute(self, accused: PeerId, proof: Proof) -> bool:
        """`accused` has spoken: a later proof ends the case; whether there was one."""
        case = self._cases.get(accused)
        if case is None or proof <= case.proof:
            return False
        del self._cases[accused]
        return True

    def drop(self, accused: PeerId) -> None:
        """We have heard it ourselves, or it is gone."""
        self._cases.pop(accused, None)

    def confirmed(self, members: int, now_ms: int) -> list[PeerId]:
        """Those whose time to refute is over."""
        return [peer for peer, case in self._cases.items() if case.ends_ms(members) <= now_ms]
