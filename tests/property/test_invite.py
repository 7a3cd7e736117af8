"""Invites for any network, and tokens damaged in any way."""

from hypothesis import given
from hypothesis import strategies as st

from p2pagent.errors import LocalError
from p2pagent.invite import Invite, decode, encode

invites = st.builds(
    Invite,
    network=st.text(st.characters(codec="utf-8"), min_size=1, max_size=64),
    psk=st.just("") | st.binary(min_size=32, max_size=32).map(bytes.hex),
    addresses=st.lists(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=159).map(
            lambda rest: "/" + rest
        ),
        min_size=1,
        max_size=8,
    ).map(tuple),
)


def decoded(token: str) -> Invite | None:
    try:
        return decode(token)
    except LocalError:
        return None


@given(invites)
def test_round_trip(invite):
    assert decoded(encode(invite)) == invite


@given(invites, st.data())
def test_one_wrong_character_never_gives_another_invite(invite, data):
    token = encode(invite)
    at = data.draw(st.integers(0, len(token) - 1))
    damaged = token[:at] + data.draw(st.characters()) + token[at + 1 :]
    assert decoded(damaged) in (None, invite)


@given(st.text())
def test_any_text_is_taken_calmly(text):
    decoded(text)
