"""Every page is on the site, every link leads somewhere, and every flag that a page shows exists."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from softflow.__main__ import main

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / ".github").rglob("*.md")), *DOCS]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        is_outside = page in DOCS and not target.resolve().is_relative_to(ROOT / "docs")  # of the site
        if "://" not in path and (is_outside or not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(link)
    assert not dead


def test_the_navigation_has_every_page_once() -> None:
    def pages(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [page for one in (part.values() if isinstance(part, dict) else part) for page in pages(one)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages(navigation)) == [page.relative_to(ROOT / "docs").as_posix() for page in DOCS]


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_it_begins_with_its_only_title(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    assert text.startswith("# ") and len(re.findall(r"^# ", text, re.MULTILINE)) == 1


SHOWN = re.compile(r"^(?:\$|    )(?:.*[$ ])?(softflow-(?:train|eval|demo|export|guard|robot) .*)$", re.MULTILINE)
UNKNOWN = ("--base", "--resume", "--corrections", "--config", "--takeover")  # name files and modules of the reader


def commands() -> list[str]:
    """The commands of all pages, without comments. A line that ends in a backslash goes on in the next one."""
    found = []
    for page in [ROOT / "README.md", *DOCS]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(
            r"^(?:\$|    )(?:.*[$ ])?(softflow-(?:train|eval|demo|export|guard|robot) .*)$", text, re.M
        ):
            found.append(re.sub(r"\s+#.*| -- --threads.*", "", line).strip())
    assert len(found) > 60
    return sorted({line for line in found if "my_preset.yaml" not in line})  # which the reader writes


@pytest.mark.parametrize("line", commands())
def test_the_flags_of_a_shown_command_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(line)
    words = list(takewhile(lambda word: word not in (">", "|", "&", "&&"), words))
    kept = [word for word, before in zip(words, ["", *words], strict=False) if not {word, before} & set(UNKNOWN)]
    status = main([program.removeprefix("softflow-"), *kept, "--help"])
    assert status == 0, capsys.readouterr().err
