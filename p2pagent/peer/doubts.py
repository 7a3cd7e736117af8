"""Accusations: whether it is true that somebody is gone, and what to say if it is we.

Rule 1: nobody stops calling a peer because it is accused; some see for themselves, all tell it, so that it can answer.
Rule 2: what doubts an older word of the accused than its last is stale, or a lie, and costs us nothing.
"""

from random import Random

from p2pagent.keys import Keys
from p2pagent.peer.allowance import Allowance
from p2pagent.peer.directory import Directory
from p2pagent.peer.effects import Effect
from p2pagent.peer.gossip_messages import Proof, SignedSuspicion, Suspicion
from p2pagent.peer.readers import suspicion_in
from p2pagent.peer.talk import Talk
from p2pagent.peer.wire import check_signature
from p2pagent.types import PeerId

ACCUSE_BURST, ACCUSE_REFILL_MS = 16, 5_000
"""Accusations taken from one accuser: a cell that loses a fifth of its members a minute has fewer."""

DOUBT_BURST, DOUBT_REFILL_MS = 4, 60_000
"""Accusations of ourselves taken from one peer: each answer to one is told to the whole cell."""

CONFIRMERS = 3
"""Members, on average, who at once see for themselves when somebody is accused."""

Founded = list[tuple[Suspicion, SignedSuspicion]]


class Doubts:
    """What is done about accusations."""

    def __init__(self, keys: Keys, directory: Directory, talk: Talk, rng: Random) -> None:
        self._keys = keys
        self._directory = directory
        self._talk = talk
        self._rng = rng
        self._doubted_ms = 0
        self._accusations = Allowance(ACCUSE_BURST, ACCUSE_REFILL_MS)
        self._own = Allowance(DOUBT_BURST, DOUBT_REFILL_MS)

    def founded(
        self, source: PeerId, suspicions: tuple[SignedSuspicion, ...], proofs: dict[PeerId, Proof], now_ms: int
    ) -> Founded:
        """Those that doubt what we, or a member, said last, be it by one of these `proofs` in the same message.

        Raises:
            RemoteError: one is malformed or badly signed.
        """
        founded = []
        for signed in suspicions:
            suspicion = suspicion_in(signed.body)
            if self._concerns_us(source, suspicion, proofs, now_ms):
                accuser = PeerId(suspicion.accuser)
                check_signature(suspicion, accuser, signed.body, signed.signature, self._keys)
                founded.append((suspicion, signed))
        return founded

    def take(self, source: PeerId, founded: Founded, now_ms: int) -> list[Effect]:
        """Act on what `source` told."""
        effects: list[Effect] = []
        for suspicion, signed in founded:
            if suspicion.accused == self._keys.peer:
                effects += self._refute(source, suspicion.proof, now_ms)
            else:
                effects += self._suspect(suspicion, signed, now_ms)
        return effects

    def _concerns_us(self, source: PeerId, suspicion: Suspicion, proofs: dict[PeerId, Proof], now_ms: int) -> bool:
        accuser, accused = PeerId(suspicion.accuser), PeerId(suspicion.accused)
        if accuser == self._keys.peer:
            return False
        if accused == self._keys.peer:
            return suspicion.proof == self._talk.herald.proof and self._own.take(source, now_ms)
        entry = self._directory.members.get(accused)
        if entry is None or suspicion.proof != proofs.get(accused, entry.proof):
            return False
        if self._directory.get(accuser) is None or self._directory.shuns(accuser, now_ms):
            return False
        return not self._talk.suspicions.heard(accused, suspicion.proof, accuser)

    def _suspect(self, suspicion: Suspicion, signed: SignedSuspicion, now_ms: int) -> list[Effect]:
        accuser, accused = PeerId(suspicion.accuser), PeerId(suspicion.accused)
        if accused not in self._directory.members or not self._accusations.take(accuser, now_ms):
            return []
        if not self._talk.suspicions.accuse(accused, suspicion.proof, accuser, now_ms):
            return []
        members = len(self._directory.members)
        self._talk.rumours.tell_suspicion(accused, accuser, signed, members)
        look = not self._talk.detector.pings_of(accused) and self._rng.random() * members < CONFIRMERS
        return self._talk.probe(accused, now_ms) if look else []

    def _refute(self, source: PeerId, proof: Proof, now_ms: int) -> list[Effect]:
        """We are thought to be gone: say that we are not, and wonder whether it is our fault."""
        if not self._talk.herald.refute(proof, now_ms):
            return []
        if now_ms - self._doubted_ms >= self._talk.detector.tick_ms:  # a liar slows us down by one step at most
            self._doubted_ms = now_ms
            self._talk.detector.worse()
        return [self._talk.ping(source)]
