"""One member of a cell, its clock, and what it is heard to say."""

from p2pagent.peer.detector import TICK_MS
from p2pagent.peer.effects import Send
from p2pagent.peer.events import Timer, TimerFired
from p2pagent.peer.gossip_messages import Ack, Delta, Heartbeat, News, Ping, Pull, Suspicion
from p2pagent.peer.wire import parsed
from p2pagent.sim.keys import SimKeys
from tests.members import make_beat, make_known, make_record, news, sign_beat
from tests.scenario import START_MS, make_advert
from tests.strangers import receive, sent

DAVE = SimKeys(4)
NOTHING = News((), ())


def introduce(peer, *everybody, after_ms=0, **record):
    """Let these make themselves known."""
    for keys in everybody:
        described = make_record(keys, make_advert("agent", {1: 0.9}), space=peer.seller._space.name, **record)
        receive(peer, keys, Delta((make_known(keys, described),)), after_ms)


def fire(peer, kind, after_ms, mark=0):
    return peer.handle(TimerFired(Timer(kind, mark=mark)), START_MS + after_ms)


def tick(peer, after_ms):
    return fire(peer, "tick", after_ms)


def run_quietly(peer, after_ms, until_ms):
    """Ticks in which nobody answers."""
    effects = []
    for ms in range(after_ms, until_ms, TICK_MS):
        effects += tick(peer, ms)
    return effects


def only(messages, kind):
    return [message for message in messages if isinstance(message, kind)]


def pings(effects):
    """The number of the ping to each peer."""
    return {e.peer: e.message.number for e in effects if isinstance(e, Send) and isinstance(e.message, Ping)}


def own_beat(effects):
    """What we say of ourselves, first in any message."""
    message = next(m for m in sent(effects) if isinstance(m, Ping | Ack))
    return parsed(message.news.heartbeats[0].body, Heartbeat)


def told_suspicions(message):
    return [parsed(signed.body, Suspicion) for signed in message.news.suspicions]


def known_to(peer):
    return {other for other, _ in peer.directory.entries()}


def reachable(peer, after_ms=0):
    return {other for other, _ in peer.directory.reachable(START_MS + after_ms)}


def tell(peer, source, *others, after_ms=0, **beat):
    """Let `source` speak of others, and send their records when it is asked for them; how many were asked for."""
    beats = [sign_beat(keys, make_beat(keys, issued_ms=START_MS + after_ms, **beat)) for keys in others]
    by_peer, asked = {keys.peer: keys for keys in others}, 0
    for at in range(0, len(beats), 31):
        effects = receive(peer, source, Ping(1, news(*beats[at : at + 31])), after_ms)
        for pull in only(sent(effects, source), Pull):
            asked += len(pull.peers)
            for wanted in pull.peers:
                record = make_record(by_peer[wanted], make_advert("agent", {1: 0.9}), space=peer.seller._space.name)
                known = make_known(by_peer[wanted], record, issued_ms=START_MS + after_ms)
                receive(peer, source, Delta((known,)), after_ms)
    return asked
