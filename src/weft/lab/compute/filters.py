"""The language of `filter=` in list methods. Called by `paging`.

Two languages, as documented at every list method of compute.v1, which may not be mixed:

- regular expressions: `name eq flannel-.*`, `(name eq literal) (network ne "literal")`. The literal must match the
  whole field. "You cannot combine constraints on multiple fields using regular expressions": several fields only with
  literals that are no expressions.
- AIP-160: `name = "x"`, `!=`, `<`, `<=`, `>`, `>=`, `:` (has; `field:*` is it there), AND, OR, NOT, `-`, parentheses;
  expressions side by side are an AND, and OR binds more tightly than AND. `*` in a string stands for anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from weft.lab.compute.refusal import Refusal, invalid
from weft.lab.compute.resources import Json

Test = Callable[[Json], bool]
SPECIAL = re.compile(r"[*+?|()\[\]{}^$\\]")
"""What makes a literal an expression; a lone dot is in every link."""
_TOKEN = re.compile(
    r"""\s*(?:(?P<paren>[()])|(?P<op><=|>=|!=|=|<|>|:)|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'"""
    r"""|(?P<word>[^\s()=!<>:"']+))"""
)
_LEGACY = re.compile(r"""\s*([\w.]+)\s+(eq|ne)\s+(?:"([^"]*)"|'([^']*)'|(.+?))\s*""", re.DOTALL)
_GROUPS = re.compile(r"""\s*\(((?:[^()"']|"[^"]*"|'[^']*'|\([^()]*\))*)\)\s*""")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


def parse(text: str, fields: Collection[str]) -> Test:
    """Whether a document passes; `fields`: names that documents of this kind can have at the top. Refusal (400): it is
    no expression of either language."""
    if not text.strip():
        return lambda _: True
    try:
        test = _legacy(text, fields) if re.search(r"[\w.]+\s+(?:eq|ne)\s", text) else _Aip(text, fields).parse()
    except (ValueError, re.error):
        raise _no(text) from None

    def asked(document: Json) -> bool:
        try:
            return test(document)
        except ValueError:  # a number is compared with what is none
            raise _no(text) from None

    return asked


def _no(text: str) -> Refusal:
    return invalid("filter", text, "Invalid list filter expression.")


def _legacy(text: str, fields: Collection[str]) -> Test:
    clauses = [text]
    if _GROUPS.match(text):
        clauses, at = [], 0
        while at < len(text):
            found = _GROUPS.match(text, at)
            if not found:
                raise ValueError(text)
            clauses.append(found[1])
            at = found.end()
    tests, named, plain = [], set(), True
    for clause in clauses:
        found = _LEGACY.fullmatch(clause)
        if not found or found[1].split(".")[0] not in fields:
            raise ValueError(clause)
        literal = next(one for one in found.groups()[2:] if one is not None)
        if found[5] and re.search(r"\s(?:AND|OR|eq|ne)\s", literal):
            raise ValueError(clause)
        tests.append(_matches(found[1], re.compile(literal), found[2] == "eq"))
        named.add(found[1])
        plain = plain and not SPECIAL.search(literal)
    if len(named) > 1 and not plain:
        raise ValueError("constraints on several fields with regular expressions")
    return lambda document: all(test(document) for test in tests)


def _matches(field: str, expression: re.Pattern[str], wanted: bool) -> Test:
    def test(document: Json) -> bool:
        return any(expression.fullmatch(_written(one)) for one in _values(document, field)) is wanted

    return test


def _values(document: object, field: str) -> Iterator[object]:
    """What a field holds, element by element; nested fields with dots."""
    if isinstance(document, (list, tuple)):
        for one in document:
            yield from _values(one, field)
    elif not field:
        yield document
    elif isinstance(document, dict):
        head, _, rest = field.partition(".")
        if head in document:
            yield from _values(document[head], rest)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


class _Aip:
    """A parser of AIP-160, one method per rule of its grammar."""

    def __init__(self, text: str, fields: Collection[str]) -> None:
        self.fields = fields
        self.tokens: list[_Token] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(text[at:])
            kind = str(found.lastgroup)
            self.tokens.append(_Token("string" if kind in ("double", "single") else kind, found[kind]))
            at = found.end()

    def parse(self) -> Test:
        test = self._expression()
        if self.tokens:
            raise ValueError(self.tokens[0].text)
        return test

    def _expression(self) -> Test:
        tests = [self._factor()]
        while self.tokens and self.tokens[0] != _Token("paren", ")"):
            if self._is_word("AND"):
                self._next()
            tests.append(self._factor())
        return lambda document: all(test(document) for test in tests)

    def _factor(self) -> Test:
        tests = [self._term()]
        while self._is_word("OR"):
            self._next()
            tests.append(self._term())
        return lambda document: any(test(document) for test in tests)

    def _term(self) -> Test:
        if self._is_word("NOT") or self._is_word("-"):
            self._next()
            inner = self._simple()
            return lambda document: not inner(document)
        if self.tokens and self.tokens[0].kind == "word" and self.tokens[0].text.startswith("-"):
            self.tokens[0] = _Token("word", self.tokens[0].text[1:])
            inner = self._simple()
            return lambda document: not inner(document)
        return self._simple()

    def _simple(self) -> Test:
        token = self._next()
        if token == _Token("paren", "("):
            test = self._expression()
            if self._next() != _Token("paren", ")"):
                raise ValueError(token.text)
            return test
        if token.kind != "word" or token.text.split(".")[0] not in self.fields:
            raise ValueError(token.text)
        operator, value = self._next(), self._next()
        if operator.kind != "op" or value.kind not in ("word", "string"):
            raise ValueError(token.text)
        return _compare(token.text, operator.text, value)

    def _is_word(self, word: str) -> bool:
        return bool(self.tokens) and self.tokens[0] == _Token("word", word)

    def _next(self) -> _Token:
        if not self.tokens:
            raise ValueError("it ends too early")
        return self.tokens.pop(0)


def _compare(field: str, operator: str, value: _Token) -> Test:
    text = re.sub(r"\\(.)", r"\1", value.text) if value.kind == "string" else value.text
    if operator == ":":
        return _has(field, text)
    if operator in ("=", "!="):
        pattern = re.compile(".*".join(re.escape(part) for part in text.split("*")), re.DOTALL)
        return _matches(field, pattern, operator == "=")
    return _ordered(field, operator, text)


def _has(field: str, text: str) -> Test:
    if text == "*":
        return lambda document: any(True for _ in _values(document, field))
    return lambda document: any(text.lower() in _written(one).lower() for one in _values(document, field))


def _ordered(field: str, operator: str, text: str) -> Test:
    def rank(mine: object) -> int:
        if isinstance(mine, (int, float)) and not isinstance(mine, bool):
            number = float(text)
            return (mine > number) - (mine < number)
        return (_written(mine) > text) - (_written(mine) < text)

    allowed = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1)}[operator]
    return lambda document: any(rank(one) in allowed for one in _values(document, field))
