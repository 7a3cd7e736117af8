"""What a client of the API did wrong, or could not be given: OpenAI's error bodies, and the way back from them.

The code of a fault is the contract: `Client` turns it into the exit code that the owner of the device sees.
"""

import msgspec
from starlette.responses import Response

from p2pagent.errors import Exit, LocalError

RETRY_AFTER_S = 2
"""What a client is asked to wait when nobody could answer: the time in which a directory takes in new peers."""

_EXIT_OF_CODE = {
    "empty_question": Exit.EMPTY_QUESTION,
    "request_too_large": Exit.TOO_LONG,
    "context_length_exceeded": Exit.TOO_LONG,
    "invalid_api_key": Exit.KEY,
    "no_answer": Exit.NO_ANSWER,
    "partial_answer": Exit.PARTIAL,
    "ledger_refused": Exit.STORE,
    "model_not_found": Exit.NO_AGENT,
}
_STATUS_OF_EXIT = {Exit.EMPTY_QUESTION: 400, Exit.TOO_LONG: 400, Exit.STORE: 409, Exit.NO_AGENT: 404}
_CODE_OF_EXIT = {exit_code: code for code, exit_code in _EXIT_OF_CODE.items()}  # of two codes the latter


class ApiError(Exception):
    """A request that ends in an error. `details` travels beside OpenAI's error, under our own name."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        details: object = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.hint = hint
        self.details = details

    @property
    def body(self) -> dict[str, object]:
        """The fault in OpenAI's shape."""
        kind = (
            "server_error"
            if self.status >= 500
            else "rate_limit_error"
            if self.status == 429
            else "invalid_request_error"
        )
        error: dict[str, object] = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        if self.hint is not None:
            error["hint"] = self.hint
        return {"error": error} if self.details is None else {"error": error, "p2pagent": self.details}

    @property
    def response(self) -> Response:
        """The fault as an HTTP response."""
        headers = {}
        if self.status in {429, 503}:
            headers["retry-after"] = str(RETRY_AFTER_S)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return Response(msgspec.json.encode(self.body), self.status, headers, "application/json")


def of_local_error(error: LocalError) -> ApiError:
    """`error` as a client is told of it: a question that cannot be asked is the client's fault, all else is ours."""
    code = _CODE_OF_EXIT.get(error.exit_code, "unavailable")
    return ApiError(_STATUS_OF_EXIT.get(error.exit_code, 503), code, error.cause, hint=error.hint)


def to_local_error(body: bytes) -> LocalError:
    """The error body `body` of a response, as the command line tells of it."""
    try:
        error = msgspec.json.decode(body)["error"]
        message, code, hint = error["message"], error["code"], error.get("hint")
    except (msgspec.DecodeError, LookupError, TypeError):
        message, code, hint = "the daemon gave an answer that is none", None, None
    return LocalError(message, hint or "see the daemon's log", _EXIT_OF_CODE.get(code, Exit.UNEXPECTED))
