"""The owner's settings: one frozen tree read from TOML, passed down explicitly. Unknown keys are refused.

The description in each `Meta` is the documentation: the table in README.md is generated from here.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from p2pagent.errors import Exit, LocalError
from p2pagent.keys import is_peer_id
from p2pagent.types import PrivacyClass

NAME_BYTES_MAX = 64
CACHE_SECRET_CHARACTERS_MIN = 32

Money = Annotated[int, Meta(ge=0, le=1 << 53)]


def _about(text: str) -> Meta:
    return Meta(description=text)


class Engine(Struct, frozen=True, forbid_unknown_fields=True):
    """What runs the agent's model."""

    kind: Annotated[Literal["embedded", "vllm", "openai"], _about("Which engine answers.")] = "embedded"
    model: Annotated[str, _about("Shipped expert, model folder, or the endpoint's name for the model.")] = "reverse"
    url: Annotated[str, _about("`openai`: base URL of an endpoint that already runs.")] = ""
    api_key: Annotated[str, _about("`openai`: its key, if it wants one.")] = ""
    python: Annotated[str, _about("`vllm`: the interpreter that has vLLM; empty means this one.")] = ""
    args: Annotated[tuple[str, ...], _about("`vllm`: further arguments of its own, passed through.")] = ()
    slots: Annotated[int, Meta(ge=1, le=1024, description="Answers worked on at the same time.")] = 4


class Rates(Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent charges, in microcredits per token."""

    prompt: Annotated[int, Meta(ge=0, le=1 << 32, description="Per prompt token computed.")] = 10
    cached: Annotated[int, Meta(ge=0, le=1 << 32, description="Per prompt token found in the cache.")] = 1
    output: Annotated[int, Meta(ge=0, le=1 << 32, description="Per token of the answer.")] = 40


class Agent(Struct, frozen=True, forbid_unknown_fields=True):
    """One agent of this device."""

    name: Annotated[str, Meta(min_length=1, max_length=64, description="Its name on this device.")] = "agent"
    engine: Annotated[Engine, _about("What runs it.")] = Engine()
    rates: Annotated[Rates, _about("What it charges others.")] = Rates()
    calibration: Annotated[str, _about("JSON file of `{prompt, answer}` to measure it by; empty: the shipped set.")] = (
        ""
    )


class Network(Struct, frozen=True, forbid_unknown_fields=True):
    """How this device meets others."""

    name: Annotated[str, Meta(min_length=1, max_length=64, description="Only peers of one network name talk.")] = "main"
    listen: Annotated[tuple[str, ...], _about("Multiaddresses to listen on; port 0 picks a free one.")] = (
        "/ip4/0.0.0.0/tcp/4101",
    )
    bootstrap: Annotated[tuple[str, ...], _about("Multiaddresses of peers to meet first.")] = ()
    psk: Annotated[str, _about("Pre-shared key of a private network, 64 hex digits; `p2pagent join` sets it.")] = ""
    mdns: Annotated[bool, _about("Find peers on the local network by multicast.")] = False
    neighbours_max: Annotated[int, Meta(ge=1, le=256, description="Peers kept connected, the busiest.")] = 64


class Preferences(Struct, frozen=True, forbid_unknown_fields=True):
    """What answers are worth to the owner; every flag of `p2pagent ask` overrides one of these."""

    value_microcredits: Annotated[Money, _about("What a good answer is worth.")] = 1_000_000
    delay_microcredits_per_s: Annotated[Money, _about("What a second of waiting costs.")] = 20_000
    price_max_microcredits: Annotated[Money, _about("The most one answer may cost.")] = 1_000_000
    privacy: Annotated[PrivacyClass, _about("How far a prompt may travel: `local`, `trusted` or `any`.")] = "any"
    trusted: Annotated[tuple[str, ...], _about("Peer ids that `trusted` prompts may go to.")] = ()
    caution: Annotated[float, Meta(ge=-3, le=3, description="Standard deviations taken off an uncertain quality.")] = (
        0.5
    )
    cache_secret: Annotated[
        str,
        Meta(
            max_length=256,
            description="Devices with the same one use what is cached for each other; 32 random characters or more, "
            "such as `openssl rand -hex 32` prints.",
        ),
    ] = ""
    newcomer_credit_microcredits: Annotated[
        Money, _about("What a peer without history may owe this device; grows with what it has settled.")
    ] = 1_000_000


class Embedding(Struct, frozen=True, forbid_unknown_fields=True):
    """The space in which questions and skills meet; peers of different spaces never score each other."""

    kind: Annotated[Literal["hashing", "minilm"], _about("`minilm` needs the extra `embed`.")] = "hashing"


class Api(Struct, frozen=True, forbid_unknown_fields=True):
    """The loopback HTTP API, OpenAI's protocol included."""

    port: Annotated[int, Meta(ge=0, le=65535, description="Port on 127.0.0.1; 0 picks a free one.")] = 4180


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one device."""

    agents: Annotated[tuple[Agent, ...], Meta(min_length=0, max_length=8, description="The agents it hosts.")] = (
        Agent(),
    )
    network: Annotated[Network, _about("How it meets others.")] = Network()
    preferences: Annotated[Preferences, _about("What answers are worth to the owner.")] = Preferences()
    embedding: Annotated[Embedding, _about("How questions are embedded.")] = Embedding()
    api: Annotated[Api, _about("The HTTP API for this device's programs.")] = Api()


def load(path: Path) -> Config:
    """The settings in the TOML file at `path`.

    Raises:
        LocalError: it cannot be read, is not TOML, or holds a key or value that is not a setting.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise LocalError(f"no configuration at {path}", "run `p2pagent init`", Exit.CONFIG) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LocalError(
            f"cannot read {path}: {error}", "mend the file, or move it away and run `p2pagent init`", Exit.CONFIG
        ) from error
    return check(raw, str(path))


def check(raw: object, source: str) -> Config:
    """The settings in `raw`, as a TOML parser gives them; `source` names it in errors.

    Raises:
        LocalError: a key or value that is not a setting.
    """
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise LocalError(f"{source}: {error}", "see the table of settings in README.md", Exit.CONFIG) from error
    names = [agent.name for agent in config.agents]
    if len(set(names)) < len(names):
        raise LocalError(f"{source}: two agents have one name", "give each agent a name of its own", Exit.CONFIG)
    for name in [*names, config.network.name]:
        if len(name.encode()) > NAME_BYTES_MAX:
            hint = "a record of all agents has to fit into one small packet"
            raise LocalError(f"{source}: the name {name!r} has more than {NAME_BYTES_MAX} bytes", hint, Exit.CONFIG)
    for peer in config.preferences.trusted:
        if not is_peer_id(peer):
            hint = "`p2pagent peers` shows peer ids; they begin with 12D3KooW"
            raise LocalError(f"{source}: preferences.trusted names {peer!r}, which is no peer id", hint, Exit.CONFIG)
    if 0 < len(config.preferences.cache_secret) < CACHE_SECRET_CHARACTERS_MIN:
        cause = f"preferences.cache_secret has fewer than {CACHE_SECRET_CHARACTERS_MIN} characters"
        hint = "take what `openssl rand -hex 32` prints: who is called can try out a secret that is guessed"
        raise LocalError(f"{source}: {cause}", hint, Exit.CONFIG)
    psk = config.network.psk
    if psk and (len(psk) != 64 or set(psk.lower()) - set("0123456789abcdef")):
        raise LocalError(f"{source}: network.psk is not 64 hex digits", "take it from `p2pagent invite`", Exit.CONFIG)
    return config


def save(config: Config, path: Path) -> None:
    """Write `config` as TOML, mode 0600 (it may hold keys), leaving out what is at its default; never half a file."""
    text = _toml(_changed(config))
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def _changed(value: Struct) -> dict[str, object]:
    """The fields of `value` that differ from their defaults, nested."""
    default = type(value)()
    kept: dict[str, object] = {}
    for field in value.__struct_fields__:
        mine, theirs = getattr(value, field), getattr(default, field)
        if mine == theirs:
            continue
        if isinstance(mine, Struct):
            kept[field] = _changed(mine)
        elif isinstance(mine, tuple) and mine and isinstance(mine[0], Struct):
            kept[field] = [_changed(item) for item in mine]
        else:
            kept[field] = msgspec.to_builtins(mine)
    return kept


def _toml(tree: dict[str, object]) -> str:
    return msgspec.toml.encode(tree).decode()
