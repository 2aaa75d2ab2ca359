"""SMP: messages, the lines that carry them, and what a bad line or a hostile console can do: nothing."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeviceFault
from provisioning.codec import smp
from provisioning.codec.smp import Group, LineReader, Message, Op, SmpRefused

MESSAGES = st.builds(
    Message,
    st.sampled_from(Op),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 0xFF),
    st.dictionaries(st.sampled_from(["off", "data", "name", "rc"]), st.one_of(st.integers(-9, 999), st.binary(max_size=500))),
)
#: What a console says between SMP's lines, without a line that begins as SMP's do.
NOISE = st.binary(max_size=200).map(lambda octets: octets.replace(b"\x06", b"?").replace(b"\x04", b"?"))


def cut(octets: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(octets), *(place % (len(octets) + 1) for place in places)})
    return [octets[start:end] for start, end in pairwise(edges)]


def test_a_message_is_what_the_specification_says() -> None:
    echo = Message(Op.WRITE, Group.OS, 0, 0x42, {"d": "hi"})
    assert echo.encode().hex() == "0a00" + "0006" + "0000" + "42" + "00" + "a16164626869"
    lines = smp.to_lines(echo.encode())
    assert lines == b"\x06\x09ABAKAAAGAABCAKFhZGJoaZsK\n"  # 0010, message, CRC-16 with polynomial 1021


@given(MESSAGES)
def test_a_message_is_read_as_written(message: Message) -> None:
    assert Message.decode(message.encode()) == message


@given(st.lists(st.tuples(NOISE, st.binary(max_size=600)), max_size=4), st.lists(st.integers(0, 5000), max_size=12))
def test_messages_come_through_a_chatty_line_however_it_is_cut(sent: list[tuple[bytes, bytes]], places: list[int]) -> None:
    octets = b"".join(noise + b"\n" + smp.to_lines(message) for noise, message in sent)
    reader = LineReader()
    received = [message for piece in cut(octets, places) for message in reader.feed(piece)]
    assert received == [message for _, message in sent]
    assert reader.damaged == 0


@given(st.binary(max_size=400), st.data())
def test_one_wrong_bit_never_makes_another_message(message: bytes, data: st.DataObject) -> None:
    octets = bytearray(smp.to_lines(message))
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    reader = LineReader()
    received = reader.feed(bytes(octets) + b"\n" + smp.to_lines(b"after"))
    assert received in ([b"after"], [message, b"after"])


@given(st.binary(min_size=1, max_size=700))
def test_lines_are_as_long_as_a_server_takes(message: bytes) -> None:
    lines = smp.to_lines(message).splitlines(keepends=True)
    assert max(map(len, lines)) <= 127
    assert len(lines) == smp.lines_for(len(message))
    assert smp.lines_for(smp.size_in_lines(len(lines))) == len(lines)
    assert smp.lines_for(smp.size_in_lines(len(lines)) + 1) == len(lines) + 1


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_octets_give_messages_or_nothing(pieces: list[bytes]) -> None:
    reader = LineReader()
    for piece in pieces:
        for message in reader.feed(piece):
            assert isinstance(message, bytes)
    assert smp.to_lines(b"x")
    assert reader.feed(b"\n" + smp.to_lines(b"x"))[-1:] == [b"x"]


def test_a_console_without_line_ends_costs_one_line_of_memory() -> None:
    reader = LineReader()
    flood = b"\x06\x09" + b"A" * 65536
    tracemalloc.start()
    for _ in range(100):
        assert not reader.feed(flood)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 10_000
    assert peak < 300_000
    assert reader.feed(b"\n" + smp.to_lines(b"alive")) == [b"alive"]


DAMAGED = {
    "no base64": b"\x06\x09!!!!\n",
    "too short": b"\x06\x09AA==\n",
    "check sum": smp.to_lines(b"message").replace(b"\x06\x09AA", b"\x06\x09AB", 1),
    "longer than it says": b"\x06\x09AAMAAAAA\n",
    "began again": b"\x06\x09AP8A\n" + b"\x06\x09AP8A\n",
}


@pytest.mark.parametrize("octets", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_packet_is_counted_and_passed_over(octets: bytes) -> None:
    reader = LineReader()
    reader.feed(octets)
    if not reader.damaged:  # the packet still waits for its rest, and the next one ends that
        reader.feed(smp.to_lines(b"next"))
    assert reader.damaged == 1


def test_the_rest_of_a_packet_whose_beginning_was_lost_is_passed_over() -> None:
    reader = LineReader()
    assert not reader.feed(smp.to_lines(bytes(200)).split(b"\n", 1)[1])
    assert reader.feed(smp.to_lines(b"next")) == [b"next"]


BAD_MESSAGES = {
    "shorter than a header": (b"\x0b\x00\x00", "shorter"),
    "a length too large": (bytes.fromhex("0b00000300000000a0"), "3 octets and has 1"),
    "an unknown operation": (bytes.fromhex("0f00000100000000a0"), "operation 7"),
    "no map": (bytes.fromhex("0b0000010000000000"), "not a CBOR map"),
    "a cut map": (bytes.fromhex("0b00000100000000a1"), "cut off"),
}


@pytest.mark.parametrize(("octets", "reason"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_what_is_no_message_is_refused_with_a_sentence(octets: bytes, reason: str) -> None:
    with pytest.raises(DeviceFault, match=reason):
        Message.decode(octets)


def answer(body: dict[int | str, object]) -> Message:
    return Message(Op.WRITE_ANSWER, Group.FS, 0, 1, body)  # type: ignore[arg-type]


def test_an_answer_belongs_to_one_request() -> None:
    request = Message(Op.READ, Group.FS, 0, 7, {})
    assert Message(Op.READ_ANSWER, Group.FS, 0, 7, {"off": 0}).answers(request)
    for other in (
        Message(Op.WRITE_ANSWER, Group.FS, 0, 7, {}),
        Message(Op.READ_ANSWER, Group.OS, 0, 7, {}),
        Message(Op.READ_ANSWER, Group.FS, 1, 7, {}),
        Message(Op.READ_ANSWER, Group.FS, 0, 8, {}),
    ):
        assert not other.answers(request)


ERRORS = [
    ({"rc": 8}, "no such command"),
    ({"rc": 77}, "error 77 of group None"),
    ({"err": {"group": 8, "rc": 3}}, "no such file"),
    ({"err": {"group": 8, "rc": 14}}, "not mounted"),
    ({"err": {"group": 64, "rc": 9}}, "error 9 of group 64"),
]


@pytest.mark.parametrize(("body", "reason"), ERRORS, ids=[str(body) for body, _ in ERRORS])
def test_an_error_of_either_version_is_said_in_words(body: dict[int | str, object], reason: str) -> None:
    with pytest.raises(SmpRefused, match=reason):
        answer(body).check()


def test_no_error_is_no_error_and_one_without_a_number_is_a_fault() -> None:
    answer({"rc": 0, "off": 5}).check()
    answer({"off": 5}).check()
    with pytest.raises(DeviceFault, match="without a number"):
        answer({"err": {"rc": "bad"}}).check()


@pytest.mark.parametrize(
    ("group", "code", "absent", "unsupported"),
    [
        (None, 5, True, False),
        (8, 3, True, False),
        (8, 16, True, False),
        (8, 10, False, False),
        (None, 8, False, True),
        (9, 3, False, False),
    ],
)
def test_absence_and_ignorance_are_told_apart(group: int | None, code: int, absent: bool, unsupported: bool) -> None:
    refused = SmpRefused(group, code)
    assert (refused.no_such_file, refused.not_supported) == (absent, unsupported)
