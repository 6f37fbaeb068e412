"""What mutations a C++ source file offers, found in its syntax tree (libclang): nothing of comments, strings, macros and
static assertions, and little that does not compile.
"""
import dataclasses
import re
import subprocess

import clang.cindex
from clang.cindex import CursorKind as kind

SWAPS = {  # an operator, and what may stand in its place
    "relational": {"<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="], "!=": ["=="]},
    "logical": {"&&": ["||"], "||": ["&&"]},
    "arithmetic": {"+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["/"], "<<": [">>"], ">>": ["<<"], "&": ["|"],
                   "|": ["&"], "^": ["|"]},
    "assignment": {"+=": ["-=", "="], "-=": ["+=", "="], "*=": ["/="], "/=": ["*="], "|=": ["&=", "="], "&=": ["|=", "="],
                   "<<=": [">>="], ">>=": ["<<="], "^=": ["|="]},
}
STATEMENTS = {kind.CALL_EXPR, kind.UNEXPOSED_EXPR, kind.BINARY_OPERATOR, kind.COMPOUND_ASSIGNMENT_OPERATOR,
              kind.UNARY_OPERATOR, kind.CXX_THROW_EXPR, kind.BREAK_STMT, kind.CONTINUE_STMT}
LOOPS = {kind.FOR_STMT, kind.WHILE_STMT, kind.CXX_FOR_RANGE_STMT, kind.CASE_STMT, kind.DEFAULT_STMT}
NOT_MUTATED = {kind.STATIC_ASSERT, kind.ENUM_DECL}
WHOLE_NUMBER = re.compile(r"(0[xX][0-9a-fA-F']+|[0-9][0-9']*)([uUlLzZ]*)$")
REAL_NUMBER = re.compile(r"[0-9][0-9.']*(e-?[0-9]+)?(f?)$")


@dataclasses.dataclass(frozen=True)
class mutation:
    """At byte `offset` of a file, `old` becomes `new`."""
    kind: str
    offset: int
    old: str
    new: str

    def applied_to(self, text):
        assert text[self.offset:self.offset + len(self.old)] == self.old
        return text[:self.offset] + self.new + text[self.offset + len(self.old):]


def read_source(path):
    """Its bytes as characters of the same number, as libclang counts them."""
    return path.read_bytes().decode("latin-1")


class finder:
    """Of one file: `mutations` by kind. Text that a macro wrote lies elsewhere in the file, and does not fit."""

    def __init__(self, path, text):
        self.path, self.text, self.found = str(path), text, {}

    def add(self, what, start, end, new):
        old = self.text[start:end]
        if old != new and not self.text[self.text.rfind("\n", 0, start) + 1:start].lstrip().startswith(("#", "assert(")):
            self.found.setdefault(what, set()).add(mutation(what, start, old, new))

    def span(self, cursor):
        return cursor.extent.start.offset, cursor.extent.end.offset

    def visit(self, cursor):
        for child in cursor.get_children():
            place = child.location.file
            if (place and place.name != self.path) or child.kind in NOT_MUTATED:
                continue
            self.look_at(child)
            self.visit(child)

    def look_at(self, cursor):
        start, end = self.span(cursor)
        text = self.text[start:end]
        children = list(cursor.get_children())
        if cursor.kind in (kind.BINARY_OPERATOR, kind.COMPOUND_ASSIGNMENT_OPERATOR) and len(children) == 2:
            self.operator(children[0], children[1], SWAPS)
        elif cursor.kind == kind.CALL_EXPR and cursor.spelling.startswith("operator") and len(children) == 3:
            self.operator(children[0], children[2], {"relational": SWAPS["relational"]})
        elif cursor.kind in (kind.CALL_EXPR, kind.INIT_LIST_EXPR):
            arguments = children if cursor.kind == kind.INIT_LIST_EXPR else list(cursor.get_arguments())
            self.arguments([a for a in arguments if a])
        elif cursor.kind == kind.INTEGER_LITERAL and WHOLE_NUMBER.match(text):
            digits, suffix = WHOLE_NUMBER.match(text).groups()
            value = int(digits.replace("'", ""), 0 if digits[:2].lower() == "0x" else 10)
            for other in {value + 1, max(value - 1, 0)}:
                self.add("constant", start, end, f"{other}{suffix}")
        elif cursor.kind == kind.FLOATING_LITERAL and REAL_NUMBER.match(text):
            self.add("constant", start, end, f"({text} + 1{'.0f' if text.endswith('f') else ''})")
        elif cursor.kind == kind.CXX_BOOL_LITERAL_EXPR and text in ("true", "false"):
            self.add("boolean", start, end, "false" if text == "true" else "true")
        elif cursor.kind == kind.UNARY_OPERATOR:
            for old, new in (("!", ""), ("-", ""), ("++", "--"), ("--", "++")):
                if text.startswith(old) and not (old == "-" and text.startswith("--")):
                    self.add("boolean" if old == "!" else "arithmetic", start, start + len(old), new)
                elif text.endswith(old) and old in ("++", "--"):
                    self.add("arithmetic", end - 2, end, new)
        elif cursor.kind == kind.CONDITIONAL_OPERATOR and len(children) == 3:
            self.swap("branches", children[1], children[2], ":")
        elif cursor.kind in (kind.DECL_REF_EXPR, kind.OVERLOADED_DECL_REF) and cursor.spelling in ("min", "max"):
            at = self.text.find(cursor.spelling, start, start + 9)
            if at >= 0:
                self.add("bound", at, at + 3, "max" if cursor.spelling == "min" else "min")
        if cursor.kind in (kind.IF_STMT, kind.WHILE_STMT):
            self.condition(children)
        bodies = {kind.COMPOUND_STMT: children, kind.IF_STMT: children[1:]}.get(
            cursor.kind, children[-1:] if cursor.kind in LOOPS else [])
        for statement in bodies:
            self.removal(statement)

    def operator(self, left, right, swaps):
        start, end = self.span(left)[1], self.span(right)[0]
        between = self.text[start:end]
        if start < end and len(between) < 40:
            for what, table in swaps.items():
                for new in table.get(between.strip(), []):
                    at = start + len(between) - len(between.lstrip())
                    self.add(what, at, at + len(between.strip()), new)

    def swap(self, what, first, second, separator):
        (a, b), (c, d) = self.span(first), self.span(second)
        if a < b < c < d and self.text[b:c].strip() == separator:
            self.add(what, a, d, self.text[c:d] + self.text[b:c] + self.text[a:b])

    def arguments(self, cursors):
        if len(cursors) <= 8:  # longer ones are tables
            for first, second in zip(cursors, cursors[1:]):
                if first.type.get_canonical().spelling == second.type.get_canonical().spelling:
                    self.swap("arguments", first, second, ",")

    def condition(self, children):
        for child in children:
            start, end = self.span(child)
            before = self.text[:start].rstrip()[-1:]
            if child.kind.is_expression() and before in "(;" and self.text[end:].lstrip()[:1] == ")":
                self.add("condition", start, end, f"!({self.text[start:end]})")
                return

    def removal(self, cursor):
        start, end = self.span(cursor)
        if cursor.kind in STATEMENTS and start < end and self.text[end:end + 1] == ";":
            self.add("statement", start, end, "")


def mutations_of(path, root, unit, compiler_options):
    """{kind: [mutation]} of the file `path`, in the order of the file; `unit` is the source that it is compiled with (itself,
    or one that includes it). Throws what libclang can't parse."""
    resources = subprocess.run(["clang", "-print-resource-dir"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    tree = clang.cindex.Index.create().parse(str(unit), [*compiler_options, "-resource-dir", resources, f"-I{root}"])
    fatal = [str(d) for d in tree.diagnostics if d.severity >= clang.cindex.Diagnostic.Error]
    if fatal:
        raise ValueError(f"clang can't parse {unit}: {fatal[0]}")
    found = finder(path, read_source(path))
    found.visit(tree.cursor)
    return {what: sorted(group, key=lambda m: (m.offset, m.old, m.new)) for what, group in sorted(found.found.items())}
