"""Measuring an agent: it answers the calibration questions, and its share of right answers per prototype is its claim.

The questions are the same on every device and in no training set of the shipped experts; an owner may bring others. The
result is kept in the store under a name that covers the model, the questions and the space, so a restart asks nothing.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import trio
from numpy.typing import NDArray

from p2pagent.engine.base import Delta, Engine, GenerateRequest
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.experts.families import FAMILIES, questions
from p2pagent.routing.prototypes import Space
from p2pagent.routing.scoring import capability
from p2pagent.types import ChatMessage, Sampling

QUESTIONS_PER_FAMILY = 24
SEED = 7
ANSWER_TOKENS_MAX = 32
QUESTIONS_MAX = 4096


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question and its only right answer."""

    prompt: str
    answer: str


def shipped_items() -> list[Item]:
    """The calibration questions that every device asks."""
    drawn = [q for family in FAMILIES for q in questions(family, "calibration", QUESTIONS_PER_FAMILY, SEED)]
    return [Item(q.prompt, q.answer) for q in drawn]


def load_items(path: Path) -> list[Item]:
    """An owner's calibration questions: a JSON list of `{"prompt", "answer"}`.

    Raises:
        LocalError: it cannot be read, is malformed, empty or too long.
    """
    try:
        items = msgspec.json.decode(path.read_bytes(), type=list[Item])
    except (OSError, msgspec.DecodeError) as error:
        hint = 'a JSON list of {"prompt": ..., "answer": ...}'
        raise LocalError(f"cannot use the calibration set {path}: {error}", hint, Exit.CONFIG) from error
    if not 1 <= len(items) <= QUESTIONS_MAX:
        raise LocalError(f"{path} holds {len(items)} questions", f"give 1 to {QUESTIONS_MAX}", Exit.CONFIG)
    return items


def cache_key(fingerprint: str, items: list[Item], space: Space) -> str:
    """Under what a measurement is kept."""
    asked = sha256(msgspec.json.encode(items)).hexdigest()
    return f"capability {space.name} {fingerprint} {asked}"


async def measure(
    engine: Engine, items: list[Item], spaces: Sequence[Space], advance: Callable[[], None]
) -> list[bytes]:
    """The claims of `engine` in each of `spaces`; it is asked everything once, whatever their number.

    As many at a time as it has slots, greedily; `advance` is called after each answer.

    Raises:
        EngineUnavailableError: the engine failed to answer one, so that nothing can be said of its skill.
    """
    correct = np.zeros(len(items), dtype=np.bool_)
    places = trio.CapacityLimiter(engine.capabilities().slots)

    async def ask(index: int, item: Item) -> None:
        pieces: list[str] = []

        def emit(delta: Delta) -> None:
            pieces.append(delta.text)

        request = GenerateRequest((ChatMessage("user", item.prompt),), Sampling(max_tokens=ANSWER_TOKENS_MAX))
        async with places:
            await engine.generate(request, emit)
        correct[index] = "".join(pieces).strip() == item.answer
        advance()

    try:
        async with trio.open_nursery() as nursery:
            for index, item in enumerate(items):
                nursery.start_soon(ask, index, item)
    except* EngineUnavailableError as failures:
        raise EngineUnavailableError(f"{len(failures.exceptions)} calibration questions failed") from failures
    return [_claims(items, correct, space) for space in spaces]


def _claims(items: list[Item], correct: NDArray[np.bool_], space: Space) -> bytes:
    nearest = np.array([space.nearest(space.embed(item.prompt)).prototypes[0] for item in items])
    return capability(nearest, correct, len(space.prototypes))
