"""The command line's way to its daemon: a thin synchronous client of the loopback API."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import msgspec

from p2pagent import home
from p2pagent.api import batch, faults
from p2pagent.api.chat_request import LOCAL_MODEL, NETWORK_MODEL, Worth
from p2pagent.api.node import (
    DisputeRequest,
    LedgerView,
    PeerView,
    Question,
    RateRequest,
    RatingView,
    ReceiptView,
    StatusView,
    Verdict,
)
from p2pagent.api.tree import from_tree
from p2pagent.errors import Exit, LocalError
from p2pagent.peer.updates import Answered, Restarted, Text, Unanswered, Update
from p2pagent.types import ChatMessage

_VIEW_TIMEOUT_S = 10.0


class Client:
    """A connection to the daemon of one home folder; a context manager.

    Raises:
        LocalError: on opening and in each method, where no daemon runs or it refuses.
    """

    def __init__(self, folder: Path) -> None:
        endpoint = home.find(folder)
        self._folder = folder
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{endpoint.port}",
            headers={"authorization": f"Bearer {home.token(folder)}"},
            timeout=_VIEW_TIMEOUT_S,
            trust_env=False,  # a proxy has no business between a device and itself
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._http.close()

    def status(self) -> StatusView:
        """How the daemon fares."""
        return msgspec.json.decode(self._get("/p2pagent/v1/status"), type=StatusView)

    def peers(self) -> tuple[PeerView, ...]:
        """All peers that it knows."""
        return msgspec.json.decode(self._get("/p2pagent/v1/peers"), type=tuple[PeerView, ...])

    def ledger(self, limit: int) -> LedgerView:
        """Accounts, the latest `limit` receipts, and what is in dispute."""
        return msgspec.json.decode(self._get("/p2pagent/v1/ledger", limit=limit), type=LedgerView)

    def dispute(self, receipt: str, reason: str) -> ReceiptView:
        """Dispute a receipt that this device bought by."""
        body = msgspec.json.encode(DisputeRequest(reason))
        return msgspec.json.decode(self._post(f"/p2pagent/v1/ledger/{receipt}/dispute", body), type=ReceiptView)

    def refund(self, receipt: str) -> ReceiptView:
        """Give back what a receipt brought this device."""
        return msgspec.json.decode(self._post(f"/p2pagent/v1/ledger/{receipt}/refund", b""), type=ReceiptView)

    def rate(self, receipt: str, rating: Verdict) -> RatingView:
        """Say how good the answer was that this device bought by a receipt."""
        body = msgspec.json.encode(RateRequest(rating))
        return msgspec.json.decode(self._post(f"/p2pagent/v1/ledger/{receipt}/rate", body), type=RatingView)

    def ask(
        self,
        question: Question,
        worth: Worth,
        max_tokens: int | None = None,
        said: Sequence[ChatMessage] = (),
        agent: str | None = None,
    ) -> Generator[Update, None, None]:
        """Ask, after what was `said` before; the last update is `Answered` with the whole text, or `Unanswered`.

        With `agent`, NAME@PEER, nobody else is asked. Closing the iterator cancels.
        """
        turns = [*said, ChatMessage("user", question.text)]
        ours = msgspec.structs.asdict(worth) | {"expect": question.expect or None}
        request = {
            "model": agent or (LOCAL_MODEL if worth.privacy == "local" else NETWORK_MODEL),
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "stream": True,
            "p2pagent": {name: value for name, value in ours.items() if value is not None},
        }
        if max_tokens is not None:
            request["max_tokens"] = max_tokens
        with (
            self._reaching(),
            # Nobody knows how long an answer takes; the daemon is next door and ends the stream when it dies.
            self._http.stream("POST", "/v1/chat/completions", json=request, timeout=None) as response,
        ):
            if response.status_code != 200:
                yield _refusal(response.read())
                return
            yield from _updates(response.iter_lines())

    def ask_all(
        self, questions: Sequence[Question], worth: Worth, max_tokens: int | None = None, agent: str | None = None
    ) -> Generator[tuple[int, Update], None, None]:
        """Ask many together, or `agent` alone; each update comes with its question's place. To close it cancels all."""
        texts, expect = tuple(each.text for each in questions), tuple(each.expect for each in questions)
        body = msgspec.json.encode(batch.BatchRequest(texts, max_tokens, worth, expect, agent or NETWORK_MODEL))
        with (
            self._reaching(),
            self._http.stream("POST", batch.PATH, content=body, timeout=None) as response,
        ):
            if response.status_code != 200:
                raise faults.to_local_error(response.read())
            for line in response.iter_lines():
                yield batch.from_line(line)

    def _get(self, path: str, **query: int) -> bytes:
        with self._reaching():
            return _content(self._http.get(path, params=query))

    def _post(self, path: str, body: bytes) -> bytes:
        with self._reaching():
            return _content(self._http.post(path, content=body))

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise home.no_daemon(self._folder) from error
        except httpx.TransportError as error:
            raise LocalError(f"the daemon went away: {error}", "see its log", Exit.NO_DAEMON) from error


def _content(response: httpx.Response) -> bytes:
    """What was asked for.

    Raises:
        LocalError: it was refused.
    """
    if response.status_code != 200:
        raise faults.to_local_error(response.content)
    return response.content


def _updates(lines: Iterator[str]) -> Iterator[Update]:
    text = ""
    for line in lines:
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = msgspec.json.decode(line.removeprefix("data: "))
        if "error" in event:
            yield _refusal(line.removeprefix("data: ").encode())
            return
        if piece := event["choices"][0]["delta"].get("content"):
            text += piece
            yield Text(piece)
        if (ours := event.get("p2pagent")) is not None:
            update = from_tree(ours | {"text": text} if ours["type"] == "answered" else ours, Restarted | Answered)  # type: ignore[arg-type]
            yield update
            if isinstance(update, Restarted):
                text = ""


def _refusal(body: bytes) -> Unanswered:
    """The `Unanswered` in an error body.

    Raises:
        LocalError: the error is about the question, not its answer.
    """
    error = faults.to_local_error(body)
    if error.exit_code not in {Exit.NO_ANSWER, Exit.PARTIAL}:
        raise error
    return from_tree(msgspec.json.decode(body)["p2pagent"], Unanswered)
