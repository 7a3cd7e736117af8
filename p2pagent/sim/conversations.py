"""Conversations about shared documents: who asks what when, as chains of cache blocks and as texts.

A conversation opens with one of a few documents, which are long, and every turn repeats all that was said before. What
the assistant said is scripted, so that every router meets the same prompts whatever a model answers. Conversations
differ in pace by Zipf's law: few go on quickly, most slowly; they start at times that spread them over the run.

Lengths are those of a byte-level tokenizer whose template sets one mark before every turn of user and system, one
before an answer, and one after it: that of the shipped experts.
"""

from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate
from random import Random
from string import ascii_lowercase
from typing import NamedTuple

from msgspec import Struct

from p2pagent.types import ChatMessage

MARKS_FIRST = 2
"""Marks between document and answer: one before the question, one before the answer."""

MARKS_TURN = 3
"""Marks that a further turn adds: after the answer given, before the question, before the answer."""

_LETTERS = ascii_lowercase + 6 * " "


class Shape(Struct, frozen=True):
    """What conversations are like; lengths in tokens.

    Attributes:
        documents: how many there are.
        popularity: exponent of Zipf's law over the documents' shares of the conversations; 0: all alike.
        gathering: how much of a conversation's start is its document's time, which all on it have in common; 0 to 1.
        domains: owners whose caches are parted; conversations are dealt out to them in turn.
        first_tokens: of the first question with its marks.
        reply_tokens: of a scripted answer.
        turn_tokens: by how much a prompt grows per turn: answer, next question, marks.
        output_tokens: of an answer as it is decoded.
        pace: exponent of Zipf's law over the conversations' mean pauses; 0: all alike.
    """

    documents: int = 12
    popularity: float = 1.2
    gathering: float = 0.6
    conversations: int = 40
    turns: int = 6
    domains: int = 1
    document_tokens: int = 900
    first_tokens: int = 80
    reply_tokens: int = 50
    turn_tokens: int = 130
    output_tokens: int = 16
    pace: float = 0.8


class Topic(NamedTuple):
    """Whose a conversation is, and on which document of all."""

    owner: int
    document: int


class Turn(NamedTuple):
    """One question, with all that was said before.

    Attributes:
        number: of the turn in its conversation, from 0.
        pause: from the answer before, for the first from the start of the run, in mean pauses of all conversations.
        chain: names of the whole blocks of the prompt, in order. Two prompts have a name in common if and only if they
            are the same up to that block's end.
    """

    conversation: int
    number: int
    domain: int
    pause: float
    prompt_tokens: int
    output_tokens: int
    chain: tuple[int, ...]


def draw(shape: Shape, block_tokens: int, rng: Random) -> tuple[Turn, ...]:
    """All turns, those of one conversation in a row."""
    planned = [
        Topic(conversation % shape.domains, document_of(shape, conversation))
        for conversation in range(shape.conversations)
    ]
    return turns_of(shape, planned, shape.documents, 0.0, block_tokens, rng)


def turns_of(
    shape: Shape, planned: Sequence[Topic], documents: int, lasting: float, block_tokens: int, rng: Random
) -> tuple[Turn, ...]:
    """All turns of the `planned` conversations, those of one in a row.

    Args:
        shape: what each is like.
        planned: what each is about.
        documents: how many there are.
        lasting: how long conversations keep beginning, in mean pauses, beyond what the slow ones need.
        block_tokens: of a cache's block.
        rng: what is drawn is drawn from it.
    """
    times = [rng.random() for _ in range(documents)]
    paces = [float((rank + 1) ** shape.pace) for rank in range(len(planned))]
    rng.shuffle(paces)
    mean = sum(paces) / len(paces)
    turns = []
    for conversation, (topic, pace) in enumerate(zip(planned, paces, strict=True)):
        slack = lasting + (max(paces) - pace) / mean * shape.turns
        start = slack * (shape.gathering * times[topic.document] + (1 - shape.gathering) * rng.random())
        for number in range(shape.turns):
            pause = rng.expovariate(mean / pace)
            prompt_tokens = shape.document_tokens + shape.first_tokens + number * shape.turn_tokens
            names = chain(shape, conversation, topic.document, prompt_tokens // block_tokens, block_tokens)
            wait = pause if number else start + pause
            turns.append(Turn(conversation, number, topic.owner, wait, prompt_tokens, shape.output_tokens, names))
    return tuple(turns)


def document_of(shape: Shape, conversation: int) -> int:
    """Which document a conversation is about: shares by Zipf's law, rounded so that they add up."""
    weights = list(accumulate((rank + 1) ** -shape.popularity for rank in range(shape.documents)))
    return bisect(weights, (conversation + 0.5) / shape.conversations * weights[-1])


def chain(shape: Shape, conversation: int, document: int, blocks: int, block_tokens: int) -> tuple[int, ...]:
    """A prompt's blocks: those up to the mark after the document go by its number, others by the conversation's."""
    shared = min(blocks, (shape.document_tokens + 1) // block_tokens)
    stride = (shape.document_tokens + shape.first_tokens + shape.turns * shape.turn_tokens) // block_tokens
    own = stride * conversation
    return (*range(stride * document, stride * document + shared), *range(own + shared, own + blocks))


def messages(shape: Shape, conversation: int, number: int, seed: int) -> tuple[ChatMessage, ...]:
    """The prompt of a turn, of exactly as many tokens as `draw` says; the same for the same `seed`."""
    document = Random(f"{seed} document {document_of(shape, conversation)}")
    said = Random(f"{seed} conversation {conversation}")
    question_tokens = shape.turn_tokens - shape.reply_tokens - MARKS_TURN
    turns = [
        ChatMessage("system", _text(document, shape.document_tokens - 1)),
        ChatMessage("user", _text(said, shape.first_tokens - MARKS_FIRST)),
    ]
    for _ in range(number):
        turns.append(ChatMessage("assistant", _text(said, shape.reply_tokens)))
        turns.append(ChatMessage("user", _text(said, question_tokens)))
    return tuple(turns)


def _text(rng: Random, tokens: int) -> str:
    return "".join(rng.choices(_LETTERS, k=tokens))


def ceiling(turns: Iterable[Turn], block_tokens: int) -> float:
    """The share of all prompt tokens that one cache without bounds per domain would spare, asked in this order.

    Of a prompt of P tokens at most floor((P - 1) / B) blocks of B are spared: an engine computes the last token, whose
    output is the first of the answer (vLLM, `KVCacheManager.get_computed_blocks`).
    """
    seen: set[tuple[int, int]] = set()
    spared = total = 0
    for turn in turns:
        names = [(turn.domain, name) for name in turn.chain]
        for name in names[: (turn.prompt_tokens - 1) // block_tokens]:
            if name not in seen:
                break
            spared += block_tokens
        seen.update(names)
        total += turn.prompt_tokens
    return spared / total
