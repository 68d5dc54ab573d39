"""What there is to reproduce: the papers, their figures and tables, and the sweeps behind them (catalogue.yaml)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from edit_robust.core.errors import UserError, nearest

HERE = Path(__file__).parent
BUILTIN, PAPER = "builtin", "paper"
SCALES = (BUILTIN, PAPER)
ALL = "all"
#: A command line of `edit-robust run`: its options.
Sweep = tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """id: of arXiv.   name: short, as the command line takes it."""

    id: str
    name: str
    title: str


@dataclass(frozen=True)
class Family:
    """What items share. quick: options of a quick look, after a sweep's experiment and before what else it says.

    quick_words: what these leave.

    paper: the sweeps on the paper's own models; {data} stands for the folder with the data.
    """

    name: str
    quick: tuple[str, ...]
    quick_words: str
    paper: tuple[Sweep, ...]


@dataclass(frozen=True)
class Item:
    """A figure or a table of a paper. draws, tables: what shows it, by the names of figures and of the report's tables.

    builtin: its sweeps on the built-in worlds.   only: of the shifted images, the corruptions or the natural shifts.
    autopsy: the walks that broke are examined, too.   claims: names of findings that it bears on.
    """

    paper: Paper
    name: str
    title: str
    family: Family
    builtin: tuple[Sweep, ...]
    draws: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    only: Literal["", "corruptions", "natural"] = ""
    autopsy: bool = False

    @property
    def place(self) -> str:
        """`at-scale/figure-1`."""
        return f"{self.paper.name}/{self.name}"

    def sweeps(self, scale: str, quick: bool = False, data: str = "data") -> tuple[Sweep, ...]:
        """The command lines of `edit-robust run` that it needs."""
        if scale == PAPER:
            return tuple(tuple(o.replace("{data}", data) for o in one) for one in self.family.paper)
        return tuple((*one[:1], *self.family.quick, *one[1:]) for one in self.builtin) if quick else self.builtin


def read(name: str) -> Any:
    """One of this room's data files."""
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


@cache
def papers() -> tuple[Paper, ...]:
    """Both papers."""
    return tuple(Paper(**one) for one in read("catalogue.yaml")["papers"])


@cache
def items() -> tuple[Item, ...]:
    """Every figure and table, in the order of the papers."""
    told = read("catalogue.yaml")
    by_name = {paper.name: paper for paper in papers()}
    families = {name: _family(name, one) for name, one in told["families"].items()}
    return tuple(_item(one, by_name, families) for one in told["items"])


def _family(name: str, told: Mapping[str, Any]) -> Family:
    return Family(name, tuple(told["quick"]), told["quick_words"], tuple(map(tuple, told["paper"])))


def _item(told: Mapping[str, Any], by_name: Mapping[str, Paper], families: Mapping[str, Family]) -> Item:
    several = {key: tuple(told.get(key, ())) for key in ("draws", "tables", "claims")}
    return Item(
        paper=by_name[told["paper"]],
        name=told["name"],
        title=told["title"],
        family=families[told["family"]],
        builtin=tuple(map(tuple, told["builtin"])),
        only=told.get("only", ""),
        autopsy=told.get("autopsy", False),
        **several,
    )


def paper_of(text: str) -> Paper:
    """A paper by its arXiv id (with or without `arxiv:` and a version) or its short name, in any case.

    Raises UserError with the nearest name.
    """
    wanted = text.strip().lower().removeprefix("arxiv:").removeprefix("https://arxiv.org/abs/")
    for paper in papers():
        if wanted in (paper.name, paper.id) or wanted.partition("v")[0] == paper.id:
            return paper
    known = [name for paper in papers() for name in (paper.name, paper.id)]
    raise UserError(f"there is no paper {text!r}; {nearest(wanted, [*known, ALL], 'papers')}")


def chosen(names: Sequence[str]) -> list[Item]:
    """The items of `PAPER`, `PAPER/FIGURE` or `all`, each once, in the order of the papers.

    `figure-2` stands for all its panels (2a, 2b, 2c); figures may be written `2`, `fig2`, `figure 2`, tables `table2`.
    Raises UserError with the nearest choice.
    """
    found: set[str] = set()
    for name in names:
        if name.strip().lower() == ALL:
            found |= {item.place for item in items()}
            continue
        first, _, rest = name.rpartition("/") if "/" in name and not name.endswith("/") else (name.rstrip("/"), "", "")
        paper = paper_of(first)
        own = [item for item in items() if item.paper == paper]
        found |= {item.place for item in (_of(own, rest) if rest else own)}
    return [item for item in items() if item.place in found]


def _of(own: Sequence[Item], text: str) -> list[Item]:
    """The items of a paper that a text names."""
    wanted = _plain(text)
    exact = [item for item in own if _plain(item.name) == wanted]
    panels = [item for item in own if _plain(item.name).rstrip("abc") == wanted or item.name.startswith(f"{text}-")]
    if not (found := exact if exact and not panels else [*dict.fromkeys([*exact, *panels])]):
        names = [item.name for item in own]
        raise UserError(f"{own[0].paper.name} has no {text!r}; {nearest(text.lower(), names, 'figures and tables')}")
    return found


def _plain(text: str) -> str:
    """`figure2` of figure-2, fig. 2, 2."""
    kept = "".join(c for c in text.lower() if c.isalnum())
    kept = f"figure{kept}" if kept[:1].isdigit() else kept
    return kept.replace("figure", "fig").replace("fig", "figure")
