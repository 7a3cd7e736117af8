"""Conversations of many owners, few of whom have most: each about documents of its owner's, which nobody else has.

As in `conversations`, of which this is the trace for networks: who goes on quickly and who slowly, how a document's
conversations gather, and how prompts grow is the same. Texts are for simulated engines, four characters to a token.
"""

from hashlib import sha256
from random import Random

from msgspec import Struct

from p2pagent.sim.conversations import Shape, Topic, Turn, document_of, turns_of
from p2pagent.sim.population import subject_of
from p2pagent.sim.prefixes import CHARACTERS_PER_TOKEN
from p2pagent.types import ChatMessage

QUESTION = "00 "
"""How every question begins: all are on one subject of the simulated space."""

assert subject_of(QUESTION) == 0


class Crowd(Struct, frozen=True):
    """Who talks how much.

    Attributes:
        owners: who have conversations.
        conversations: of all of them.
        skew: exponent of Zipf's law over the owners' shares; each has at least one conversation.
        per_document: conversations for which an owner has one more document.
        lasting: how long conversations keep beginning, in mean pauses; those at a slow pace begin in time to end then.
        each: what a conversation is like; how many there are is not taken from it.
    """

    owners: int
    conversations: int
    skew: float = 0.8
    per_document: int = 5
    lasting: float = 0.0
    each: Shape = Shape()


def topics(crowd: Crowd) -> list[Topic]:
    """Of every conversation."""
    weights = [(rank + 1) ** -crowd.skew for rank in range(crowd.owners)]
    left = crowd.conversations - crowd.owners
    bounds = [round(left * sum(weights[: owner + 1]) / sum(weights)) for owner in range(crowd.owners)]
    found: list[Topic] = []
    documents = 0
    for owner, (before, after) in enumerate(zip([0, *bounds], bounds, strict=False)):
        count = 1 + after - before
        own = Shape(
            conversations=count, documents=max(1, count // crowd.per_document), popularity=crowd.each.popularity
        )
        found += [Topic(owner, documents + document_of(own, conversation)) for conversation in range(count)]
        documents += own.documents
    return found


def draw_crowd(crowd: Crowd, block_tokens: int, rng: Random) -> tuple[Turn, ...]:
    """All turns, those of one conversation in a row; see `conversations.draw`."""
    planned = topics(crowd)
    return turns_of(crowd.each, planned, planned[-1].document + 1, crowd.lasting, block_tokens, rng)


def prompt(crowd: Crowd, topic: Topic, conversation: int, number: int) -> tuple[ChatMessage, ...]:
    """The prompt of a turn, of exactly as many tokens as `draw_crowd` says for engines of `CHARACTERS_PER_TOKEN`."""
    each = crowd.each
    turns = [
        ChatMessage("system", _text(f"document {topic.document}", each.document_tokens)),
        ChatMessage("user", QUESTION + _text(f"first {conversation}", each.first_tokens)[len(QUESTION) :]),
    ]
    for said in range(number):
        question = QUESTION + _text(f"question {conversation} {said}", each.turn_tokens - each.reply_tokens)
        turns.append(ChatMessage("assistant", _text(f"reply {conversation} {said}", each.reply_tokens)))
        turns.append(ChatMessage("user", question[: -len(QUESTION)]))
    return tuple(turns)


def _text(name: str, tokens: int) -> str:
    digest = sha256(name.encode()).hexdigest()
    return (digest * (CHARACTERS_PER_TOKEN * tokens // len(digest) + 1))[: CHARACTERS_PER_TOKEN * tokens]
