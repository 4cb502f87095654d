"""The page of a report: one HTML file, which needs no other file and no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softflow.errors import UserError
from softflow.files import written_whole

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Entry:
    """An entry of a legend: a label and the index of its colour."""

    label: str
    color: int


@dataclass(frozen=True)
class Card:
    """The results of a group in short."""

    title: str
    environment: str
    value: str
    lines: list[str]
    color: int


@dataclass(frozen=True)
class Figure:
    """A figure with its title and caption. `content` is HTML that is not escaped: an SVG or a film."""

    title: str
    content: Markup
    text: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts. `numbers` has the indices of columns that are aligned to the right."""

    header: list[str]
    rows: list[list[str]]
    numbers: tuple[int, ...] = ()
    settings: bool = False
    """Whether the first column has the names of settings."""


@dataclass(frozen=True)
class Fold:
    """Figures and tables that are shown on demand."""

    title: str
    panels: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    text: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    id: str
    title: str
    text: list[str] = field(default_factory=list)
    legend: list[Entry] = field(default_factory=list)
    panels: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    large: bool = False
    """Whether the figures are large."""


@dataclass(frozen=True)
class Page:
    """The contents of a page. All texts are escaped when it is written."""

    title: str
    subtitle: str
    cards: list[Card]
    sections: list[Section]
    missing: list[str]

    def write(self, path: Path) -> None:
        """Write the page. Raise `UserError` if jinja2 is not installed or the file cannot be written."""
        text = _template().render(vars(self))
        with written_whole(path) as file:
            file.write_text(text, encoding="utf-8")


def markup(html: str) -> Markup:
    """Mark HTML as safe, so that it is not escaped. It must not contain anything from a run's files unescaped."""
    from markupsafe import Markup

    return Markup(html)


def require_jinja() -> None:
    """Raise `UserError` if jinja2 is not installed."""
    _template()


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise UserError("a report needs jinja2: pip install 'softflow[plot]'") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((files("softflow.report") / TEMPLATE).read_text(encoding="utf-8"))
