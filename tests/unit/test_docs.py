"""What the pages point to is there: links, paths of this repository, modules, pictures, and pages from the README."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.pages import Shown, commands

from edit_robust.completion import groups, options
from edit_robust.config.compose import choices, compose, conf_dir
from edit_robust.core.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = list(dict.fromkeys(shown for page in PAGES for shown in commands(page)))
#: Verbs whose words are overrides.
OVERRIDES = ("run", "check", "estimate")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_and_modules_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"(?<!mine/)\b((?:edit_robust|scripts|tests|conf|docs)/[\w./-]*\w)", text)
    assert [p for p in dict.fromkeys(paths) if not (ROOT / p).exists() and not re.search(r"/[A-Z]+[/.]", p)] == []
    modules = re.findall(r"\b(edit_robust(?:\.[a-z_]+)+)\b", text)
    gone = [m for m in dict.fromkeys(modules) if not _importable(m)]
    assert gone == []


def _importable(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    module, _, last = name.rpartition(".")
    return hasattr(importlib.import_module(module), last)


def test_every_page_stands_in_the_sites_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"([\w./-]+\.md)$", text, flags=re.MULTILINE))
    there = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert named == there
    for page in PAGES[1:]:
        assert "See also" in page.read_text(encoding="utf-8")[-600:], page.name


def test_every_picture_is_shown_and_every_shown_picture_has_a_command() -> None:
    pictures = {p.name for p in (ROOT / "docs" / "images").iterdir()}
    shown = {Path(m).name for page in PAGES for m in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())}
    assert shown == pictures


# -- commands --------------------------------------------------------------------------------------------------------


def test_commands_are_found_in_blocks_and_in_lines() -> None:
    assert len(COMMANDS) > 100
    assert any(c.page == "start.md" and c.words[:2] == ("run", "editor=rome") for c in COMMANDS)


@pytest.mark.parametrize("shown", [c for c in COMMANDS if c.verb not in (*OVERRIDES, "evaluate")], ids=str)
def test_a_shown_verb_takes_its_words(shown: Shown) -> None:
    """Options and numbers of arguments, as the command line reads them; nothing is run."""
    import typer

    from edit_robust.cli import app

    program = typer.main.get_command(app)
    words = [w for w in shown.words if not w.startswith("[")]
    if shown.verb.startswith("-"):
        assert any(shown.verb in p.opts for p in program.params)
        return
    verb = program.commands[shown.verb]  # type: ignore[attr-defined]
    alone = len(words) == 1 and words[0] in ("export", "apply", "evaluate")  # a verb that is spoken of
    if not alone:
        verb.make_context(shown.verb, words[1:])


@pytest.mark.parametrize("shown", [c for c in COMMANDS if c.verb in (*OVERRIDES, "evaluate")], ids=str)
def test_shown_overrides_are_choices_and_options_that_there_are(shown: Shown) -> None:
    words = [w for w in shown.words[1:] if "=" in w and not w.startswith("-")]
    own = "--config-dir" in shown.words
    known = {*options(words), "steps", "objective", "text_tokens"}
    for word in words:
        key, _, value = word.partition("=")
        if value in ("...", "NAME") or key.startswith(("hydra", "+", "paths.", "shifts.")):
            continue
        first, _, rest = key.partition(".")
        if key in groups():
            said = [v for v in re.split(r"[,\[\]]", value) if v]
            there = {*choices(key), *(choices("corruption") if key == "corruption" else ())}
            assert own or [v for v in said if v not in there and not v.isdigit()] == [], word
        elif first == "measure" and rest:
            node = yaml.safe_load((conf_dir() / "measure" / f"{rest.partition('.')[0]}.yaml").read_text())
            flat = node.get(rest.partition(".")[0], node) if isinstance(node, dict) else {}
            assert rest.partition(".")[2] in flat, word
        elif first == "corruption":
            assert rest in choices("corruption"), word
        else:
            assert own or key in known, word


FULLY = ("start.md", "own-model.md", "own-data.md", "trajectories.md", "metrics.md")


@pytest.mark.slow
@pytest.mark.parametrize("shown", [c for c in COMMANDS if c.page in FULLY and c.verb in OVERRIDES], ids=str)
def test_shown_configs_fit(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composed and bound to their constructors; files that only the reader has may be missing."""
    from edit_robust.config.check import resolved
    from edit_robust.config.compose import jobs
    from edit_robust.config.fit import check_fit
    from edit_robust.config.nodes import bind

    monkeypatch.chdir(tmp_path)
    words = [w for w in shown.words[1:] if w != "-m"]
    for job in jobs(words, multirun="-m" in shown.words):
        values = resolved(compose(job))
        for part in ("model", "task", "editor", "trajectory"):
            bind(values[part], part)
        try:
            check_fit(values)
        except UserError as e:
            assert "FOLDER" in str(e) or "FILE" in str(e), e


# -- the site --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs edit-robust[docs]")
def test_the_site_is_built_without_warnings_and_fetches_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": str(Path(sys.executable).parent), "NO_MKDOCS_2_WARNING": "1", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-2000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 2
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=[\"'](?:https?:)?//", text) == [], page.name
        assert re.findall(r"<link[^>]*rel=[\"']?stylesheet[^>]*href=[\"']?https?:", text) == [], page.name
    assert "Noise" in (tmp_path / "site" / "own-parts.html").read_text(encoding="utf-8"), "CONTRIBUTING's examples"


def test_links_out_of_the_docs_become_pages_or_names() -> None:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts" / "docs_site.py")
    assert spec is not None and spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    text = "[a](../README.md#x) [b](../conf/config.yaml) [c](scale.md) ![d](images/e.png)"
    assert site.inside(text, Path("one.md")) == "[a](index.md) b (`conf/config.yaml`) [c](scale.md) ![d](images/e.png)"
    assert (
        site.inside("[a](../../README.md) [b](../scale.md)", Path("api/one.md")) == "[a](../index.md) [b](../scale.md)"
    )
    assert site.sections(["An editor"]).startswith("## An editor")
    with pytest.raises(KeyError):
        site.sections(["A teapot"])
