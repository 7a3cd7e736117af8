"""The one protocol behind which every engine stands.

An engine is started by `await nursery.start(engine.run)`, which returns once it can answer and keeps supervising it
until cancelled. A test suite for engines runs against each implementation.
"""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import trio
from msgspec import Struct
from trio_typing import TaskStatus

from p2pagent.routing.marks import Prefix
from p2pagent.routing.residency import Held
from p2pagent.types import ChatMessage, Sampling, Usage


class GenerateRequest(Struct, frozen=True):
    """What an engine is asked. `cache_salt` parts the prefix cache by trust domain; lower `priority` goes first.

    vLLM refuses a salt of more than 128 characters, or one with `@`, a slash or a backslash in it.

    `prefix` names the beginnings of the prompt within its domain (routing/marks.py): of those a `Caching` engine tells
    what it holds.
    """

    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    cache_salt: str = ""
    priority: int = 0
    domain: bytes = b""
    prefix: tuple[Prefix, ...] = ()


class Delta(Struct, frozen=True):
    """A piece of an answer as it is decoded. Token ids are empty where the engine does not tell them."""

    text: str
    token_ids: tuple[int, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    """Told once, before the first piece."""


class Completion(Struct, frozen=True):
    """How an answer ended: `stop` at the model's own end, `length` at the limit."""

    usage: Usage
    finish_reason: Literal["stop", "length"]


class Capabilities(Struct, frozen=True):
    """What the engine can do, as probed, never as assumed."""

    model: str
    context_tokens: int
    slots: int
    """Answers that it works on at the same time."""
    reports_cached_tokens: bool
    reports_token_ids: bool
    cache_tokens: int = 0
    """Size of its prefix cache; 0 if it has none, or does not say."""
    tokeniser: bytes = b""
    """Digest of the tokeniser by which prompts and answers can be counted elsewhere; empty if there is none to name."""


class EngineStatistics(Struct, frozen=True):
    """What the engine has done since it started."""

    ready: bool
    running: int
    completed: int
    failed: int
    restarts: int
    prompt_tokens: int = 0
    """Of all prompts since it started, as the engine counts them itself; 0 where it does not."""
    cached_tokens: int = 0
    """Those of them that it found in its prefix cache."""


class Engine(Protocol):
    """A language model that answers on this device, or on an endpoint the owner named."""

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start, report readiness through `task_status`, supervise until cancelled, and leave nothing behind.

        Raises:
            LocalError: it cannot start (engine missing, model does not load, endpoint does not answer).
        """

    async def generate(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        """Answer `request`; `emit` is called with each piece in order and does not block. Cancelling stops the work.

        Raises:
            EngineUnavailableError: it cannot answer now, or broke off.
            LocalError: the prompt is longer than the context.
        """

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        """Tokens of the prompt that `messages` become, chat template included; an estimate without a tokeniser.

        Raises:
            EngineUnavailableError: it cannot answer now.
        """

    def capabilities(self) -> Capabilities:
        """What it can do. Valid once `run` has reported readiness."""

    def statistics(self) -> EngineStatistics:
        """What it has done so far."""


@runtime_checkable
class Caching(Protocol):
    """An engine that tells what becomes of its prefix cache."""

    async def cache_changes(self) -> tuple[Held | None, ...]:
        """What has changed since the last time, of prompts that came with marks; waits until something has.

        None voids all that was told: the engine does not tell any more.
        """
