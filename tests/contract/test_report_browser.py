"""The report in a real browser: it renders, sorts, unfolds without a mouse, fits a phone; axe-core finds nothing.

Needs a Chromium on the machine and `pip install "edit-robust[browser]"`; no browser is downloaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.runs import go, options

from edit_robust.config.compose import compose
from edit_robust.config.launch import experiment
from edit_robust.figures.frame import RunData
from edit_robust.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `browser`)")
axe_of = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (apt-get install chromium)"),
]

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
SCENES = [
    *("task=scene-world", "model=scene-cnn", "editor=local-ft", "editor.max_epochs=3", "editor.lr=0.003"),
    *("trajectory=interpolate", "trajectory.alphas=[0.5,1.0]", "corruption=[fog,snow]", "shifts.severities=[3]"),
    *("task.n_validation=32", "task.n_edit=16", "task.natural=[]", "device=cpu", "tracker=none", "figures=false"),
]


@pytest.fixture(scope="module")
def pages(checkpoint: Callable[[str], Path], facts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports about a run on language, one on images, and two editors side by side."""
    folder = tmp_path_factory.mktemp("reports")
    said = [options(checkpoint("gpt2"), facts, folder / "outputs", editor) for editor in ("rome", "ft")]
    said.append([*SCENES, f"paths.outputs={folder / 'outputs'}"])
    rome, ft, scenes = (RunData.of(go(experiment(compose(one)))) for one in said)
    about = {"facts": [rome], "scenes": [scenes], "several": [rome, ft]}
    return {name: write_report(runs, folder / f"{name}.html") for name, runs in about.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Shown:
    """A page as a browser shows it, with all that the browser complained of or asked the network for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text))
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.route("**/*", self._asked)

    def _asked(self, route: Any) -> None:
        url = route.request.url
        if url.startswith("file:") and url.endswith(".html"):
            route.continue_()
        else:
            self.requests.append(url[:80])
            route.abort()

    def column(self, table: str, number: int) -> list[str]:
        """The texts of a column of a table's bodies, in the order in which they stand there."""
        rows = f"{table} > tbody > tr:not(.more)"
        return [r.locator("> *").nth(number).inner_text().strip() for r in self.page.locator(rows).all()]


Open = Callable[..., Shown]


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Open]:
    """(name, dark, viewport) -> the page of that name in a window of its own."""
    contexts = []

    def show(name: str, dark: bool = False, viewport: dict[str, int] = DESK) -> Shown:
        context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")
        contexts.append(context)
        shown = Shown(context.new_page())
        shown.page.goto(pages[name].as_uri())
        return shown

    yield show
    for context in contexts:
        context.close()


NAMES = ("facts", "scenes", "several")


@pytest.mark.parametrize("name", NAMES)
def test_it_renders_without_complaint_and_without_network(opened: Open, name: str) -> None:
    shown = opened(name)
    assert shown.page.locator("h1").is_visible() and shown.page.locator("figure svg").count() > 2
    boxes = shown.page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert min(boxes) > 100
    assert shown.complaints == [] and shown.requests == []
    names = shown.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(names) == len(set(names))  # no figure's names collide with another's
    broken = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.getElementById(a.hash.slice(1)))"
    assert shown.page.evaluate(f"{broken}.map(a => a.hash)") == []


@pytest.mark.parametrize(
    ("name", "dark"),
    [(n, False) for n in NAMES]
    + [pytest.param(n, True, marks=pytest.mark.thorough if i else ()) for i, n in enumerate(NAMES)],
)
def test_axe_finds_nothing(opened: Open, name: str, dark: bool) -> None:
    shown = opened(name, dark)
    shown.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    for button in shown.page.locator("button.open-it").all():
        button.click()
    found = axe_of.Axe().run(shown.page).response
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []
    assert {"color-contrast", "html-has-lang"} <= {one["id"] for one in found["passes"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_scrolls_no_page_sideways(opened: Open, name: str) -> None:
    shown = opened(name, viewport=PHONE)
    shown.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    for button in shown.page.locator("button.open-it").all():
        button.click()
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert shown.page.evaluate("document.querySelector('figure .scroll').scrollWidth") > PHONE["width"]


def test_headings_sort_their_tables(opened: Open) -> None:
    shown = opened("several")
    table = "#overview + .scroll > table"
    heads = shown.page.locator(f"{table} thead th")
    perplexity = next(i for i in range(heads.count()) if "perplexity" in heads.nth(i).inner_text())
    orders = []
    for direction in ("ascending", "descending"):
        heads.nth(perplexity).locator("button").press("Enter")
        assert heads.nth(perplexity).get_attribute("aria-sort") == direction
        orders.append(shown.column(table, perplexity))
    values = [float(text.replace(",", "")) for text in orders[0]]
    assert len(set(values)) == 2 and values == sorted(values) and orders[1] == orders[0][::-1]
    others = [heads.nth(i).get_attribute("aria-sort") for i in range(heads.count()) if i != perplexity]
    assert set(others) == {"none"}


def test_edits_sort_with_what_is_unfolded_beneath_them(opened: Open) -> None:
    shown = opened("facts")
    heads = shown.page.locator("table.edits > thead th")
    after = next(i for i in range(heads.count()) if "right after" in heads.nth(i).inner_text())
    heads.nth(after).locator("button").click()
    cells = "table.edits > tbody > tr:first-child"
    values = [float(r.locator("> *").nth(after).get_attribute("data-value")) for r in shown.page.locator(cells).all()]
    assert len(values) == 4 and values == sorted(values)
    heads.nth(0).locator("button").click()
    assert shown.column("table.edits", 0) == ["1", "2", "3", "4"]
    assert shown.page.locator("table.edits > tbody").first.locator("tr").count() > 2  # its questions came along


def test_an_edit_unfolds_by_keyboard(opened: Open, facts: Path) -> None:
    shown = opened("facts")
    button = shown.page.locator("button.open-it").first
    more = shown.page.locator("table.edits tr.more").first
    assert not more.is_visible() and button.get_attribute("aria-expanded") == "false"
    button.focus()
    shown.page.keyboard.press("Enter")
    assert more.is_visible() and button.get_attribute("aria-expanded") == "true"
    text = more.inner_text()
    assert "shall be answered" in text and "put differently" in text and "about a neighbour" in text and "%" in text
    shown.page.keyboard.press("Space")
    assert not more.is_visible()


def test_the_first_tab_stop_leads_to_the_content(opened: Open) -> None:
    shown = opened("facts")
    shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.className") == "skip"
    assert shown.page.locator(".skip").bounding_box()["x"] >= 0
    shown.page.keyboard.press("Enter")
    assert shown.page.evaluate("document.activeElement.id") == "content"


def test_a_link_unfolds_its_run(opened: Open) -> None:
    shown = opened("several")
    run = shown.page.locator("details.run").last
    run.evaluate("d => { d.open = false }")
    shown.page.locator(f'a[href="#{run.get_attribute("id")}"]').first.press("Enter")
    shown.page.wait_for_function("id => document.getElementById(id).open", arg=run.get_attribute("id"))


def test_in_the_dark_figures_are_light_on_dark_and_photographs_stay(opened: Open) -> None:
    shown = opened("scenes", dark=True)
    background = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(n) for n in background[4:-1].split(",")) < 60
    filters = "[...document.querySelectorAll('.vector')].map(v => [v.className, getComputedStyle(v.firstChild).filter])"
    found = shown.page.evaluate(filters)
    assert {("photographs" in name, filter == "none") for name, filter in found} == {(True, True), (False, False)}


def test_images_that_flipped_are_shown(opened: Open) -> None:
    shown = opened("scenes")
    flips = shown.page.locator(".flips li")
    shown.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert flips.count() > 0 and "taken for" in flips.first.inner_text() and "of 2" in flips.first.inner_text()
    size = "[...document.querySelectorAll('.flips svg')].map(s => s.getBoundingClientRect().width)"
    assert min(shown.page.evaluate(size)) > 40
    drawn = shown.page.locator(".flips svg").first.screenshot()
    assert len(drawn) > 1500  # a picture, and no empty frame


def test_without_script_everything_is_there(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    page = context.new_page()
    page.goto(pages["facts"].as_uri())
    assert page.locator("table.edits tr.more").first.is_visible()
    context.close()
