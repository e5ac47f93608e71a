"""Makes the mutants of a Lua script from its text: a statement is left out, a condition negated, a number raised."""

import re

from tools.mutants.mutant import Mutant

_SWAPPED = {
    b"<=": b"<",
    b">=": b">",
    b"<": b"<=",
    b">": b">=",
    b"==": b"~=",
    b"~=": b"==",
    b" and ": b" or ",
    b" or ": b" and ",
    b"not ": b"",
    b" + ": b" - ",
    b" - ": b" + ",
    b" * ": b" / ",
    b" / ": b" * ",
    b"math.min": b"math.max",
    b"math.max": b"math.min",
    b"true": b"false",
    b"false": b"true",
    b"'NX'": b"'XX'",
    b"'LT'": b"'GT'",
}
_TOKEN = re.compile(rb"<=|>=|==|~=|<|>| and | or |\bnot | [-+*/] |math\.m(?:in|ax)|\btrue\b|\bfalse\b|'NX'|'LT'")
_NUMBER = re.compile(rb"(?<![\w.'])\d+(?![\w.'])")
_STRING_OR_COMMENT = re.compile(rb"--[^\n]*|'(?:[^'\\\n]|\\.)*'")
# A function at the top level of the script. It ends on its first line, or with a line that is only `end`.
_FUNCTION = re.compile(rb"^(?:local )?function ([\w.]+)(?:.*\bend$|[\s\S]*?^end$)", re.MULTILINE)
# A whole statement on one line, or in a `then … end` on one line.
_STATEMENT = re.compile(
    rb"(?:(?<=\n)[ ]*|(?<=then )|(?<=do )|(?<=; ))((?!local |return |end\b|function |if |for |while |else)"
    rb"[\w.]+(?:\[[^\n\]]*\])?(?:, [\w.]+)*(?:\([^\n]*?\)| = [^\n;]+?)|return\b[^\n;]*?)"
    rb"(?=$| end$| --[^\n]*$|; )",
    re.MULTILINE,
)
_CONDITION = re.compile(rb"(?:\bif|\bwhile) ([^\n]+?) (?:then|do)\b")


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return all mutants of one file, in the order of its lines."""
    begins = next(_FUNCTION.finditer(source)).start()
    quiet = [match.span() for match in _STRING_OR_COMMENT.finditer(source)]
    comments = [span for span in quiet if source[span[0] : span[0] + 2] == b"--"]
    found = []
    for match in _STATEMENT.finditer(source, begins):
        start, end = match.span(1)
        text = source[start:end]
        if not _is_in(start, quiet) and b" end" not in text and _is_balanced(text):
            found.append((start, end, b"do end"))
    for match in _TOKEN.finditer(source, begins):
        text = match.group()
        if not _is_in(match.start(), comments if text.startswith(b"'") else quiet):
            found.append((*match.span(), _SWAPPED[text]))
    found += [
        (*match.span(), b"%d" % (int(match.group()) + 1))
        for match in _NUMBER.finditer(source, begins)
        if not _is_in(match.start(), quiet)
    ]
    found += [
        (*match.span(1), b"not (" + match.group(1) + b")")
        for match in _CONDITION.finditer(source, begins)
        if not _is_in(match.start(), quiet) and not _TOKEN.search(match.group(1))
    ]
    places = [(*match.span(), match.group(1).decode()) for match in _FUNCTION.finditer(source)]
    return [
        Mutant(path, next((name for first, last, name in places if first <= start < last), "main"), start, end, new)
        for start, end, new in sorted(found)
    ]


def _is_balanced(text: bytes) -> bool:
    return all(text.count(left) == text.count(right) for left, right in ((b"(", b")"), (b"{", b"}")))


def _is_in(place: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in spans)
