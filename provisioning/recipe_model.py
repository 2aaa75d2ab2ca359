"""What a recipe consists of: its methods, its steps, its frame. Pure. :mod:`provisioning.recipe` reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from provisioning.device import KeyOrigin
from provisioning.patterns import Pattern

#: A name in a text: a value, or a secret.
PLACEHOLDER: Final = re.compile(r"\{(secret\.)?([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Method:
    """What a method's steps are given, and what they must leave behind. Octets are written ``b``, texts ``t``."""

    given: Mapping[str, str] = field(default_factory=dict)
    needed: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    required: bool = True


METHODS: Final[Mapping[str, Method]] = {
    "open": Method(required=False),
    "identify": Method(needed={"chip": "t"}, optional={"serial": "t", "model": "t"}),
    "generate_key": Method(given={"key_type": "t"}, required=False),
    "load_key": Method(given={"private_key": "b"}, required=False),
    "read_csr": Method(given={"subject": "t", "subject_openssl": "t"}, needed={"csr": "b"}),
    "write": Method(given={"certificate": "b", "certificate_sha256": "t", "chain": "b", "serial": "t", "ticket": "b"}),
    "reset": Method(),
    "after_reset": Method(required=False),  # it knows what reset set
    "read_back": Method(needed={"certificate": "b"}),
    "prove": Method(given={"challenge": "b", "challenge_hex": "t"}, needed={"signature": "b"}, required=False),
    "lock_state": Method(needed={"lock": "t"}, required=False),
    "lock": Method(required=False),
    "close": Method(required=False),
}


@dataclass(frozen=True, slots=True)
class Send:
    text: str
    line_end: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """A command in the recipe's frame; what it says becomes ``into``."""

    command: str
    into: str = ""


@dataclass(frozen=True, slots=True)
class Expect:
    """Wait for a line. ``answers`` are what is sent when the device asks; ``again`` is sent anew every ``again_s``."""

    pattern: Pattern
    refused: Pattern | None = None
    answers: tuple[tuple[Pattern, str], ...] = ()
    again: str = ""
    again_s: float = 1.0
    prompt: bool = False  # also a line without an end


@dataclass(frozen=True, slots=True)
class Capture:
    """Take a value out of a text: the group ``value`` of the first line that matches, or all of it; then decode it."""

    into: str
    source: str
    pattern: Pattern | None
    decode: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Check:
    text: str
    equals: str | None
    differs: str | None
    matches: Pattern | None
    wrong_device: bool


@dataclass(frozen=True, slots=True)
class Choose:
    """``into`` becomes what ``cases`` says for ``text``."""

    text: str
    cases: tuple[tuple[str, str], ...]
    into: str


@dataclass(frozen=True, slots=True)
class Upload:
    """Send octets as lines of at most ``chunk`` characters, each put into ``line``; in the frame when ``framed``."""

    source: str
    encoding: str
    chunk: int
    line: str
    framed: bool


Action: TypeAlias = Send | Run | Expect | Capture | Check | Choose | Upload


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``why`` is what it does, for people; ``says`` is the sentence when it fails."""

    action: Action
    place: str
    why: str
    says: str
    within_s: float
    if_set: str
    unless_set: str


@dataclass(frozen=True, slots=True)
class Frame:
    """How a command is put so that its answer is told from everything else."""

    send: str
    end: Pattern
    begin: Pattern | None = None
    refused: Pattern | None = None
    ok: str = ""  # what the group ``status`` of ``end`` must be


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    about: str
    keys: frozenset[KeyOrigin]
    key_types: Mapping[str, str]
    values: Mapping[str, str]
    secrets: Mapping[str, str]
    frame: Frame | None
    methods: Mapping[str, tuple[Step, ...]]
    line_end: str
    longest_line: int
    most: int
    restart_s: float
