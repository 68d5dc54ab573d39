"""The catalogue of both papers' figures is whole, its numbers have sources, and what is asked wrongly gets one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers.claim_runs import shaped_run
from helpers.patching_runs import patched
from helpers.walk_runs import flat, walk_runs
from matplotlib.figure import Figure

from edit_robust.config.compose import choices
from edit_robust.core.errors import UserError
from edit_robust.figures import by_name
from edit_robust.figures.drawn import noted
from edit_robust.figures.frame import RunData
from edit_robust.report.claim_files import MODULES
from edit_robust.report.findings import NO_RUNS, NOT_SEEN, as_table, catalogue, findings, verdicts, write_findings
from edit_robust.reproduce import scale_model
from edit_robust.reproduce.catalogue import Item, chosen, items, papers
from edit_robust.reproduce.compare import KINDS, beside, published
from edit_robust.reproduce.door import Wish, fulfil
from edit_robust.reproduce.drawing import TABLES, of_shifts
from edit_robust.reproduce.making import launcher
from edit_robust.reproduce.needs import needs, options_of, taken
from edit_robust.reproduce.plan import Job, Plan, measured, minutes, note_plan, part_of, state

WANTED = {
    "at-your-own-risk": {
        *(f"figure-{n}" for n in ("1", "2a", "2b", "2c", "3", "4", "5", "6", "7", "7b", "8")),
        *("claims-edits", "claims-patching"),
    },
    "at-scale": {
        *(f"figure-{n}" for n in range(1, 5)),
        *(f"appendix-{editor}" for editor in ("rome", "memit", "ft", "mend")),
        *("table-2", "table-3", "claims"),
    },
}


# -- the catalogue -----------------------------------------------------------------------------------------------------


def test_every_figure_and_table_is_there_with_a_config_of_its_own() -> None:
    assert {p.name: {i.name for i in items() if i.paper == p} for p in papers()} == WANTED
    known = choices("experiment")
    for item in items():
        assert f"experiment={item.place}" == item.builtin[0][0]
        named = {o.partition("=")[2] for sweep in (*item.builtin, *item.family.paper) for o in sweep[:1]}
        assert named <= set(known), item.place


@pytest.mark.parametrize("item", items(), ids=lambda item: item.place)
def test_what_draws_an_item_exists(item: Item) -> None:
    assert bool(item.draws) != bool(item.tables)
    assert [by_name(name).NAME for name in item.draws] == list(item.draws)
    assert set(item.tables) <= set(TABLES)
    assert set(item.claims) <= {claim.name for claim in catalogue()}
    assert item.title and item.family.quick_words


def test_every_published_number_has_a_source_and_a_place() -> None:
    places = {item.place for item in items()}
    for one in published():
        assert one.item in places and one.value and one.model
        assert re.search(r"arXiv 2(303\.00046|401\.07453), \w|released .*records", one.source), one
        assert "memory" not in one.source
        if one.here is None:
            assert one.why
        else:
            kind, _, rest = one.here.partition(":")
            assert kind in KINDS or (kind == "claim" and rest in {claim.name for claim in catalogue()})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("at-scale/figure-1", ["figure-1"]),
        ("2401.07453/2", ["figure-2"]),
        ("arXiv:2401.07453v3/Table2", ["table-2"]),
        ("AT-SCALE/fig3", ["figure-3"]),
        ("at-your-own-risk/figure-2", ["figure-2a", "figure-2b", "figure-2c"]),
        ("2303.00046/fig 2b", ["figure-2b"]),
        ("at-your-own-risk/7", ["figure-7", "figure-7b"]),
        ("at-scale/appendix", ["appendix-rome", "appendix-memit", "appendix-ft", "appendix-mend"]),
    ],
)
def test_papers_and_figures_by_the_names_people_use(name: str, wanted: list[str]) -> None:
    assert [item.name for item in chosen([name])] == wanted


def test_a_paper_is_all_of_it_and_everything_is_there_once() -> None:
    assert {item.name for item in chosen(["At-Scale"])} == WANTED["at-scale"]
    assert chosen(["all", "at-scale", "at-scale/1"]) == list(items())


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        (Wish(("at-scal",)), 'did you mean "at-scale"'),
        (Wish(("at-scale/figure-9",)), "at-scale has no 'figure-9'; did you mean"),
        (Wish(()), "say what to reproduce"),
        (Wish(("at-scale", "experiment=layers")), "experiment=layers cannot be given here"),
        (Wish(("at-scale",), scale="papr"), 'did you mean "paper"'),
        (Wish(("at-scale",), scale="paper", quick=True), "--quick is of the built-in scale"),
    ],
)
def test_what_is_asked_wrongly_gets_one_line(wish: Wish, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)) as e:
        fulfil(wish)
    assert "\n" not in str(e.value)


# -- plans -------------------------------------------------------------------------------------------------------------


def job(number: int, *options: str) -> Job:
    return Job(options, name=f"run-{number}")


@pytest.mark.parametrize("n", [1, 3, 16])
def test_parts_are_the_list_and_share_nothing(n: int) -> None:
    jobs = [job(i) for i in range(10)]
    parts = [part_of(jobs, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(one.id for part in parts for one in part) == sorted(one.id for one in jobs)
    assert part_of(jobs, f"1/{n}") == parts[0]


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "/", "1/0"])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(UserError, match="two numbers like 3/16"):
        part_of([job(1)], part)


def test_two_workers_unless_the_command_line_names_a_launcher() -> None:
    assert launcher(["experiment=x", "hydra/launcher=submitit_slurm"], 9) == []
    assert launcher(["experiment=x"], 1) == []


def test_every_run_of_the_builtin_scale_was_timed_and_both_sums_hold() -> None:
    for quick, limit in ((False, 60.0), (True, 8.0)):
        for item in items():
            assert minutes([Plan(item, quick=quick)]) is not None, item.place
        total = minutes([Plan(item, quick=quick) for item in items()])
        assert total is not None and 0 < total < limit
    assert all(one["seconds"] > 0 and one["n"] >= 1 for one in measured())


def test_how_far_an_item_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = items()[0]
    monkeypatch.setattr(Plan, "jobs", [job(1), job(2)])
    assert state(tmp_path, item) == "-"
    note_plan(tmp_path, Plan(item, quick=True))
    assert state(tmp_path, item) == "2 of 2 runs missing (quick)"
    for number in (1, 2):
        (tmp_path / "runs" / f"run-{number}").mkdir(parents=True)
        (tmp_path / "runs" / f"run-{number}" / "status.json").write_text(json.dumps({"status": "complete"}))
    assert state(tmp_path, item) == "runs made, not drawn (quick)"
    place = tmp_path / "reproduce" / item.paper.name
    (place / "figure.png").write_bytes(b"")
    note_plan(tmp_path, Plan(item), [place / "figure.png"])
    assert state(tmp_path, item) == "drawn"


# -- the papers' own scale ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", ["at-scale", "at-your-own-risk"])
def test_the_papers_grid_says_what_it_needs_and_starts_nothing(
    paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    assert fulfil(Wish((paper,), scale="paper", part="1/4", outputs=tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "GPU hours" in said and "MISSING" in said and "Nothing was started" in said
    with pytest.raises(UserError, match=r"not started: .*missing"):
        fulfil(Wish((paper,), scale="paper", part="1/4", go=True, outputs=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_data_that_is_there_is_found(tmp_path: Path) -> None:
    options = ("experiment=at-your-own-risk/paper-patching", "task=kitti-distance", f"task.path={tmp_path}/kitti")
    (missing,) = [one for one in needs([job(1, *options)], tmp_path).missing if one.name == "kitti"]
    assert f"put it at {tmp_path}/kitti" in missing.where
    (tmp_path / "kitti").mkdir()
    assert "kitti" not in [one.name for one in needs([job(1, *options)], tmp_path).missing]


def test_the_formulas_are_those_of_the_page_on_scale() -> None:
    gptj = scale_model.Language("gptj", 4096, 16384, 6.05e9, 28, 6, 3, 315e6)
    assert gptj.square / 1e9 == pytest.approx(2.147, abs=0.01)
    assert scale_model.moments_gb(gptj) == pytest.approx(12.9, abs=0.05)
    assert scale_model.changes_gb(gptj, "memit", 10_000) - scale_model.changes_gb(gptj, "memit", 0) == pytest.approx(
        4.9, abs=0.05
    )
    memory = 24.2 + 3.2 + 19.3 + 4.0  # load, copies, factors, answers that edits cannot change
    assert scale_model.editing_gb(gptj, "memit") == pytest.approx(memory, abs=0.1)


def test_more_edits_and_a_slower_gpu_take_longer() -> None:
    options = options_of(job(1, "experiment=at-scale/paper-gptj", "editor=rome"))
    fast, slow = taken(options, 1e13), taken(options, 5e12)
    assert slow.gpu_hours == pytest.approx(2 * fast.gpu_hours) and slow.gpu_gb == fast.gpu_gb


# -- findings ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(all_kinds: list[RunData]) -> pd.DataFrame:
    """The findings of runs of every kind."""
    return findings(all_kinds)


@pytest.fixture(scope="module")
def all_kinds() -> list[RunData]:
    """Runs that every table of claims has lines about."""
    images = [
        shaped_run(lambda a: 0.3 * a, lambda a: -0.1 * a, 0, method, layer=layer)
        for method in ("rewriting", "local-collision", "local-ft", "global-ft")
        for layer in (2, 5)
    ]
    clips = [
        patched(lambda a: 0.6 * a, lambda a: -0.1 * a, task=task, seed=seed, layer=layer)
        for task in ("digits", "mnist")
        for seed in (0, 1)
        for layer in (2, None)
    ]
    walks = [*walk_runs("rome", at=81), *walk_runs("memit"), *walk_runs("ft", forgotten=flat(0.3)), *walk_runs("mend")]
    return [*images, *clips, *walks]


def test_every_line_of_every_table_of_claims_decides_one_claim(all_kinds: list[RunData], told: pd.DataFrame) -> None:
    for module in MODULES:
        lines = set(module.claims(all_kinds).claim)
        assert lines <= set(told.claim)
        for line in lines:
            matched = [claim.name for claim in catalogue() if re.search(claim.pattern, line)]
            assert len(matched) == 1, (line, matched)


def test_findings_are_made_from_records_and_lack_no_claim(told: pd.DataFrame, tmp_path: Path) -> None:
    table = told
    assert list(dict.fromkeys(table.finding)) == [claim.name for claim in catalogue()]
    assert set(table.verdict) <= {"agrees", "disagrees", "not seen"}
    eq1 = table[(table.finding == "eq1-negative") & table.claim.str.contains("rewriting")].iloc[0]
    assert eq1.value == pytest.approx(-0.1) and eq1.verdict == "agrees"
    csv = write_findings(table, tmp_path / "findings.csv").read_text()
    assert csv.count("\n") >= len(table)
    text = write_findings(table, tmp_path / "findings.md").read_text()
    assert all(claim.says in text for claim in catalogue())
    with pytest.raises(UserError, match="must end in"):
        write_findings(table, tmp_path / "findings.txt")


def test_without_runs_every_claim_is_not_seen() -> None:
    table = findings([])
    assert set(table.verdict) == {NOT_SEEN} and set(table.note) == {NO_RUNS}
    assert set(verdicts(table).values()) == {NOT_SEEN} and len(as_table(table).lines) == len(catalogue())


def test_lines_that_differ_make_a_mixed_verdict(told: pd.DataFrame) -> None:
    rows = told[told.finding == "gradual"].head(2)
    mixed = rows.assign(verdict=["agrees", "not seen"], note="")
    assert verdicts(mixed) == {"gradual": "mixed (1 agree, 1 not seen)"}
    assert verdicts(rows.assign(verdict="agrees", note="")) == {"gradual": "agrees"}


# -- pages and figures -------------------------------------------------------------------------------------------------


def test_published_numbers_stand_beside_ours() -> None:
    runs = walk_runs("rome", at=81)
    told = {one.what: ours for one, ours in beside("at-scale/figure-3", runs, {"memit-third": "agrees"})}
    assert told["edits at which ROME breaks the model"].startswith(f"{len(runs)} of {len(runs)} walks broke at edit")
    assert told["edits at which MEMIT breaks the model"] == "not measured by these runs"
    assert told["what MEMIT forgets, as a part of what ROME forgets"] == "agrees"
    assert all(ours for one in published() for _, ours in beside(one.item, [], {}))


def test_a_quick_figure_says_so() -> None:
    figure = Figure(figsize=(6, 3))
    figure.suptitle("Forgetting")
    noted(figure, "Quick look: one order of 4")
    assert [text.get_text() for text in figure.texts if text.get_text().startswith("Quick look")]
    assert figure.get_suptitle().strip() == "Forgetting" and figure.get_figheight() > 3
    height = figure.get_figheight()
    noted(figure, "")
    assert figure.get_figheight() == height


def test_a_figure_about_corruptions_has_no_natural_shifts() -> None:
    run = patched(lambda a: 0.6 * a, lambda a: -0.1 * a, layer=2)
    item = replace(chosen(["at-your-own-risk/figure-5"])[0])
    kept = of_shifts(run, item).tidy
    shifted = kept[(kept["probe"] == "original") & (kept["shift"] != "none")]
    assert (shifted["severity"] > 0).all()
    assert len(of_shifts(run, chosen(["at-your-own-risk/figure-4"])[0]).tidy) == len(run.tidy)
