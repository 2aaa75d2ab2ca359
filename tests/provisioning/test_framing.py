"""Commands and answers on a console, as octets: nothing but our own tokens counts, however the octets are cut."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.framing import (
    Answered,
    Begun,
    Damaged,
    Event,
    Frames,
    Overflowed,
    Question,
)

NONCE = bytes.fromhex("5f3a91c2d4")
OTHER = bytes.fromhex("0011223344")


def frame(number: int, output: bytes, status: int = 0, nonce: bytes = NONCE) -> bytes:
    """What a shell says to command ``number``."""
    mark = nonce.hex().encode()
    return b"@B:%s-%d:\r\n%s@E:%s-%d:%d:\r\n" % (mark, number, output, mark, number, status)


def everything(data: bytes, cuts: list[int], limit: int = 65536, expected: int = 9) -> list[Event]:
    frames = Frames(NONCE)
    for _ in range(expected):
        frames.command("true", limit=limit)
    events: list[Event] = []
    begin = 0
    for end in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        events += frames.receive(data[begin:end])
        begin = end
    return events


def test_an_answer_is_what_stands_between_the_tokens() -> None:
    assert everything(b"noise" + frame(1, b"one\r\ntwo\r\n", 3) + b"# ", []) == [Begun(1), Answered(1, 3, b"one\ntwo\n")]


def test_output_without_a_last_newline_is_kept_as_it_is() -> None:
    assert everything(frame(2, b"abc"), [])[-1] == Answered(2, 0, b"abc")


def test_what_another_session_asked_for_is_not_answered_to_us() -> None:
    assert everything(frame(1, b"theirs", nonce=OTHER) + frame(1, b"ours"), []) == [Begun(1), Answered(1, 0, b"ours")]


@pytest.mark.parametrize("shell", [["/bin/busybox", "sh"], ["bash"], ["dash"]], ids=["busybox", "bash", "dash"])
def test_a_real_shell_answers_in_frames(shell: list[str]) -> None:
    frames = Frames(NONCE)
    typed = frames.command("cat", "first\n\nlast $HOME `id` \\") + frames.command("(exit 7)") + frames.command("printf x")
    said = subprocess.run(shell, input=typed, capture_output=True, check=True).stdout
    answers = [event for event in frames.receive(said) if isinstance(event, Answered)]
    assert answers == [Answered(1, 0, b"first\n\nlast $HOME `id` \\\n"), Answered(2, 7, b""), Answered(3, 0, b"x")]


def test_the_echo_of_a_command_is_no_answer() -> None:
    frames = Frames(NONCE)
    echo = frames.command("true").replace(b"\n", b"\r\n")
    assert frames.receive(b"\r\n# " + echo + frame(1, b"")) == [Begun(1), Answered(1, 0, b"")]


def test_an_end_without_its_beginning_is_damage() -> None:
    assert everything(frame(4, b"abc")[5:], []) == [Damaged(4)]


def test_an_answer_that_lost_its_end_gives_way_to_the_next() -> None:
    assert everything(frame(1, b"abc")[:-12] + frame(2, b"d"), []) == [Begun(1), Begun(2), Answered(2, 0, b"d")]


def test_an_answer_that_swallowed_the_next_beginning_is_damage() -> None:
    lost = frame(1, b"abc")[:-12] + frame(2, b"d")[6:]
    assert everything(lost, []) == [Begun(1), Damaged(2)]


def test_too_much_output_is_said_once_and_thrown_away() -> None:
    data = frame(1, b"x" * 5000) + frame(2, b"y")
    assert everything(data, [], limit=1000) == [Begun(1), Overflowed(1), Begun(2), Answered(2, 0, b"y")]


def test_endless_output_costs_bounded_memory() -> None:
    frames = Frames(NONCE)
    frames.command("true", limit=1000)
    for prefix in (b"", frame(1, b"")[:20]):
        frames.receive(prefix)
        for _ in range(100):
            frames.receive(b"z" * 10_000)
        assert len(frames._buffer) < 2000


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"\r\ndevice login: ", [Question.USER]),
        (b"Login: ", [Question.USER]),
        (b"Password: ", [Question.PASSWORD]),
        (b"root@plc's password:", [Question.PASSWORD]),
        (b"Last login: Tue Mar 3 on ttyS0\r\n# ", []),
        (b"autologin: root\r\n", []),
        (b"login[88]: root login on 'ttyS0'\r\n", []),
    ],
    ids=["user", "capital", "password", "whose", "message of the day", "word that ends so", "log line"],
)
def test_getty_and_login_are_understood(text: bytes, events: list[Event]) -> None:
    assert everything(text, []) == events


def test_inside_an_answer_nothing_is_a_question() -> None:
    assert everything(frame(1, b"login: Password: "), []) == [Begun(1), Answered(1, 0, b"login: Password: ")]


@pytest.mark.parametrize("text", ["a\nb", "a\rb"])
def test_a_command_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        Frames(NONCE).command(text)


def test_a_text_that_would_end_its_own_here_document_is_refused() -> None:
    with pytest.raises(ValueError, match="ends itself"):
        Frames(NONCE).command("cat", "a\n:\nb")


@pytest.mark.parametrize("nonce", [b"abc", b"x" * 17])
def test_a_nonce_has_a_sensible_length(nonce: bytes) -> None:
    with pytest.raises(ValueError, match="4 to 16"):
        Frames(nonce)


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"login: ", b"Last login: ", b"Password:", b"# ", b"\r\n", b"@B:", b"@E:5f3a", b"x" * 300]),
    st.builds(frame, st.integers(1, 9), st.binary(max_size=30), st.integers(0, 255), st.sampled_from([NONCE, OTHER])),
    st.builds(lambda number, cut: frame(number, b"damaged")[cut:], st.integers(1, 9), st.integers(0, 50)),
    st.builds(lambda number, cut: frame(number, b"damaged")[: -1 - cut], st.integers(1, 9), st.integers(0, 50)),
)


@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 5000), max_size=30), st.sampled_from([100, 65536]))
def test_the_same_octets_give_the_same_events_however_they_are_cut(data: bytes, cuts: list[int], limit: int) -> None:
    whole = everything(data, [], limit)
    assert everything(data, cuts, limit) == whole
    assert everything(data, list(range(len(data))), limit) == whole


OURS = re.compile(rb"@[BE]:" + NONCE.hex().encode())


@given(st.binary(max_size=3000), st.binary(max_size=200), st.lists(st.integers(0, 5000), max_size=10))
def test_any_garbage_before_a_frame_is_ignored(garbage: bytes, output: bytes, cuts: list[int]) -> None:
    assert not OURS.search(garbage + output)
    answered = [event for event in everything(garbage + frame(1, output), cuts) if isinstance(event, Answered)]
    assert answered == [Answered(1, 0, re.sub(rb"\r+\n", b"\n", output))] or output.startswith((b"\n", b"\r"))
