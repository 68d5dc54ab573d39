"""The sentence says what was measured and no more; the table and the page hold together."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from edit_robust.core.data import Column
from edit_robust.figures.frame import COLUMNS, RunData
from edit_robust.report import summary_table, verdict, write_report
from edit_robust.report.grid import described, grid, side_by_side
from edit_robust.report.numbers import amount, cell, span

SEQUENTIAL = {"trajectory": {"name": "sequential", "batch_size": 1}, "editor": {"name": "rome"}}
SINGLE = {"trajectory": {"name": "single"}, "editor": {"name": "rome"}}
FULL = {
    **{"ES": 98.0, "PS": 93.0, "NS": 94.0, "unedited_ES": 1.0, "unedited_NS": 100.0, "n_requests": 100},
    **{"forgotten_pct": 35.0, "perplexity": 9.7, "unedited_perplexity": 5.1, "drift": 17.3, "seconds_edit": 12.3},
    **{"retention_ES": 70.0, "retention_PS": 60.0, "retention_NS": 90.0, "n_refused": 0},
}


@pytest.mark.parametrize(
    ("summary", "config", "sentence"),
    [
        (
            FULL,
            SEQUENTIAL,
            "98 of 100 edits took; they hold for rewordings in 93 %; the neighbours' facts kept 94 % (before: 100 %); "
            "after the whole sequence 35 % of the edits were forgotten and perplexity rose from 5.1 to 9.7.",
        ),
        (
            {"ES": 100.0, "PS": 100.0, "NS": 99.0, "unedited_ES": 0.0, "unedited_NS": 99.0, "n_requests": 10},
            SINGLE,
            "All 10 edits took, each in the unedited model; they hold for all rewordings; the neighbours' facts kept "
            "99 %, as before; nothing else that was measured broke.",
        ),
        (
            {"ES": 0.0, "PS": 0.0, "n_requests": 10, "n_refused": 10},
            SEQUENTIAL,
            "None of the 10 edits took (all were refused).",
        ),
        (
            {"ES": 90.0, "n_requests": 10, "n_refused": 1, "unedited_ES": 20.0},
            SEQUENTIAL,
            "9 of 10 edits took (the unedited model already agreed with 2, 1 was refused).",
        ),
        (
            {"ES": 55.0, "NS": 52.0, "unedited_NS": 78.0, "final_NS": 50.0, "n_requests": 2000, "forgotten_pct": 100.0}
            | {"perplexity": float("inf"), "unedited_perplexity": 17.2},
            SEQUENTIAL,
            "1,100 of 2,000 edits took; the neighbours' facts kept 52 % (before: 78 %, at the end: 50 %); after the "
            "whole sequence every edit was forgotten and perplexity went from 17.2 to infinite; the model has "
            "collapsed.",
        ),
        (
            {"ES": 100.0, "PS": 50.0, "n_requests": 1, "forgotten_pct": 0.0},
            SEQUENTIAL,
            "The edit took; it holds for rewordings in 50 %.",
        ),
        (
            {"ES_acc": 99.8, "PS_acc": 94.0, "NS_acc": 24.2, "unedited_ES_acc": 25.0, "unedited_NS_acc": 26.0},
            SINGLE,
            "99.8 % of the new answers' tokens came out right (before: 25 %); 94 % for reworded questions; unrelated "
            "questions still come out right in 24 % (before: 26 %).",
        ),
        (
            {"final_ES": 97.0, "n_requests": 100, "perplexity": 5.14, "unedited_perplexity": 5.06},
            {"trajectory": {"name": "batch", "batch_size": 50}},
            "97 of 100 edits took, 50 at a time in the unedited model; perplexity rose from 5.06 to 5.14.",
        ),
        ({}, {}, "Nothing has been measured yet."),
    ],
)
def test_verdict(summary: dict, config: dict, sentence: str) -> None:
    assert verdict(summary, config) == sentence


def test_verdict_never_rounds_to_all_or_none() -> None:
    text = verdict({"ES": 99.97, "PS": 0.02}, {})
    assert "99.9 % of the edits took" in text
    assert "0.1 %" in text


def test_verdict_is_silent_about_harm_that_was_not_measured() -> None:
    assert "broke" not in verdict({"ES": 100.0, "n_requests": 5}, SINGLE)
    forgetful = {"ES": 100.0, "NS": 90.0, "unedited_NS": 90.0, "n_requests": 5, "forgotten_pct": 20.0}
    assert "broke" not in verdict(forgetful, SEQUENTIAL)
    later = {"ES": 100.0, "NS": 90.0, "unedited_NS": 90.0, "final_NS": 60.0, "n_requests": 5}
    assert "broke" not in verdict(later, SEQUENTIAL)


def printed(summary: dict, config: dict) -> str:
    console = Console(width=120, record=True, file=StringIO())
    console.print(summary_table(RunData("r", pd.DataFrame(), config, summary)))
    return console.export_text()


def test_table_has_only_the_columns_that_exist() -> None:
    text = printed(FULL, SEQUENTIAL)
    headers = [column.header for column in summary_table(RunData("r", pd.DataFrame(), SEQUENTIAL, FULL)).columns]
    assert headers == ["", "unedited", "right after its edit", "kept by all past edits"]
    for piece in ("the edit took (ES)", "98.0 %", "70.0 %", "perplexity", "5.10", "9.70", "17.30", "12.3 s", "35.0 %"):
        assert piece in text
    assert "refused" not in text


def test_table_without_numbers_and_with_accuracies_only() -> None:
    assert printed({}, {}) is not None
    assert "right by itself: its rewordings" in printed({"ES_acc": 90.0, "PS_acc": 80.0}, SINGLE)


def test_s_is_the_harmonic_mean_where_it_was_not_stored() -> None:
    summary = {"retention_ES": 100.0, "retention_PS": 50.0, "retention_NS": 25.0, "final_S": 12.0}
    rows = dict(grid(described(summary)).scores)
    assert rows["all three together (S)"] == ("42.9 %", "12.0 %")


def test_numbers_read_well() -> None:
    assert [amount(value) for value in (5.12, 12345.0, 4.2e-7, float("inf"), None)] == [
        *("5.1", "12,345", "4.2e-07", "infinite", ""),
    ]
    assert [span(value) for value in (12.34, 245.0, 8000.0)] == ["12.3 s", "4 min 05 s", "2 h 13 min"]


def test_cells_are_written_by_their_unit() -> None:
    cells = [
        Column("a", 94.04, unit="percent"),
        Column("a", 0.961, unit="share"),
        Column("a", -0.0123, unit="difference", low=-0.018, high=-0.006),
        Column("a", 17.31),
        Column("a", 3, unit="number"),
        Column("a", 12345.0, unit="count", note="/ 24 (p = 0.03)"),
        Column("a", 245.0, unit="seconds"),
        Column("a", 0.0002, unit="p"),
        Column("a", "torch 2.1 -> 2.2", unit="text"),
        Column("a", None, unit="percent", note="none"),
    ]
    assert [cell(column) for column in cells] == [
        *("94.0 %", "96.1 %", "-0.012 [-0.018, -0.006]", "17.31", "3", "12,345 / 24 (p = 0.03)", "4 min 05 s"),
        *("p < 0.001", "torch 2.1 -> 2.2", ""),
    ]
    assert [cell(column, brief=True) for column in cells[2:6]] == ["-0.012", "17.3", "3", "12,345"]


def test_a_table_is_made_of_columns_alone() -> None:
    """Of whatever measure: moments in their order, the unedited model first, what has no moment last."""
    columns = [
        Column("rouge", 40.0, "overlap (ROUGE)", "after", "percent", short="ROUGE", score=True),
        Column("unedited_rouge", 50.0, "overlap (ROUGE)", "unedited", "percent", score=True),
        Column("strict", 30.0, "exact", "later", "percent", score=True, brief=False),
        Column("n", 7, "questions", unit="count"),
        Column("hidden", 1.0),
        Column("missing", None, "never shown", "after"),
    ]
    short, page = grid(columns), grid(columns, full=True)
    assert short.columns == ("unedited", "after")
    assert short.scores == (("overlap (ROUGE)", ("50.0 %", "40.0 %")),)
    assert short.others == (("questions", ("", "7")),)
    assert page.columns == ("unedited", "after", "later")
    assert page.scores[1] == ("exact", ("", "", "30.0 %")) and page.others == (("questions", ("", "", "7")),)
    alone = grid([Column("n", 7, "questions", unit="count")])
    assert (alone.columns, alone.others) == (("at the end",), (("questions", ("7",)),))
    runs = [RunData("own", pd.DataFrame(), columns=columns), RunData("older", pd.DataFrame(), summary=FULL)]
    headings, lines = side_by_side(runs)
    assert headings == ["ROUGE", "ES", "PS", "NS", "S", "forgotten", "perplexity", "drift"]
    assert lines[0] == ["40.0 %", *[""] * 7] and lines[1][1] == "98.0 %" and lines[1][-2:] == ["9.7", "17.3"]
    headings, lines = side_by_side(runs, bare=True)
    assert headings[:2] == ["ROUGE %", "ES %"] and headings[-1] == "drift" and lines[1][1] == "98.0"


def test_one_run_of_words_and_images() -> None:
    images = {"edit_accuracy": 0.85, "unedited_edit_accuracy": 0.41, "n_edit_images": 200, "n_refused": 2}
    images |= {"original_accuracy": 0.90, "unedited_original_accuracy": 0.961}
    both = {"ES": 100.0, "NS": 99.0, "unedited_NS": 99.0, "n_requests": 10} | images
    text = verdict(both, SINGLE)
    assert text.startswith("All 10 edits took, each in the unedited model (2 were refused); the neighbours' facts")
    assert text.endswith("brought its images from 41 % to 85 % (n = 200); the original task fell from 96.1 % to 90 %.")
    assert text.count("refused") == 1 and "nothing else" not in text
    table = grid(described(both))
    assert table.columns == ("unedited", "right after its edit", "the whole edit")
    assert [words for words, _ in table.scores] == [
        *("the edit took (ES)", "neighbouring facts kept (NS)", "images of the edit", "original task"),
    ]
    known = [column.key for column in described(both | {"of_a_later_version": 3.0})]
    assert sorted(known) == sorted([*both, "of_a_later_version"])


class Page(HTMLParser):
    """Checks that every tag is closed in order, and gathers addresses and text."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def run(run_id: str = "abc", path: Path | None = None, **config: object) -> RunData:
    base = {"run": run_id, "alpha": 1.0, "shift": "none", "severity": 0, "layer": "", "n": 1, "scope": "at-edit"}
    rows = [
        base | {"step": step, "n_edits": step, "probe": probe, "metric": "success", "value": float(step % 3 > 0)}
        for step in range(1, 13)
        for probe in ("edit", "paraphrase", "neighbourhood")
    ]
    return RunData(run_id, pd.DataFrame(rows, columns=list(COLUMNS)), {**SEQUENTIAL, **config}, FULL, path)


def test_page_is_well_formed_and_needs_nothing_else(tmp_path: Path) -> None:
    out = write_report([run(note="<script>alert(1)</script>")], tmp_path / "new" / "r.html")
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"iframe", "object", "embed"} and "svg" in page.tags
    assert page.addresses and all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)", text))
    assert "&lt;script&gt;alert" in text and "<script>alert" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    words = page.words.replace("\u00a0", " ")
    for piece in ("What was edited?", "98 of 100 edits took.", "What else broke?", "35 % of the edits were forgotten"):
        assert piece in words
    assert f'content="{verdict(FULL, SEQUENTIAL)}"' in text.replace("\u00a0", " ").replace("&#39;", "'")


def test_page_about_several_runs_links_to_each(tmp_path: Path) -> None:
    runs = [run("a"), run("b", seed=2), run("c", editor={"name": "ft"})]
    page = Page(write_report(runs, tmp_path).read_text(encoding="utf-8"))
    assert {"#run-a", "#run-b", "#run-c"} <= set(page.addresses)
    assert "All runs" in page.words
    assert (tmp_path / "report.html").is_file()


def test_page_shows_status_and_leaves_paths_out(tmp_path: Path) -> None:
    status = {"state": "failed", "traceback": "Traceback\nValueError: broken weights", "device": "cpu"}
    (tmp_path / "status.json").write_text(json.dumps(status | {"versions": {"torch": "2"}}))
    page = Page(write_report([run(path=tmp_path, paths={"root": "/secret/place"})], tmp_path / "x.html").read_text())
    for piece in ("failed", "ValueError: broken weights", "torch 2"):
        assert piece in page.words
    assert "/secret/place" not in page.words


def test_page_without_runs(tmp_path: Path) -> None:
    assert "There is no run to show." in write_report([], tmp_path / "none.html").read_text()


def test_a_narrow_table_breaks_words_and_no_numbers() -> None:
    console = Console(width=80, record=True, file=StringIO())
    console.print(summary_table(RunData("r", pd.DataFrame(), SEQUENTIAL, FULL)))
    text = console.export_text()
    assert "98.0 %" in text and max(len(line) for line in text.splitlines()) <= 80
    assert not any(line.strip() == "%" for line in text.splitlines())
