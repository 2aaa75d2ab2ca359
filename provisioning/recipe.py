"""A recipe: how a kind of device is driven, written in TOML by a line engineer. Reading and checking it; pure.

``docs/line/recipes.md`` is the reference. A recipe has a list of steps for each method of :class:`provisioning.device.Driver`;
:mod:`provisioning.drivers.recipe` carries them out. All that is wrong is found at once, each with its line, its key and what to
write there, because who writes a recipe has no stack trace to read and a device on the bench.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from typing import Final

from gateway.errors import ConfigError
from gateway.pki.profiles import ALL_KEY_TYPES
from provisioning.device import KeyOrigin
from provisioning.patterns import BadPattern, Pattern, read_pattern
from provisioning.recipe_model import (
    METHODS,
    PLACEHOLDER,
    Capture,
    Check,
    Choose,
    Expect,
    Frame,
    Recipe,
    Run,
    Send,
    Step,
    Upload,
)
from provisioning.recipe_table import Problem, TableReader, line_of
from provisioning.recipe_text import may_be_pem

FORMAT: Final = 1
MAX_SIZE: Final = 65536
MAX_STEPS: Final = 100
#: Seconds that a step may wait at most, and octets a device may say meanwhile.
MAX_WITHIN_S: Final = 3600.0
MAX_ANSWER: Final = 1 << 20
MAX_LINE: Final = 8192


_ACTIONS: Final = ("send", "run", "expect", "capture", "check", "choose", "upload")
_KEYS_OF_ACTION: Final[Mapping[str, tuple[str, ...]]] = {
    "send": ("line_end",),
    "run": ("into",),
    "expect": ("refused", "answers", "again", "again_s", "prompt"),
    "capture": ("from", "pattern", "decode", "optional"),
    "check": ("equals", "differs", "matches", "wrong_device"),
    "choose": ("cases", "into"),
    "upload": ("as", "chunk", "line", "framed"),
}
_KEYS_OF_STEP: Final = ("within_s", "why", "says", "if", "unless")
_DECODINGS: Final = ("text", "base64", "hex", "pem")
_ENCODINGS: Final = ("base64", "hex", "pem", "text")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TOP: Final = ("format", "name", "about", "keys", "key_types", "values", "secrets", "line", "frame")


def read_recipe(text: str, source: str) -> Recipe:
    """Raises ConfigError with everything that is wrong, a line each; ``source`` names the file."""
    recipe, problems = check_recipe(text)
    if recipe is None or problems:
        listed = "\n".join(f"{source}:{problem}" for problem in problems[:20])
        raise ConfigError(f"this recipe cannot be used:\n{listed}")
    return recipe


def read_recipe_table(table: Mapping[str, object]) -> Recipe:
    """A recipe whose TOML somebody else has read: without the numbers of lines. Raises ConfigError."""
    reader = _RecipeReader("", table)
    recipe = reader.read()
    if recipe is None or reader.problems:
        listed = "\n".join(f"{problem.key} {problem.why}".strip() for problem in reader.problems[:20])
        raise ConfigError(f"this recipe cannot be used (edge-gateway recipe FILE says where):\n{listed}")
    return recipe


def check_recipe(text: str) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, unless it is beyond reading, and all that is wrong with it."""
    if len(text) > MAX_SIZE:
        return None, [Problem(1, "", f"a recipe has at most {MAX_SIZE} characters")]
    try:
        table: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        return None, [Problem(int(at[1]) if at else text.count("\n") + 1, "", f"no TOML: {error}")]
    reader = _RecipeReader(text, table)
    return reader.read(), sorted(reader.problems, key=lambda problem: problem.line)


class _RecipeReader:
    def __init__(self, text: str, table: Mapping[str, object]) -> None:
        self._text = text
        self._table = table
        self.problems: list[Problem] = []
        self._values: dict[str, str] = {}
        self._secrets: dict[str, str] = {}
        self._has_frame = False
        self._within_s = 10.0
        self._set_by_reset: dict[str, str] = {}

    def read(self) -> Recipe | None:
        for name in self._table:
            if name not in (*_TOP, *METHODS):
                near = difflib.get_close_matches(name, (*_TOP, *METHODS), n=1)
                self._add(name, f"is not known; did you mean {near[0]}?" if near else "is not known")
        top = TableReader(self._text, "", {name: self._table[name] for name in _TOP if name in self._table}, self.problems)
        if top.whole("format", None, 1, 1000) not in {FORMAT, None}:
            self._add("format", f"is {FORMAT}: this gateway knows no other")
        name, about = top.text("name"), top.text("about", "")
        if name and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
            self._add("name", 'is made of small letters, digits and -, as in name = "acme-plc-7"')
        self._values = self._texts("values")
        self._secrets = self._texts("secrets")
        for secret, place in self._secrets.items():
            if not re.fullmatch(r"(credential:[A-Za-z0-9._-]{1,128}|file:/.+)", place):
                self._add(f"secrets.{secret}", 'is "credential:NAME" or "file:/PATH": the secret itself stands in no recipe')
        keys = ("end", "longest", "most", "within_s", "restart_s")
        line = TableReader(self._text, "line", self._subtable("line"), self.problems, keys)
        self._within_s = line.number("within_s", 10.0, 0.05, MAX_WITHIN_S)
        frame = self._frame()
        key_types = self._texts("key_types")
        for kind in key_types:
            if kind not in ALL_KEY_TYPES:
                self._add(f"key_types.{kind}", f"is no key type; there are {', '.join(sorted(ALL_KEY_TYPES))}")
        methods = {method: self._steps(method) for method in METHODS if method in self._table}
        self._completeness(methods, key_types)
        makers = {KeyOrigin.DEVICE: "generate_key", KeyOrigin.POOL: "load_key"}
        return Recipe(
            name=name,
            about=about,
            keys=frozenset(origin for origin, method in makers.items() if method in methods),
            key_types=key_types,
            values=self._values,
            secrets=self._secrets,
            frame=frame,
            methods=methods,
            line_end=line.text("end", "\n"),
            longest_line=line.whole("longest", 1024, 32, MAX_LINE) or 1024,
            most=line.whole("most", 65536, 256, MAX_ANSWER) or 65536,
            restart_s=line.number("restart_s", 120.0, 0.1, MAX_WITHIN_S),
        )

    def _add(self, key: str, why: str) -> None:
        self.problems.append(Problem(line_of(self._text, key), key, why))

    def _subtable(self, name: str) -> Mapping[str, object]:
        value = self._table.get(name, {})
        if isinstance(value, dict):
            return value
        self._add(name, f"is a table: write [{name}]")
        return {}

    def _texts(self, section: str) -> dict[str, str]:
        """A table of names to texts."""
        found: dict[str, str] = {}
        for name, value in self._subtable(section).items():
            if not isinstance(value, str):
                self._add(f"{section}.{name}", "is a text in quotes")
            elif section != "key_types" and not _NAME.fullmatch(name):
                self._add(f"{section}.{name}", "is a name of small letters, digits and _")
            else:
                found[name] = value
        return found

    def _frame(self) -> Frame | None:
        if "frame" not in self._table:
            return None
        self._has_frame = True
        keys = ("send", "begin", "end", "ok", "refused")
        frame = TableReader(self._text, "frame", self._subtable("frame"), self.problems, keys)
        send, ok = frame.text("send"), frame.text("ok", "")
        if send and "{command}" not in send:
            self._add("frame.send", "lacks {command}: that is where the command goes")
        for name in self._placeholders("frame.send", send, secrets=False) - {"command", "token"} - self._values.keys():
            self._add("frame.send", f"{{{name}}} is not known here; there are command, token and the [values]")
        known = frozenset({"token"} | self._values.keys())
        end, begin, refused = (self._pattern(frame, key, known) for key in ("end", "begin", "refused"))
        if end is None:
            if "end" not in self._subtable("frame"):
                self._add("frame.end", "is missing: by which line is an answer known to be over?")
            return None
        if ok and "status" not in end.names:
            self._add("frame.ok", "needs a group in end: (?P<status>[0-9]+)")
        return Frame(send, end, begin, refused, ok)

    def _pattern(self, table: TableReader, key: str, known: frozenset[str]) -> Pattern | None:
        text = table.text(key, "")
        if not text:
            return None
        try:
            pattern = read_pattern(text)
        except BadPattern as error:
            table.add(key, str(error))
            return None
        for name in sorted(pattern.values - known):
            table.add(key, f"{{{name}}} is not known here{_near(name, known)}")
        return pattern

    def _placeholders(self, key: str, text: str, *, secrets: bool) -> set[str]:
        """The plain names in ``text``; secrets are checked here."""
        names: set[str] = set()
        for secret, name in PLACEHOLDER.findall(text):
            if not secret:
                names.add(name)
            elif name not in self._secrets:
                self._add(key, f'{{secret.{name}}} is not known: add [secrets] {name} = "credential:NAME"')
            elif not secrets:
                self._add(key, f"{{secret.{name}}} may stand in send, again and answers only: elsewhere it could be shown")
        return names

    def _steps(self, method: str) -> tuple[Step, ...]:
        raw = self._table[method]
        if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
            self._add(method, f"is a list of steps: write [[{method}]] before each")
            return ()
        if len(raw) > MAX_STEPS:
            self._add(method, f"has more than {MAX_STEPS} steps")
            return ()
        spec = METHODS[method]
        known = {"token": "t"} | dict.fromkeys(self._values, "t") | dict(spec.given)
        if method == "after_reset":
            known |= self._set_by_reset
        steps = [
            step
            for number, table in enumerate(raw)
            if (step := self._step(f"{method}[{number + 1}]", table, known)) is not None
        ]
        if method == "reset":
            self._set_by_reset = known
        for name, kind in {**spec.needed, **spec.optional}.items():
            given = known.get(name) if name not in spec.given and name not in self._values else None
            if given is None and name in spec.needed:
                how = "capture" if kind == "b" else "into or a group of expect"
                self._add(method, f"leaves no {name} behind: some step must set it ({how})")
            elif given is not None and given != kind:
                want = 'octets: capture it with decode = "base64", "hex" or "pem"' if kind == "b" else "a text"
                self._add(method, f"leaves {name} behind as {'a text' if given == 't' else 'octets'}; it must be {want}")
        return tuple(steps)

    def _step(self, place: str, table: Mapping[str, object], known: dict[str, str]) -> Step | None:
        kinds = [name for name in _ACTIONS if name in table]
        if len(kinds) != 1:
            found = f"{' and '.join(kinds)} at once" if kinds else f"none in {', '.join(table) or 'an empty step'}"
            self._add(place, f"does one thing, {', '.join(_ACTIONS)}; there is {found}")
            return None
        kind = kinds[0]
        reader = TableReader(self._text, place, table, self.problems, (kind, *_KEYS_OF_ACTION[kind], *_KEYS_OF_STEP))
        before = dict(known)
        for key in ("if", "unless"):
            if (name := reader.text(key, "")) and name not in before:
                reader.add(key, f"{name} is not set by any step before{_near(name, before)}")
        action = getattr(self, f"_{kind}")(reader, known)
        why = reader.text("why", "") or place
        within_s = reader.number("within_s", self._within_s, 0.05, MAX_WITHIN_S)
        if action is None:
            return None
        return Step(action, place, why, reader.text("says", ""), within_s, reader.text("if", ""), reader.text("unless", ""))

    def _template(
        self, reader: TableReader, key: str, known: Mapping[str, str], default: str | None = None, *, secrets: bool = False
    ) -> str:
        """A text with placeholders for texts."""
        text = reader.text(key, default)
        for name in sorted(self._placeholders(reader.path(key), text, secrets=secrets)):
            if name not in known:
                reader.add(key, f"{{{name}}} is not known here{_near(name, known)}")
            elif known[name] == "b":
                reader.add(key, f"{{{name}}} is octets: send them with an upload step")
        return text

    def _send(self, reader: TableReader, known: dict[str, str]) -> Send:
        return Send(self._template(reader, "send", known, secrets=True), reader.flag("line_end", True))

    def _run(self, reader: TableReader, known: dict[str, str]) -> Run:
        if not self._has_frame:
            reader.add("run", "needs a [frame]: how is the end of an answer known?")
        into = self._target(reader, "into", known, "t")
        return Run(self._template(reader, "run", known), into)

    def _target(self, reader: TableReader, key: str, known: dict[str, str], kind: str) -> str:
        """The name that a step sets."""
        name = reader.text(key, "")
        if name and not _NAME.fullmatch(name):
            reader.add(key, "is a name of small letters, digits and _")
        elif name == "token" or name in self._values:
            reader.add(key, f"{name} is taken")
        elif name:
            known[name] = kind
        return name

    def _expect(self, reader: TableReader, known: dict[str, str]) -> Expect | None:
        names = frozenset(name for name, kind in known.items() if kind == "t")
        pattern, refused = self._pattern(reader, "expect", names), self._pattern(reader, "refused", names)
        answers = []
        for asked in reader.table("answers"):
            replies = TableReader(self._text, reader.path("answers"), reader.table("answers"), self.problems)
            reply = self._template(replies, asked, known, secrets=True)
            try:
                answers.append((read_pattern(asked), reply))
            except BadPattern as error:
                reader.add("answers", f"{asked!r}: {error}")
        again = self._template(reader, "again", known, "", secrets=True)
        again_s = reader.number("again_s", 1.0, 0.1, 60.0)
        if pattern is None:
            if not reader.text("expect", "x"):
                reader.add("expect", "is empty: say which line is waited for")
            return None
        known.update(dict.fromkeys(pattern.names, "t"))
        return Expect(pattern, refused, tuple(answers), again, again_s, reader.flag("prompt", False))

    def _capture(self, reader: TableReader, known: dict[str, str]) -> Capture:
        names = frozenset(name for name, kind in known.items() if kind == "t")
        source, pattern = self._template(reader, "from", known), self._pattern(reader, "pattern", names)
        if pattern is not None and "value" not in pattern.names:
            reader.add("pattern", "lacks the group (?P<value>...) around what is taken")
        decode = reader.choice("decode", "text", _DECODINGS)
        into = self._target(reader, "capture", known, "t" if decode == "text" else "b")
        return Capture(into, source, pattern, decode, reader.flag("optional", False))

    def _check(self, reader: TableReader, known: dict[str, str]) -> Check:
        names = frozenset(name for name, kind in known.items() if kind == "t")
        text, matches = self._template(reader, "check", known), self._pattern(reader, "matches", names)
        equals, differs = (self._template(reader, key, known) if reader.has(key) else None for key in ("equals", "differs"))
        if sum(reader.has(key) for key in ("equals", "differs", "matches")) != 1:
            reader.add("check", "needs one of equals, differs and matches")
        if not reader.has("says"):
            reader.add("check", 'needs says = "..." : what shall the technician read when it fails?')
        return Check(text, equals, differs, matches, reader.flag("wrong_device", False))

    def _choose(self, reader: TableReader, known: dict[str, str]) -> Choose:
        text = self._template(reader, "choose", known)
        cases = reader.table("cases")
        if not cases or not all(isinstance(value, str) for value in cases.values()):
            reader.add("cases", 'is a table of texts, as in cases = { "1" = "locked", "0" = "open" }')
        into = self._target(reader, "into", known, "t")
        if not into:
            reader.add("into", "is missing: which name gets the result?")
        elif into == "lock" and reader.place.startswith("lock_state") and not set(cases.values()) <= {"open", "locked"}:
            reader.add("cases", 'give "open" or "locked" for lock')
        return Choose(text, tuple((str(name), str(value)) for name, value in cases.items()), into)

    def _upload(self, reader: TableReader, known: dict[str, str]) -> Upload:
        source = reader.text("upload")
        if source and source not in known:
            reader.add("upload", f"{source} is not known here{_near(source, known)}")
        encoding = reader.choice("as", None, _ENCODINGS)
        if encoding == "pem" and not may_be_pem(source):
            reader.add("as", "is base64, hex or text here: only certificate, chain and private_key have a PEM form")
        if encoding == "text" and known.get(source) == "b":
            reader.add("as", "is base64, hex or pem for octets")
        chunk = reader.whole("chunk", 64, 8, 4000) or 64
        line = self._template(reader, "line", known | {"chunk": "t"}, "{chunk}")
        if "{chunk}" not in line:
            reader.add("line", "lacks {chunk}: that is where the octets go")
        framed = reader.flag("framed", False)
        if framed and not self._has_frame:
            reader.add("framed", "needs a [frame]")
        return Upload(source, encoding, chunk, line, framed)

    def _completeness(self, methods: Mapping[str, tuple[Step, ...]], key_types: Mapping[str, str]) -> None:
        for name, method in METHODS.items():
            if method.required and name not in methods:
                self._add("", f"[[{name}]] is missing")
        if "generate_key" not in methods and "load_key" not in methods:
            self._add("", "[[generate_key]] or [[load_key]] is missing: where does the key come from?")
        if "generate_key" in methods and not key_types:
            self._add("key_types", 'is missing: which keys can it make, and how does it call them? "p-256" = "prime256v1"')
        if ("lock" in methods) != ("lock_state" in methods):
            self._add("", "[[lock]] and [[lock_state]] belong together: what is irreversible is never done blindly")


def _near(name: str, known: Mapping[str, str] | frozenset[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {{{near[0]}}}?" if near else f"; there are {', '.join(sorted(known))}"
