"""What a paper's own grid needs: weights, data, memory, GPU hours and disk, and what of it is missing here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edit_robust.reproduce import scale_model
from edit_robust.reproduce.catalogue import read
from edit_robust.reproduce.plan import Job
from edit_robust.reproduce.scale_model import Language, Taken, Vision, language_run, vision_run

#: Operations a second that a GPU is taken to sustain in single precision unless `--tflops` says otherwise.
TFLOPS = 10.0


@dataclass(frozen=True)
class Thing:
    """Weights or data. there: whether it is here.   fetched: whether a run fetches it by itself.   where: to put it."""

    kind: str
    name: str
    gb: float
    there: bool
    fetched: bool
    where: str


@dataclass(frozen=True)
class Needs:
    """Of a list of jobs. taken: the sum over them; its gpu_gb is the most that one needs.

    by_model: (runs, the same) by model.   gpu_gb_here, disk_gb_here: what this machine has; None: no GPU.
    """

    things: tuple[Thing, ...]
    taken: Taken
    by_model: Mapping[str, tuple[int, Taken]]
    gpu_gb_here: float | None
    disk_gb_here: float

    @property
    def missing(self) -> list[Thing]:
        """What must be put somewhere by hand."""
        return [one for one in self.things if not one.there and not one.fetched]


@cache
def _told() -> dict[str, Any]:
    return dict(read("paper.yaml"))


def options_of(job: Job) -> dict[str, str]:
    """A job's options by name, with what its experiment says of model and task."""
    given = dict(o.lstrip("+~").split("=", 1) for o in job.options if "=" in o)
    base = _told()["experiments"][given["experiment"]]
    return {**base, **given}


def needs(jobs: Sequence[Job], outputs: Path, tflops: float = TFLOPS) -> Needs:
    """What the jobs need and take. tflops: 10^12 operations a second that the GPU sustains."""
    each: dict[str, list[Taken]] = {}
    for job in jobs:
        options = options_of(job)
        each.setdefault(options["model"], []).append(taken(options, tflops * 1e12))
    by_model = {model: (len(some), _sum(some, _once(model, tflops * 1e12))) for model, some in each.items()}
    whole = _sum([one for _, one in by_model.values()])
    return Needs(tuple(things(map(options_of, jobs))), whole, by_model, _gpu_gb(), _disk_gb(outputs))


def taken(options: Mapping[str, str], rate: float) -> Taken:
    """What one run takes, by the formulas of `scale_model`."""
    model = _told()["models"][options["model"]]
    size = _told()["runs"][options["experiment"]]
    if model["kind"] == "language":
        one = Language(options["model"], **model["shape"])
        return language_run(one, options["editor"], size["edits"], size["every"], size["glue"], rate)
    seen = Vision(options["model"], **model["shape"])
    sizes = {key: size[key] for key in ("images", "variants", "models", "steps", "batch")}
    return vision_run(seen, **{**sizes, **size.get(options.get("task", ""), {})}, rate=rate)


def _once(model: str, rate: float) -> Taken:
    """What is made once for all runs of a model: second moments."""
    told = _told()["models"][model]
    if told["kind"] != "language":
        return Taken(0.0, 0.0, 0.0)
    one = Language(model, **told["shape"])
    return Taken(0.0, scale_model.moments_gb(one), scale_model.moments_operations(one) / rate / 3600)


def _sum(some: Sequence[Taken], once: Taken | None = None) -> Taken:
    every = [*some, *([once] if once else [])]
    return Taken(
        max((one.gpu_gb for one in every), default=0.0),
        sum(one.disk_gb for one in every),
        sum(one.gpu_hours for one in every),
        sum(one.cpu_hours for one in every),
    )


def things(jobs: Iterable[Mapping[str, str]]) -> list[Thing]:
    """Weights and data of jobs, each once."""
    found: dict[str, Thing] = {}
    for options in jobs:
        model = _told()["models"][options["model"]]
        found[f"model {options['model']}"] = _weights(options["model"], model)
        for name in model["data"] + _told()["tasks"][options["task"]]:
            data = _told()["data"][name]
            given = options.get(data["option"], "") if data.get("option") else ""
            if data["option"] == "task.natural":
                given = given.partition(":")[2].strip(" }")
            found[f"data {name}"] = _data(name, data, given)
    return list(found.values())


def _weights(name: str, model: Mapping[str, Any]) -> Thing:
    there = _in_cache(model["hub"])
    where = f"fetched from {model['hub']} at the first run; or model.path=FILE_OR_FOLDER"
    return Thing("weights", f"{name} ({model['hub']})", model["gb"], there, not _offline(), where)


def _data(name: str, data: Mapping[str, Any], given: str) -> Thing:
    if data.get("hub") or given in ("", "download"):
        by_itself = bool(data.get("fetched"))
        there = _in_cache(data["hub"], "datasets") if data.get("hub") else False
        where = f"{data['about']}; {'fetched at the first run' if by_itself else 'give ' + str(data['option'])}"
        return Thing("data", name, data["gb"], there, by_itself and not _offline(), where)
    there = Path(given).expanduser().exists()
    return Thing("data", name, data["gb"], there, False, f"{data['about']}; put it at {given}, or {data['option']}=...")


def _in_cache(hub: str, kind: str = "models") -> bool:
    """Whether Hugging Face's cache holds a snapshot of a repository."""
    home = os.environ.get("HF_HUB_CACHE") or os.path.join(  # noqa: PTH118
        os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface", "hub"
    )
    place = Path(home) / f"{kind}--{hub.replace('/', '--')}" / "snapshots"
    return place.is_dir() and any(place.iterdir())


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def _gpu_gb() -> float | None:
    """Memory of the largest GPU; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    every = range(torch.cuda.device_count())
    return max(torch.cuda.get_device_properties(i).total_memory for i in every) / scale_model.GB


def _disk_gb(outputs: Path) -> float:
    there = next(p for p in (outputs.absolute(), *outputs.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free / scale_model.GB
