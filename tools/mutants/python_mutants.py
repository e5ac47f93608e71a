"""Makes the mutants of a Python file: a statement or a part of a condition is left out, a bound moves by one."""

import ast

from tools.mutants.mutant import Mutant

_NEXT = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
}
_SIMPLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.Return, ast.Raise, ast.Continue, ast.Break, ast.Delete)


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return all mutants of one file, in the order of its lines."""
    visitor = _Visitor(path, source)
    visitor.visit(ast.parse(source))
    return sorted(visitor.found, key=lambda mutant: mutant.start)


class _Visitor(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._place: list[str] = []
        self._functions = 0

    # Where a node is

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._within(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self._within(node.name, node.body)  # defaults and annotations are not changed
        self._functions -= 1

    def _within(self, name: str, body: list[ast.stmt]) -> None:
        self._place.append(name)
        for statement in body:
            if not (statement is body[-1] and _gives_none(statement)):
                self.visit(statement)
        self._place.pop()

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> bytes:
        start, end = self._span(node)
        return self._source[start:end]

    def _change(self, node: ast.expr | ast.stmt, new: bytes | str) -> None:
        if self._functions:
            text = new.encode() if isinstance(new, str) else new
            # Keep the number of lines, so that the line numbers of the functions below stay the same.
            lines = b"\n" * (self._text(node).count(b"\n") - text.count(b"\n"))
            text = text[:-1] + lines + text[-1:] if text.endswith(b")") else text + lines
            self.found.append(Mutant(self._path, ".".join(self._place), *self._span(node), text))

    # What is changed

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, _SIMPLE):
            self._leave_out(node)
        super().visit(node)

    def _leave_out(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or _is_log(node.value)):
            return
        if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            return  # a test finds at once that a name is not set
        self._change(node, "pass")

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._change(test, "True")
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.Constant):
            text = self._text(test)
            is_negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
            if not is_negated:
                self._change(test, b"(not (" + text + b"))")

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left_out in node.values:
            kept = [b"(" + self._text(value) + b")" for value in node.values if value is not left_out]
            word = b" and " if isinstance(node.op, ast.And) else b" or "
            self._change(node, b"(" + word.join(kept) + b")")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._change(node, b"(" + b"bool(" + self._text(node.operand) + b"))")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        parts = [node.left, *node.comparators]
        for number, operator in enumerate(node.ops):
            if type(operator) in _NEXT:
                text = self._text(parts[0])
                for index, (other, right) in enumerate(zip(node.ops, parts[1:], strict=True)):
                    word = _NEXT[type(other)] if index == number else _WORDS[type(other)]
                    text += b" " + word.encode() + b" " + self._text(right)
                self._change(node, b"(" + text + b")")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitOr | ast.BitAnd):
            for side in (node.left, node.right):
                self._change(node, b"(" + self._text(side) + b")")
        if word := _NEXT.get(type(node.op)):
            is_text = any(
                isinstance(side, ast.Constant | ast.JoinedStr) and _is_text(side) for side in (node.left, node.right)
            )
            if not is_text:
                self._change(node, b"(" + self._text(node.left) + f" {word} ".encode() + self._text(node.right) + b")")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if word := _NEXT.get(type(node.op)):
            self._change(node, self._text(node.target) + f" {word}= ".encode() + self._text(node.value))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._change(node, str(not node.value))
        elif isinstance(node.value, int | float):
            self._change(node, repr(node.value + 1))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass  # prose

    def visit_Call(self, node: ast.Call) -> None:
        if _is_log(node):
            return
        if isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
            self._change(node.func, "max" if node.func.id == "min" else "min")
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if isinstance(node.type, ast.Tuple):
            for left_out in node.type.elts:
                kept = [self._text(each) for each in node.type.elts if each is not left_out]
                self._change(node.type, b"(" + b", ".join(kept) + b",)")
        for statement in node.body:
            self.visit(statement)


_WORDS = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}


def _gives_none(node: ast.stmt) -> bool:
    """Whether the statement returns None, as a function does at its end anyway."""
    return isinstance(node, ast.Return) and (node.value is None or _is_none(node.value))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_log(node: ast.expr) -> bool:
    """Whether the expression is a call of the module's log, which decides nothing."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
    )


def _is_text(node: ast.Constant | ast.JoinedStr) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(node.value, str | bytes)
