"""The HTTP API over a real socket, driven by httpx and by OpenAI's own client."""

import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import httpx
import msgspec
import openai
import pytest
import trio

from p2pagent.api.guard import BODY_BYTES_MAX
from p2pagent.api.server import serve
from p2pagent.errors import Exit, LocalError
from p2pagent.peer.events import Policy
from p2pagent.peer.updates import Restarted, Text, Unanswered
from p2pagent.types import AgentRef, ChatMessage, Sampling
from tests.batch_node import BatchNode
from tests.scripted_node import ANSWERED, NOBODY, SELLER, ScriptedNode

TOKEN = "t0ken"
HELLO = [{"role": "user", "content": "reverse hello"}]
RESTARTED = Restarted(AgentRef(SELLER, "reverse"), "timeout")


@pytest.fixture
def node():
    return BatchNode()


@pytest.fixture
async def port(node, nursery):
    return await nursery.start(serve, node, 0, TOKEN)


@pytest.fixture
async def http(port) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def official(port):
    with openai.OpenAI(api_key=TOKEN, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as client:
        yield client


async def chat(http, **request):
    return await http.post("/v1/chat/completions", json={"model": "p2pagent", "messages": HELLO} | request)


async def events_of(http, **request):
    body = {"model": "p2pagent", "messages": HELLO, "stream": True} | request
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [msgspec.json.decode(line) for line in lines]


async def test_official_client_gets_an_answer(node, official):
    def ask():
        return official.chat.completions.create(
            model="p2pagent", messages=HELLO, temperature=0.5, seed=-1, max_completion_tokens=9, top_p=0.9, user="me"
        )

    answer = await trio.to_thread.run_sync(ask)
    assert answer.choices[0].message.content == "olleh"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 20
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens_details.cached_tokens == 8
    assert answer.model_extra["p2pagent"]["agent"] == {"peer": SELLER, "name": "reverse"}
    assert "text" not in answer.model_extra["p2pagent"]
    assert answer._request_id == answer.id
    turns, sampling, policy = node.asked[0]
    assert turns == (ChatMessage("user", "reverse hello"),)
    assert sampling == Sampling(max_tokens=9, temperature_milli=500, seed=(1 << 31) - 1)
    assert policy == Policy(1_000_000, 20_000, 1_000_000, "any", raw=False)


async def test_official_client_streams(node, official):
    def ask():
        options = {"include_usage": True}
        with official.chat.completions.create(
            model="p2pagent", messages=HELLO, stream=True, stream_options=options
        ) as stream:
            return list(stream)

    chunks = await trio.to_thread.run_sync(ask)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "olleh"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].model_extra["p2pagent"]["receipt_id"] == ANSWERED.receipt_id
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert node.asked[0][2].raw


async def test_official_client_that_closes_its_stream_cancels_the_query(node, official):
    node.script = (Text("ol"),)

    def ask():
        with official.chat.completions.create(model="p2pagent", messages=HELLO, stream=True) as stream:
            return next(iter(stream)).choices[0].delta.content

    assert await trio.to_thread.run_sync(ask) == ""
    with trio.fail_after(5):
        await node.left.wait()


async def test_client_that_hangs_up_before_any_answer_cancels_the_query(node, port):
    node.script = ()
    body = msgspec.json.encode({"model": "p2pagent", "messages": HELLO})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost:{port}\r\nauthorization: Bearer {TOKEN}\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        while not node.asked:
            await trio.lowlevel.checkpoint()
    with trio.fail_after(5):
        await node.left.wait()


@pytest.mark.parametrize(
    ("error", "request_", "code"),
    [
        (openai.BadRequestError, {"messages": [{"role": "user", "content": " "}]}, "empty_question"),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "x" * 20_000}]}, "context_length_exceeded"),
        (openai.NotFoundError, {"model": "gpt-5"}, "model_not_found"),
        (openai.BadRequestError, {"n": 2}, "unsupported_parameter"),
    ],
)
async def test_official_client_understands_our_errors(official, error, request_, code):
    with pytest.raises(error) as caught:
        await trio.to_thread.run_sync(
            partial(official.chat.completions.create, **{"model": "p2pagent", "messages": HELLO} | request_)
        )
    assert caught.value.code == code


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_answers(node, official, stream):
    node.script = (NOBODY,)
    with pytest.raises(openai.InternalServerError) as caught:
        await trio.to_thread.run_sync(
            partial(official.chat.completions.create, model="p2pagent", messages=HELLO, stream=stream)
        )
    assert caught.value.status_code == 503
    assert caught.value.code == "no_answer"
    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.response.json()["p2pagent"]["candidates"][0]["outcome"] == "awarded"


async def test_stream_that_breaks_off_is_an_error_to_the_official_client(node, official):
    node.script = (Text("ol"), Unanswered("the seller went away", True, ()))

    def ask():
        with official.chat.completions.create(model="p2pagent", messages=HELLO, stream=True) as stream:
            return list(stream)

    with pytest.raises(openai.APIError, match="went away") as caught:
        await trio.to_thread.run_sync(ask)
    assert caught.value.code == "partial_answer"


async def test_restart_travels_beside_an_empty_delta(node, http):
    node.script = (Text("zzz"), RESTARTED, Text("olleh"), ANSWERED)
    events = await events_of(http, p2pagent={"raw": False})
    assert not node.asked[0][2].raw
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "zzz"},
        {},
        {"content": "olleh"},
        {},
    ]
    assert events[2]["p2pagent"] == {
        "type": "restarted",
        "lost": {"peer": SELLER, "name": "reverse"},
        "reason": "timeout",
    }


async def test_extension_overrides_the_preferences(node, http):
    ours = {"value_microcredits": 7, "delay_microcredits_per_s": 6, "price_max_microcredits": 5, "privacy": "trusted"}
    assert (await chat(http, p2pagent=ours | {"raw": True})).status_code == 200
    assert node.asked[0][2] == Policy(7, 6, 5, "trusted", raw=True)


async def test_local_model_stays_on_the_device(node, http):
    assert (await chat(http, model="p2pagent-local", p2pagent={"privacy": "any"})).status_code == 200
    assert node.asked[0][2].privacy == "local"


async def test_a_named_agent_alone_is_asked(node, http):
    assert (await chat(http, model=f"reverse@{SELLER[:12]}", p2pagent={"privacy": "trusted"})).status_code == 200
    assert node.asked[0][2].only == AgentRef(SELLER, "reverse")
    assert node.asked[0][2].privacy == "trusted"
    assert (await chat(http)).status_code == 200
    assert node.asked[1][2].only is None


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_is_not_known_is_a_model_that_is_not_found(node, http, stream):
    response = await chat(http, model="sort@12D3", stream=stream)
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "model_not_found"
    assert "no agent 'sort'" in error["message"]
    assert f"there is reverse@…{SELLER[-8:]}" in error["hint"]
    assert node.asked == []


async def test_parts_and_roles_become_turns(node, http):
    parts = [{"type": "text", "text": "reverse "}, {"type": "text", "text": "hello"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "assistant", "content": None, "tool_calls": None},
        {"role": "user", "content": parts, "name": "me"},
    ]
    assert (await chat(http, messages=messages)).status_code == 200
    assert node.asked[0][0] == (
        ChatMessage("system", "be brief"),
        ChatMessage("assistant", ""),
        ChatMessage("user", "reverse hello"),
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"messages": []},
        {"messages": HELLO * 257},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": "x" * ((1 << 18) + 1)}]},
        {"messages": "hello"},
        {"temperature": 2.1},
        {"max_tokens": 0},
        {"tools": [{"type": "function"}]},
        {"logprobs": True},
        {"stop": "x"},
        {"response_format": {"type": "json_object"}},
        {"p2pagent": {"budget": 1}},
        {"p2pagent": {"privacy": "public"}},
        {"p2pagent": {"value_microcredits": -1}},
    ],
)
async def test_bad_requests(node, http, request_):
    response = await chat(http, **request_)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not node.asked


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
async def test_bodies_that_are_no_request(http, body):
    assert (await http.post("/v1/chat/completions", content=body)).status_code == 400


async def test_neutral_values_ask_for_nothing(http):
    neutral = {"n": 1, "tools": [], "logprobs": False, "stop": None, "response_format": {"type": "text"}}
    assert (await chat(http, **neutral)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/p2pagent/v1/status", "/p2pagent/v1/peers", "/nowhere"])
@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic t0ken", "Bearer t0k\u00e9n"])
async def test_nothing_without_the_token(http, path, authorization):
    response = await http.get(path, headers={"authorization": authorization.encode()})
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4180", "127.0.0.1.evil.example", ""])
async def test_no_other_host_name(http, host):
    assert (await http.get("/healthz", headers={"host": host})).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1"])
async def test_our_host_names(http, host):
    assert (await http.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(("authorization", "status"), [(f"Bearer {TOKEN}", 413), ("Bearer wrong", 401)])
async def test_refused_bodies_leave_the_connection_usable(http, authorization, status):
    headers = {"authorization": authorization}
    for _ in range(2):
        response = await http.post("/v1/chat/completions", content=b"x" * 4 * BODY_BYTES_MAX, headers=headers)
        assert response.status_code == status
    assert (await http.get("/v1/models")).status_code == 200


async def test_endless_body_is_cut_off(port):
    head = f"POST /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"{head}content-length: {1 << 40}\r\n\r\n".encode())
        with trio.fail_after(5):
            # Closed with bytes of ours unread, the connection is reset, which may cost us the response.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(bytes(32 << 20))
            with suppress(trio.BrokenResourceError):
                async for data in stream:
                    received += data
    assert received.startswith(b"HTTP/1.1 413") or received == b""


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs TCP_USER_TIMEOUT")
async def test_client_that_does_not_read_cannot_keep_the_server_from_stopping(node, monkeypatch):
    monkeypatch.setattr("p2pagent.api.server._STALL_MAX_MS", 300)
    node.script = (Text("x" * (1 << 20)),) * 32
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve, node, 0, TOKEN)
            body = msgspec.json.encode({"model": "p2pagent", "messages": HELLO, "stream": True})
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            assert await stream.receive_some()
            nursery.cancel_scope.cancel()
    await stream.aclose()
    assert node.left.is_set()


async def test_readiness_follows_the_node(node, http):
    assert (await http.get("/readyz")).status_code == 200
    node.ready = False
    response = await http.get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"


async def test_views(http):
    assert (await http.get("/p2pagent/v1/status")).json()["agents"][0]["ready"] is True
    assert (await http.get("/p2pagent/v1/peers")).json()[0]["agents"][0]["skill"] == 0.9
    ledger = (await http.get("/p2pagent/v1/ledger", params={"limit": 1})).json()
    assert ledger["accounts"][SELLER]["balance_microcredits"] == -328
    assert len(ledger["receipts"]) == 1
    assert (await http.get("/p2pagent/v1/ledger", params={"limit": "0"})).status_code == 400
    assert [model["id"] for model in (await http.get("/v1/models")).json()["data"]] == ["p2pagent", "p2pagent-local"]


async def test_a_receipt_is_disputed(node, http):
    told = await http.post("/p2pagent/v1/ledger/ababab/dispute", json={"reason": "half is missing"})
    assert (told.json()["state"], told.json()["reason"]) == ("disputed", "half is missing")
    (shown,) = (await http.get("/p2pagent/v1/ledger")).json()["disputed"]
    assert shown == told.json()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("abab/dispute", b'{"reason": "x"}', 400),
        ("ababaz/dispute", b'{"reason": "x"}', 400),
        (f"{'ab' * 33}/refund", b"", 400),
        ("ababab/dispute", b"", 400),
        ("ababab/dispute", b'{"reason": ""}', 400),
        ("ababab/dispute", b'{"reason": "\xff"}', 400),
        ("ababab/dispute", b'{"reason": "\\ud800"}', 400),
        ("ababab/dispute", msgspec.json.encode({"reason": "x" * 257}), 400),
        ("ababab/dispute", b'{"reason": "x", "amount": 1}', 400),
        ("cdcdcd/dispute", b'{"reason": "x"}', 409),
        ("ababab/refund", b"", 409),
        ("abab/rate", b'{"rating": "good"}', 400),
        ("ababab/rate", b'{"rating": "fine"}', 400),
        ("ababab/rate", b"", 400),
        ("cdcdcd/rate", b'{"rating": "good"}', 409),
    ],
)
async def test_what_cannot_be_disputed_or_refunded_or_rated(node, http, path, body, status):
    refused = await http.post(f"/p2pagent/v1/ledger/{path}", content=body)
    assert refused.status_code == status
    assert refused.json()["error"]["code"] == ("invalid_request" if status == 400 else "ledger_refused")
    assert (node.disputed, node.rated) == ((), None)


async def test_a_receipt_is_rated_and_the_last_word_counts(node, http):
    first = (await http.post("/p2pagent/v1/ledger/ababab/rate", json={"rating": "good"})).json()
    again = (await http.post("/p2pagent/v1/ledger/ababab/rate", json={"rating": "bad"})).json()
    assert (first["earlier"], first["receipt"]["rating"], first["expected_quality"]) == (None, "good", 0.62)
    assert (again["earlier"], again["receipt"]["rating"], again["outcomes"]) == ("good", "bad", 3)
    assert (await http.get("/p2pagent/v1/ledger")).json()["receipts"][0]["rating"] == "bad"


async def test_what_an_answer_has_to_be_is_told_to_the_node_alone(node, http):
    await chat(http, p2pagent={"expect": "olleh"})
    await chat(http)
    assert node.expected == ["olleh", ""]
    assert "expect" not in repr(node.asked)


BATCH = "/p2pagent/v1/batch"


async def test_a_batch_is_told_line_by_line_with_the_place_of_each_question(node, http):
    node.scripts = {"b": (Text("z"), RESTARTED, *node.script), "c": (NOBODY,)}
    worth = {"value_microcredits": 7, "privacy": "trusted"}
    async with http.stream(
        "POST", BATCH, json={"questions": ["a", "b", "c"], "max_tokens": 9, "worth": worth}
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        told = [msgspec.json.decode(line) async for line in response.aiter_lines()]
    assert node.batches == [("a", "b", "c")]
    assert node.asked[0][1:] == (Sampling(max_tokens=9), Policy(7, 20_000, 1_000_000, "trusted", raw=False))
    types = [[line["type"] for line in told if line["index"] == index] for index in range(3)]
    said = ["text", "text", "answered"]
    assert types == [said, ["text", "restarted", *said], ["unanswered"]]
    assert {line["text"] for line in told if line["type"] == "answered"} == {ANSWERED.text}


async def test_all_questions_of_a_batch_may_be_for_one_agent_or_for_this_device(node, http):
    for model in (f"reverse@{SELLER[-8:]}", "p2pagent-local", "p2pagent"):
        async with http.stream("POST", BATCH, json={"questions": ["a"], "model": model}) as response:
            assert response.status_code == 200
            await response.aread()
    only, local, any_ = (policy for _, _, policy in node.asked)
    assert (only.only, only.privacy) == (AgentRef(SELLER, "reverse"), "any")
    assert (local.only, local.privacy) == (None, "local")
    assert (any_.only, any_.privacy) == (None, "any")
    for model in ("gpt-5", "sort@12D3"):
        assert (await http.post(BATCH, json={"questions": ["a"], "model": model})).status_code == 404
    assert len(node.asked) == 3


async def test_each_question_of_a_batch_may_expect_an_answer(node, http):
    await http.post(BATCH, json={"questions": ["a", "b"], "expect": ["", "y"]})
    await http.post(BATCH, json={"questions": ["c"]})
    assert node.expected == ["", "y", ""]


async def test_a_question_of_a_batch_that_the_daemon_gives_up_has_an_end(node, http):
    node.scripts = {"b": (), "c": (Text("ol"),)}
    response = await http.post(BATCH, json={"questions": ["a", "b", "c"]})
    ends = [line for line in map(msgspec.json.decode, response.text.splitlines()) if line["type"] != "text"]
    assert {line["index"]: (line["type"], line.get("partial")) for line in ends} == {
        0: ("answered", None),
        1: ("unanswered", False),
        2: ("unanswered", True),
    }


@pytest.mark.parametrize(
    "batch",
    [
        {},
        {"questions": []},
        {"questions": "hello"},
        {"questions": ["x"] * 257},
        {"questions": ["x", "y" * ((1 << 18) + 1)]},
        {"questions": ["x"], "max_tokens": 0},
        {"questions": ["x"], "stream": True},
        {"questions": ["x"], "worth": {"privacy": "public"}},
        {"questions": ["x"], "worth": {"expect": "y"}},
        {"questions": ["x"], "expect": ["y", "z"]},
    ],
)
async def test_batches_that_are_none(node, http, batch):
    response = await http.post(BATCH, json=batch)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert node.batches == []


async def test_a_batch_with_a_question_that_cannot_be_asked_is_not_asked(node, http):
    response = await http.post(BATCH, json={"questions": ["x", "y" * 20_000]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "question 2" in response.json()["error"]["message"]
    assert node.batches == []


async def test_a_batch_needs_the_token(node, port):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as stranger:
        assert (await stranger.post(BATCH, json={"questions": ["x"]})).status_code == 401
    assert node.batches == []


async def test_who_leaves_a_batch_cancels_all_of_it_and_makes_room_for_others(node, http):
    node.silent = {"a"}
    node.scripts = {"a": ()}
    async with http.stream("POST", BATCH, json={"questions": ["a"] * 200}) as response:
        assert response.status_code == 200
        refused = await http.post(BATCH, json={"questions": ["b"] * 57})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_questions")
        assert (await http.post(BATCH, json={"questions": ["b"] * 56})).status_code == 200
        node.left = trio.Event()
    with trio.fail_after(5):
        await node.left.wait()
    assert (await http.post(BATCH, json={"questions": ["b"] * 256})).status_code == 200


async def test_wrong_paths_and_methods(http):
    assert (await http.get("/nowhere")).json()["error"]["code"] == "not_found"
    assert (await http.get("/v1/chat/completions")).json()["error"]["code"] == "method_not_allowed"


async def test_bug_is_an_error_and_the_server_lives_on(node, http):
    node.script = None
    response = await chat(http)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert (await http.get("/healthz")).status_code == 200


async def test_taken_port_names_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(LocalError) as caught:
        await serve(ScriptedNode(), taken.getsockname()[1], TOKEN, task_status=trio.TASK_STATUS_IGNORED)
    assert caught.value.exit_code is Exit.PORT_TAKEN
    assert "--api-port" in caught.value.hint
