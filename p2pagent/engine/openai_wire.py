"""The bytes of OpenAI's chat completions, from an endpoint that is not trusted to keep them small or right."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec

from p2pagent.engine.base import Completion, Delta
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.types import ChatMessage, Usage

BODY_LIMIT_BYTES = 4 << 20
MESSAGE_LIMIT = 300
_LINE_LIMIT_BYTES = 1 << 23
"""The ids of a prompt come in one line: of the longest prompt that fits into a frame, one for each byte."""
_STREAM_LIMIT_BYTES = 64 << 20
_BYTES_PER_TOKEN = 3
_BYTES_PER_TOKEN_MIN = 2
_TOKENS_PER_MESSAGE = 8
_TOO_LONG = ("context_length", "context length", "context size", "context_size", "maximum model length")


class MalformedStreamError(Exception):
    """The bytes are nothing that we are willing to read."""


class _Piece(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Piece = msgspec.field(default_factory=_Piece)
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    prompt_token_ids: list[int] | None = None
    usage: _Usage | None = None
    error: Any = None


class Model(msgspec.Struct):
    """A model that an endpoint has."""

    id: str
    owned_by: str | None = None
    max_model_len: int | None = None


class Models(msgspec.Struct):
    """The answer of `/v1/models`."""

    data: list[Model]


class TokenCount(msgspec.Struct):
    """What is read of the answer of vLLM's `/tokenize`."""

    count: int


_Body = TypeVar("_Body", _Chunk, Models, TokenCount)


def decode(data: bytes, kind: type[_Body]) -> _Body:
    """Read a JSON body; unknown fields are passed over, since every endpoint has some of its own.

    Raises:
        MalformedStreamError: it is no JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise MalformedStreamError(str(error)) from error


def refusal(status: int, body: bytes) -> LocalError | EngineUnavailableError:
    """Tell what an answer other than 200 means to whoever asked."""
    text = body.decode(errors="replace")
    too_large = status in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
    if too_large and any(sign in text.lower() for sign in _TOO_LONG):
        return LocalError("the question is longer than the model's context", "ask a shorter one", Exit.TOO_LONG)
    return EngineUnavailableError(f"HTTP {status}: {text[:MESSAGE_LIMIT]}")


def turns(messages: tuple[ChatMessage, ...]) -> list[dict[str, str]]:
    """Turn a conversation into what stands in a request's body."""
    return [{"role": message.role, "content": message.content} for message in messages]


def estimate_tokens(messages: tuple[ChatMessage, ...]) -> int:
    """Guess the tokens of a prompt, rather too many than too few for ordinary English."""
    return _tokens(messages, _BYTES_PER_TOKEN)


def most_tokens(messages: tuple[ChatMessage, ...]) -> int:
    """More tokens than a prompt has by nearly all tokenisers but those that know no more than bytes."""
    return _tokens(messages, _BYTES_PER_TOKEN_MIN)


def _tokens(messages: tuple[ChatMessage, ...], bytes_per_token: int) -> int:
    return sum(len(message.content.encode()) // bytes_per_token + _TOKENS_PER_MESSAGE for message in messages)


class AnswerReader:
    """Reads one streamed answer: server-sent events, each a line of `data:`. `emit` is called with each piece of it."""

    def __init__(self, emit: Callable[[Delta], None]) -> None:
        self._emit = emit
        self._pending = bytearray()
        self._received_bytes = 0
        self._finish_reason: str | None = None
        self._usage: _Usage | None = None
        self._pieces = 0
        self.told_token_ids = False

    @property
    def told_cached_tokens(self) -> bool:
        """Whether the endpoint said how much of the prompt it did not compute again; zero is also an answer."""
        details = self._usage.prompt_tokens_details if self._usage else None
        return details is not None and details.cached_tokens is not None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream.

        Raises:
            MalformedStreamError: a line is longer than 1 MiB, the stream than 64 MiB, or an event no chat chunk.
            EngineUnavailableError: the endpoint reports an error in the middle of its answer.
        """
        self._received_bytes += len(chunk)
        if self._received_bytes > _STREAM_LIMIT_BYTES:
            raise MalformedStreamError(f"more than {_STREAM_LIMIT_BYTES} bytes in one answer")
        self._pending += chunk
        *lines, self._pending = self._pending.split(b"\n")
        if len(self._pending) > _LINE_LIMIT_BYTES:
            raise MalformedStreamError(f"a line of more than {_LINE_LIMIT_BYTES} bytes")
        for line in lines:
            payload = bytes(line[5:].strip())
            if line.startswith(b"data:") and payload != b"[DONE]":
                self._take(decode(payload, _Chunk))

    def _take(self, chunk: _Chunk) -> None:
        if chunk.error is not None:
            raise EngineUnavailableError(f"the endpoint broke off: {str(chunk.error)[:MESSAGE_LIMIT]}")
        self._usage = chunk.usage or self._usage
        if chunk.prompt_token_ids:
            self._emit(Delta("", (), tuple(chunk.prompt_token_ids)))
        for choice in chunk.choices[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            delta = Delta(choice.delta.content or "", tuple(choice.token_ids or ()))
            if delta.text or delta.token_ids:
                self._pieces += 1
                self.told_token_ids = self.told_token_ids or bool(delta.token_ids)
                self._emit(delta)

    def completion(self, messages: tuple[ChatMessage, ...]) -> Completion:
        """Tell how the answer to `messages` ended; call it once the stream has.

        Raises:
            EngineUnavailableError: it was cut off.
        """
        if self._finish_reason is None:
            raise EngineUnavailableError("the endpoint ended its answer without saying why")
        # An endpoint that keeps no count sends about one token in each piece.
        counted = self._usage or _Usage(estimate_tokens(messages), self._pieces)
        details = counted.prompt_tokens_details
        cached_tokens = (details.cached_tokens if details else None) or 0
        return Completion(
            Usage(counted.prompt_tokens, cached_tokens, counted.completion_tokens),
            "length" if self._finish_reason == "length" else "stop",
        )
