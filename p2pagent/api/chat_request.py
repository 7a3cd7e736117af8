"""OpenAI's chat completion request: what we take from it, and what we refuse rather than answer something else.

Rule 1: a parameter that changes what the answer means and that we cannot honour is an error, never ignored.
Rule 2: one that only flavours the sampling (`top_p`, penalties), or that we do not know, is ignored, so that every
OpenAI client works as it comes.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from p2pagent.api.faults import ApiError
from p2pagent.api.node import Node
from p2pagent.config import Money, Preferences
from p2pagent.peer.events import Policy
from p2pagent.peer.messages import SEED_MAX, TEXT_CHARACTERS_MAX, TOKENS_MAX, TURNS_MAX
from p2pagent.types import ChatMessage, PrivacyClass, Sampling

NETWORK_MODEL = "p2pagent"
LOCAL_MODEL = "p2pagent-local"
MODELS = (NETWORK_MODEL, LOCAL_MODEL)
"""Whom to ask: the whole network, or the agents of this device only. NAME@PEER is one agent, and nobody else."""

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "stop": ([], ""),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}
"""Parameters that we cannot honour, with the values (besides null) under which they ask for nothing."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_T = TypeVar("_T")
_Tokens = Annotated[int, Meta(ge=1, le=TOKENS_MAX)]


class ContentPart(Struct, frozen=True):
    """A part of a message's content; only text has an answer here."""

    type: str
    text: str = ""


class Message(Struct, frozen=True):
    """One turn in OpenAI's words."""

    role: str
    content: str | tuple[ContentPart, ...] | None = None


class StreamOptions(Struct, frozen=True):
    """How a stream is to be."""

    include_usage: bool | None = None


class Worth(Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer is worth. What is left out comes from the preferences."""

    value_microcredits: Money | None = None
    delay_microcredits_per_s: Money | None = None
    price_max_microcredits: Money | None = None
    privacy: PrivacyClass | None = None
    raw: bool | None = None

    def policy(self, preferences: Preferences, *, raw: bool) -> Policy:
        """What the answer is worth; `raw` is for where nothing is said of it."""
        return Policy(
            value_microcredits=_first(self.value_microcredits, preferences.value_microcredits),
            delay_microcredits_per_s=_first(self.delay_microcredits_per_s, preferences.delay_microcredits_per_s),
            price_max_microcredits=_first(self.price_max_microcredits, preferences.price_max_microcredits),
            privacy=_first(self.privacy, preferences.privacy),
            raw=_first(self.raw, raw),
        )


class Extension(Worth, frozen=True, forbid_unknown_fields=True):
    """Our own object in the request: what this one answer is worth, and what it has to be, to be rated at once."""

    expect: Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)] | None = None


class ChatRequest(Struct, frozen=True):
    """The request, as far as it is used."""

    model: str
    messages: Annotated[tuple[Message, ...], Meta(min_length=1, max_length=TURNS_MAX)]
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    p2pagent: Extension | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def turns(self) -> tuple[ChatMessage, ...]:
        """The conversation.

        Raises:
            ApiError: a role or a content that no agent here understands.
        """
        return tuple(_turn(message, f"messages.{index}") for index, message in enumerate(self.messages))

    @property
    def sampling(self) -> Sampling:
        """How the answer is drawn; OpenAI's wide range of seeds is folded into ours."""
        default = Sampling()
        return Sampling(
            max_tokens=_first(self.max_completion_tokens, self.max_tokens, default.max_tokens),
            temperature_milli=default.temperature_milli if self.temperature is None else round(self.temperature * 1000),
            seed=default.seed if self.seed is None else self.seed % SEED_MAX,
        )

    @property
    def expect(self) -> str:
        """What the answer has to be; empty where nothing is said of it."""
        return (self.p2pagent.expect or "") if self.p2pagent is not None else ""

    def policy(self, node: Node) -> Policy:
        """What the answer is worth, and who may give it. A plain client's stream is raw: it cannot take words back.

        Raises:
            LocalError: the model is NAME@PEER, and no such agent is known, or several are.
        """
        return aimed((self.p2pagent or Extension()).policy(node.preferences, raw=bool(self.stream)), self.model, node)


def parse(body: bytes) -> ChatRequest:
    """The request in `body`.

    Raises:
        ApiError: it is malformed, names no model of ours, or asks for what we cannot do.
    """
    try:
        raw = msgspec.json.decode(body)
        request = msgspec.convert(raw, ChatRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_request", str(error)) from error
    for name, neutral in _NEUTRAL.items():
        value = raw.get(name)
        if value is not None and value not in neutral:
            raise ApiError(400, "unsupported_parameter", f"{name} is not supported by this network", param=name)
    check_model(request.model)
    return request


def check_model(model: str) -> None:
    """See whether `model` can be one of ours.

    Raises:
        ApiError: it cannot.
    """
    if model not in MODELS and "@" not in model:
        cause = f"there is no model {model!r}, only {', '.join(MODELS)}, and NAME@PEER for one agent"
        raise ApiError(404, "model_not_found", cause, param="model")


def aimed(policy: Policy, model: str, node: Node) -> Policy:
    """`policy` for a question to `model`.

    Raises:
        LocalError: the model is NAME@PEER, and no such agent is known, or several are.
    """
    if model == LOCAL_MODEL:
        return msgspec.structs.replace(policy, privacy="local")
    return policy if model == NETWORK_MODEL else msgspec.structs.replace(policy, only=node.agent(model))


def _turn(message: Message, param: str) -> ChatMessage:
    role = _ROLES.get(message.role)
    if role is None:
        raise ApiError(400, "unsupported_parameter", f"role {message.role!r} is not supported", param=f"{param}.role")
    if isinstance(message.content, tuple):
        for part in message.content:
            if part.type != "text":
                raise ApiError(
                    400, "unsupported_parameter", f"{part.type!r} content is not supported", param=f"{param}.content"
                )
        content = "".join(part.text for part in message.content)
    else:
        content = message.content or ""
    if len(content) > TEXT_CHARACTERS_MAX:
        raise ApiError(
            400, "context_length_exceeded", f"a turn is longer than {TEXT_CHARACTERS_MAX} characters", param=param
        )
    return msgspec.convert((role, content), ChatMessage)


def _first(*choices: _T | None) -> _T:
    """The first of `choices` that is given; the last always is."""
    return next(choice for choice in choices if choice is not None)
