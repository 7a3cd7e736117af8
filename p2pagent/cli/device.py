"""`p2pagent init`, `up` and `doctor`: this device."""

from typing import Annotated, Literal, TypeVar

import msgspec
import typer

from p2pagent import config as settings
from p2pagent import doctor as checks
from p2pagent import experts
from p2pagent.cli.app import (
    DelayOption,
    HomeOption,
    JsonOption,
    PriceOption,
    PrivacyOption,
    ValueOption,
    app,
    examples,
    home_of,
)
from p2pagent.cli.output import emit_json, note, parse_credits, table
from p2pagent.config import Agent, Config, Engine
from p2pagent.errors import Exit, LocalError
from p2pagent.home import CONFIG, identity
from p2pagent.keys import Ed25519Keys

_S = TypeVar("_S", bound=msgspec.Struct)


@app.command(
    epilog=examples(
        "p2pagent init --expert sort",
        "p2pagent init --engine openai --url http://127.0.0.1:11434/v1 --model llama3.2 --name llama",
        "p2pagent init --engine vllm --model ./models/qwen",
    )
)
def init(
    *,
    expert: Annotated[str | None, typer.Option("--expert", metavar="NAME", help="Host this shipped expert.")] = None,
    engine: Annotated[
        Literal["embedded", "vllm", "openai"] | None, typer.Option("--engine", help="What runs the agent's model.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model folder, or the endpoint's name for it.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Base URL of an endpoint that already runs.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What the agent is called.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace settings that are there; never the key.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write the settings of this device and its key.

    Without options it hosts a small expert that ships with p2pagent and needs nothing else. What is there already
    stays: run it as often as you like.
    """
    folder = home_of(home)
    path = folder / CONFIG
    if expert is not None:
        experts.path(expert)
    if engine == "openai" and not (url and model):
        raise LocalError("an engine of kind openai needs --url and --model", "see the examples of --help", Exit.CONFIG)
    runs = _with(Engine(), kind=engine, model=model or expert, url=url)
    agent = _with(Agent(engine=runs), name=name or expert)
    config = settings.check(msgspec.to_builtins(Config(agents=(agent,))), "the options")
    peer = Ed25519Keys(identity(folder)).peer
    if force or not path.exists():
        settings.save(config, path)
        note(f"wrote {path}; next: `p2pagent up`")
    elif (expert or engine or model or url or name) and settings.load(path) != config:
        raise LocalError(f"{path} holds other settings", "edit it, or replace it by --force", Exit.CONFIG)
    else:
        note(f"{path} is there already; next: `p2pagent up`")
    if as_json:
        emit_json({"peer": peer, "config": str(path)})
    else:
        typer.echo(peer)


@app.command(
    epilog=examples(
        "p2pagent up", "p2pagent up --listen /ip4/0.0.0.0/tcp/4201 --api-port 0", "p2pagent up --privacy local"
    )
)
def up(
    *,
    listen: Annotated[
        list[str] | None, typer.Option("--listen", metavar="MULTIADDR", help="Listen here; may be repeated.")
    ] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option("--bootstrap", metavar="MULTIADDR", help="Meet this peer first; may be repeated."),
    ] = None,
    api_port: Annotated[
        int | None, typer.Option("--api-port", min=0, max=65535, help="Port of the API on 127.0.0.1; 0 for any.")
    ] = None,
    value: ValueOption = None,
    delay_cost: DelayOption = None,
    max_price: PriceOption = None,
    privacy: PrivacyOption = None,
    newcomer_credit: Annotated[
        int | None,
        typer.Option(
            "--newcomer-credit",
            parser=parse_credits,
            metavar="CREDITS",
            help="What a peer without history may owe you.",
        ),
    ] = None,
    stop_with_stdin: Annotated[
        bool, typer.Option("--stop-with-stdin", help="End when standard input closes, as with the program holding it.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Run this device's daemon until it is stopped. Options hold for this run, in place of the settings."""
    from p2pagent import daemon  # what it imports takes a second, for which no other command should wait

    folder = home_of(home)
    config = settings.load(folder / CONFIG)
    overridden = _with(
        config,
        network=_with(config.network, listen=listen, bootstrap=bootstrap),
        api=_with(config.api, port=api_port),
        preferences=_with(
            config.preferences,
            value_microcredits=value,
            delay_microcredits_per_s=delay_cost,
            price_max_microcredits=max_price,
            privacy=privacy,
            newcomer_credit_microcredits=newcomer_credit,
        ),
    )
    daemon.run(
        folder, settings.check(msgspec.to_builtins(overridden), "the options"), until_stdin_closes=stop_with_stdin
    )


@app.command(epilog=examples("p2pagent doctor", "p2pagent doctor --json"))
def doctor(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Look for what is missing on this device.

    Prints what was found, and for all that is missing the line that mends it. The exit code is 0 only if nothing needed
    is missing.
    """
    findings = checks.examine(home_of(home))
    if as_json:
        emit_json(findings)
    else:
        rows = [(finding.state, finding.subject, finding.detail) for finding in findings]
        typer.echo(table(("", "what", "found"), rows))
        for finding in findings:
            if finding.mend:
                typer.echo(f"{finding.subject}: {finding.mend}")
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(Exit.UNEXPECTED)


def _with(value: _S, **changes: object) -> _S:
    """`value` with those of `changes` that were given."""
    return msgspec.structs.replace(value, **{name: change for name, change in changes.items() if change is not None})
