"""The folder of one device: its secrets are made once, kept private, and refused when they are not."""

import stat
from pathlib import Path

import pytest

from p2pagent import home
from p2pagent.errors import Exit, LocalError


@pytest.mark.parametrize(("make", "name"), [(home.identity, home.IDENTITY), (home.token, home.TOKEN)])
def test_a_secret_is_made_once_and_is_private(tmp_path: Path, make, name: str) -> None:
    folder = tmp_path / "deeper"
    assert make(folder) == make(folder)
    assert make(folder) != make(tmp_path / "other")
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"garbage", b"00" * 31, b"zz" * 32, b"\xff" * 64])
def test_a_damaged_key_is_a_fault_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / home.IDENTITY
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LocalError, match="does not hold 32 bytes") as caught:
        home.identity(tmp_path)
    assert caught.value.exit_code == Exit.KEY
    assert path.read_bytes() == content


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    home.identity(tmp_path)
    (tmp_path / home.IDENTITY).chmod(0o644)
    with pytest.raises(LocalError, match="others can read") as caught:
        home.identity(tmp_path)
    assert "chmod 600" in caught.value.hint


def test_a_key_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / home.IDENTITY).mkdir(mode=0o700)
    with pytest.raises(LocalError, match="cannot use") as caught:
        home.identity(tmp_path)
    assert caught.value.exit_code == Exit.KEY


def test_a_daemon_is_found_while_it_announces_itself(tmp_path: Path) -> None:
    with home.announced(tmp_path, 4180):
        assert home.find(tmp_path).port == 4180
    with pytest.raises(LocalError) as caught:
        home.find(tmp_path)
    assert caught.value.exit_code == Exit.NO_DAEMON
