"""Peers that find each other by multicast: two devices on one wire, each a network namespace of this machine.

No packet leaves the machine: the only interfaces of the namespaces are the two ends of that wire. They belong to the
processes in them, so that none outlives the tests.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from zeroconf import DNSOutgoing, DNSPointer, DNSText

import p2pagent
from p2pagent import home
from p2pagent.keys import Ed25519Keys
from tests.integration.test_net import PROTOCOL, Child

pytestmark = pytest.mark.integration

FIND_LIMIT_S = 15.0
STOP_LIMIT_S = 10.0
"""Under a second on a quiet machine."""

COMMAND_LIMIT_S = 10.0
SERVICE_TYPE = "_p2p._udp.local."
PTR, TXT, INTERNET, TTL_S, RESPONSE = 12, 16, 1, 4500, 0x8400
MDNS_PORT_OF_UDP = ":14E9 "
"""5353 as /proc/net/udp writes it."""

PEER = """
import json, runpy, sys, threading
runpy.run_path(sys.argv[2], run_name="__main__")
print(json.dumps({"event": "Stopped", "threads": [thread.name for thread in threading.enumerate()]}))
"""
"""net_peer.py, which tells at the end what threads are left."""

LASTING_THREADS = ("MainThread", "Trio thread")
"""Trio's wait some seconds for more work."""

MULTICAST = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
    sender.bind((sys.argv[1], 5353))
    for line in sys.stdin:
        sender.sendto(bytes.fromhex(line), ("224.0.0.251", 5353))
"""


class Device:
    """A network namespace with one interface."""

    def __init__(self, process: int, address: str) -> None:
        self.process = process
        self.address = address

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.process}/ns/net", *command]

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command in the namespace.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(
            self.inside(*command), input=stdin, capture_output=True, text=True, check=True, timeout=COMMAND_LIMIT_S
        )
        return done.stdout

    def up(self, interface: str) -> None:
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", interface)
        self.run("ip", "link", "set", interface, "up")

    def multicast(self, packets: list[bytes]) -> None:
        self.run(sys.executable, "-c", MULTICAST, self.address, stdin="\n".join(packet.hex() for packet in packets))


@contextmanager
def namespace(address: str) -> Iterator[Device]:
    """A namespace that ends with the context, or with the process of the tests: its holder waits for end of file."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo made; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    with holder:
        try:
            if holder.stdout.readline() != b"made\n":
                pytest.skip(f"needs a network namespace of its own: {holder.stderr.read().decode().strip()}")
            yield Device(holder.pid, address)
        finally:
            holder.kill()


@pytest.fixture
def devices() -> Iterator[tuple[Device, Device]]:
    """Two devices on one wire."""
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs a network namespace of its own, and {', '.join(missing)} to make one")
    with ExitStack() as stack:
        a, b = (stack.enter_context(namespace(f"10.99.0.{number}")) for number in (1, 2))
        try:
            a.run("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1", "netns", str(b.process))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"needs two network interfaces that are connected: {error.stderr.strip()}")
        a.up("wire0")
        b.up("wire1")
        yield a, b


class Peer(Child):
    """A network in a process of its own on one of the devices."""

    def __init__(self, process: trio.Process, faults: Path) -> None:
        super().__init__(process)
        self._faults = faults

    async def stop(self) -> None:
        """Have it stop; nothing must have gone wrong meanwhile and no thread be left."""
        await self.do("statistics")
        statistics = await self.told("Statistics")
        assert statistics["guarded_exceptions"] == 0
        assert statistics["violations"] == 0
        assert self._process.stdin is not None
        with trio.fail_after(STOP_LIMIT_S):
            await self._process.stdin.aclose()
            stopped = await self.told("Stopped")
            assert await self._process.wait() == 0
        assert [name for name in stopped["threads"] if not any(known in name for known in LASTING_THREADS)] == []
        assert self._faults.read_text() == ""

    def met(self) -> set[str]:
        return {event["peer"] for event in self.events if event["event"] == "PeerUp"}


@asynccontextmanager
async def peer(device: Device, folder: Path, key: str, **config: object) -> AsyncIterator[Peer]:
    arguments = {"key": str(folder / key), "listen": ["/ip4/0.0.0.0/tcp/0"], "mdns": True, **config}
    script = str(Path(__file__).with_name("net_peer.py"))
    command = device.inside(sys.executable, "-W", "error", "-c", PEER, json.dumps(arguments), script)
    environment = {**os.environ, "PYTHONPATH": str(Path(p2pagent.__file__).parents[1])}
    faults = folder / f"{key}.stderr"
    with faults.open("wb") as stderr:
        process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, stderr=stderr, env=environment)
    running = Peer(process, faults)
    async with trio.open_nursery() as nursery:
        try:
            nursery.start_soon(running.read)
            started = await running.told("Started")
            running.peer, running.addresses = started["peer"], tuple(started["addresses"])
            yield running
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


async def meet(a: Peer, b: Peer) -> None:
    await a.told("PeerUp", FIND_LIMIT_S, peer=b.peer)
    await b.told("PeerUp", FIND_LIMIT_S, peer=a.peer)


def packet(*records: DNSPointer | DNSText) -> bytes:
    outgoing = DNSOutgoing(RESPONSE)
    for record in records:
        outgoing.add_answer_at_time(record, 0)
    return outgoing.packets()[0]


def pointer(name: str) -> DNSPointer:
    return DNSPointer(SERVICE_TYPE, PTR, INTERNET, TTL_S, f"{name}.{SERVICE_TYPE}")


def announcement(name: str, text: bytes) -> bytes:
    return packet(pointer(name), DNSText(f"{name}.{SERVICE_TYPE}", TXT, INTERNET, TTL_S, text))


def strings(*texts: bytes) -> bytes:
    return b"".join(bytes([len(text)]) + text for text in texts)


def garbage(victim: Peer, stranger: str, rng: random.Random) -> list[bytes]:
    """What a device on the same network may send, by mistake or not."""
    good = strings(f"dnsaddr={victim.addresses[0]}".encode())
    texts = [
        b"",
        b"\x00" * 50,
        b"\xff",
        good[:-9],
        strings(b"dnsaddr", b"dnsaddr=", b"=", b"dnsaddr=\xff\xfe", b"id=\xff"),
        strings(b"dnsaddr=/ip4/10.99.0.2/udp/4001/quic-v1/p2p/" + stranger.encode()),
        strings(b"dnsaddr=/ip4/999.99.0.2/tcp/1/p2p/" + stranger.encode()),
        strings(b"dnsaddr=/ip4/10.99.0.2/tcp/99999/p2p/" + stranger.encode()),
        strings(b"dnsaddr=/ip4/10.99.0.2/tcp/1/p2p/QmNotEd25519"),
        strings(b"dnsaddr=/ip4/10.99.0.2/tcp/1/p2p/", b"dnsaddr=/ip4/10.99.0.2/tcp/1"),
        strings(b"dnsaddr=/dns4/example.invalid/tcp/1/p2p/" + stranger.encode()),
        strings(b"dnsaddr=/ip4/10.99.0.2/tcp/1/p2p/" + stranger.encode()),
        strings(b"dnsaddr=/ip4/10.99.0.2/tcp/1/p2p/" + victim.peer.encode()),
        strings(b"dnsaddr=/ip4/10.99.0.1/tcp/1/p2p/" + stranger.encode(), good[1:]),
        good,
        *(rng.randbytes(length) for length in (1, 10, 100, 1000)),
    ]
    return [
        *(rng.randbytes(length) for length in (1, 11, 12, 100, 1400)),
        *(packet(pointer(f"nothing-{number}")) for number in range(20)),
        *(announcement(f"garbage-{number}", text) for number, text in enumerate(texts)),
    ]


async def test_two_peers_that_know_nobody_find_each_other(tmp_path: Path, devices: tuple[Device, Device]) -> None:
    here, there = devices
    async with peer(here, tmp_path, "a", echo=True) as a, peer(there, tmp_path, "b") as b:
        assert a.addresses[0].startswith(f"/ip4/{here.address}/tcp/")
        await meet(a, b)
        await b.do("send", peer=a.peer, protocol=PROTOCOL, payload="hello?")
        await b.told("FrameReceived", peer=a.peer, payload="hello?")
        await b.stop()
        await a.told("PeerIdle", peer=b.peer)
        # Of a third, on a's own device, both hear.
        async with peer(there, tmp_path, "b") as again, peer(here, tmp_path, "c") as c:
            await meet(a, again)
            await meet(a, c)
            await meet(again, c)
            assert [one.met() for one in (again, c)] == [{a.peer, c.peer}, {a.peer, again.peer}]
            assert a.met() == {b.peer, c.peer}
            for one in (again, a, c):
                await one.stop()


async def test_garbage_is_passed_over(tmp_path: Path, devices: tuple[Device, Device]) -> None:
    here, there = devices
    stranger = Ed25519Keys(home.identity(tmp_path / "stranger")).peer
    async with peer(here, tmp_path, "a") as a:
        packets = garbage(a, stranger, random.Random(4711))
        send: Callable[[], None] = partial(there.multicast, packets)
        await trio.to_thread.run_sync(send)
        async with peer(there, tmp_path, "b") as b:
            await meet(a, b)
            await trio.to_thread.run_sync(send)
            async with peer(there, tmp_path, "c") as c:
                await meet(a, c)
                await meet(b, c)
                assert a.met() == {b.peer, c.peer}
                for one in (a, b, c):
                    await one.stop()


async def test_nobody_is_told_of_a_peer_that_did_not_ask_for_it(tmp_path: Path, devices: tuple[Device, Device]) -> None:
    here, there = devices
    async with peer(here, tmp_path, "a", mdns=False) as a, peer(there, tmp_path, "b", bootstrap=a.addresses) as b:
        await meet(a, b)
        assert MDNS_PORT_OF_UDP not in here.run("cat", "/proc/net/udp")
        await a.stop()
        await b.stop()
