"""The network of the affinity bench on real engines: daemons that host vLLM, and one after another that asks them.

Who asks hosts nothing and has a key of its own in every run: its trust domain is one that no cache has seen, as if all
caches were empty, for what others left there is the first to be evicted.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import trio

from p2pagent import home
from p2pagent.api.faults import to_local_error
from p2pagent.api.node import PeerView
from p2pagent.api.tree import from_tree
from p2pagent.config import Agent, Api, Config, Engine, Network, Preferences, Rates
from p2pagent.engine.vllm_process import free_port
from p2pagent.peer.updates import Answered
from p2pagent.testnet.fleet import ASK_S, Daemon
from p2pagent.types import ChatMessage

AGENT = "bench"
NETWORK = "bench-affinity"
START_S = 600
MEET_S = 300
CONTEXT_TOKENS = 2_048
CREDIT_MICROCREDITS = 1 << 50
"""All are trusted to pay: how credit grows is not what is measured."""

TRIES = 400
AGAIN_S = 0.25
"""Whom no agent would quote asks again after this long; all of it counts as waiting."""


class Site(NamedTuple):
    """How many nodes there are, and what each hosts; their daemons' folders are made in `folder`."""

    folder: Path
    nodes: int
    agent: Agent


def hosted(model: Path, calibration: Path, python: Path, *, slots: int, blocks: int, rates: Rates) -> Agent:
    """An agent on a vLLM whose cache has so many blocks, beside the one that holds nothing."""
    args = ("--num-gpu-blocks-override", str(blocks + 1), "--max-model-len", str(CONTEXT_TOKENS))
    return Agent(AGENT, Engine("vllm", str(model), python=str(python), args=args, slots=slots), rates, str(calibration))


class Counted(NamedTuple):
    """Prompt tokens of all nodes, and those of them found in a cache, by vLLM's own counters."""

    prompt_tokens: int
    cached_tokens: int

    def less(self, earlier: "Counted") -> "Counted":
        """What was counted since."""
        return Counted(self.prompt_tokens - earlier.prompt_tokens, self.cached_tokens - earlier.cached_tokens)


class Reply(NamedTuple):
    """An answer as its asker has it. Times are in seconds of `time.perf_counter`; `denied` says why it asked again."""

    asked_s: float
    first_s: float
    ended_s: float
    denied: tuple[str, ...]
    answered: Answered


@asynccontextmanager
async def hosts(site: Site) -> AsyncIterator[list[Daemon]]:
    """The nodes, their engines measured and known to each other.

    Raises:
        TooSlowError: they were not in time.
    """
    port = free_port()
    preferences = Preferences(newcomer_credit_microcredits=CREDIT_MICROCREDITS)
    daemons: list[Daemon] = []
    try:
        for node in range(site.nodes):
            meet = (f"/ip4/127.0.0.1/tcp/{port}/p2p/{daemons[0].peer}",) if daemons else ()
            listen = (f"/ip4/127.0.0.1/tcp/{0 if daemons else port}",)
            config = Config((site.agent,), Network(NETWORK, listen, meet), preferences, api=Api(0))
            daemons.append(Daemon(site.folder / f"node{node}", config))
            await daemons[-1].start()
        with trio.fail_after(START_S):
            for daemon in daemons:
                await daemon.until_status(lambda status: bool(status.agents))
            for daemon in daemons:
                await daemon.until_peers(lambda peers: sum(bool(p.agents) for p in peers) == site.nodes - 1)
        yield daemons
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for daemon in daemons:
                    nursery.start_soon(daemon.aclose)


class Asker:
    """Asks through the API of a daemon that hosts nothing."""

    def __init__(self, http: httpx.AsyncClient, nodes: Sequence[Daemon]) -> None:
        self._http = http
        self._names = [f"{node.config.agents[0].name}@{node.peer}" for node in nodes]

    async def ask(self, turns: Sequence[ChatMessage], output_tokens: int, node: int | None) -> Reply:
        """Ask this node, or whoever is worth most.

        Raises:
            TimeoutError: nobody answered, however often asked.
        """
        body = {
            "model": "p2pagent" if node is None else self._names[node],
            "messages": [msgspec.structs.asdict(turn) for turn in turns],
            "max_tokens": output_tokens,
            "stream": True,
            "p2pagent": {"raw": False},
        }
        asked_s = time.perf_counter()
        denied: tuple[str, ...] = ()
        while len(denied) < TRIES:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code == 200:
                    first_s, ended_s, answered = await _read(response)
                    if answered is not None:
                        return Reply(asked_s, first_s, ended_s, denied, answered)
                    denied = (*denied, "the answer broke off")
                else:
                    denied = (*denied, to_local_error(await response.aread()).cause)
            await trio.sleep(AGAIN_S)
        raise TimeoutError(f"asked {TRIES} times: {denied[-1]}")


async def _read(response: httpx.Response) -> tuple[float, float, Answered | None]:
    """When the first piece of the answer came that was not taken back, when its record came, and that."""
    first_s = ended_s = 0.0
    text, answered = "", None
    async for line in response.aiter_lines():
        if not line.startswith("data: {"):
            continue
        event = msgspec.json.decode(line.removeprefix("data: "))
        choices, record = event.get("choices", ()), event.get("p2pagent", {})
        if choices and (piece := choices[0]["delta"].get("content")):
            first_s, text = first_s or time.perf_counter(), text + piece
        if record.get("type") == "restarted":
            first_s, text = 0.0, ""
        if record.get("type") == "answered":
            ended_s, answered = time.perf_counter(), from_tree(record | {"text": text}, Answered)
    return first_s or ended_s, ended_s, answered


@asynccontextmanager
async def asking(site: Site, name: str, nodes: Sequence[Daemon]) -> AsyncIterator[Asker]:
    """A new device that knows all nodes and is connected to them."""
    first = nodes[0]
    status = await first.until_status(lambda status: bool(status.addresses))
    address = next(a for a in status.addresses if "/127.0.0.1/" in a).partition("/p2p/")[0]
    network = Network(NETWORK, ("/ip4/127.0.0.1/tcp/0",), (f"{address}/p2p/{first.peer}",))
    daemon = Daemon(site.folder / name, Config((), network, api=Api(0)))
    await daemon.start()
    try:
        with trio.fail_after(MEET_S):
            await daemon.until_peers(lambda peers: _all_there(peers, nodes))
        url = f"http://127.0.0.1:{home.find(daemon.folder).port}"
        headers = {"authorization": f"Bearer {home.token(daemon.folder)}"}
        # The daemon closes connections that rest for a while, and might just as a question goes out on one.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=ASK_S, trust_env=False, limits=limits
        ) as http:
            yield Asker(http, nodes)
    finally:
        with trio.CancelScope(shield=True):
            await daemon.aclose()


def _all_there(peers: Sequence[PeerView], nodes: Sequence[Daemon]) -> bool:
    return {node.peer for node in nodes} <= {peer.peer for peer in peers if peer.agents}


async def counted(nodes: Sequence[Daemon]) -> Counted:
    """What the nodes' engines have counted by now, or shortly before: the daemons look every other second."""
    total = Counted(0, 0)
    for node in nodes:
        status = await node.until_status(lambda _: True)
        for engine in status.agents:
            total = Counted(total[0] + engine.prompt_tokens, total[1] + engine.cached_tokens)
    return total
