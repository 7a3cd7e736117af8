"""Finding peers on the local network by mDNS, as libp2p specifies it.

Source: https://github.com/libp2p/specs/blob/master/discovery/mdns.md
"""

import os
from collections.abc import Callable
from contextlib import suppress

import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from zeroconf import RecordUpdate, RecordUpdateListener, ServiceBrowser, ServiceInfo, Zeroconf

from p2pagent.net.discovery import ADDRESSES_PER_PEER_MAX, parse_address
from p2pagent.net.guards import Guard

SERVICE_TYPE = "_p2p._udp.local."
"""What libp2p's peers are called in mDNS, whatever they talk about."""

NAME_BYTES = 16
UNUSED_PORT = 4001
"""DNS-SD wants one; what counts are the ports in the addresses."""

INTERFACES_EVERY_S = 60.0


class Multicast(RecordUpdateListener):
    """Announces this peer on the local network by mDNS, as libp2p specifies it, and passes on the peers it hears of.

    Libp2p's own opens its sockets when the host is built, blocks the event loop for 1.6 s at the start and, at the end,
    for 18 s per announcement that anyone made without saying where: it asks back, one after another. Nobody is asked
    back here.
    """

    def __init__(
        self,
        own: ID,
        addresses: Callable[[], tuple[str, ...]],
        found: Callable[[ID, list[Multiaddr]], None],
        guard: Guard,
    ) -> None:
        """`addresses` tells what to announce, each with the peer id at its end; `found` is to connect."""
        self._own = own
        self._addresses = addresses
        self._found = found
        self._guard = guard
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Announce and listen until cancelled; what fails is tried again, and so are new addresses announced."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            try:
                await self._announce(self._addresses())
            except Exception as error:
                self._guard.caught("mDNS", error)
                await trio.sleep(INTERFACES_EVERY_S)

    async def _announce(self, addresses: tuple[str, ...]) -> None:
        """Announce these addresses for as long as they are ours: sockets belong to the interfaces of their time."""
        zeroconf, browser = await trio.to_thread.run_sync(self._open, addresses)
        try:
            while self._addresses() == addresses:
                await trio.sleep(INTERFACES_EVERY_S)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_close, zeroconf, browser)

    def _open(self, addresses: tuple[str, ...]) -> tuple[Zeroconf, ServiceBrowser]:
        name = os.urandom(NAME_BYTES).hex()
        texts = [f"dnsaddr={address}".encode() for address in addresses[:ADDRESSES_PER_PEER_MAX]]
        service = ServiceInfo(
            SERVICE_TYPE,
            f"{name}.{SERVICE_TYPE}",
            port=UNUSED_PORT,
            properties=b"".join(bytes([len(text)]) + text for text in texts),
            server=f"{name}.local.",
            # Nobody needs them, but py-libp2p takes no record for whole without.
            parsed_addresses=list(dict.fromkeys(address.split("/")[2] for address in addresses)),
        )
        zeroconf = Zeroconf(use_asyncio=False)
        try:
            zeroconf.add_listener(self, None)
            # The name is random: nobody needs to be asked whether it is free.
            zeroconf.register_service(service, cooperating_responders=True)
            # It only asks the questions; the answers reach all listeners.
            browser = ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[_ignore])
        except BaseException:
            zeroconf.close()
            raise
        return zeroconf, browser

    def async_update_records(self, _zeroconf: Zeroconf, _now: float, records: list[RecordUpdate]) -> None:
        """Take note of what came in one packet (called by zeroconf in its thread, which an exception would deafen)."""
        assert self._token is not None
        for update in records:
            record, text = update.new, getattr(update.new, "text", None)  # only TXT records have one
            if text is not None and record.ttl and record.name.lower().endswith(f".{SERVICE_TYPE}"):
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._follow, text)

    def _follow(self, text: bytes) -> None:
        try:
            peer, addresses = _announced(text)
            if peer is not None and peer != self._own:
                self._found(peer, addresses)
        except Exception as error:
            self._guard.caught("mDNS", error)


def _announced(text: bytes) -> tuple[ID | None, list[Multiaddr]]:
    """The peer in a TXT record and its addresses that can be dialled; looking up names is not for strangers to cause.

    Many `dnsaddr` are the rule, though DNS-SD has each key once and py-libp2p therefore writes `dnsaddr2`.
    """
    peer, addresses, start = None, list[Multiaddr](), 0
    while start < len(text):
        end = start + 1 + text[start]
        key, _, value = text[start + 1 : end].partition(b"=")
        start = end
        try:
            named, address = parse_address(value.decode())
        except ValueError:
            continue
        if key.startswith(b"dnsaddr") and named is not None and not str(address).startswith("/dns"):
            peer = named if peer is None else peer
            if named == peer:
                addresses.append(address)
    return peer, addresses


def _close(zeroconf: Zeroconf, browser: ServiceBrowser) -> None:
    browser.cancel()
    zeroconf.close()


def _ignore(**_: object) -> None: ...
