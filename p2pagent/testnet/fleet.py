"""Daemons as processes of this machine: started, asked, killed, started again, and never outliving their owner.

Each has a folder of its own and ports that the system picked; all meet through the first. They watch their standard
input, so they end with the process that holds the other side even if that is killed.
"""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import TypeVar

import httpx
import msgspec
import trio

from p2pagent import archive, home
from p2pagent.api.node import LedgerView, PeerView, StatusView
from p2pagent.api.tree import from_tree
from p2pagent.config import Agent, Api, Config, Network, save
from p2pagent.engine.vllm_process import free_port
from p2pagent.errors import Exit, LocalError
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import SignedReceipt
from p2pagent.peer.updates import Answered
from p2pagent.store import FILE
from p2pagent.types import PeerId, PrivacyClass

_V = TypeVar("_V")

POLL_S = 0.2
"""How often a daemon is asked whether it has got somewhere; it has no way to say so by itself."""

STOP_S = 10
ASK_S = 300


class Daemon:
    """One daemon: its folder, its process while it runs, and a client of its API."""

    def __init__(self, folder: Path, config: Config) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.config = config
        self.peer: PeerId = Ed25519Keys(home.identity(folder)).peer
        self.process: trio.Process | None = None
        self._http = httpx.AsyncClient(timeout=ASK_S, trust_env=False)
        save(config, folder / home.CONFIG)

    async def start(self) -> None:
        """Start the process; its standard error goes to `daemon.log` in its folder."""
        (self.folder / home.ENDPOINT).unlink(missing_ok=True)
        with (self.folder / "daemon.log").open("ab") as log:
            command = [sys.executable, "-m", "p2pagent", "up", "--stop-with-stdin", "--home", str(self.folder)]
            self.process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=log, stderr=log)

    async def kill(self) -> None:
        """End it by SIGKILL, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        with trio.move_on_after(STOP_S):
            await self.process.wait()
        if self.process.returncode is None:
            await self.kill()

    async def until_status(self, reached: Callable[[StatusView], bool]) -> StatusView:
        """Wait until its status is as wanted.

        Raises:
            LocalError: it ended, with the last line of its log. So for the other waits.
        """
        return await self._until("status", StatusView, reached)

    async def until_peers(self, reached: Callable[[tuple[PeerView, ...]], bool]) -> tuple[PeerView, ...]:
        """Wait until it knows of peers as wanted."""
        return await self._until("peers", tuple[PeerView, ...], reached)

    async def until_ledger(self, reached: Callable[[LedgerView], bool]) -> LedgerView:
        """Wait until its balances and latest receipts are as wanted."""
        return await self._until("ledger?limit=1000", LedgerView, reached)

    async def _until(self, view: str, kind: type[_V], reached: Callable[[_V], bool]) -> _V:
        while True:
            seen = await self._view(view, kind)
            if seen is not None and reached(seen):
                return seen
            if self.process is not None and self.process.returncode is not None:
                lines = (self.folder / "daemon.log").read_text(errors="replace").splitlines()
                told = [line for line in lines if not line.startswith("hint: ")]
                cause = f"the daemon in {self.folder} ended: {told[-1] if told else 'without a word'}"
                raise LocalError(cause, "see daemon.log there", Exit.UNEXPECTED)
            await trio.sleep(POLL_S)

    async def _view(self, view: str, kind: type[_V]) -> _V | None:
        """What its API shows, or None while that does not answer."""
        try:
            response = await self._http.get(f"{self._url()}/p2pagent/v1/{view}", headers=self._headers())
            response.raise_for_status()
            return msgspec.json.decode(response.content, type=kind)
        except (LocalError, httpx.HTTPError):
            return None

    def receipts(self) -> list[SignedReceipt]:
        """All that its ledger holds, read from its database."""
        return archive.read_receipts(self.folder / FILE)

    async def ask(self, question: str, privacy: PrivacyClass = "any") -> Answered | None:
        """Its user asks `question`; None if nobody answered."""
        body = {
            "model": "p2pagent",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 32,
            "p2pagent": {"privacy": privacy},
        }
        response = await self._http.post(f"{self._url()}/v1/chat/completions", json=body, headers=self._headers())
        if response.status_code != 200:
            return None
        reply = response.json()
        record = reply["p2pagent"] | {"text": reply["choices"][0]["message"]["content"]}
        return from_tree(record, Answered)

    async def aclose(self) -> None:
        """Stop it and let go of its API."""
        await self.stop()
        await self._http.aclose()

    def _url(self) -> str:
        return f"http://127.0.0.1:{home.find(self.folder).port}"

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {home.token(self.folder)}"}


@asynccontextmanager
async def fleet(folder: Path, agents: list[Agent]) -> AsyncIterator[list[Daemon]]:
    """One daemon per agent, started; all are stopped at the end of the block."""
    port = free_port()
    first = Network(name="testnet", listen=(f"/ip4/127.0.0.1/tcp/{port}",))
    daemons = [Daemon(folder / "node0", Config(agents=(agents[0],), network=first, api=Api(port=0)))] if agents else []
    meet = (f"/ip4/127.0.0.1/tcp/{port}/p2p/{daemons[0].peer}",) if daemons else ()
    other = Network(name="testnet", listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=meet)
    for index, agent in enumerate(agents[1:], 1):
        daemons.append(Daemon(folder / f"node{index}", Config(agents=(agent,), network=other, api=Api(port=0))))
    try:
        for daemon in daemons:
            await daemon.start()
        yield daemons
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as stopping:
                for daemon in daemons:
                    stopping.start_soon(daemon.aclose)
