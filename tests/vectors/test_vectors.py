"""The vectors in protocols/vectors, both ways: they are the contract with every other implementation."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from p2pagent.errors import RemoteError
from p2pagent.keys import Ed25519Keys
from p2pagent.net.frames import FrameSplitter, encode_frame
from p2pagent.peer.wire import (
    FRAME_BYTES_MAX,
    GOSSIP_PROTOCOL,
    PROTOCOL_MESSAGES,
    QUERY_PROTOCOL,
    SIGNED_DOMAINS,
    decode,
    encode,
    opened,
    sealed,
)

ROOT = Path(__file__).resolve().parents[2]
KINDS = {domain: kind for kind, domain in SIGNED_DOMAINS.items()}


def vectors(name: str, *, valid: bool) -> list[object]:
    listed = json.loads((ROOT / "protocols" / "vectors" / f"{name}.json").read_text("utf-8"))
    return [pytest.param(v, id=v["name"]) for v in listed if ("value" in v) == valid]


def messages(*, valid: bool) -> list[object]:
    return [
        pytest.param(protocol, *found.values, id=f"{name} {found.id}")
        for name, protocol in (("query", QUERY_PROTOCOL), ("gossip", GOSSIP_PROTOCOL))
        for found in vectors(name, valid=valid)
    ]


@pytest.mark.parametrize(("protocol", "vector"), messages(valid=True))
def test_message(protocol, vector):
    message = msgspec.convert(vector["value"], PROTOCOL_MESSAGES[protocol])
    assert encode(message).hex() == vector["hex"]
    assert decode(protocol, bytes.fromhex(vector["hex"])) == message


@pytest.mark.parametrize(("protocol", "vector"), messages(valid=False))
def test_message_refused(protocol, vector):
    with pytest.raises(RemoteError) as caught:
        decode(protocol, bytes.fromhex(vector["hex"]))
    assert vector["error"] in str(caught.value)


@pytest.mark.parametrize("vector", vectors("signed", valid=True))
def test_signed(vector):
    keys = Ed25519Keys(bytes.fromhex(vector["seed"]))
    kind = KINDS[vector["domain"]]
    value = msgspec.convert(vector["value"], kind)
    body, signature = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["signature"])
    assert keys.peer == vector["signer"]
    assert sealed(value, keys) == (body, signature)
    assert opened(kind, body, signature, keys.peer, keys) == value


@pytest.mark.parametrize("vector", vectors("signed", valid=False))
def test_signed_refused(vector):
    keys = Ed25519Keys(bytes.fromhex(vector["seed"]))
    body, signature = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["signature"])
    with pytest.raises(RemoteError) as caught:
        opened(KINDS[vector["domain"]], body, signature, vector["signer"], keys)
    assert vector["error"] in str(caught.value)


@pytest.mark.parametrize("vector", vectors("framing", valid=True))
def test_stream(vector):
    payloads = [bytes.fromhex(payload) for payload in vector["value"]]
    assert b"".join(map(encode_frame, payloads)).hex() == vector["hex"]
    assert list(FrameSplitter(FRAME_BYTES_MAX).feed(bytes.fromhex(vector["hex"]))) == payloads


@pytest.mark.parametrize("vector", vectors("framing", valid=False))
def test_stream_refused(vector):
    with pytest.raises(RemoteError) as caught:
        list(FrameSplitter(FRAME_BYTES_MAX).feed(bytes.fromhex(vector["hex"])))
    assert vector["error"] in str(caught.value)


def test_every_message_and_every_signed_body_has_a_vector():
    for name, protocol in (("query", QUERY_PROTOCOL), ("gossip", GOSSIP_PROTOCOL)):
        shown = {found.values[0]["value"][0] for found in vectors(name, valid=True)}
        assert shown == {kind.__struct_config__.tag for kind in PROTOCOL_MESSAGES[protocol].__args__}
    assert {found.values[0]["domain"] for found in vectors("signed", valid=True)} == set(KINDS)


def test_the_files_are_what_the_code_encodes():
    script = ROOT / "scripts" / "make_vectors"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
