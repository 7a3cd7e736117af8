"""The wire under any bytes: decoding gives a message or blames the sender, and gives back what was encoded."""

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from p2pagent.errors import RemoteError
from p2pagent.keys import Ed25519Keys
from p2pagent.peer.gossip_messages import Heartbeat, Record
from p2pagent.peer.hub_messages import (
    BID_BYTES_MAX,
    BOOK_BYTES_MAX,
    SHEET_BYTES_MAX,
    Bid,
    Proof,
    Reveal,
    SignedBook,
    SignedSheet,
    Statement,
)
from p2pagent.peer.messages import Chunk
from p2pagent.peer.wire import (
    FRAME_BYTES_MAX,
    HUB_PROTOCOL,
    PROTOCOL_MESSAGES,
    QUERY_PROTOCOL,
    SIGNED_DOMAINS,
    decode,
    encode,
    opened,
    parsed,
    protocol_of,
    sealed,
)

LENGTH_MAX = 24
"""Of what the strategies draw: longer ones find nothing more and take long."""

BASE58 = "".join(sorted(set(string.ascii_letters + string.digits) - set("0OIl")))
PROTOCOLS = tuple(PROTOCOL_MESSAGES)
SIGNED_KINDS = tuple(SIGNED_DOMAINS)


def drawn(kind):
    """Any value that the declaration `kind`, as msgspec inspects it, allows."""
    match kind:
        case inspect.Metadata(type=inner):
            return drawn(inner)
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=low, le=high):
            return st.integers(low, high) | st.sampled_from([low, high])
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.StrType(pattern="^12D3KooW"):
            return st.text(BASE58, min_size=44, max_size=44).map("12D3KooW".__add__)
        case inspect.StrType(max_length=high, pattern=str() as pattern):
            return st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= high)
        case inspect.StrType(min_length=low, max_length=high, pattern=None):
            return st.text(st.characters(codec="utf-8"), min_size=low or 0, max_size=min(high, LENGTH_MAX))
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=max(low or 0, min(high, LENGTH_MAX)))
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return st.lists(drawn(item), min_size=low or 0, max_size=min(high, 8)).map(tuple)
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: drawn(field.type) for field in fields})
        case inspect.UnionType(types=types):
            return st.one_of([drawn(one) for one in types])
    raise AssertionError(f"no strategy for {kind}")


messages = st.one_of([drawn(inspect.type_info(PROTOCOL_MESSAGES[protocol])) for protocol in PROTOCOLS])
signed_values = st.one_of([drawn(inspect.type_info(kind)) for kind in SIGNED_KINDS])
keys = st.binary(min_size=32, max_size=32).map(Ed25519Keys)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def tried(protocol, data):
    """The message in `data`, None if it is refused; anything but `RemoteError` fails the test."""
    try:
        return decode(protocol, data)
    except RemoteError:
        return None


@given(messages)
def test_round_trip(message):
    assert decode(protocol_of(message), encode(message)) == message


@given(messages)
def test_no_message_belongs_to_two_protocols(message):
    assert [protocol for protocol in PROTOCOLS if tried(protocol, encode(message))] == [protocol_of(message)]


@given(st.sampled_from(PROTOCOLS), st.binary())
def test_any_bytes_are_a_message_or_the_senders_fault(protocol, data):
    tried(protocol, data)


@given(st.sampled_from(PROTOCOLS), anything)
def test_any_msgpack_is_a_message_or_the_senders_fault(protocol, value):
    tried(protocol, msgspec.msgpack.encode(value))


@given(messages, st.data())
def test_a_damaged_frame_is_refused_or_is_itself_the_encoding_of_what_it_says(message, data):
    frame = bytearray(encode(message))
    at = data.draw(st.integers(0, len(frame)))
    frame[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    found = tried(protocol_of(message), bytes(frame))
    assert found is None or encode(found) == frame


@given(messages, st.data())
def test_any_value_in_any_field_is_allowed_or_the_senders_fault(message, data):
    items = list(msgspec.to_builtins(message, builtin_types=(bytes,)))
    items[data.draw(st.integers(0, len(items) - 1))] = data.draw(anything)
    tried(protocol_of(message), msgspec.msgpack.encode(items))


@given(drawn(inspect.type_info(Bid)))
def test_a_bid_comes_back_and_no_other_bytes_are_that_bid(bid):
    assert parsed(encode(bid), Bid) == bid
    with pytest.raises(RemoteError):
        parsed(encode(bid) + b"\0", Bid)


@given(messages, st.integers(1))
def test_a_frame_cut_short_is_refused(message, cut):
    frame = encode(message)
    assert tried(protocol_of(message), frame[: -1 - cut % len(frame)]) is None


@given(signed_values, keys)
def test_what_was_sealed_opens(value, signer):
    if isinstance(value, Record | Heartbeat):
        value = msgspec.structs.replace(value, peer=signer.peer)
    assert opened(type(value), *sealed(value, signer), signer.peer, signer) == value


@given(signed_values, keys, st.data())
def test_any_flipped_bit_breaks_the_seal(value, signer, data):
    if isinstance(value, Record | Heartbeat):
        value = msgspec.structs.replace(value, peer=signer.peer)
    body, signature = sealed(value, signer)
    both = bytearray(body + signature)
    bit = data.draw(st.integers(0, 8 * len(both) - 1))
    both[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteError):
        opened(type(value), bytes(both[:-64]), bytes(both[-64:]), signer.peer, signer)


@given(signed_values, keys, keys)
def test_nobody_signs_for_another(value, signer, other):
    if isinstance(value, Record | Heartbeat):
        value = msgspec.structs.replace(value, peer=signer.peer)
    if signer.peer != other.peer:
        with pytest.raises(RemoteError, match="not signed by"):
            opened(type(value), *sealed(value, other), signer.peer, signer)


@given(st.sampled_from(SIGNED_KINDS), st.binary(), st.binary(), st.text(), keys)
def test_opening_any_bytes_gives_a_value_or_the_senders_fault(kind, body, signature, signer, verifier):
    with pytest.raises(RemoteError):
        opened(kind, body, signature, signer, verifier)


def test_a_text_of_the_greatest_length_fits_whatever_its_characters_and_one_more_is_refused():
    longest = Chunk(bytes(16), 0, "ü" * (1 << 18))
    assert decode(QUERY_PROTOCOL, encode(longest)) == longest
    with pytest.raises(RemoteError, match="length <= 262144"):
        decode(QUERY_PROTOCOL, encode(msgspec.structs.replace(longest, text="ü" * ((1 << 18) + 1))))


@pytest.mark.parametrize(
    ("message", "most"),
    [
        (Reveal, BID_BYTES_MAX),
        (lambda body: SignedBook(body, bytes(64)), BOOK_BYTES_MAX),
        (lambda body: SignedSheet(body, bytes(64)), SHEET_BYTES_MAX),
        (lambda body: Proof((Statement("sheet", body, bytes(64)),) * 2), SHEET_BYTES_MAX),
    ],
)
def test_the_largest_parts_of_a_clearing_fit_and_one_byte_more_is_refused(message, most):
    largest = message(bytes(most))
    assert decode(HUB_PROTOCOL, encode(largest)) == largest
    with pytest.raises(RemoteError, match=f"length <= {most}"):
        decode(HUB_PROTOCOL, encode(message(bytes(most + 1))))


def test_a_frame_over_the_limit_is_refused_unread():
    with pytest.raises(RemoteError, match="exceeds"):
        parsed(bytes(FRAME_BYTES_MAX + 1), PROTOCOL_MESSAGES[QUERY_PROTOCOL])
