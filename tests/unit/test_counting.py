"""What a prompt is called with: as many tokens as the agent's tokeniser makes of it, or a bound on that."""

import json
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec.structs import replace

from p2pagent import experts
from p2pagent.config import Agent, Config, Engine
from p2pagent.daemon import Daemon
from p2pagent.engine.base import Capabilities
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.market.receipts import metered, price_cap
from p2pagent.node import LocalNode
from p2pagent.peer.choice import expected_cost
from p2pagent.peer.events import Ask
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import Call
from p2pagent.routing.prototypes import Space
from p2pagent.tokeniser import digest_of, read
from p2pagent.tokenisers import Tokenisers
from p2pagent.types import ChatMessage, Sampling, Usage
from tests.marketplace import SUBJECT, Market
from tests.scenario import make_advert, make_ask, make_policy
from tests.scripted_engine import ScriptedEngine
from tests.strangers import ALICE, BOB, CAROL, make_delta, make_peer, receive, sent

SHIPPED = experts.path("add")
BYTES = digest_of(SHIPPED)
TURNS = (ChatMessage("system", "a" * 30), ChatMessage("user", "b" * 60))
EXPERTS = (ALICE, BOB, CAROL)
ASK = replace(make_ask("q", SUBJECT), prompt_tokens=30, prompt_tokens_max=50, counted={b"exact": 20})


def advert(tokeniser: bytes = b"", context_tokens: int = 4096, name: str = "agent") -> AgentAdvert:
    made = make_advert(name, {SUBJECT: 0.95})
    return msgspec.structs.replace(made, tokeniser=tokeniser, context_tokens=context_tokens)


# --- one question ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "expected", "called"),
    [
        (advert(b"exact"), 20, 20),
        (advert(b"other"), 30, 50),
        (advert(b""), 30, 50),
        (advert(b"", context_tokens=40), 30, 39),
        (advert(b"", context_tokens=30), 30, 30),
    ],
)
def test_what_is_known_is_called_exactly_and_what_is_not_by_a_bound(
    agent: AgentAdvert, expected: int, called: int
) -> None:
    assert (ASK.tokens_by(agent.tokeniser), ASK.tokens_called(agent)) == (expected, called)
    assert expected_cost(agent, ASK, 5, 64) == metered(agent.rates, Usage(expected, 5, 64))


def test_without_a_bound_the_expectation_is_called() -> None:
    assert make_ask("q", 0).tokens_called(advert()) == make_ask("q", 0).prompt_tokens


def test_each_agent_is_called_with_its_own_count(space: Space) -> None:
    market = Market(space, ())
    for keys, agent in [(ALICE, advert(b"exact")), (BOB, advert(b"other")), (CAROL, advert(b"", context_tokens=31))]:
        market.get(keys, make_delta(keys, space, agent))
    market.handle(replace(ASK, batch="all"))
    counts = {keys: [m.prompt_tokens for m in sent(market.effects, keys) if isinstance(m, Call)] for keys in EXPERTS}
    assert counts == {ALICE: [20], BOB: [50], CAROL: [30]}


@pytest.mark.parametrize(("tokeniser", "fits"), [(b"exact", True), (b"other", False)])
def test_who_reads_a_prompt_in_fewer_tokens_takes_longer_ones(space: Space, tokeniser: bytes, fits: bool) -> None:
    market = Market(space, ())
    market.get(ALICE, make_delta(ALICE, space, advert(tokeniser, context_tokens=25)))
    market.handle(ASK)
    assert any(isinstance(message, Call) for message in sent(market.effects, ALICE)) == fits


@pytest.mark.parametrize("tokeniser", [b"exact", b"other"])
def test_the_price_limit_holds_for_all_that_may_be_billed(space: Space, tokeniser: bytes) -> None:
    agent = advert(tokeniser)
    most = price_cap(agent.rates, ASK.tokens_called(agent), ASK.sampling.max_tokens, 0)
    for limit in (most - 1, most):
        market = Market(space, ())
        market.get(ALICE, make_delta(ALICE, space, agent))
        market.handle(replace(ASK, policy=make_policy(price_max_microcredits=limit)))
        assert any(isinstance(message, Call) for message in sent(market.effects, ALICE)) == (limit == most)


# --- the daemon -----------------------------------------------------------------------------------------------------


class Counting(ScriptedEngine):
    """An engine with these capabilities, which counts a thousand tokens in everything or is not there."""

    def __init__(self, tokeniser: bytes, context_tokens: int = 4096, *, is_there: bool = True) -> None:
        super().__init__(str)
        self.told = Capabilities("counting", context_tokens, 1, False, False, tokeniser=tokeniser)
        self.is_there = is_there

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        await trio.lowlevel.checkpoint()
        if not self.is_there:
            raise EngineUnavailableError("not there")
        return 1_000

    def capabilities(self) -> Capabilities:
        return self.told


async def asked(space: Space, engines: list[Counting], *strangers: AgentAdvert) -> Ask:
    """What a question becomes on a device with the shipped tokeniser, these engines, and these agents known."""
    peer, tokenisers = make_peer(space), Tokenisers()
    for keys, stranger in zip(EXPERTS, strangers, strict=False):
        receive(peer, keys, make_delta(keys, space, stranger))
    tokenisers.add(SHIPPED)
    fields = dict.fromkeys(LocalNode.__struct_fields__) | {"space": space, "peer": peer, "tokenisers": tokenisers}
    node = LocalNode(**fields | {"engines": {str(n): engine for n, engine in enumerate(engines)}})
    make = await node._question(TURNS, Sampling(), make_policy(), "")
    return make("q7")


async def test_a_question_is_counted_by_the_tokenisers_that_agents_name(space: Space) -> None:
    ask = await asked(space, [], advert(BYTES), advert(b"unknown"), advert())
    assert (ask.query, ask.turns) == ("q7", TURNS)
    assert ask.counted == {BYTES: 90 + 3}  # each byte, two beginnings, and that of the answer
    assert (ask.prompt_tokens, ask.prompt_tokens_max) == (90 // 3 + 2 * 8, 90 // 2 + 2 * 8)
    assert (await asked(space, [], advert())).counted == {}


async def test_an_own_engine_of_another_tokeniser_says_what_to_expect(space: Space) -> None:
    assert (await asked(space, [Counting(BYTES), Counting(b"")])).prompt_tokens == 1_000
    assert (await asked(space, [Counting(BYTES), Counting(b"", is_there=False)])).prompt_tokens == 46
    assert (await asked(space, [Counting(BYTES)])).counted == {BYTES: 93}


async def test_a_question_is_too_long_if_it_is_for_everybody(space: Space) -> None:
    await asked(space, [], advert(BYTES, context_tokens=94), advert(context_tokens=40))
    await asked(space, [Counting(BYTES, 90)], advert(context_tokens=47))
    await asked(space, [])
    with pytest.raises(LocalError, match="has 93 tokens; no agent takes 93 or more") as refused:
        await asked(space, [Counting(b"", 90)], advert(BYTES, context_tokens=93), advert(context_tokens=40))
    assert refused.value.exit_code is Exit.TOO_LONG


def test_a_device_knows_the_tokenisers_of_its_models_and_of_its_folder(tmp_path: Path) -> None:
    digests = set()
    for number, folder in enumerate((tmp_path / "model", tmp_path / "home" / "tokenisers" / "friend's")):
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": str(number)}))
        digests.add(read(folder).digest)
    (tmp_path / "home" / "tokenisers" / "empty").mkdir()
    model = Engine(kind="vllm", model=str(tmp_path / "model"))
    hosted = Engine(kind="openai", model=str(tmp_path / "home" / "tokenisers" / "friend's"), url="http://127.0.0.1:1")
    agents = (Agent("mine", model), Agent("hub", Engine(kind="vllm", model="some/model")), Agent("far", hosted))
    daemon = Daemon(tmp_path / "home", Config(agents=agents))
    daemon._find_tokenisers()
    assert daemon._tokenisers.known == {*digests, BYTES}
    assert [warning.partition(" holds ")[0] for warning in daemon._warnings] == [
        str(tmp_path / "home" / "tokenisers" / "empty")
    ]
