"""Settings on disk: what is written is read back, and what is no setting is refused."""

import stat

import pytest

from p2pagent.config import Agent, Api, Config, Embedding, Engine, Network, Preferences, Rates, check, load, save
from p2pagent.errors import Exit, LocalError
from p2pagent.keys import Ed25519Keys

FULL = Config(
    agents=(
        Agent("a", Engine(kind="openai", model="m", url="http://h/v1", api_key='k"\\', slots=2), Rates(1, 0, 3)),
        Agent("b", Engine(kind="vllm", model="m", args=("--max-model-len", "512")), calibration="c.json"),
    ),
    network=Network("fam\nily", ("/ip4/127.0.0.1/tcp/0",), ("/dns4/h/tcp/1",), "aB" * 32, mdns=True, neighbours_max=3),
    preferences=Preferences(
        privacy="trusted", trusted=(Ed25519Keys(bytes(32)).peer,), caution=-0.25, cache_secret="0f" * 16
    ),
    embedding=Embedding("minilm"),
    api=Api(0),
)


@pytest.mark.parametrize("config", [Config(), FULL, Config(agents=())])
def test_round_trip(config, tmp_path):
    path = tmp_path / "config.toml"
    save(config, path)
    assert load(path) == config
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_saving_again_replaces(tmp_path):
    path = tmp_path / "config.toml"
    save(FULL, path)
    save(Config(), path)
    assert load(path) == Config()


def test_defaults_are_not_written(tmp_path):
    path = tmp_path / "config.toml"
    save(Config(api=Api(1)), path)
    assert path.read_text() == "[api]\nport = 1\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("agent = []", "agent"),
        ("[network]\nport = 1", "port"),
        ("[api]\nport = 70000", "65535"),
        ("[api]\nport = '4180'", "int"),
        ("[network]\npsk = 'abc'", "psk"),
        (f"[network]\npsk = '{'g' * 64}'", "psk"),
        ("[[agents]]\n[[agents]]", "one name"),
        (f"[preferences]\ncache_secret = '{'x' * 31}'", "preferences.cache_secret has fewer than 32"),
        ("[preferences]\nvalue_microcredits = -1", "value_microcredits"),
        ("agents = [", "cannot read"),
        ("[preferences]\ncaution = nan", "caution"),
    ],
)
def test_what_is_no_setting(text, why, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(LocalError, match=why) as caught:
        load(path)
    assert caught.value.exit_code is Exit.CONFIG
    assert str(path) in caught.value.cause


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(LocalError) as caught:
        load(tmp_path / "config.toml")
    assert "p2pagent init" in caught.value.hint


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LocalError):
        load(path)


def test_check_names_its_source():
    with pytest.raises(LocalError, match="the options"):
        check({"api": 1}, "the options")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"preferences": {"trusted": ["12D3KooWnobody"]}}, "no peer id"),
        ({"agents": [{"name": "\u6f22" * 40}]}, "more than 64 bytes"),
        ({"network": {"name": "\u00e9" * 40}}, "more than 64 bytes"),
    ],
)
def test_what_would_silently_not_work_is_refused(raw: dict, told: str) -> None:
    with pytest.raises(LocalError, match=told) as caught:
        check(raw, "here")
    assert caught.value.exit_code == Exit.CONFIG
