"""The rules of the house, read from syntax trees: who may import whom, what pure modules may touch, what has one place, and
how long a module and a function may be. ``docs/ARCHITECTURE.md`` says them in words; ``tests/architecture`` enforces them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGES = ("gateway", "sync", "provisioning")

#: Rule 1. A package may import packages of a lower rank only; equal ranks do not know each other.
RANKS = {
    "gateway.errors": 0,
    "gateway.clock": 0,
    "gateway": 0,  # the version
    "gateway.schema": 1,
    "gateway.config": 2,
    "gateway.pki": 1,
    "gateway.journal": 2,
    "gateway.keys": 2,
    "gateway.telemetry": 2,
    "gateway.authority": 3,
    "gateway.protocols": 4,
    "gateway.opcua": 4,
    "gateway.web": 4,
    "gateway.endpoints_file": 4,
    "gateway.notify": 4,
    "gateway.listening": 4,
    "gateway.settings": 5,
    "gateway.own_tls": 5,
    "gateway.demo": 5,
    "sync": 4,
    "sync.central": 5,  # a daemon of its own: it serves with the listeners of gateway.protocols
    "provisioning": 4,
    "provisioning.api": 5,  # it serves with the listeners of gateway.protocols
    "gateway.app": 6,
    "gateway.cli": 7,
    "gateway.__main__": 8,
    "sync.central.cli": 8,  # the command line of the other daemon, with the words and exit codes of ours
}
#: The configuration is handed down in pieces: what lies below the composition root never sees the whole of it.
READS_CONFIG = ("gateway.app", "gateway.settings", "gateway.listening", "gateway.cli", "gateway.__main__")

#: Modules of gateway.protocols that belong to no one protocol.
SHARED = frozenset({"server", "connection", "tls", "caching"})

#: Rule 2. Prefixes of pure modules; every ``codec`` is pure, too.
PURE = (
    "gateway.errors",
    "gateway.pki",
    "gateway.journal.canonical",
    "gateway.journal.cosignature",
    "gateway.journal.line_records",
    "gateway.journal.statements",
    "gateway.journal.records",
    "gateway.journal.merkle",
    "gateway.journal.checkpoint",
    "gateway.journal.certificates",
    "gateway.journal.tip",
    "gateway.authority.requests",
    "gateway.authority.policy",
    "gateway.authority.policy_tables",
    "gateway.authority.quota",
    "gateway.protocols.est.csrattrs",
    "sync.wire",
    "sync.session",
    "sync.ingest",
    "sync.conflicts",
    "sync.desired",
    "sync.document",
    "sync.joining",
    "sync.central.projection",
    "sync.central.rows",
    "sync.central.row",
    "sync.central.line_rows",
    "sync.central.units",
    "sync.central.credit",
    "provisioning.device",
    "provisioning.framing",
    "provisioning.openssl",
    "provisioning.uboot_codec",
    "provisioning.orders",
    "provisioning.idevid",
    "provisioning.station",
    "provisioning.labels",
    "provisioning.papers",
    "provisioning.pkcs10",
    "provisioning.esp_secure_cert",
    "provisioning.patterns",
    "provisioning.recipe",
    "provisioning.recipe_model",
    "provisioning.recipe_table",
    "provisioning.recipe_text",
    "provisioning.tpm",
    "provisioning.manifest",
    "provisioning.exports",
    "provisioning.ticket",
    "provisioning.jws",
    "provisioning.zpl",
    "provisioning.datamatrix",
    "provisioning.droplist",
)
IMPURE_MODULES = frozenset(
    (
        "asyncio", "concurrent", "ctypes", "glob", "http", "io", "logging", "mmap", "multiprocessing", "os",
        "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver",
        "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "aiohttp",
        "aiosqlite", "asyncpg", "tenacity", "argon2", "pkcs11", "zstandard",
    )
)  # fmt: skip
#: What of them only turns texts into texts.
PURE_PARTS = ("urllib.parse",)
IMPURE_CALLS = frozenset({"open", "input", "print", "exec", "eval", "breakpoint"})
IMPURE_METHODS = frozenset({"now", "utcnow", "today", "generate_private_key", "random_serial_number"})

#: Rule 3. What may be imported in one place only.
ONE_PLACE = {
    "sqlite3": ("gateway.journal.store", "gateway.journal.archive", "sync.central.store_sqlite"),
    "aiosqlite": ("gateway.journal.store", "sync.central.store_sqlite"),
    "asyncpg": ("sync.central.store_postgres",),
    "pkcs11": ("gateway.keys.pkcs11",),
}
SQL_VERBS = (
    "SELECT ",
    "INSERT ",
    "UPDATE ",
    "DELETE ",
    "CREATE TABLE",
    "CREATE INDEX",
    "PRAGMA ",
    "VACUUM",
    "BEGIN IMMEDIATE",
    "ATTACH ",
)
SQL_PLACES = (
    "gateway.journal.store",
    "gateway.journal.archive",
    "sync.central.statements",
    "sync.central.store_sqlite",
    "sync.central.store_postgres",
)
#: Attributes that say what an error means on the wire; only what speaks to a requester reads them.
WIRE_ATTRIBUTES = frozenset({"http_status", "scep_fail_info", "pki_failure_info", "opcua_status"})
WIRE_PLACES = (
    "gateway.errors",
    "gateway.protocols",
    "gateway.opcua",
    "gateway.web",
    "sync.central.rest",
    "sync.central.sync_api",
    "provisioning.api",
)

#: Rule 4, "about": a tenth more than said.
MODULE_LINES = 440
FUNCTION_LINES = 66


@dataclass(frozen=True, slots=True)
class Violation:
    rule: int
    module: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.module}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    is_package: bool
    tree: ast.Module
    lines: int


def load(root: Path) -> list[Module]:
    """Every module of the product below ``root``."""
    modules = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            source = path.read_text(encoding="utf-8")
            name = ".".join(parts[:-1] if is_package else parts)
            modules.append(Module(name, is_package, parsed(source), source.count("\n")))
    return modules


@cache
def parsed(source: str) -> ast.Module:
    """The syntax tree; kept, because the controls look at the same tree many times."""
    return ast.parse(source)


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Absolute names that the module imports, also inside functions; ``from a import b`` gives both ``a`` and ``a.b``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.name.split(".")
                keep = len(parents) - node.level + (1 if module.is_package else 0)
                base = ".".join([*parents[:keep], *([base] if base else [])])
            yield base, node.lineno
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def layer(name: str) -> str | None:
    """The longest entry of RANKS that contains ``name``."""
    parts = name.split(".")
    while parts:
        if (candidate := ".".join(parts)) in RANKS:
            return candidate
        parts.pop()
    return None


def is_pure(name: str) -> bool:
    return within(name, PURE) or "codec" in name.split(".")


def protocol(name: str) -> str | None:
    """``est`` for ``gateway.protocols.est.codec``; None for what the protocols share."""
    parts = name.split(".")
    return parts[2] if len(parts) > 3 and parts[:2] == ["gateway", "protocols"] and parts[2] not in SHARED else None


def check_imports(module: Module) -> Iterator[Violation]:
    own = layer(module.name)
    if own is None or (own == "gateway" and module.name != "gateway"):
        yield Violation(1, module.name, 1, "belongs to no layer; add it to the table")
        return
    for target, line in imports(module):
        if target.split(".")[0] not in PACKAGES:
            continue
        other = layer(target)
        if other is None or other in {own, "gateway"}:
            ours, theirs = protocol(module.name), protocol(target)
            if ours and theirs and ours != theirs:
                yield Violation(1, module.name, line, f"endpoints do not import each other: {target}")
            continue
        if other == "gateway.config" and not within(module.name, READS_CONFIG):
            yield Violation(1, module.name, line, f"only the composition root reads the configuration: {target}")
        if own.startswith("gateway") and other in {"sync", "provisioning"} and module.name != "gateway.app":
            yield Violation(1, module.name, line, f"only gateway.app imports {target}")
        elif RANKS[other] >= RANKS[own]:
            yield Violation(1, module.name, line, f"{own} must not import {target}")


def check_purity(module: Module) -> Iterator[Violation]:
    for target, line in imports(module):
        top = target.split(".")[0]
        if top in IMPURE_MODULES and not within(target, PURE_PARTS) and target != "urllib":
            yield Violation(2, module.name, line, f"a pure module must not import {target}")
        elif top in PACKAGES and target not in PACKAGES and not is_pure(target) and not _is_package_of_pure(target):
            yield Violation(2, module.name, line, f"a pure module imports pure modules only: {target}")
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            yield Violation(2, module.name, node.lineno, f"a pure module must not call {node.func.id}()")
        elif isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
            yield Violation(2, module.name, node.lineno, f"a pure module must not call .{node.func.attr}()")


def _is_package_of_pure(target: str) -> bool:
    """A package's own empty ``__init__`` may stand in ``from gateway.journal import records``."""
    return target in {"gateway.journal", "gateway.authority", "gateway.protocols"} or (protocol(target + ".codec") is not None)


def check_one_place(module: Module) -> Iterator[Violation]:
    seen = set()
    for target, line in imports(module):
        top = target.split(".")[0]
        if (places := ONE_PLACE.get(top)) and not within(module.name, places) and (top, line) not in seen:
            seen.add((top, line))
            yield Violation(3, module.name, line, f"{top} belongs in {places[0]}")
    for node in ast.walk(module.tree):
        match node:
            case ast.Constant(value=str(text)) if text.lstrip().startswith(SQL_VERBS) and not within(module.name, SQL_PLACES):
                yield Violation(3, module.name, node.lineno, "SQL belongs in gateway.journal.store")
            case ast.Attribute(attr=attr, ctx=ast.Load()) if attr in WIRE_ATTRIBUTES and not within(module.name, WIRE_PLACES):
                yield Violation(3, module.name, node.lineno, f"only an endpoint turns an error into a wire answer: .{attr}")


def check_length(module: Module) -> Iterator[Violation]:
    if module.lines > MODULE_LINES:
        yield Violation(4, module.name, 1, f"{module.lines} lines; a module is one idea of up to about 400")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield Violation(4, module.name, node.lineno, f"{node.name} has {length} lines; up to about 60")


def violations(root: Path) -> list[Violation]:
    """Everything below ``root`` that breaks a rule of the house."""
    modules = load(root)
    found: list[Violation] = []
    for module in modules:
        found += check_imports(module)
        if is_pure(module.name):
            found += check_purity(module)
        found += check_one_place(module)
        found += check_length(module)
    return sorted(set(found), key=lambda violation: (violation.rule, violation.module, violation.line))
