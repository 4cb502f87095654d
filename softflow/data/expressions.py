"""Conditions on episodes as text, such as `success and length < 200`. Python parses them, but nothing is executed."""

from __future__ import annotations

import ast
import math
import operator
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

from softflow.data.episodes import Episode
from softflow.data.imitable import episode_return
from softflow.data.takeovers import human_steps
from softflow.errors import UserError

Reading = Callable[[Episode, int], Any]
"""Reads a value from an episode and its index in the dataset."""
TRUTHS: dict[str, Reading] = {
    "success": lambda episode, index: episode.is_success,
    "terminated": lambda episode, index: episode.terminated,
}
NUMBERS: dict[str, Reading] = {
    "length": lambda episode, index: len(episode),
    "return": lambda episode, index: episode_return(episode),
    "mode": lambda episode, index: episode.mode,
    "seed": lambda episode, index: _seed(episode, index),
    "index": lambda episode, index: index,
    "human": lambda episode, index: float(human_steps(episode).mean()),
}
OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le},
    **{ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Add: operator.add, ast.Sub: operator.sub},
    **{ast.Mult: operator.mul, ast.Div: operator.truediv},
}
LONGEST, DEEPEST = 10_000, 50
"""Maximum number of characters, and of parts inside each other: Python limits recursion."""


def parse(text: str) -> Callable[[Episode, int], bool]:
    """Return a function that says whether an episode, with its index in the dataset, meets a condition.

    The function raises `UserError` if the seed of the episode is needed and not known, or a calculation has no finite
    result.

    Args:
        text: Names of `TRUTHS` and `NUMBERS`, numbers, `+ - * /`, comparisons of numbers, `and`, `or`, `not` and
            parentheses, with the meaning that they have in Python.

    Raises:
        ValueError: The text is anything else. The message says where.
    """
    if len(text) > LONGEST:
        raise ValueError(f"where has {len(text):,} characters, more than the {LONGEST:,} allowed")
    source = re.sub(r"\breturn\b", "return_", text.strip())  # `return` is a keyword
    try:
        with warnings.catch_warnings(action="ignore"):
            parsed = ast.parse(source, mode="eval")
    except SyntaxError as error:
        rest = source[max(error.offset or 1, 1) - 1 :]
        hint = "; to compare, write ==" if re.match(r"=(?!=)", rest) else ""
        raise ValueError(f"where cannot be read: see {_quoted(rest) if rest else 'its end'}{hint}") from error
    except (ValueError, MemoryError, RecursionError) as error:  # characters that are no text, or deep nesting
        raise ValueError(f"where cannot be read: {_quoted(source)} is no text, or is nested too deeply") from error
    return _Compiler(source).compile(parsed.body, True)


class _Compiler:
    """Makes functions of the parts of a parsed expression."""

    def __init__(self, source: str) -> None:
        self._source, self._depth = source, 0

    def compile(self, node: ast.expr, is_truth: bool) -> Reading:
        """Make a function of a part that must be true or false, or else a number."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"where has more than {DEEPEST} parts inside each other")
        found, reading = self._compile(node)
        self._depth -= 1
        if found is not is_truth:
            kinds = "a number", "true or false"
            raise ValueError(f"where: {self._text(node)} is {kinds[found]}, expected {kinds[is_truth]}")
        return reading

    def _compile(self, node: ast.expr) -> tuple[bool, Reading]:
        """Return whether a part is true or false, and its function."""
        match node:
            case ast.Name("return_"):
                return False, NUMBERS["return"]
            case ast.Name(name):
                if name not in TRUTHS and name not in NUMBERS:
                    raise ValueError(f"where: unknown name {_quoted(name)}: valid: {', '.join([*TRUTHS, *NUMBERS])}")
                return name in TRUTHS, {**TRUTHS, **NUMBERS}[name]
            case ast.Constant(int() | float() as value) if not isinstance(value, bool):
                if value > sys.float_info.max:
                    raise ValueError(f"where: the number {self._text(node)} is too large")
                return False, lambda *of: value
            case ast.BoolOp(joint, values):
                parts = [self.compile(value, True) for value in values]
                join = all if isinstance(joint, ast.And) else any
                return True, lambda *of: join(part(*of) for part in parts)
            case ast.UnaryOp(ast.Not(), operand):
                denied = self.compile(operand, True)
                return True, lambda *of: not denied(*of)
            case ast.UnaryOp(ast.USub(), operand):
                negated = self.compile(operand, False)
                return False, lambda *of: -negated(*of)
            case ast.Compare(first, operators, others) if all(type(one) in OPERATORS for one in operators):
                compared = [self.compile(one, False) for one in (first, *others)]
                signs = [OPERATORS[type(one)] for one in operators]
                return True, lambda *of: _holds(signs, [one(*of) for one in compared])
            case ast.BinOp(left, sign, right) if type(sign) in OPERATORS:
                one, other = self.compile(left, False), self.compile(right, False)
                text, calculate = self._text(node), OPERATORS[type(sign)]
                return False, lambda *of: _finite(text, calculate, one(*of), other(*of), of[1])
        raise ValueError(
            f"where: {self._text(node)} is not allowed: use names, numbers, comparisons, and, or, not, + - * / and ( )"
        )

    def _text(self, node: ast.expr) -> str:
        return _quoted(ast.get_source_segment(self._source, node) or "")


def _quoted(source: str) -> str:
    """Quote the beginning of a part as the user wrote it."""
    text = re.sub(r"\breturn_\b", "return", source)
    return repr(text if len(text) <= 40 else f"{text[:40]} ...")


def _holds(signs: list[Callable[[Any, Any], Any]], values: list[float]) -> bool:
    return all(sign(one, other) for sign, one, other in zip(signs, values[:-1], values[1:], strict=True))


def _finite(text: str, calculate: Callable[[Any, Any], Any], left: float, right: float, index: int) -> float:
    try:
        value: float = calculate(left, right)
        if math.isfinite(value):
            return value
    except (ZeroDivisionError, OverflowError):
        pass
    raise UserError(f"where: {text} is no finite number for episode {index}")


def _seed(episode: Episode, index: int) -> int:
    if episode.seed is None:
        raise UserError(f"where: the seed of episode {index} is not known")
    return episode.seed
