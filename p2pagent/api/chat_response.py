"""OpenAI's chat completion response and stream chunks, with our own words beside them under `p2pagent`."""

import time
import uuid

from p2pagent.api.chat_request import ChatRequest
from p2pagent.api.faults import ApiError
from p2pagent.api.tree import to_tree
from p2pagent.peer.updates import Answered, Restarted, Unanswered
from p2pagent.types import Usage


class Shapes:
    """The JSON of all that is said in answer to one request."""

    def __init__(self, request: ChatRequest) -> None:
        self.ident = f"chatcmpl-{uuid.uuid4().hex}"
        self._model = request.model
        self._created_s = int(time.time())
        self._include_usage = request.include_usage

    def completion(self, answered: Answered) -> dict[str, object]:
        """The whole answer."""
        message = {"role": "assistant", "content": answered.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answered.finish_reason}
        return self._envelope("chat.completion", [choice]) | {
            "usage": _usage(answered.usage),
            "p2pagent": _record(answered),
        }

    def opening(self) -> dict[str, object]:
        """The first chunk, which says who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> dict[str, object]:
        """The next piece of the answer."""
        return self._chunk({"content": text})

    def restarted(self, update: Restarted) -> dict[str, object]:
        """All that was said so far is void. A client that knows nothing of this sees an empty delta."""
        return self._chunk({}) | {"p2pagent": to_tree(update)}

    def closing(self, answered: Answered) -> list[dict[str, object]]:
        """The chunks after the last piece: why it ended, who answered, and the usage if it was asked for."""
        chunks = [self._chunk({}, answered.finish_reason) | {"p2pagent": _record(answered)}]
        if self._include_usage:
            chunks.append(self._envelope("chat.completion.chunk", []) | {"usage": _usage(answered.usage)})
        return chunks

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, object]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = self._envelope("chat.completion.chunk", [choice])
        return chunk | {"usage": None} if self._include_usage else chunk

    def _envelope(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {"id": self.ident, "object": kind, "created": self._created_s, "model": self._model, "choices": choices}


def unanswered(update: Unanswered) -> ApiError:
    """The error that says that nobody answered, or not to the end."""
    code = "partial_answer" if update.partial else "no_answer"
    return ApiError(503, code, update.reason, details=to_tree(update))


def _record(answered: Answered) -> dict[str, object]:
    record = to_tree(answered)
    assert isinstance(record, dict)
    del record["text"]
    return record


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
