"""The token by which one device invites another: the network's name, its key and where to meet it, with a checksum.

Whoever has the token has the key of the network: it is to be passed on like a password.
"""

import base64
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from p2pagent.errors import Exit, LocalError

ADDRESSES_MAX = 8

_VERSION = b"\x01"
_CHECKSUM_BYTES = 4
_TOKEN_CHARS_MAX = 4096
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


class Invite(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a newcomer needs. `psk` is empty for an open network."""

    network: Annotated[str, Meta(min_length=1, max_length=64)]
    psk: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    addresses: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=160, pattern=r"^/[!-~]+\Z")], ...],
        Meta(min_length=1, max_length=ADDRESSES_MAX),
    ]


def encode(invite: Invite) -> str:
    """The token for `invite`, in characters that survive every messenger and shell.

    Raises:
        LocalError: it has no address, or one that is none.
    """
    try:
        msgspec.convert(msgspec.to_builtins(invite), Invite)
    except msgspec.ValidationError as error:
        hint = "name one under which others reach this device: `p2pagent invite --address MULTIADDR`"
        raise LocalError(f"cannot invite: {error}", hint, Exit.INVITE) from error
    payload = _VERSION + msgspec.msgpack.encode(invite)
    return base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")


def decode(token: str) -> Invite:
    """The invite in `token`.

    Raises:
        LocalError: it was cut short, mistyped, or is no such token.
    """
    token = token.strip()
    if len(token) > _TOKEN_CHARS_MAX:
        raise _malformed("it is too long")
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise _malformed("it holds characters that no invite has") from error
    payload, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if checksum != _checksum(payload):
        raise _malformed("its checksum is wrong")
    if payload[:1] != _VERSION:
        raise _malformed("it is of another version")
    try:
        return msgspec.msgpack.decode(payload[1:], type=Invite)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(str(error)) from error


def tcp_endpoint(address: str) -> tuple[str, int] | None:
    """Host and port of a multiaddress over TCP; None for any other."""
    match address.split("/"):
        case ["", kind, host, "tcp", port, *_] if kind in _HOSTS and host and port.isdecimal() and int(port) < 1 << 16:
            return host, int(port)
        case _:
            return None


def _checksum(payload: bytes) -> bytes:
    return sha256(b"p2pagent/invite\0" + payload).digest()[:_CHECKSUM_BYTES]


def _malformed(reason: str) -> LocalError:
    return LocalError(f"this is not a whole invite: {reason}", "copy it again from `p2pagent invite`", Exit.INVITE)
