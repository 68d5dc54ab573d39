"""Runs of several editors whose numbers are what a test says they are, for comparisons side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from edit_robust.core.data import Column
from edit_robust.figures.frame import COLUMNS, RunData


def config(editor: str, order: int = 0, **more: Any) -> dict[str, Any]:
    """The config of a sequence of edits."""
    return {
        "model": {"name": "fact-gpt"},
        "task": {"name": "world", "order": order, "n_requests": 3},
        "editor": {"name": editor},
        "layer": {"index": [0] if editor == "rome" else [0, 1]},
        "trajectory": {"name": "sequential"},
        "seed": 0,
    } | more


def walk(editor: str, order: int, es: float, perplexity: float | None = 5.0, **more: Any) -> RunData:
    """A walk of which only the summary's columns are known."""
    columns = [
        Column("ES", es, "the edit took", unit="percent", short="ES", score=True),
        Column("forgotten_pct", 100 - es, "forgotten", unit="percent", short="forgotten"),
        Column("perplexity", perplexity, "perplexity", short="perplexity"),
        Column("seconds_edit", 2.0, "time"),
    ]
    rows = [{"step": i, "n_edits": i, "scope": "at-edit", "probe": "edit", "metric": "success"} for i in (1, 2)]
    records = pd.DataFrame(rows, columns=list(COLUMNS))
    summary = {c.key: c.value for c in columns} | {"n_edits": 4}
    return RunData(f"{editor}-{order}", records, config(editor, order, **more), summary, None, columns)


def walks(values: Mapping[str, Sequence[float]], **more: Any) -> list[RunData]:
    """editor -> ES of each order."""
    return [walk(editor, order, es, **more) for editor, some in values.items() for order, es in enumerate(some)]


def asked(folder: Path, editor: str, edit: Sequence[bool], near: Sequence[Sequence[bool]], order: int = 0) -> RunData:
    """A kept run of one request a step. edit: whether each took.   near: of each, whether its neighbours are right."""
    path = folder / "runs" / f"{editor}-{order}"
    (path / "outcomes").mkdir(parents=True)
    examples, rows = [], []
    for i, around in enumerate(near):
        names = ["edit", "paraphrase", *["neighbourhood"] * len(around)]
        examples += [
            {"id": f"{i}/{k}", "probe": p, "group": f"r{i}", "target": 0, "measure": "answers"}
            for k, p in enumerate(names)
        ]
        right = [edit[i], edit[i], *around]
        index = np.arange(len(examples) - len(names), len(examples))
        logp = np.where(np.array(right)[:, None], [[-1.0, -2.0]], [[-2.0, -1.0]])
        kept = {"index": index, "logp": logp, "hits": np.zeros_like(logp)}
        np.savez(path / "outcomes" / f"{i + 1:06d}.npz", **{f"answers:at-edit|{k}": v for k, v in kept.items()})
        rows.append({"run": path.name, "step": i + 1, "n_edits": i + 1, "scope": "at-edit", "probe": "edit"})
    (path / "examples.jsonl").write_text("".join(json.dumps(e) + "\n" for e in examples))
    records = pd.DataFrame(rows, columns=list(COLUMNS)).assign(metric="success", value=1.0, n=1, alpha=1.0, request="")
    (path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records.fillna("").to_dict("records")))
    (path / "config.yaml").write_text(yaml.safe_dump(config(editor, order)))
    rates = {"ES": np.mean(edit), "PS": np.mean(edit), "NS": np.mean([np.mean(one) for one in near])}
    columns = [Column(k, 100 * float(v), k, unit="percent", short=k, score=True) for k, v in rates.items()]
    three = [c.value for c in columns]
    s = 3 / sum(1 / v for v in three) if all(three) else 0.0  # type: ignore[operator]
    columns.append(Column("S", s, "S", unit="percent", short="S", score=True))
    columns.append(Column("perplexity", 5.0, "perplexity", short="perplexity"))
    (path / "columns.json").write_text(json.dumps([c.to_dict() for c in columns]))
    (path / "summary.json").write_text(json.dumps({c.key: c.value for c in columns} | {"n_edits": len(edit)}))
    status = {"status": "complete", "seconds": {"edit": 3.0, "prepare": 1.5}, "processor_seconds": {"edit": 1.2}}
    (path / "status.json").write_text(json.dumps(status | {"peak_memory_mb": {"process": 900.0}}))
    return RunData(path.name, records, config(editor, order), {"n_edits": len(edit), "ES": 1}, path, columns)
