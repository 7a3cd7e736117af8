"""Two versions of the prototypes beside each other: how a peer of the one reads and calls a peer of the other.

Prototypes drift as questions change, and devices do not take up a new version on the same day. For one epoch, from one
release to the next, whoever has the new version says in its record what its agents claim in both; whoever reads a
record of the old version alone takes each new prototype for the nearest old one. Embeddings are the same in both.
"""

from msgspec import structs

from p2pagent.peer.gossip_messages import AgentAdvert, Record
from p2pagent.routing.prototypes import Space


def adverts(record: Record, space: Space) -> tuple[AgentAdvert, ...]:
    """A record's agents with `capability` per prototype of `space`; none of one that has no version in common."""
    if record.space == space.name:
        return record.agents
    if record.earlier == space.name:
        return tuple(structs.replace(advert, capability=advert.earlier) for advert in record.agents)
    if not _is_of_earlier(record, space):
        return ()
    assert space.earlier is not None
    size = len(space.earlier.prototypes)
    return tuple(
        structs.replace(advert, capability=bytes(advert.capability[place] for place in space.in_earlier))
        for advert in record.agents
        if len(advert.capability) == size
    )


def spoken(record: Record, space: Space) -> str:
    """The name of the space in which to call whoever made this record."""
    return record.space if _is_of_earlier(record, space) else space.name


def _is_of_earlier(record: Record, space: Space) -> bool:
    return space.earlier is not None and record.space == space.earlier.name
