"""Invites: what is in them, and what is refused."""

import base64
from hashlib import sha256

import pytest

from p2pagent.errors import Exit, LocalError
from p2pagent.invite import Invite, decode, encode, tcp_endpoint

INVITE = Invite("family", "ab" * 32, ("/ip4/192.0.2.7/tcp/4101/p2p/12D3KooWx",))


def token_of(payload: bytes) -> str:
    checksum = sha256(b"p2pagent/invite\0" + payload).digest()[:4]
    return base64.urlsafe_b64encode(payload + checksum).decode().rstrip("=")


def test_token_is_one_word_and_survives_being_pasted_with_blanks():
    token = encode(INVITE)
    assert token.replace("-", "").replace("_", "").isalnum()
    assert decode(f"  {token}\n") == INVITE


def test_token_of_version_1_stays_readable():
    token = "AZOkb3BlbqCRtS9kbnM0L2guZXhhbXBsZS90Y3AvMcX-iEw"
    assert encode(Invite("open", "", ("/dns4/h.example/tcp/1",))) == token


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "checksum"),
        (encode(INVITE)[:-3], "checksum"),
        (encode(INVITE)[1:], "."),
        ("pässword", "characters"),
        ("a b", "characters"),
        ("A" * 5000, "too long"),
        (token_of(b"\x02" + b"\x90"), "version"),
        (token_of(b"\x01" + b"\x90"), "array"),
        (token_of(b"\x01" + b"\xc1"), "."),
        (token_of(b"\x01\x93\xa1a\xa1b\x91\xa2/x"), "."),
        (token_of(b"\x01\x93\xa1a\xa0\x91\xa2\xff\xff"), "."),
    ],
)
def test_what_is_no_invite(token, why):
    with pytest.raises(LocalError, match=why) as caught:
        decode(token)
    assert caught.value.exit_code is Exit.INVITE


@pytest.mark.parametrize("addresses", [(), ("192.0.2.7:4101",), ("/ip4/192.0.2.7/tcp/1",) * 9])
def test_nobody_is_invited_to_nowhere(addresses):
    with pytest.raises(LocalError) as caught:
        encode(Invite("family", "", addresses))
    assert caught.value.exit_code is Exit.INVITE


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("/ip4/192.0.2.7/tcp/4101", ("192.0.2.7", 4101)),
        ("/ip6/2001:db8::1/tcp/4101/p2p/12D3KooWx", ("2001:db8::1", 4101)),
        ("/dns4/home.example/tcp/443/wss", ("home.example", 443)),
        ("/ip4/192.0.2.7/udp/4101/quic-v1", None),
        ("/ip4/192.0.2.7/tcp/65536", None),
        ("/ip4/192.0.2.7/tcp/", None),
        ("/ip4//tcp/1", None),
        ("/unix/run/x", None),
        ("", None),
    ],
)
def test_tcp_endpoint(address, endpoint):
    assert tcp_endpoint(address) == endpoint
