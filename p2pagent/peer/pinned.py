"""A question for the one agent that its user names.

Rule: a name changes who is asked, not on what terms. Privacy class, price limit, length and open disputes hold as ever;
so where the named agent does not answer nobody does, and the user is told what stood in its way.
"""

from collections.abc import Iterable

from p2pagent.errors import Exit, LocalError
from p2pagent.peer import versions
from p2pagent.peer.query import Query
from p2pagent.peer.scout import Scout
from p2pagent.types import AgentRef

LISTED_MAX = 8
"""Agents that an error names; `p2pagent peers` shows the rest."""


def find(text: str, known: Iterable[AgentRef]) -> AgentRef:
    """The agent that `text` names as NAME@PEER: all of the peer's id, or as much of its beginning or end as is enough.

    Raises:
        LocalError: none of those known is meant, or several are.
    """
    name, _, peer = text.rpartition("@")
    part = peer.lstrip("….")  # people copy what they are shown, and that is an id's end
    agents = sorted(known)
    there = [agent for agent in agents if agent.peer.startswith(part) or agent.peer.endswith(part)]
    meant = [agent for agent in there if agent.name == name]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise LocalError(f"{text!r} may be {_listed(meant)}", "give more of the peer's id", Exit.NO_AGENT)
    alike = [agent for agent in agents if agent.name == name]
    nearest = alike or there or agents
    hint = f"there is {_listed(nearest)}" if nearest else "`p2pagent peers` shows who is known; nobody is yet"
    raise LocalError(f"no agent {name!r} is known at a peer {peer!r}", hint, Exit.NO_AGENT)


def obstacle(query: Query, scout: Scout, now_ms: int) -> str:
    """Why the agent that a query is for cannot be asked, or not again."""
    agent = query.ask.policy.only
    assert agent is not None
    return f"{agent.short} {_obstacle(agent, query, scout, now_ms)}, and nobody else was to be asked"


def _obstacle(agent: AgentRef, query: Query, scout: Scout, now_ms: int) -> str:
    ended = [c for c in query.conversations if c.state in ("refused", "failed")]
    if ended:
        return f"refused ({ended[-1].reason})" if ended[-1].state == "refused" else ended[-1].reason
    policy, entry = query.ask.policy, scout.directory.get(agent.peer)
    if agent.peer == scout.me:
        adverts = scout.local
    elif policy.privacy == "local":
        return "is another device's, and this question stays on yours"
    elif policy.privacy == "trusted" and agent.peer not in scout.preferences.trusted:
        return "is not of a peer that you trust"
    elif agent.peer in scout.disputes.sellers:
        return "is of a peer that leaves a dispute of yours open"
    elif entry is None or agent.peer not in {peer for peer, _ in scout.directory.reachable(now_ms)}:
        return "cannot be reached now"
    else:
        adverts = versions.adverts(entry.record, scout.space)
    advert = next((advert for advert in adverts if advert.name == agent.name), None)
    if advert is None:
        return "is not offered now"
    tokens = query.ask.tokens_by(advert.tokeniser)
    if tokens >= advert.context_tokens:
        return f"takes no question of {tokens} tokens or more"
    return "may charge more than you allow"


def _listed(agents: list[AgentRef]) -> str:
    named = [agent.short for agent in agents[:LISTED_MAX]]
    more = len(agents) - LISTED_MAX
    return f"{', '.join(named)} and {more} more" if more > 0 else " or ".join(named)
