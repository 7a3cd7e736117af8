"""What is made of vLLM's events: which records, what of them is left out, and how they pass through the pipe."""

import json
import os
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pagent.engine import vllm_events
from p2pagent.engine.vllm_events import (
    Cleared,
    Ended,
    Listener,
    Lost,
    RecordReader,
    Removed,
    Stored,
    UnfitError,
    arguments,
    decline,
    framed,
    relay,
)

A, B, C = (bytes([letter]) * 32 for letter in b"abc")
TOKENS = list(range(70_000, 70_064))
SALT = "f00d" * 16


# The layout of vLLM 0.32, vllm/distributed/kv_events.py, with the names and defaults that stand there.


class Event(msgspec.Struct, omit_defaults=True, tag=True):
    pass


class BlockStored(Event):
    block_hashes: list[bytes | int]
    parent_block_hash: bytes | int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None


class BlockRemoved(Event):
    block_hashes: list[bytes | int]
    medium: str | None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(Event):
    pass


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True):
    ts: float
    events: list
    data_parallel_rank: int | None = None


def stored(*hashes, **changes):
    event = BlockStored(
        list(hashes), None, TOKENS, 32, None, "GPU", None, [(SALT,), None], 0, "full_attention", session_id="who"
    )
    return msgspec.structs.replace(event, **changes)


def removed(*hashes):
    return BlockRemoved(list(hashes), "GPU", 0)


def message(number, *events):
    return [b"", number.to_bytes(8, "big"), msgspec.msgpack.encode(KVEventBatch(1.5, list(events), 0))]


def heard(*messages):
    listener = Listener()
    return [record for frames in messages for record in listener.records(frames)]


def test_events_become_records_in_their_order():
    assert heard(
        message(0, stored(A, B), removed(A), removed(B), stored(C)),
        message(1, removed(C), AllBlocksCleared(), removed(A)),
    ) == [
        Stored(32, A[:8] + B[:8]),
        Removed(A[:8] + B[:8]),
        Stored(32, C[:8]),
        Removed(C[:8]),
        Cleared(),
        Removed(A[:8]),
    ]


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32))
@example(b"\xff" * 32)
def test_both_forms_of_a_hash_have_one_name(full):
    short = int.from_bytes(full, "big") & ((1 << 64) - 1)
    assert heard(message(0, stored(full))) == heard(message(0, stored(short))) == [Stored(32, full[-8:])]


def test_tokens_salts_and_whose_they_are_stay_behind():
    bytes_told = b"".join(map(framed, heard(message(0, stored(A, B), removed(A)))))
    assert bytes_told == framed(Stored(32, A[:8] + B[:8])) + framed(Removed(A[:8]))
    assert SALT.encode() not in bytes_told
    assert b"who" not in bytes_told
    assert not any(msgspec.msgpack.encode(token) in bytes_told for token in TOKENS)


def test_what_is_missing_is_noticed_once():
    assert heard(message(0, removed(A)), message(2, removed(B)), message(3, removed(C))) == [
        Removed(A[:8]),
        Lost(),
        Removed(B[:8]),
        Removed(C[:8]),
    ]


def test_who_comes_late_has_missed_something():
    assert heard(message(5, removed(A)), message(6, removed(B))) == [Lost(), Removed(A[:8]), Removed(B[:8])]


def test_a_count_that_starts_anew_is_a_gap():
    assert heard(message(0), message(1), message(0, removed(A)), message(1)) == [Lost(), Removed(A[:8])]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"", bytes(8)],
        [b"", bytes(8), b""],
        [b"", bytes(8), b"\xc1"],
        [b"", bytes(8), msgspec.msgpack.encode([1.5, [["BlockStored", [1], None, [1], 32]], 0])],  # positional, as once
        [b"", bytes(8), msgspec.msgpack.encode([1.5, [{"type": "BlockMoved"}], 0])],
        [
            b"",
            bytes(8),
            msgspec.msgpack.encode([1.5, [{"type": "BlockStored", "block_hashes": ["x"], "block_size": 1}]]),
        ],
        [
            b"",
            bytes(8),
            msgspec.msgpack.encode([1.5, [{"type": "BlockRemoved", "block_hashes": [-1], "medium": "GPU"}]]),
        ],
        message(0, removed(b"short")),
        [*message(0), b""],
    ],
)
def test_what_cannot_be_read_counts_as_lost_and_what_follows_is_heard(frames):
    assert heard(frames, message(1, removed(A))) == [Lost(), Removed(A[:8])]


def test_other_tiers_of_the_cache_are_passed_over():
    assert heard(message(0, stored(A, medium="CPU"), BlockRemoved([A], "STORAGE"), stored(B, medium=None))) == [
        Stored(32, B[:8])
    ]


@pytest.mark.parametrize("changes", [{"group_idx": 1}, {"kv_cache_spec_kind": "sliding_window"}])
def test_a_cache_in_which_a_prefix_is_no_run_of_blocks_is_not_spoken_of(changes):
    with pytest.raises(UnfitError):
        heard(message(0, stored(A, **changes)))


records = st.one_of(
    st.builds(Stored, st.integers(1, 1024), st.binary(max_size=64)),
    st.builds(Removed, st.binary(max_size=64)),
    st.sampled_from([Cleared(), Lost(), Ended()]),
)


@settings(deadline=None)
@given(st.lists(records, max_size=8), st.lists(st.integers(1, 40)))
def test_records_pass_through_the_pipe_however_it_cuts_them(sent, cuts):
    data = b"".join(map(framed, sent))
    reader, received = RecordReader(), []
    for cut in [*cuts, len(data)]:
        if data:
            received += reader.feed(data[:cut])
        data = data[cut:]
    assert received == sent
    assert reader.feed(b"") == [Lost()], "vLLM has ended, and may start again"


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff\x91\x02", b"\0\0\0\1\xc1", b"\0\0\0\0", b"\0\0\0\2\x91\x09"])
def test_bytes_that_are_no_record_are_the_end(data):
    reader = RecordReader()
    assert reader.feed(framed(Cleared()) + data) == [Cleared(), Ended()]
    assert reader.feed(framed(Cleared())) == []


def test_vllm_is_told_to_publish_and_to_keep_nothing():
    flag, value = arguments("ipc:///x/kv")
    assert flag == "--kv-events-config"
    assert json.loads(value) == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "ipc:///x/kv",
        "buffer_steps": 1,
        "hwm": vllm_events.QUEUED_MAX,
    }


def relayed(monkeypatch: pytest.MonkeyPatch, published) -> list:
    """What comes out of the pipe while `published` is published."""
    monkeypatch.setattr(vllm_events, "_published", published)
    reading, writing = os.pipe()
    thread = threading.Thread(target=relay, args=("ipc:///x/kv", writing))
    thread.start()
    reader, received = RecordReader(), []
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while data := pipe.read(1000):
            received += reader.feed(data)
    thread.join()
    return received


def test_more_than_the_pipe_holds_is_relayed_and_then_the_reason_why_no_more(monkeypatch, capsys):
    endpoints = []

    def published(endpoint):
        endpoints.append(endpoint)
        for number in range(1000):
            yield message(number, stored(*[A] * 50))
        raise ConnectionError("vLLM went away")

    received = relayed(monkeypatch, published)
    assert endpoints == ["ipc:///x/kv"]
    assert received == [Stored(32, A[:8] * 50)] * 1000 + [Ended()]
    assert capsys.readouterr().err == "no word of the prefix cache from now on: ConnectionError: vLLM went away\n"


def test_an_unfit_cache_ends_the_relay(monkeypatch, capsys):
    received = relayed(monkeypatch, lambda _: iter([message(0, stored(A)), message(1, stored(B, group_idx=1))]))
    assert received == [Stored(32, A[:8]), Ended()]
    assert "UnfitError: group 1" in capsys.readouterr().err


def test_a_relay_to_which_nobody_listens_ends(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(vllm_events, "_published", lambda _: (message(n, stored(A)) for n in range(1 << 30)))
    relay("", writing)
    assert capsys.readouterr().err == ""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)


def test_who_declines_says_so_at_both_ends(capsys):
    reading, writing = os.pipe()
    decline("--data-parallel-size", writing)
    with os.fdopen(reading, "rb") as pipe:
        assert RecordReader().feed(pipe.read()) == [Ended()]
    assert capsys.readouterr().err == "no word of the prefix cache: --data-parallel-size\n"


def test_nothing_of_p2pagent_is_imported_there():
    source = Path(vllm_events.__file__).read_text("utf-8")
    assert "import p2pagent" not in source
    assert "from p2pagent" not in source
