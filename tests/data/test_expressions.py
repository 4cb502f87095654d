"""Conditions on episodes as text: what they mean, and that nothing but such conditions is accepted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softflow.data import Dataset, Episode
from softflow.data.editing import Conditions
from softflow.data.expressions import NUMBERS, TRUTHS, parse
from softflow.errors import UserError

EPISODE = Episode(
    np.zeros((5, 1)),
    np.zeros((4, 1)),
    np.array([1, 0, 0, 2.5]),
    terminated=False,
    truncated=True,
    is_success=True,
    mode=2,
    seed=2**63 - 1,
    human=np.array([False, True, True, True]),
)
INDEX = 7
VALUES: dict[str, Any] = {
    "success": True,
    "terminated": False,
    "length": 4,
    "return": 3.5,
    "mode": 2,
    "seed": 2**63 - 1,
    "index": INDEX,
    "human": 0.75,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("success", True),
        ("terminated", False),
        ("not terminated", True),
        ("length == 4 and return == 3.5 and mode == 2 and index == 7 and human == 0.75", True),
        (f"seed == {2**63 - 1}", True),
        (f"seed == {2**63 - 2}", False),  # which is the same float
        ("return>=3.5", True),
        ("return_ < 3.5", False),
        ("3 < length < 5 < index", True),
        ("3 < length < 4", False),
        ("length != 4", False),
        ("not success or terminated and success", False),
        ("(not terminated or terminated) and success", True),
        ("1 + 2 * 3 == 7 and (1 + 2) * 3 == 9 and 8 - 4 - 2 == 2 and 8 / 4 / 2 == 1 and - -1 == 1", True),
        ("-return / length < -.8e0", True),
        ("terminated and 1 / 0 > 1", False),  # as in Python, the rest is not looked at
        (" or ".join(f"index == {number}" for number in range(500)), True),
        ("  success\n", True),
    ],
)
def test_an_expression_means_what_it_means_in_python(text: str, expected: bool) -> None:
    assert parse(text)(EPISODE, INDEX) is expected


def test_every_name_has_its_value() -> None:
    readings = {**TRUTHS, **NUMBERS}
    assert {name: reading(EPISODE, INDEX) for name, reading in readings.items()} == VALUES


numbers = st.recursive(
    st.sampled_from([name for name in NUMBERS if name != "return"]) | st.integers(0, 9).map(str),
    lambda inner: (
        st.builds("{} {} {}".format, inner, st.sampled_from("+-*"), inner)
        | inner.map("({})".format)
        | inner.map("-{}".format)
    ),
    max_leaves=6,
)
comparisons = st.builds(
    "{} {} {} {} {}".format, numbers, st.sampled_from(["<", "=="]), numbers, st.sampled_from([">=", "!="]), numbers
)
conditions = st.recursive(
    st.sampled_from(list(TRUTHS)) | comparisons,
    lambda inner: (
        st.builds("{} {} {}".format, inner, st.sampled_from(["and", "or"]), inner)
        | inner.map("({})".format)
        | inner.map("not {}".format)
    ),
    max_leaves=6,
)


@given(conditions)
def test_python_would_say_the_same(text: str) -> None:
    assert parse(text)(EPISODE, INDEX) is eval(text, {}, VALUES)


SPELLS = [
    "return",
    "success",
    "length",
    "__import__",
    "and",
    "not",
    "(",
    ")",
    "[",
    "]",
    ".",
    "<",
    "==",
    "*",
    "-",
    "1e9",
]
SPELLS += [
    "lambda",
    ":",
    "=",
    ",",
    "'",
    "{",
    "}",
    "if",
    "else",
    "for",
    "in",
    "0x",
    "\\",
    "\n",
    "#",
    "@",
    "`",
    "\0",
    "9" * 400,
]


@given(st.lists(st.sampled_from(SPELLS), max_size=30).map(" ".join) | st.text(max_size=50))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    try:
        decide = parse(text)
    except ValueError as error:
        message = str(error)
        assert message.startswith("where") and "\n" not in message and len(message) < 200
    else:
        assert decide(EPISODE, INDEX) in (True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "success and lenght < 200",
            "where: unknown name 'lenght': valid: success, terminated, length, return, mode, seed, index, human",
        ),
        ("length < < 200", "where cannot be read: see '< 200'"),
        ("length = 200", "where cannot be read: see '= 200'; to compare, write =="),
        ("return return", "where cannot be read: see 'return'"),
        ("", "where cannot be read: see its end"),
        ("length", "where: 'length' is a number, expected true or false"),
        ("success and length - 3", "where: 'length - 3' is a number, expected true or false"),
        ("not human", "where: 'human' is a number, expected true or false"),
        ("success > 0.5", "where: 'success' is true or false, expected a number"),
        ("-(return > 3) < 1", "where: 'return > 3' is true or false, expected a number"),
        ("1e400 > length", "where: the number '1e400' is too large"),
        ("9" * 400 + " > length", f"where: the number '{'9' * 40} ...' is too large"),
        ("success" + " " * 10_000 + "and success", "where has 10,018 characters, more than the 10,000 allowed"),
        ("not " * 60 + "success", "where has more than 50 parts inside each other"),
        ("1 + " * 60 + "1 > 0", "where has more than 50 parts inside each other"),
    ],
)
def test_an_error_names_the_place(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "part",
    [
        "success.real",
        "return.__class__",
        "__import__('os')",
        "length(1)",
        "[length][0]",
        "(lambda: 1)",
        "2 ** 9",
        "length // 2",
        "length % 2",
        "~length",
        "+length",
        "'length'",
        "f'{length}'",
        "1j",
        "True",
        "None",
        "...",
        "success if success else success",
        "length in (1, 2)",
        "length is 4",
        "(length := 4)",
        "length, success",
        "{length for length in {1}}",
    ],
)
def test_nothing_else_of_python_is_allowed(part: str) -> None:
    with pytest.raises(ValueError, match=r"^where: .* is not allowed: use names, numbers, comparisons, and, or, not"):
        parse(part)


@pytest.mark.parametrize("text", ["(" * 5_000, "-" * 9_990 + "1", "not " * 2_400 + "success", "1+" * 4_900 + "1 > 0"])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^where (cannot be read|has more than 50 parts)"):
        parse(text)


@pytest.mark.parametrize("text", ["return / (mode - 2) > 0", "1e300 * 1e300 > 0", "-1e308 - 1e308 < 0"])
def test_a_result_that_is_not_finite_is_an_error(text: str) -> None:
    part = text.rpartition(" > " if ">" in text else " < ")[0]
    with pytest.raises(UserError) as caught:
        parse(text)(EPISODE, INDEX)
    assert str(caught.value) == f"where: {part!r} is no finite number for episode 7"


def test_a_seed_that_is_not_known_is_an_error_if_it_matters() -> None:
    unknown = replace(EPISODE, seed=None)
    with pytest.raises(UserError, match=r"^where: the seed of episode 7 is not known$"):
        parse("seed != 3")(unknown, INDEX)
    assert parse("index < 8 or seed != 3")(unknown, INDEX)


def test_nobody_took_over_where_it_was_not_recorded() -> None:
    assert parse("human == 0")(replace(EPISODE, human=None), INDEX)


def test_an_expression_is_one_of_the_conditions() -> None:
    episodes = [replace(EPISODE, is_success=index % 2 == 0, reward=np.full(4, index)) for index in range(6)]
    dataset = Dataset(episodes, None)

    def kept(conditions: Conditions) -> list[float]:
        return [episode.reward[0] for episode in conditions.keep(dataset).episodes]

    assert kept(Conditions(where="index >= 3")) == [3, 4, 5]
    assert kept(Conditions(where="index >= 3", successes=True)) == [4]
    assert kept(Conditions(where="index < 4", best=50)) == [2, 3]  # the best half of those
    assert kept(Conditions(where="success and return >= 8")) == kept(Conditions(successes=True, min_return=8)) == [2, 4]
    with pytest.raises(UserError, match="no episode meets the conditions: there are 6 episodes, 3 successes"):
        Conditions(where="length > 4").keep(dataset)
    with pytest.raises(ValueError, match="where: unknown name 'lenght'"):
        Conditions(where="lenght > 4")
