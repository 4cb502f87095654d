"""`softflow-report` and `softflow-plot`, on a genuine run and on folders that lack something."""

from __future__ import annotations

import base64
import re
import shutil
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest

from softflow.report import films
from tests.cli.conftest import Command
from tests.report.folders import write_run

VOID = {"meta", "link", "br", "img"}


class Balanced(HTMLParser):
    """Collects the texts of a page, and requires that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_report_of_a_run(small_run: Path, command: Command) -> None:
    result = command("softflow-report run --out r.html")
    assert (result.status, result.out) == (0, "r.html\n")
    page = Path("r.html").read_text()
    assert "of the best policy" not in page  # it is the last one
    parsed = Balanced(page)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {"Success", "Learning", "Expected and achieved", "Own episodes", "Actions and observations"} <= {
        *parsed.texts
    }
    assert not re.search(r"(?:src|href)=[\"'](?!#|data:)", page) and "url(http" not in page  # nothing from elsewhere
    assert not re.search(r"#0101\d|#0102\d", page), "a stand-in colour is left"
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_report_of_a_study_and_of_a_run_whose_replay_is_empty(
    small_run: Path, command: Command, tmp_path: Path
) -> None:
    shutil.copytree("run", "study/Pendulum-v1/softflow_s0")
    for replay in Path("study").rglob("replay.npz"):
        with np.load(replay) as file:
            arrays = dict(file)
        np.savez(replay, **(arrays | {"remaining": np.zeros_like(arrays["remaining"])}))
    assert command("softflow-report study --out r.html").status == 0
    page = Path("r.html").read_text()
    assert re.search("No own episode of .*softflow_s0 is in its last checkpoint", page)


@pytest.mark.parametrize(
    ("program", "runs", "said"),
    [
        ("softflow-report", (), ""),
        ("softflow-report", ("a",), "; it contains 1 run: rs/a"),
        ("softflow-plot --out s.png", ("a", "b"), "; it contains 2 runs: rs/*"),
        ("softflow-eval", ("task/a", "task/b"), "; it contains 2 runs: rs/*/*"),
        ("softflow-report", ("task/method/a", "other/method/b"), "; it contains 2 runs: rs/*/*/*"),
    ],
)
def test_a_folder_of_runs_is_refused_with_their_place(
    program: str, runs: tuple[str, ...], said: str, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "rs").mkdir()
    for name in runs:
        write_run(tmp_path / "rs" / name)
    assert command(f"{program} rs").error() == f"error: rs is not a run folder: it has no config.yaml{said}\n"


def test_texts_of_a_run_are_escaped(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "<b>&run", 'num_demos: 5\nenv_options: {label: "</svg><script>alert(1)</script>$x$"}\n')
    write_run(tmp_path / "other", "num_demos: 6\n")
    assert command("softflow-report --out r.html", str(tmp_path / "<b>&run"), "other").status == 0
    page = Path("r.html").read_text()
    assert "<script" not in page and "<b>" not in page and "&lt;b&gt;&amp;run" in page
    Balanced(page)


def test_the_page_says_what_old_and_new_runs_lack(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/config.yaml").write_text("algo: softflow\nenv: wrong_mode\n")
    assert command("softflow-report old new --out r.html").status == 0
    texts = Balanced(Path("r.html").read_text()).texts
    assert any(text.startswith("old: no episodes.csv") for text in texts)
    assert "new: no scalars yet, so the run has not begun to train" in texts
    assert any(text.startswith("old: no statistics of its demonstrations") for text in texts)


def test_the_page_says_how_many_seeds_have_made_the_last_evaluation(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "ended")
    write_run(tmp_path / "training", "seed: 1\n", success=(0.7, 1.0))
    assert command("softflow-report ended training --out r.html").status == 0
    texts = Balanced(Path("r.html").read_text()).texts
    assert "[0.58, 0.92] at the last evaluation, 20 episodes of 1 of 2 seeds" in texts


def test_colours_of_many_settings_repeat(tmp_path: Path, command: Command) -> None:
    runs = [write_run(tmp_path / f"r{number}", f"num_demos: {number}\n") for number in range(1, 11)]
    assert command("softflow-report --out r.html", *runs).status == 0
    page = Path("r.html").read_text()
    used, defined = (set(re.findall(pattern, page)) for pattern in (r"var\(--series-(\d+)\)", r"--series-(\d+):"))
    assert used <= defined == set("01234567")


def test_the_films_are_in_the_page(small_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "TRIES", 1)
    assert command("softflow-report run --films 1 --out r.html").status == 0
    [film] = re.findall(r'<video [^>]*src="data:video/mp4;base64,([^"]*)"', Path("r.html").read_text())
    with av.open(BytesIO(base64.b64decode(film))) as container:
        assert container.streams.video[0].codec.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 201 + 30  # Pendulum-v1 has 30 pictures a second


def test_films_that_cannot_be_made_are_missing(small_run: Path, command: Command) -> None:
    (small_run / "checkpoints/best").write_text("nothing")
    assert command("softflow-report run --films 1 --out r.html").status == 0
    texts = Balanced(Path("r.html").read_text()).texts
    for lacking in ("no films", "no best policy"):
        assert any(text.startswith(f"run: {lacking}: ") for text in texts)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("softflow-report none", "none: no such run folder"),
        ("softflow-report small.yaml", "small.yaml: no such run folder"),
        ("softflow-report torn", "metrics.csv is damaged: each line must have a stage, a step, a name and a value"),
        ("softflow-report torn --out r.txt", "--out must end in .html, got 'r.txt'"),
        ("softflow-report torn --films -1", "--films must be 0 or more, got -1"),
        ("softflow-plot new --out f.png", "none of the runs has been evaluated, so there is no success to plot"),
        ("softflow-plot new --out f.jpg", "--out must end in .png, .svg, .pdf, got 'f.jpg'"),
    ],
)
def test_bad_input_is_one_line(line: str, error: str, tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "torn")
    (tmp_path / "torn/metrics.csv").write_text("step,value\n1,2\n")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/config.yaml").write_text("algo: softflow\nenv: wrong_mode\n")
    before = {*tmp_path.iterdir()}
    assert error in command(line).error()
    assert {*tmp_path.iterdir()} == before


def test_without_the_extra_the_command_names_it(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "a")
    for module, line in (("jinja2", "softflow-report a"), ("matplotlib", "softflow-plot a --out f.png")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert "pip install 'softflow[plot]'" in command(line).error()


def test_the_figure_names_every_setting(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "seed: 1\n")
    write_run(tmp_path / "c", "num_demos: 9\n")
    assert command("softflow-plot a b c --out f.svg").status == 0
    text = "".join(ElementTree.parse("f.svg").getroot().itertext())
    assert "softflow, 200 demonstrations, 2 seeds" in text and "softflow, 9 demonstrations, seed 0" in text
    assert command("softflow-plot a --out f.png").status == 0
    assert Path("f.png").read_bytes().startswith(b"\x89PNG")
