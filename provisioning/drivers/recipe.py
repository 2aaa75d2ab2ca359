"""Any device that is told line by line: a recipe in TOML says what is sent and what is expected (docs/line/recipes.md).

The port's recipe is the file itself. Or its settings name it: ``file`` is the recipe; ``sha256``, in hexadecimal, where only
this very recipe shall do; ``values`` overrides its [values]. What the recipe does not say, the device cannot: without steps to
prove, the line counts the request as the proof; without a lock, there is none.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost, WrongDevice
from provisioning import openssl, pkcs10
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting
from provisioning.drivers.recipe_lines import Lines
from provisioning.patterns import TOKEN_LENGTH
from provisioning.recipe import read_recipe, read_recipe_table
from provisioning.recipe_model import PLACEHOLDER, Capture, Check, Choose, Expect, Frame, Recipe, Run, Send, Step, Upload
from provisioning.recipe_text import chunks, decoded, printable, safe_text, taken
from provisioning.transports import Known, open_stream
from provisioning.transports.stream import secret_file

KEYS = frozenset(KeyOrigin)
Names: TypeAlias = dict[str, str | bytes]
#: How often a device's question is answered before it is taken for a refusal.
_ANSWERS = 3
#: Seconds between two looks for a port that a reset took away.
_AGAIN_S = 0.2


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[RecipeDriver]:
    """See :class:`provisioning.device.DriverModule`."""
    recipe, values = await asyncio.to_thread(_load, settings)
    known_secrets = await asyncio.to_thread(_secrets, recipe)
    driver = RecipeDriver(address, recipe, values, known_secrets)
    try:
        await driver.open()
        yield driver
    finally:
        await driver.close()


#: One recipe serves all ports, and every opening of each.
_read = lru_cache(maxsize=32)(read_recipe)


@lru_cache(maxsize=32)
def _read_table(table: str) -> Recipe:
    return read_recipe_table(json.loads(table))


def _load(settings: Mapping[str, Setting]) -> tuple[Recipe, dict[str, str]]:
    """The recipe and its values. Raises ConfigError."""
    if "format" in settings:  # the port's recipe is the file itself, and its digest is in the records
        recipe = _read_table(json.dumps(settings))
        return recipe, dict(recipe.values)
    if unknown := settings.keys() - {"file", "sha256", "values"}:
        raise ConfigError(f"the recipe driver knows no setting {min(unknown)!r}; it knows file, sha256, values")
    file, overrides, pinned = settings.get("file"), settings.get("values", {}), settings.get("sha256", "")
    if not isinstance(file, str) or not file.startswith("/"):
        raise ConfigError('the recipe driver needs file = "/path/of/the/recipe.toml"')
    try:
        content = Path(file).read_bytes()
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the recipe cannot be read: {error}") from error
    if pinned and pinned != hashlib.sha256(content).hexdigest():
        raise ConfigError(f"{file}: the recipe is not the one with the sha256 in the settings: it was changed")
    recipe = _read(text, file)
    values = dict(recipe.values)
    if not isinstance(overrides, Mapping):
        raise ConfigError('the recipe driver\'s values is a table, as in values = { directory = "/etc/id" }')
    for name, value in overrides.items():
        if name not in values:
            raise ConfigError(f"the recipe {recipe.name} has no value {name!r}; it has {', '.join(values) or 'none'}")
        if not isinstance(value, str) or not value.isprintable():
            raise ConfigError(f"the recipe driver's value {name} is a printable text")
        values[name] = value
    return recipe, values


def _secrets(recipe: Recipe) -> dict[str, str]:
    """Raises ConfigError where one cannot be read."""
    found = {}
    for name, place in recipe.secrets.items():
        try:
            found[name] = secret_file(place, f"secrets.{name}").read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the recipe {recipe.name}: the secret {name} ({place}) cannot be read") from error
        if not found[name] or not found[name].isprintable():
            raise ConfigError(f"the recipe {recipe.name}: the secret {name} ({place}) is empty or not one line of text")
    return found


class RecipeDriver:
    """One device on one port, driven by a recipe."""

    def __init__(self, address: Address, recipe: Recipe, values: Mapping[str, str], known_secrets: Mapping[str, str]) -> None:
        self._address = address
        self._recipe = recipe
        self._values = values
        self._secrets = known_secrets
        self._known = Known()
        self._port = AsyncExitStack()
        self._lines: Lines | None = None

    async def open(self) -> None:
        """Open the port and do the steps of [[open]]; a port that cannot be opened is left closed."""
        try:
            stream = await self._port.enter_async_context(open_stream(self._address, self._known))
            self._lines = Lines(stream, self._recipe.longest_line, self._recipe.most)
            await self._do("open", {})
        except BaseException:
            await self._drop()
            raise

    async def close(self) -> None:
        if self._lines is not None:
            with suppress(DeviceFault):
                await self._do("close", {})
        await self._drop()

    async def _drop(self) -> None:
        self._lines = None
        await self._port.aclose()

    async def identify(self) -> Device:
        names = await self._do("identify", {})
        facts = {name.removeprefix("fact_"): str(value) for name, value in names.items() if name.startswith("fact_")}
        chip = str(names.get("chip", ""))
        if not 1 <= len(chip) <= 128 or not chip.isascii() or not chip.isprintable():
            raise DeviceRefused("the recipe found no chip: it must be 1 to 128 printable characters")
        return Device(chip, str(names.get("serial", "")), str(names.get("model", "")), facts)

    async def generate_key(self, key_type: str) -> None:
        if key_type not in self._recipe.key_types or "generate_key" not in self._recipe.methods:
            known = ", ".join(self._recipe.key_types) or "no keys"
            raise DeviceRefused(f"by its recipe the device makes {known}, not {key_type}")
        await self._do("generate_key", {"key_type": self._recipe.key_types[key_type]})

    async def load_key(self, private_key: bytes) -> None:
        if "load_key" not in self._recipe.methods:
            raise DeviceRefused("by its recipe the device makes its key itself; it is given none")
        await self._do("load_key", {"private_key": private_key})

    async def read_csr(self, subject: str) -> Csr:
        names: Names = {"subject": subject, "subject_openssl": openssl.subject(pkcs10.subject_name(subject))}
        return Csr(_octets((await self._do("read_csr", names)).get("csr", b"")))

    async def write(self, delivery: Delivery) -> None:
        names: Names = {"certificate": delivery.certificate, "chain": b"".join(delivery.chain)}
        names["certificate_sha256"] = hashlib.sha256(delivery.certificate).hexdigest()
        await self._do("write", names | {"serial": delivery.serial, "ticket": delivery.ticket})

    async def reset(self) -> None:
        """The steps of [[reset]]; then the port is found again, also when it was gone meanwhile, [[open]] is done anew, and
        [[after_reset]] says whether it was a reset: until it does, or the time is over."""
        names: Names = {}
        with suppress(PortLost):
            await self._do("reset", {}, names)
        fault: DeviceFault | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._recipe.restart_s):
                while True:
                    try:
                        await self._drop()
                        await self.open()
                        await self._do("after_reset", {}, dict(names))
                        return
                    except (PortLost, DeviceRefused, DeviceSilent) as last:
                        fault = last
                        await asyncio.sleep(_AGAIN_S)
        reason = f" ({fault})" if fault is not None else ""
        raise DeviceSilent(f"the device did not come back within {self._recipe.restart_s:g} seconds{reason}") from fault

    async def read_back(self) -> bytes:
        return _octets((await self._do("read_back", {})).get("certificate", b""))

    async def prove(self, challenge: bytes) -> bytes:
        if "prove" not in self._recipe.methods:
            return b""
        return _octets(
            (await self._do("prove", {"challenge": challenge, "challenge_hex": challenge.hex()})).get("signature", b"")
        )

    async def lock_state(self) -> Lock:
        if "lock_state" not in self._recipe.methods:
            return Lock.ABSENT
        state = (await self._do("lock_state", {})).get("lock")
        if state not in {"open", "locked"}:
            raise DeviceRefused("the recipe did not find out whether the device is locked")
        return Lock.LOCKED if state == "locked" else Lock.OPEN

    async def lock(self) -> None:
        if "lock" not in self._recipe.methods:
            raise DeviceRefused("by its recipe the device has nothing to lock")
        await self._do("lock", {})

    async def _do(self, method: str, given: Names, names: Names | None = None) -> Names:
        """The method's steps; all names that are set afterwards, in ``names`` also when a step fails."""
        if self._lines is None:
            raise PortLost("the device's port is closed")
        names = {} if names is None else names
        performance = _Performance(self._recipe, self._lines, self._secrets, names)
        performance.give({**self._values, **given})
        for step in self._recipe.methods.get(method, ()):
            await performance.step(step)
        return names


class _Performance:
    """The steps of one method, and the names that they set."""

    def __init__(self, recipe: Recipe, lines: Lines, known_secrets: Mapping[str, str], names: Names) -> None:
        self._recipe = recipe
        self._lines = lines
        self._secrets = known_secrets
        self._quotes = True
        self.names = names
        self._new_token()

    def give(self, given: Mapping[str, str | bytes]) -> None:
        """What the method is told. Nothing that a device says is quoted while it is told a private key."""
        self._quotes = "private_key" not in given
        for name, value in given.items():
            self.names[name] = value if isinstance(value, bytes) or name in self._recipe.values else safe_text(value, name)

    def _new_token(self) -> None:
        self.names["token"] = secrets.token_hex(TOKEN_LENGTH // 2)

    async def step(self, step: Step) -> None:
        """Raises DeviceFault in the words of the step."""
        if (step.if_set and not self.names.get(step.if_set)) or (step.unless_set and self.names.get(step.unless_set)):
            return
        self._lines.begin()
        try:
            async with asyncio.timeout(step.within_s):
                await self._act(step)
        except TimeoutError as error:
            reason = step.says or f"no answer within {step.within_s:g} seconds"
            raise DeviceSilent(f"{step.why}: {reason}") from error

    async def _act(self, step: Step) -> None:
        match step.action:
            case Send(text, line_end):
                await self._send(text, self._recipe.line_end if line_end else "")
            case Run(command, into):
                said = await self._run(step, self._fill(command))
                if into:
                    self.names[into] = said
            case Expect() as expect:
                await self._expect(step, expect)
            case Capture() as capture:
                self._capture(step, capture)
            case Check() as check:
                self._check(step, check)
            case Choose(text, cases, into):
                value = self._fill(text)
                found = dict(cases).get(value)
                if found is None:
                    raise self.refusal(step, f"{value!r} is none of {', '.join(case for case, _ in cases)}")
                self.names[into] = found
            case Upload() as upload:
                await self._upload(step, upload)

    async def _send(self, text: str, line_end: str) -> None:
        await self._lines.send(self._fill(text, secret=True) + line_end)

    async def _run(self, step: Step, command: str) -> str:
        """A command in the frame: what stands between begin and end. Raises DeviceRefused for another status than ok."""
        frame = self._recipe.frame
        if frame is None:
            raise ConfigError("a recipe without a frame runs nothing")
        self._new_token()
        texts = self.texts()
        sent = self._fill(frame.send).replace("{command}", command)
        begin, end, refused = frame.begin, frame.end, frame.refused
        await self._lines.send(sent + self._recipe.line_end)
        collected: list[str] = []
        begun = begin is None
        while True:
            line = await self._lines.next()
            if not begun:
                begun = begin is not None and begin.search(line, texts) is not None
            elif (found := end.search(line, texts)) is not None:
                if begin is not None and found.start():
                    collected.append(line[: found.start()])  # what had no end of line
                said = "\n".join(collected)
                return self._judged(step, frame, found.groupdict().get("status") or "", said)
            elif refused is not None and refused.search(line, texts):
                raise self.refusal(step, f"the device says {self.quoted(line)}")
            elif line and (begin is not None or line != sent):  # without a begin, the echo of the command is no answer
                collected.append(line)

    def _judged(self, step: Step, frame: Frame, status: str, said: str) -> str:
        if frame.ok and status != frame.ok:
            raise self.refusal(step, f"the device says {self.quoted(said)} (status {status})")
        return said

    async def _expect(self, step: Step, expect: Expect) -> None:
        watch = _Watch(self, step, expect)
        while True:
            if expect.again:
                await self._send(expect.again, self._recipe.line_end)
            try:
                async with asyncio.timeout(expect.again_s if expect.again else None) as until:
                    found = await watch.line()
            except TimeoutError:
                if not until.expired():  # it is the step's own time that is over
                    raise
                continue
            self.names.update({name: safe_text(value, name) for name, value in found.items()})
            return

    def _capture(self, step: Step, capture: Capture) -> None:
        text = self._fill(capture.source)
        if capture.pattern is not None:
            text = taken(capture.pattern, text, self.texts())
        if not text and not capture.optional:
            raise self.refusal(step, f"there is no {capture.into} in what the device said")
        try:
            self.names[capture.into] = decoded(text, capture.decode) if capture.decode != "text" else text
        except ValueError as error:
            raise self.refusal(step, f"what the device said is no {capture.decode}") from error

    def _check(self, step: Step, check: Check) -> None:
        text = self._fill(check.text)
        if check.equals is not None:
            good = text == self._fill(check.equals)
        elif check.differs is not None:
            good = text != self._fill(check.differs)
        else:
            good = check.matches is not None and check.matches.search(text, self.texts()) is not None
        if not good:
            raise (WrongDevice if check.wrong_device else DeviceRefused)(f"{step.why}: {step.says}")

    async def _upload(self, step: Step, upload: Upload) -> None:
        for chunk in chunks(self.names[upload.source], upload.source, upload.encoding, upload.chunk):
            line = self._fill(upload.line).replace("{chunk}", chunk)
            if upload.framed:
                await self._run(step, line)
            else:
                await self._lines.send(line + self._recipe.line_end)

    async def answer(self, reply: str) -> None:
        """What is said to a device that asks."""
        await self._send(reply, self._recipe.line_end)

    @property
    def lines(self) -> Lines:
        return self._lines

    def refusal(self, step: Step, reason: str) -> DeviceRefused:
        return DeviceRefused(f"{step.why}: {step.says or reason}")

    def quoted(self, said: str) -> str:
        """What the device said, for people; nothing of it while a private key is under way."""
        return printable(said, tuple(self._secrets.values())) if self._quotes else "something"

    def texts(self) -> dict[str, str]:
        return {name: value for name, value in self.names.items() if isinstance(value, str)}

    def _fill(self, text: str, *, secret: bool = False) -> str:
        """``text`` with its placeholders filled in; secrets only where they are allowed."""

        def value(found: re.Match[str]) -> str:
            if found[1]:
                return self._secrets[found[2]] if secret else ""
            named = self.names.get(found[2], found[0])  # {command} and {chunk} are not ours
            return named if isinstance(named, str) else ""

        return PLACEHOLDER.sub(value, text)


class _Watch:
    """Waiting for a line, and answering what is asked meanwhile."""

    def __init__(self, performance: _Performance, step: Step, expect: Expect) -> None:
        self._performance = performance
        self._step = step
        self._expect = expect
        self._texts = performance.texts()
        self._answered = 0

    async def line(self) -> dict[str, str]:
        """The named groups of the line that was waited for."""
        while True:
            text, whole = await self._performance.lines.next_or_partial()
            if not whole and await self._answer(text):
                continue
            if not whole and not self._expect.prompt:
                continue
            if self._expect.refused is not None and self._expect.refused.search(text, self._texts):
                raise self._performance.refusal(self._step, f"the device says {self._performance.quoted(text)}")
            if (found := self._expect.pattern.search(text, self._texts)) is not None:
                if not whole:
                    self._performance.lines.forget_partial()
                return {name: found[name] or "" for name in self._expect.pattern.names}

    async def _answer(self, text: str) -> bool:
        for asked, reply in self._expect.answers:
            if asked.search(text, self._texts):
                self._answered += 1
                if self._answered > _ANSWERS * len(self._expect.answers):
                    raise self._performance.refusal(self._step, "the device asks the same again and again")
                self._performance.lines.forget_partial()
                await self._performance.answer(reply)
                return True
        return False


def _octets(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
