"""A network in a process of its own: commands as JSON lines on stdin, events as JSON lines on stdout.

The only argument is JSON: `key` (folder), `echo` (answer every frame with its payload) and the fields of NetConfig.
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pagent import home
from p2pagent.errors import LocalError
from p2pagent.net import FrameReceived, NetConfig, NetEvent, Network
from p2pagent.peer.wire import GOSSIP_PROTOCOL

LINE_BYTES_MAX = 1 << 22


def tell(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def report(event: NetEvent) -> None:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    if isinstance(event, FrameReceived):
        fields["payload"] = event.payload.decode()
    tell(event=type(event).__name__, **fields)


async def obey(network: Network, command: dict[str, Any]) -> None:
    match command:
        case {"do": "send", "peer": peer, "protocol": protocol, "payload": payload}:
            network.send(peer, protocol, payload.encode())
        case {"do": "provide", "cell": cell}:
            tell(event="Provided", done=await network.provide(cell))
        case {"do": "find", "cell": cell, "count": count}:
            tell(event="Found", peers=await network.find(cell, count))
        case {"do": "statistics"}:
            tell(event="Statistics", **msgspec.structs.asdict(network.statistics()))


async def main(arguments: dict[str, Any]) -> None:
    echo = arguments.pop("echo", False)
    seed = home.identity(Path(arguments.pop("key")))

    def on_event(event: NetEvent) -> None:
        report(event)
        if echo and isinstance(event, FrameReceived):
            network.send(event.peer, event.protocol, event.payload)

    network = Network(seed, msgspec.convert(arguments, NetConfig), ("/test/1", GOSSIP_PROTOCOL), on_event)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        tell(event="Started", peer=network.peer, addresses=network.addresses())
        async for line in _lines():
            await obey(network, json.loads(line))
        nursery.cancel_scope.cancel()


async def _lines() -> Any:
    buffer = b""
    stdin = trio.lowlevel.FdStream(0)
    while data := await stdin.receive_some(65536):
        buffer += data
        if len(buffer) > LINE_BYTES_MAX:
            raise ValueError("command too long")
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            yield line


if __name__ == "__main__":
    try:
        trio.run(main, json.loads(sys.argv[1]))
    except* LocalError as group:
        error = group.exceptions[0]
        tell(event="LocalError", cause=error.cause, hint=error.hint, exit_code=int(error.exit_code))
