"""A node of another libp2p implementation joins: js-libp2p from npm meets daemons, asks for agents, buys an answer."""

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pagent.config import Agent, Engine
from p2pagent.keys import Ed25519Keys
from p2pagent.peer.gossip_messages import Ack, Delta, Heartbeat, News, Ping, Pull, Record
from p2pagent.peer.messages import Award, Call, Chunk, Final, Quote, Receipt, SignedQuote, Turn
from p2pagent.peer.wire import FRAME_BYTES_MAX, GOSSIP_PROTOCOL, QUERY_PROTOCOL, WireMessage, decode, encode, opened
from p2pagent.routing.prototypes import Space
from p2pagent.routing.space import load_space
from p2pagent.testnet.fleet import Daemon, fleet
from tests.integration.paced import calibration

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FOLDER = Path(__file__).parent / "js"
QUESTION = "Reverse the word hello."
INSTALL_LIMIT_S = 300
START_LIMIT_S = 120
LIMIT_S = 30
ANYBODY = Ed25519Keys(bytes(32))
"""Whoever checks the signatures of others needs no key of its own."""


@pytest.fixture(scope="session")
def node_js() -> str:
    """The interpreter, with what package-lock.json names installed beside the script."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node.js and npm are not installed")
    installed, lock = FOLDER / "node_modules" / ".package-lock.json", FOLDER / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run([npm, "ci"], cwd=FOLDER, timeout=INSTALL_LIMIT_S, check=True)
    return node


class Stranger:
    """The js-libp2p node: what it reported, and a pipe for commands."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._reports: list[dict[str, Any]] = []
        self._protocols: list[str] = []
        self._messages_read = 0
        self._news = trio.Event()

    async def listen(self) -> None:
        """Take in its reports until it ends."""
        assert self._process.stdout is not None
        pending = b""
        async for data in self._process.stdout:
            *lines, pending = (pending + data).split(b"\n")
            self._reports += map(json.loads, lines)
            self._news.set()
            self._news = trio.Event()

    async def told(self, event: str, wanted: Callable[[Any], bool] = lambda _: True, skip: int = 0) -> Any:
        """The first report of this kind, past or future, that is wanted, after `skip` such."""
        with trio.fail_after(LIMIT_S):
            while True:
                found = [report for report in self._reports if report["event"] == event and wanted(report)]
                if len(found) > skip:
                    return found[skip]
                await self._news.wait()

    async def message(self) -> WireMessage:
        """The next message of the daemon on the stream that was opened last."""
        number = len(self._protocols)
        report = await self.told("frame", lambda report: report["stream"] == number, skip=self._messages_read)
        self._messages_read += 1
        return decode(self._protocols[-1], bytes.fromhex(report["hex"]))

    async def open(self, protocol: str, *frames: bytes) -> None:
        """Have it open a stream."""
        self._protocols.append(protocol)
        self._messages_read = 0
        await self.obey(*frames, open=protocol)

    async def obey(self, *frames: bytes, **command: object) -> None:
        """Give it a command, and frames to send."""
        assert self._process.stdin is not None
        line = json.dumps(command | {"frames": [frame.hex() for frame in frames]})
        await self._process.stdin.send_all(line.encode() + b"\n")


@asynccontextmanager
async def stranger(node_js: str, daemon: Daemon) -> AsyncIterator[Stranger]:
    """A js-libp2p node that dials `daemon`; it ends with the block, or with this process."""
    status = await daemon.until_status(lambda _status: True)
    command = [node_js, str(FOLDER / "peer.mjs"), "--dial", status.addresses[0]]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with process.stdin, process.stdout, trio.open_nursery() as nursery:
            running = Stranger(process)
            nursery.start_soon(running.listen)
            yield running
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


@pytest.fixture
async def daemons(tmp_path: Path) -> AsyncIterator[list[Daemon]]:
    """Two, that know each other."""
    measured = calibration(tmp_path)
    hosted = [Agent(name, Engine(model=name), calibration=measured) for name in ("reverse", "add")]
    async with fleet(tmp_path, hosted) as started:
        with trio.fail_after(START_LIMIT_S):
            for daemon in started:
                await daemon.until_status(lambda status: bool(status.agents) and status.known_peers == 1)
        yield started


@pytest.fixture(scope="module")
def hashing() -> Space:
    return load_space("hashing")


def call(space: Space, prompt: str, agent: str = "reverse") -> Call:
    return Call(
        conversation=os.urandom(16),
        agent=agent,
        space=space.name,
        embedding=space.embed(prompt),
        prompt_tokens=200,
        max_tokens=32,
        deadline_ms=2_000,
    )


async def buys_an_answer(js: Stranger, daemon: Daemon, space: Space) -> None:
    """From the call to the receipt, each step checked as a buyer of ours would."""
    me, seller = (await js.told("listening"))["peer"], daemon.peer
    own = await daemon.ask(QUESTION, "local")
    assert own is not None
    asked = call(space, QUESTION)
    await js.open(QUERY_PROTOCOL, encode(asked))
    signed = await js.message()
    assert isinstance(signed, SignedQuote)
    quote = opened(Quote, signed.body, signed.signature, seller, ANYBODY)
    assert (quote.conversation, quote.buyer, quote.agent) == (asked.conversation, me, "reverse")
    await js.obey(encode(Award(asked.conversation, (Turn("user", QUESTION),), 0, 0)))
    text = ""
    chunks = 0
    while isinstance(message := await js.message(), Chunk):
        assert (message.conversation, message.index) == (asked.conversation, chunks)
        text += message.text
        chunks += 1
    assert chunks
    assert text == own.text
    assert isinstance(message, Final)
    receipt = opened(Receipt, message.receipt, message.signature, seller, ANYBODY)
    assert (receipt.conversation, receipt.buyer, receipt.seller) == (asked.conversation, me, seller)
    assert receipt.answer_sha256 == sha256(text.encode()).digest()
    owed = receipt.rates.prompt * receipt.prompt_tokens + receipt.rates.output * receipt.output_tokens
    assert receipt.price_microcredits == owed <= quote.price_cap_microcredits
    assert receipt.rates == quote.rates


async def test_a_node_of_another_implementation_joins(node_js: str, daemons: list[Daemon], hashing: Space) -> None:
    met, other = daemons
    async with stranger(node_js, met) as js:
        connected = await js.told("connected")
        assert connected["peer"] == met.peer
        assert QUERY_PROTOCOL in connected["protocols"]
        assert (await js.told("ping"))["ms"] >= 0

        await js.open(GOSSIP_PROTOCOL, encode(Ping(7, News((), ()))))
        answer = await js.message()
        assert isinstance(answer, Ack)
        assert answer.number == 7
        await js.obey(encode(Pull((met.peer, other.peer))))
        answer = await js.message()
        assert isinstance(answer, Delta)
        assert agents_in(answer) == {met.peer: ["reverse"], other.peer: ["add"]}

        await buys_an_answer(js, met, hashing)


def agents_in(delta: Delta) -> dict[str, list[str]]:
    """The agents of each peer, once all signatures hold."""
    found = {}
    for known in delta.peers:
        record = opened(Record, known.record.body, known.record.signature, None, ANYBODY)
        heartbeat = opened(Heartbeat, known.heartbeat.body, known.heartbeat.signature, None, ANYBODY)
        assert (record.peer, record.version) == (heartbeat.peer, heartbeat.version)
        assert record.network == "testnet"
        found[record.peer] = [agent.name for agent in record.agents]
    return found


async def test_garbage_of_a_stranger_is_counted_and_does_no_harm(
    node_js: str, daemons: list[Daemon], hashing: Space
) -> None:
    met, _ = daemons
    async with stranger(node_js, met) as js:
        await js.told("ping")
        before = await met.until_status(lambda _status: True)
        good = encode(call(hashing, QUESTION))
        garbage = [b"", b"\x00", b"\xc1", os.urandom(300), good[:-1], good + b"\x00", good.replace(b"call", b"cull")]
        await js.open(QUERY_PROTOCOL, *garbage)
        with trio.fail_after(LIMIT_S):
            await met.until_status(lambda status: status.faults >= before.faults + len(garbage))

        # Longer than a frame may be: the stream is reset, the connection stays.
        await js.obey(bytes(FRAME_BYTES_MAX + 1))
        await js.told("closed", lambda report: report["stream"] == 1)
        with trio.fail_after(LIMIT_S):
            await met.until_status(lambda status: status.faults > before.faults + len(garbage))

        await buys_an_answer(js, met, hashing)
