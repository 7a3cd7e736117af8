"""`p2pagent invite` and `join`: how two devices come to be in one network."""

import secrets
from typing import Annotated

import msgspec
import typer

from p2pagent import config as settings
from p2pagent import invite as invites
from p2pagent.api.client import Client
from p2pagent.cli.app import HomeOption, JsonOption, app, examples, home_of
from p2pagent.cli.output import emit_json, note
from p2pagent.doctor import any_answers
from p2pagent.errors import Exit, LocalError
from p2pagent.home import CONFIG
from p2pagent.invite import ADDRESSES_MAX, Invite


@app.command(
    epilog=examples(
        "p2pagent invite",
        "p2pagent invite --private",
        "p2pagent invite --address /dns4/home.example/tcp/4101/p2p/12D3KooW…",
    )
)
def invite(
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address",
            metavar="MULTIADDR",
            help="Where others reach this device, peer id included; may be repeated. Default: the daemon's own.",
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option("--private", help="First give the network a key, unless it has one: only invited devices talk."),
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Print a token by which another device joins this network.

    It holds the network's name, its key if it has one, and addresses of this device. An open network stays open
    unless you say --private, for a new key parts this device from all that do not have it; it holds from the next
    `p2pagent up`. Pass the token on like a password.
    """
    path = home_of(home) / CONFIG
    config = settings.load(path)
    addresses = tuple(address or ())
    if not addresses:
        with Client(home_of(home)) as client:
            view = client.status()
        addresses = tuple(one if "/p2p/" in one else f"{one}/p2p/{view.peer}" for one in view.addresses)
    if private and not config.network.psk:
        network = msgspec.structs.replace(config.network, psk=secrets.token_hex(32))
        config = msgspec.structs.replace(config, network=network)
        settings.save(config, path)
        note("the network has a key now: restart `p2pagent up`")
    token = invites.encode(Invite(config.network.name, config.network.psk.lower(), addresses[:ADDRESSES_MAX]))
    if as_json:
        emit_json({"token": token, "network": config.network.name, "private": bool(config.network.psk)})
    else:
        typer.echo(token)


@app.command(epilog=examples("p2pagent join AZOkbWFpb…", 'p2pagent join "$(ssh home p2pagent invite)"'))
def join(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="What `p2pagent invite` printed.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Take this device into the network of an invite.

    The settings get the network's name, key and addresses, and keep all else; they hold from the next `p2pagent up`.
    Whether one of the addresses answers is tried at once, and said by the exit code; the settings are saved either way.
    """
    path = home_of(home) / CONFIG
    invite = invites.decode(token)
    config = settings.load(path)
    network = msgspec.structs.replace(config.network, name=invite.network, psk=invite.psk, bootstrap=invite.addresses)
    settings.save(msgspec.structs.replace(config, network=network), path)
    reachable = any_answers(invite.addresses)
    if as_json:
        emit_json({"network": invite.network, "bootstrap": invite.addresses, "reachable": reachable})
    note(f"joined {invite.network!r}; it holds from the next `p2pagent up`")
    if not reachable:
        raise LocalError(
            "no address of the invite answers from here",
            "the settings are saved; see that the other daemon runs, or get a token by `p2pagent invite --address`",
            Exit.UNREACHABLE,
        )
