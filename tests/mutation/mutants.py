"""The small wrong changes that a good test suite notices: every mutant of one module. Pure.

A mutant changes one place of the syntax tree. Not changed: annotations, docstrings, decorators, log calls, the wording of
messages (f-strings, texts with blanks, anything inside ``raise`` but its numbers), ``zip(strict=...)``, ``__slots__``, protocol
classes (which are types), the names of tasks.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
#: A text that programs read (a status, a key, a name), as against a sentence for people.
_NAME_LIKE = re.compile(r"[^\s]{1,40}")
_UNCHANGED_CALLS = {"TypeVar", "ParamSpec", "getLogger", "cast"}
Step = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change. ``path`` leads from the module to the node that ``node`` replaces; ``lines`` are those of its statement."""

    scope: str  # the class and function it is in, "" at the module's level
    line: int
    lines: tuple[int, int]
    change: str
    path: tuple[Step, ...]
    node: ast.AST
    function: tuple[str, int] | None  # qualified name and first line of the outermost function whose body it is in

    def applied(self, tree: ast.Module) -> ast.Module:
        """``tree`` with the change, every line number as it was."""
        twin = copy.deepcopy(tree)
        at: ast.AST = twin
        for field, index in self.path[:-1]:
            value = getattr(at, field)
            at = value if index is None else value[index]
        field, index = self.path[-1]
        if index is None:
            setattr(at, field, self.node)
        else:
            getattr(at, field)[index] = self.node
        return ast.fix_missing_locations(twin)


def mutants_of(source: str) -> dict[str, Mutant]:
    """Every mutant by its key, which names scope and change and survives edits elsewhere in the module."""
    found: dict[str, Mutant] = {}
    repeats: Counter[str] = Counter()
    for mutant in _Walk().visit(ast.parse(source), ()):
        key = f"{mutant.scope or 'module'}: {mutant.change}"
        repeats[key] += 1
        found[key if repeats[key] == 1 else f"{key} #{repeats[key]}"] = mutant
    return found


class _Walk:
    """Walks the tree, knowing where it is."""

    def __init__(self) -> None:
        self.scope: tuple[str, ...] = ()
        self.function: tuple[str, int] | None = None
        self.statement: ast.AST | None = None
        self.raising = False

    def visit(self, node: ast.AST, path: tuple[Step, ...]) -> Iterator[Mutant]:
        if _is_left_alone(node):
            return
        saved = self.scope, self.function, self.statement, self.raising
        if isinstance(node, ast.stmt):
            self.statement = node
        if isinstance(node, ast.Raise):
            self.raising = True
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named:
            self.scope = (*self.scope, node.name)
        for text, replacement in self._changes(node):
            change = f"{_short(node)} -> {text or _short(replacement)}"
            yield self._mutant(node, path, change, replacement)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "format_spec"):
                continue
            if field == "body" and named and not isinstance(node, ast.ClassDef) and self.function is None:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                self.function = (".".join(self.scope), first)
            children = enumerate(value) if isinstance(value, list) else [(None, value)]
            for index, child in children:
                if isinstance(child, ast.AST):
                    yield from self.visit(child, (*path, (field, index)))
        self.scope, self.function, self.statement, self.raising = saved

    def _mutant(self, node: ast.AST, path: tuple[Step, ...], change: str, replacement: ast.AST) -> Mutant:
        statement = self.statement or node
        last = node.end_lineno or node.lineno
        if not hasattr(statement, "body"):  # a simple statement counts as a whole
            last = max(last, statement.end_lineno or last)
        lines = (min(statement.lineno, node.lineno) if not hasattr(statement, "body") else node.lineno, last)
        ast.copy_location(replacement, node)
        return Mutant(".".join(self.scope), node.lineno, lines, change, path, replacement, self.function)

    def _changes(self, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
        match node:
            case ast.Compare():
                for at, op in enumerate(node.ops):
                    ops = [*node.ops[:at], _COMPARE[type(op)](), *node.ops[at + 1 :]]
                    yield "", ast.Compare(node.left, ops, node.comparators)
            case ast.BoolOp():
                yield "", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            case ast.UnaryOp(op=ast.Not()):
                yield "", node.operand
            case ast.BinOp() | ast.AugAssign() if type(node.op) in _ARITHMETIC:
                changed = copy.copy(node)
                changed.op = _ARITHMETIC[type(node.op)]()
                yield "", changed
            case ast.Constant():
                yield from self._constants(node)
            case ast.Return(value=ast.expr()) if not _is_falsy(node.value):
                yield "return None", ast.Return(ast.Constant(None))
            case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise():
                yield "nothing", ast.Pass()
            case ast.If() | ast.While() if isinstance(node.test, ast.Name | ast.Attribute | ast.Call | ast.Await):
                changed = copy.copy(node)
                changed.test = ast.UnaryOp(ast.Not(), node.test)
                yield f"{type(node).__name__.lower()} not {_short(node.test)}", changed

    def _constants(self, node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
        match node.value:
            case bool():
                yield "", ast.Constant(not node.value)
            case int() | float():
                yield "", ast.Constant(node.value + 1)
            case str() if not self.raising and _NAME_LIKE.fullmatch(node.value):
                yield "", ast.Constant(node.value + "~")
            case bytes() if not self.raising:
                yield "", ast.Constant(node.value + b"~")


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())) | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="_log" | "log" | "logger")))):
            return True
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)) if name in _UNCHANGED_CALLS:
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")) | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__" | "__all__")]) | ast.keyword(arg="strict"):
            return True
        case ast.ClassDef(bases=[ast.Name(id="Protocol"), *_]) | ast.keyword(arg="name", value=ast.Constant()):
            return True
    return False


def _is_falsy(node: ast.AST) -> bool:
    """``None`` already, or what no caller tells from it; another value for a constant is a mutant of its own."""
    return isinstance(node, ast.Constant) and node.value in (None, False)


def _short(node: ast.AST) -> str:
    lines = ast.unparse(node).splitlines()
    text = lines[0] if not isinstance(node, ast.If | ast.While) else lines[0].rstrip(":")
    return text if len(text) <= 90 else text[:87] + "..."
