"""The affinity bench on real engines, without one: its model, its loop, what it counts and what it asks for."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace

import httpx
import msgspec
import numpy as np
import pytest
import trio
from msgspec.structs import replace

from p2pagent.api.tree import to_tree
from p2pagent.engine.base import GenerateRequest
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.peer.updates import Answered
from p2pagent.sim.conversations import Shape, Turn, messages
from p2pagent.sim.routers import Router
from p2pagent.types import AgentRef, ChatMessage, PeerId, Sampling, Usage
from scripts.benches import affinity_plot, affinity_vllm, affinity_vllm_fleet, affinity_vllm_model, affinity_vllm_readme
from scripts.benches.affinity_routers import LOAD_ONLY, ROUTERS
from scripts.benches.affinity_targets import BASELINES, OURS, targets
from scripts.benches.affinity_trace import Service
from scripts.benches.affinity_vllm import setting
from scripts.benches.affinity_vllm_figures import Played, paired, rows, sums
from scripts.benches.affinity_vllm_fleet import AGAIN_S, TRIES, Asker, Counted, Reply
from scripts.benches.affinity_vllm_play import Served, play
from scripts.benches.affinity_vllm_speed import PROBES_PER_NODE, WARM_UP_PER_NODE, Speed, fitted, probe
from scripts.benches.intervals import Interval
from scripts.benches.run import Run
from tests.scripted_node import ANSWERED, CANDIDATE

PEERS = [PeerId(f"12D3KooWnode{node}") for node in range(3)]
RNG = np.random.default_rng(1)


def answered(node: int = 0, prompt: int = 100, cached: int = 64, price: int = 500) -> Answered:
    agent = AgentRef(PEERS[node], "bench")
    seen = (replace(CANDIDATE, agent=agent, cached_tokens=cached), replace(CANDIDATE, outcome="not called"))
    return replace(
        ANSWERED, agent=agent, usage=Usage(prompt, cached, 16), price_microcredits=price, candidates=seen, good=None
    )


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, monkeypatch):
    for name, size in {"HIDDEN": 32, "LAYERS": 2, "HEADS": 1, "MLP": 48, "ITEMS": 2}.items():
        monkeypatch.setattr(affinity_vllm_model, name, size)
    affinity_vllm_model.write(tmp_path / "model", seed=3)
    return tmp_path / "model"


async def test_the_model_reads_prompts_as_long_as_the_trace_says_and_answers_to_the_full_length(model, nursery):
    engine = EmbeddedEngine(model)
    await nursery.start(engine.run)
    shape = Shape(documents=2, conversations=3, turns=3, document_tokens=90, first_tokens=20, turn_tokens=70)
    pieces: list[str] = []
    for number in range(shape.turns):
        said = messages(shape, 1, number, 5)
        assert await engine.count_tokens(said) == 90 + 20 + number * 70
        pieces.clear()
        done = await engine.generate(
            GenerateRequest(said, Sampling(max_tokens=16)), lambda delta: pieces.append(delta.text)
        )
        assert done.usage.output_tokens == len("".join(pieces)) == 16
        assert all(" " <= character <= "~" for character in "".join(pieces))


async def test_its_calibration_is_what_it_answers_and_follows_from_the_seed(model, tmp_path, nursery):
    items = await affinity_vllm_model.calibration(model, 3)
    assert items == await affinity_vllm_model.calibration(model, 3)
    affinity_vllm_model.write(tmp_path / "same", seed=3)
    affinity_vllm_model.write(tmp_path / "other", seed=4)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "same", "other")]
    assert weights[0] == weights[1] != weights[2]
    engine = EmbeddedEngine(model)
    await nursery.start(engine.run)
    said: list[str] = []
    request = GenerateRequest((ChatMessage("user", items[1].prompt),), Sampling(max_tokens=32))
    await engine.generate(request, lambda delta: said.append(delta.text))
    assert "".join(said).strip() == items[1].answer != ""


# --- asking ---------------------------------------------------------------------------------------------------------


def stream(*events: object) -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def piece(text: str) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}}]}


def record(of: Answered) -> dict[str, object]:
    tree = to_tree(of)
    assert isinstance(tree, dict)
    return {"choices": [{"delta": {}}], "p2pagent": {name: tree[name] for name in tree if name != "text"}}


class Api:
    """Gives the responses that it was told, and keeps what it was asked."""

    def __init__(self, *responses: httpx.Response) -> None:
        self.responses = list(responses)
        self.asked: list[dict[str, object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(msgspec.json.decode(request.content))
        return self.responses.pop(0)

    async def ask(self, node: int | None) -> Reply:
        nodes = [
            SimpleNamespace(peer=p, config=SimpleNamespace(agents=(SimpleNamespace(name="bench"),))) for p in PEERS
        ]
        async with httpx.AsyncClient(transport=httpx.MockTransport(self), base_url="http://x") as http:
            return await Asker(http, nodes).ask((ChatMessage("user", "a"),), 16, node)


async def test_a_baseline_asks_by_name_and_ours_asks_the_network():
    whole = stream(piece(""), piece("ab"), piece("c"), record(answered(2)))
    api = Api(httpx.Response(200, content=whole), httpx.Response(200, content=whole))
    reply = await api.ask(2)
    assert reply.answered == replace(answered(2), text="abc")
    assert reply.asked_s < reply.first_s <= reply.ended_s
    assert reply.denied == ()
    await api.ask(None)
    assert [asked["model"] for asked in api.asked] == [f"bench@{PEERS[2]}", "p2pagent"]
    assert all(asked["p2pagent"] == {"raw": False} for asked in api.asked)


async def test_who_gets_no_answer_asks_again_and_all_of_it_is_waiting(autojump_clock):
    broken = httpx.Response(200, content=stream(piece("x"), {"error": {"message": "gone"}}))
    api = Api(
        httpx.Response(503, json={"error": {"message": "busy", "code": "no_answer"}}),
        broken,
        httpx.Response(200, content=stream(piece("y"), record(answered()))),
    )
    begun_s = trio.current_time()
    reply = await api.ask(0)
    assert (reply.denied, reply.answered.text) == (("busy", "the answer broke off"), "y")
    assert trio.current_time() - begun_s == pytest.approx(2 * AGAIN_S)


async def test_who_never_gets_an_answer_says_why(autojump_clock):
    with pytest.raises(TimeoutError, match="nobody is left"):
        await Api(
            *(
                httpx.Response(503, json={"error": {"message": "nobody is left", "code": "no_answer"}})
                for _ in range(TRIES)
            )
        ).ask(0)


async def test_what_was_taken_back_is_no_first_piece():
    restarted = {"choices": [{"delta": {}}], "p2pagent": {"type": "restarted"}}
    taken_back = stream(piece("lost"), restarted, piece("kept"), record(answered()))
    first_s, ended_s, found = await affinity_vllm_fleet._read(httpx.Response(200, content=taken_back))
    assert found is not None
    assert found.text == "kept"
    assert 0 < first_s <= ended_s


# --- the loop -------------------------------------------------------------------------------------------------------


class Noting(Router):
    """Sends each conversation to a node of its own, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__(3, np.random.default_rng(0))  # type: ignore[arg-type]
        self.told: list[tuple[str, int, float]] = []

    def choose(self, turn: Turn, now_s: float) -> int:
        self.told.append(("asked", turn.conversation, now_s))
        return turn.conversation

    def answered(self, turn: Turn, node: int, now_s: float) -> None:
        super().answered(turn, node, now_s)
        self.told.append(("answered", turn.conversation, now_s))


def turn(conversation: int, number: int, pause: float) -> Turn:
    return Turn(conversation, number, 0, pause, 100, 16, (1, 2, 3))


TURNS = (turn(0, 0, 1.0), turn(0, 1, 2.0), turn(1, 0, 1.5))
ANSWER_S = 10.0


class Nodes:
    """Every answer takes `ANSWER_S`."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int | None]] = []

    async def ask(self, asked: Turn, node: int | None) -> Reply:
        self.asked.append((asked.conversation, asked.number, node))
        start_s = trio.current_time()
        await trio.sleep(ANSWER_S)
        return Reply(start_s, start_s + 4, start_s + ANSWER_S, ("busy",), answered(node or 0))


async def test_a_turn_is_asked_a_pause_after_the_answer_before(autojump_clock):
    rule, nodes, begun_s = Noting(), Nodes(), trio.current_time()
    served = await play(TURNS, 3.0, nodes.ask, rule, lambda reply: PEERS.index(reply.answered.agent.peer))
    told = [(what, conversation, at_s - begun_s) for what, conversation, at_s in rule.told]
    assert told == [
        ("asked", 0, 3.0),
        ("asked", 1, 4.5),
        ("answered", 0, 13.0),
        ("answered", 1, 14.5),
        ("asked", 0, 19.0),
        ("answered", 0, 29.0),
    ]
    assert rule.unanswered == [0, 0, 0]
    assert nodes.asked == [(0, 0, 0), (1, 0, 1), (0, 1, 0)]
    assert served[1] == Served(
        1, 0, 1, 100, 64, 4_000.0, 10_000.0, 500, denied=("busy",), restarts=0, calls=1, cleared=False
    )


async def test_without_a_rule_the_network_chooses(autojump_clock):
    nodes = Nodes()
    await play(TURNS, 1.0, nodes.ask, None, lambda _: 0)
    assert [node for _, _, node in nodes.asked] == [None] * 3


def test_every_published_router_can_be_asked():
    for policy in BASELINES:
        assert ROUTERS[policy](Service().seen, Random(1)).route(TURNS[0], 0.0) in range(3)


def test_every_policy_is_played_once_in_each_repetition_and_at_another_place():
    what = setting(Run())
    assert len(what.policies) == 10
    assert sorted(what.plan) == sorted((policy, n) for policy in (OURS, *BASELINES) for n in range(3))
    places = [[p for p, n in what.plan if n == number].index(OURS) for number in range(3)]
    assert len(set(places)) == 3


# --- the speed ------------------------------------------------------------------------------------------------------


class Sharing:
    """Nodes that share their cores: first token and others take as many times as long as nodes are at work.

    The first rounds are far slower, as an engine's first requests are.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int | None]] = []
        self.at_work = 0

    async def ask(self, turns: Sequence[ChatMessage], output_tokens: int, node: int | None) -> Reply:
        miss, warming = len(turns) == 6, len(self.asked) < WARM_UP_PER_NODE * 2 * (3 + 1 + 3)
        self.asked.append((turns[0].content, len(turns), node))
        self.at_work += 1
        await trio.sleep(1)
        each = 100.0 if warming else self.at_work
        await trio.sleep(1)
        self.at_work -= 1
        first_s = each * ((0.5 if miss else 0.1) + (0.01 if node is None else 0))
        return Reply(0.0, first_s, first_s + each * 0.03 * (output_tokens - 1), (), answered(prompt=1_000))


async def test_speeds_are_medians_after_the_warm_up_of_one_node_alone_and_of_all_at_once(autojump_clock):
    nodes = Sharing()
    speed, replies = await probe(nodes, Shape(), 3)  # type: ignore[arg-type]
    rounds = WARM_UP_PER_NODE + PROBES_PER_NODE
    assert len(nodes.asked) == rounds * 2 * (3 + 1 + 3)
    assert len({document for document, _, _ in nodes.asked}) == len(nodes.asked) / 2
    assert Counter(node for _, _, node in nodes.asked) == {
        0: 4 * rounds,
        1: 4 * rounds,
        2: 4 * rounds,
        None: 2 * rounds,
    }
    assert speed == pytest.approx(
        {
            "pinned_miss_ms": 500,
            "pinned_hit_ms": 100,
            "ours_miss_ms": 510,
            "ours_hit_ms": 110,
            "joint_miss_ms": 1_500,
            "joint_hit_ms": 300,
            "output_token_ms": 90,
        }
    )
    found = fitted(Service(), speed, replies)
    assert found.prefill(0, 1_000) == pytest.approx(1.2)
    assert found.decode(4) == pytest.approx(0.09)


# --- figures and targets --------------------------------------------------------------------------------------------


DENIED = ("bench@…nodenode refused (enough), and nobody else was to be asked", "busy", "bench@…node1 refused (enough)")


def served(conversation: int, first_ms: float = 100.0, cached: int = 64, node: int = 0) -> Served:
    return Served(conversation, 0, node, 100, cached, first_ms, 2 * first_ms, 500, DENIED[conversation:], 0, 1, False)


def test_a_row_is_of_all_repetitions_and_its_hit_rate_is_what_the_engines_counted():
    runs = [
        Played(OURS, 0, [served(0, 100), served(1, 300, node=2)], Counted(200, 100), 10.0),
        Played(OURS, 1, [served(0, 200)], Counted(100, 80), 20.0),
        Played("random", 0, [served(0, 400)], Counted(100, 10), 30.0),
    ]
    row, other = rows(runs, 0.8, RNG)
    assert (row["policy"], row["answers"], row["hit_rate"].n) == (OURS, 3, 2)
    assert row["hit_rate"].value == pytest.approx((0.5 + 0.8) / 2)
    assert row["hit_rate"].low < 0.1  # receipts, which say more was cached, have no part in it
    assert row["of_ceiling"] == pytest.approx(0.65 / 0.8)
    assert (row["ttft_ms"].value, row["end_to_end_ms"].value, row["price_microcredits"].value) == (200, 400, 500)
    assert row["ttft_ms_p95"] == pytest.approx(290)
    assert (row["answers_per_node"], row["lasted_s"]) == ("2 / 0 / 1", 15)
    assert (row["retries"], row["denied"]) == (8, "refused (enough): 5, busy: 3")
    assert (row["broken_off"], row["quoted_in_vain"]) == pytest.approx((0, (192 - 180) / 300))
    assert other["policy"] == "random"
    assert other["hit_rate"] == Interval(0.1, 0.1, 0.1, 1)


def test_counts_by_the_receipts_are_sums():
    run = Played(OURS, 0, [served(0), served(1, cached=32)], Counted(202, 91), 1.0)
    assert run.used == Counted(200, 96)
    assert run.agrees  # one was asked again: what broke off was counted, too
    assert not run._replace(counted=Counted(199, 96)).agrees
    whole = run._replace(served=[replace(answer, denied=()) for answer in run.served])
    assert not whole.agrees
    assert whole._replace(counted=Counted(200, 91)).agrees
    assert not whole._replace(
        served=[replace(whole.served[0], restarts=1), whole.served[1]], counted=Counted(199, 0)
    ).agrees


def test_conversations_are_paired_whatever_the_order_in_which_they_ended():
    ours = [Played(OURS, n, [served(0, 100 + n), served(1, 50)], Counted(0, 0), 1.0) for n in range(2)]
    theirs = [Played("sticky", n, [served(1, 100), served(0, 200 + 2 * n)], Counted(0, 0), 1.0) for n in (1, 0)]
    assert sums(theirs, lambda s: s.first_ms).tolist() == [200, 100, 202, 100]
    found = paired([*ours, *theirs], RNG)
    assert list(found) == ["sticky"]
    assert (found["sticky"].value, found["sticky"].low, found["sticky"].high) == pytest.approx((0.5, 0.5, 0.5))


def row(policy: str, hit: float, ttft_ms: float, price: float) -> dict[str, object]:
    exact = {"hit_rate": hit, "ttft_ms": ttft_ms, "price_microcredits": price}
    return {"policy": policy, "nodes": 3} | {name: Interval(value, value, value, 1) for name, value in exact.items()}


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, set()),
        ({"hit": 0.82}, {"hit rate over the trace's ceiling, x"}),
        ({"hit": 0.79}, {"hit rate, x", "hit rate over the trace's ceiling, x"}),
        ({"price": 651}, {"price over the mean of those that look at loads only, x"}),
        ({"ttft_ms": 101}, {"TTFT over the best baseline's, x"}),
        ({"ttft_ms": 104}, {"TTFT over the best baseline's, x", "worst baseline's TTFT over ours, x"}),
    ],
)
def test_ours_is_held_to_the_best_the_worst_and_those_that_look_at_loads_only(changed, missed):
    others = [row(policy, 0.6, 100 if policy == "LBGR" else 300, 1_000) for policy in BASELINES]
    for one in others:
        if one["policy"] not in LOAD_ONLY:
            one["price_microcredits"] = Interval(1, 1, 1, 1)
    ours = row(OURS, **{"hit": 0.83, "ttft_ms": 100, "price": 650} | changed)
    found = targets("x", 0.87, [ours, *others])
    assert len(found) == 6
    assert {target.name for target in found if not target.met} == missed


async def test_counters_are_read_until_they_say_what_was_used(autojump_clock, monkeypatch):
    readings = [Counted(10, 1), Counted(29, 1), Counted(30, 11), Counted(99, 99)]

    async def scripted(_: object) -> Counted:
        return readings.pop(0)

    monkeypatch.setattr(affinity_vllm, "counted", scripted)
    assert await affinity_vllm._count_up([], Counted(10, 1), Counted(20, 10)) == Counted(30, 11)
    readings = [Counted(10, 1)] * 1_000
    assert await affinity_vllm._count_up([], Counted(10, 1), Counted(20, 10)) == Counted(10, 1)


def test_speed_of_an_engine_that_gains_nothing_by_its_cache_is_no_division_by_zero():
    assert Speed(joint_miss_ms=5.0, joint_hit_ms=6.0).prefill_ms == 1.0


def test_the_readme_tells_a_run_and_the_figure_draws_it(tmp_path):
    exact = {policy: row(policy, 0.6, 300, 6_000) for policy in (OURS, *BASELINES)}
    found = [
        one | {"ttft_ms_p95": 1.0, "end_to_end_ms_p95": 2.0, "end_to_end_ms": one["ttft_ms"], "quoted_in_vain": 0.012}
        for one in exact.values()
    ]
    what = setting(Run())
    trace = affinity_vllm._trace(what, [TURNS]) | {"ceiling": Interval(0.87, 0.86, 0.88, 3)}
    alone = {"pinned_miss_ms": 500.0, "pinned_hit_ms": 60.0, "ours_miss_ms": 510.0, "ours_hit_ms": 70.0}
    speed = alone | {"joint_miss_ms": 750.0, "joint_hit_ms": 80.0}
    told = affinity_vllm_readme.tables(
        msgspec.json.decode(
            msgspec.json.encode(
                {"traces": [trace], "speed": speed, "policies": found, "targets": targets("x", 0.87, found)}
            )
        )
    )
    assert "9,600 of the" in told
    assert "spare 87.0%" in told
    assert "at once, 750 ms and 80 ms" in told
    assert told.count("| 0.012 |") == len(found)
    assert "| hit rate over the trace's ceiling, x | >= 0.95 | 0.690, missed |" in told
    assert told.count("| 300") >= len(BASELINES)
    affinity_plot.plot({"traces": [trace], "policies": found}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1_000
