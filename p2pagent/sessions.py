"""Conversations that their owner wants to go on with: one file each in the home folder, which nobody else can read.

They are kept because the owner named them, and as long as the owner does not forget them. A question without a session
leaves no text behind.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from p2pagent.errors import Exit, LocalError
from p2pagent.home import private_file
from p2pagent.types import ChatMessage

FOLDER = "sessions"
TURNS_MAX = 255
"""What has been said, at most: with the next question it is as long as a prompt may be."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX = ".json"


class Sessions:
    """The sessions of one home folder."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def names(self) -> list[str]:
        """Those that there are, in alphabetical order."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))

    def turns(self, name: str) -> tuple[ChatMessage, ...]:
        """What has been said in `name`; nothing if it is new.

        Raises:
            LocalError: it is no name, or its file cannot be read.
        """
        path = self._path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=tuple[ChatMessage, ...])
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}", "mend its permissions", Exit.STORE) from error
        except msgspec.DecodeError as error:
            raise LocalError(f"{path} is damaged: {error}", f"`p2pagent session forget {name}`", Exit.STORE) from error

    def go_on(self, name: str) -> tuple[ChatMessage, ...]:
        """What has been said in `name`, which is to be gone on with.

        Raises:
            LocalError: as `turns`, or it is as long as a conversation may be.
        """
        turns = self.turns(name)
        if len(turns) > TURNS_MAX - 1:
            hint = f"start another one, or `p2pagent session forget {name}`"
            raise LocalError(f"the session {name} has {len(turns)} turns, no more fit in a prompt", hint, Exit.TOO_LONG)
        return turns

    def keep(self, name: str, turns: Sequence[ChatMessage]) -> None:
        """From now on `turns` is what has been said in `name`.

        Raises:
            LocalError: it cannot be written; what was kept before is still there.
        """
        path = self._path(name)
        try:
            with private_file(path, msgspec.json.encode(turns)) as temporary:
                temporary.replace(path)
        except OSError as error:
            raise LocalError(f"cannot write {path}: {error.strerror}", "mend its permissions", Exit.STORE) from error

    def forget(self, name: str) -> bool:
        """Delete it; whether there was one."""
        path = self._path(name)
        known = path.exists()
        path.unlink(missing_ok=True)
        return known

    def _path(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None:
            hint = "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
            raise LocalError(f"{name!r} is no name for a session", hint, Exit.CONFIG)
        return self._folder / f"{name}{_SUFFIX}"
