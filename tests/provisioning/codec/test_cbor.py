"""CBOR: what RFC 8949 says, what cbor2 says, and that no octets of a device cost more than a sentence."""

from __future__ import annotations

import json
import random
import subprocess
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import DeviceFault
from provisioning.codec import cbor
from tests.support.environments import environment

KEYS = st.one_of(st.integers(-(2**64), 2**64 - 1), st.text(max_size=20))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**64), 2**64 - 1), st.binary(max_size=40), st.text(max_size=40))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.builds(cbor.Tagged, st.integers(0, 2**64 - 1), inner),
    ),
    max_leaves=8,
)


def depth(value: cbor.Value) -> int:
    match value:
        case cbor.Tagged(value=inner):
            return 1 + depth(inner)
        case dict():
            return 1 + max([*map(depth, value.values()), 1], default=1)
        case list():
            return 1 + max(map(depth, value), default=0)
    return 1


#: RFC 8949 appendix A, what these protocols use of it.
EXAMPLES = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1a000f4240", 1_000_000),
    ("1b000000e8d4a51000", 1_000_000_000_000),
    ("1bffffffffffffffff", 2**64 - 1),
    ("3bffffffffffffffff", -(2**64)),
    ("20", -1),
    ("3863", -100),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("4401020304", bytes((1, 2, 3, 4))),
    ("6449455446", "IETF"),
    ("62c3bc", "ü"),
    ("80", []),
    ("83010203", [1, 2, 3]),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ("c074323031332d30332d32315432303a30343a30305a", cbor.Tagged(0, "2013-03-21T20:04:00Z")),
]
INDEFINITE = [
    ("5f42010243030405ff", bytes((1, 2, 3, 4, 5))),
    ("7f657374726561646d696e67ff", "streaming"),
    ("9fff", []),
    ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
    ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
    ("bf6346756ef563416d7421ff", {"Fun": True, "Amt": -2}),
    ("1b0000000000000001", 1),  # a length that is not the shortest
]


@pytest.mark.parametrize(("octets", "value"), EXAMPLES, ids=[octets for octets, _ in EXAMPLES])
def test_the_examples_of_the_standard_are_read_and_written(octets: str, value: cbor.Value) -> None:
    assert cbor.decode(bytes.fromhex(octets)) == value
    assert cbor.encode(value).hex() == octets


@pytest.mark.parametrize(("octets", "value"), INDEFINITE, ids=[octets for octets, _ in INDEFINITE])
def test_what_firmware_writes_without_a_length_is_read(octets: str, value: cbor.Value) -> None:
    assert cbor.decode(bytes.fromhex(octets)) == value


@given(VALUES)
def test_what_is_written_is_read_again(value: cbor.Value) -> None:
    octets = cbor.encode(value)
    if depth(value) > cbor.MAX_DEPTH:
        with pytest.raises(DeviceFault, match="deeper"):
            cbor.decode(octets)
    else:
        assert cbor.decode(octets) == value


@given(VALUES, st.data())
def test_what_is_cut_off_is_refused(value: cbor.Value, data: st.DataObject) -> None:
    octets = cbor.encode(value)
    with pytest.raises(DeviceFault):
        cbor.decode(octets[: data.draw(st.integers(0, len(octets) - 1))])


@given(st.binary(max_size=200))
def test_any_octets_are_a_value_or_a_fault(octets: bytes) -> None:
    with suppress(DeviceFault):
        assert cbor.decode(cbor.encode(cbor.decode(octets))) == cbor.decode(octets)


REFUSED = [
    ("", "cut off"),
    ("0000", "1 octets too many"),
    ("f7", "simple value"),  # undefined
    ("f97e00", "simple value"),  # a float
    ("f820", "simple value"),
    ("a2616101616102", "twice"),
    ("a14101f5", "map key"),
    ("a1f501", "map key"),
    ("61ff", "not UTF-8"),
    ("1c", "reserved length"),
    ("ff", "simple value"),
    ("1f", "without an end"),
    ("df00ff", "without an end"),
    ("5f6161ff", "pieces of another kind"),
    ("5f5f4101ffff", "pieces of another kind"),
    ("9f01", "cut off"),
    ("818181818181818181", "deeper"),
]


@pytest.mark.parametrize(("octets", "reason"), REFUSED, ids=[octets or "empty" for octets, _ in REFUSED])
def test_what_these_protocols_do_not_have_is_refused_with_a_sentence(octets: str, reason: str) -> None:
    with pytest.raises(DeviceFault, match=reason):
        cbor.decode(bytes.fromhex(octets))


@pytest.mark.parametrize("head", ["5b", "7b", "9b", "bb"], ids=["bytes", "text", "array", "map"])
def test_a_length_that_lies_takes_no_memory(head: str) -> None:
    tracemalloc.start()
    with pytest.raises(DeviceFault, match="cut off"):
        cbor.decode(bytes.fromhex(head + "00ffffffffffffff"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_only_a_map_is_a_map() -> None:
    assert cbor.decode_map(bytes.fromhex("a10102")) == {1: 2}
    with pytest.raises(DeviceFault, match="not a CBOR map"):
        cbor.decode_map(bytes.fromhex("01"))


def test_a_number_of_more_than_64_bits_is_not_written() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        cbor.encode(2**64)


_CBOR2 = """
import json, sys
import cbor2
for line in sys.stdin:
    value = cbor2.loads(bytes.fromhex(line))
    print(json.dumps([repr(value), cbor2.dumps(value, canonical=True).hex()]))
"""


def test_another_implementation_reads_and_writes_the_same() -> None:
    chance = random.Random(8949)

    def some(level: int) -> cbor.Value:
        kind = chance.randrange(7 if level else 5)
        match kind:
            case 0:
                return chance.choice([None, True, False])
            case 1 | 2:
                return chance.randrange(2 ** chance.choice([3, 6, 8, 16, 32, 64])) - chance.choice([0, 1])
            case 3:
                return chance.randbytes(chance.choice([0, 5, 30, 300]))
            case 4:
                return "".join(chance.choice("aß€𝄞") for _ in range(chance.choice([0, 3, 30])))
            case 5:
                return [some(level - 1) for _ in range(chance.randrange(4))]
        return {key: some(level - 1) for key in sorted({f"key {chance.randrange(9)}" for _ in range(3)})}

    values = [some(4) for _ in range(500)]
    ours = [cbor.encode(value).hex() for value in values]
    command = [str(environment("boards") / "bin" / "python"), "-c", _CBOR2]
    result = subprocess.run(command, input="\n".join(ours) + "\n", capture_output=True, text=True, check=True)
    theirs = [json.loads(line) for line in result.stdout.splitlines()]
    assert [text for text, _ in theirs] == [repr(value) for value in values]
    assert [octets for _, octets in theirs] == ours
