"""The folder of one device: which file lies where, and the two secrets in it that nobody else may read.

Rule 1: a secret is made once, whole, at mode 0600, by whichever process comes first; it is never overwritten.
Rule 2: a secret that others could have read is refused, for it is none any more.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import platformdirs
from msgspec import Struct

from p2pagent.errors import Exit, LocalError

CONFIG = "config.toml"
IDENTITY = "identity"
TOKEN = "token"  # noqa: S105 - the name of a file
ENDPOINT = "api.json"
TOKENISERS = "tokenisers"

_SECRET_BYTES = 32


class Endpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the running daemon's API listens on 127.0.0.1."""

    port: int
    pid: int


def default() -> Path:
    """The folder that this system keeps for an application's data."""
    return platformdirs.user_data_path("p2pagent")


def identity(home: Path) -> bytes:
    """The 32-byte seed of this device's ed25519 key, made at first use.

    Raises:
        LocalError: it cannot be read or written, is damaged, or can be read by others.
    """
    return _secret(home / IDENTITY)


def token(home: Path) -> str:
    """The bearer token of this device's API, made at first use.

    Raises:
        LocalError: as for `identity`.
    """
    return _secret(home / TOKEN).hex()


def tokenisers(home: Path) -> list[Path]:
    """The folders of tokenisers that the owner has put here, each with the files of a model but its weights."""
    folder = home / TOKENISERS
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


@contextmanager
def announced(home: Path, port: int) -> Iterator[None]:
    """Within the block, `find` gives `port`; the daemon holds it open while its API answers."""
    path = home / ENDPOINT
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(Endpoint(port=port, pid=os.getpid())))
    temporary.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find(home: Path) -> Endpoint:
    """Where the daemon of `home` says that it listens.

    Raises:
        LocalError: no daemon has announced itself.
    """
    try:
        return msgspec.json.decode((home / ENDPOINT).read_bytes(), type=Endpoint)
    except (OSError, msgspec.DecodeError) as error:
        raise no_daemon(home) from error


def no_daemon(home: Path) -> LocalError:
    """What to tell whoever needs the daemon of `home` while none runs."""
    return LocalError(f"no daemon is running for {home}", "start it with `p2pagent up`", Exit.NO_DAEMON)


@contextmanager
def private_file(path: Path, content: bytes) -> Iterator[Path]:
    """A new file beside `path`, which nobody else can read; within the block it is to be put in its place.

    Raises:
        OSError: it cannot be written; then there is none.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _secret(path: Path) -> bytes:
    try:
        if not path.exists():
            _create(path)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise LocalError(f"others can read {path}", f"`chmod 600 {path}`, or move it away for a new one", Exit.KEY)
        value = bytes.fromhex(path.read_text("ascii"))
    except OSError as error:
        raise LocalError(f"cannot use {path}: {error.strerror}", "mend its permissions", Exit.KEY) from error
    except ValueError:
        value = b""
    if len(value) != _SECRET_BYTES:
        raise LocalError(f"{path} does not hold {_SECRET_BYTES} bytes in hex", "move it away for a new one", Exit.KEY)
    return value


def _create(path: Path) -> None:
    # A link, unlike a rename, fails where another process was first: then its secret holds.
    with private_file(path, secrets.token_hex(_SECRET_BYTES).encode()) as temporary, suppress(FileExistsError):
        os.link(temporary, path)
