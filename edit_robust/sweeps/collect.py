"""All records of many runs in one table, a row a number, with each run's choices beside; read and written in parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from edit_robust.core.data import Record
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.files import atomic_path
from edit_robust.runs.reader import Run

#: Records that are in memory at once.
PART = 20_000
SUFFIXES = (".parquet", ".csv")
#: Parts of a config that are told by their name.
_PARTS = ("editor", "model", "task", "trajectory")
#: Parts that change no number, or that are told otherwise.
_ASIDE = ("paths", "tracker", "figures", "threads", "device", "experiment")
#: What a record's columns hold, where it is no text.
_RECORD = {
    "step": "int64",
    "alpha": "float64",
    "n_edits": "int64",
    "severity": "int64",
    "value": "float64",
    "n": "int64",
}
#: Kinds of columns, for pyarrow and for pandas.
_TYPES = {"bool": "bool", "int": "int64", "float": "float64", "text": "string"}
_PANDAS = {"bool": "boolean", "int": "Int64", "float": "float64", "text": "object"}


def collect(runs: Sequence[Run], out: Path) -> int:
    """Write the records of all runs into one .parquet or .csv file -> how many rows it has.

    Columns: what a run was made with (`choices`), then those of a record (`core.data.Record`); `value` is empty where
    it is not a finite number. No more than a part of a run is in memory at once.
    Raises UserError for another suffix, and for runs without records.
    """
    import pyarrow as pa

    _check(out)
    told = [{k: v for k, v in one.items() if k != "run"} for one in choices(runs)]
    kinds = {key: _kind([one[key] for one in told]) for key in (told[0] if told else {})}
    fields = [(key, _TYPES[kind]) for key, kind in kinds.items()]
    record = [(name, _RECORD.get(name, "string")) for name in Record.__dataclass_fields__]
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in [record[0], *fields, *record[1:]]])
    rows = 0
    with atomic_path(out) as temporary, _writer(out, temporary, schema) as writer:
        for run, chosen in zip(runs, told, strict=True):
            same = {key: _as(kind, chosen[key]) for key, kind in kinds.items()}
            for part in _parts(_records(run)):
                columns = {key: [value] * len(part) for key, value in same.items()}
                columns |= {name: [one.get(name) for one in part] for name, _ in record}
                writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))
                rows += len(part)
        if not rows:
            raise UserError("there are no records in these runs")
    return rows


def collect_summaries(runs: Sequence[Run], out: Path) -> int:
    """Write one row a run into a .parquet or .csv file: its choices, its status, its summary -> how many rows."""
    import pandas as pd

    _check(out)
    rows = [
        {**chosen, "status": run.status.get("status"), **{k: v for k, v in run.summary.items() if k not in chosen}}
        for run, chosen in zip(runs, choices(runs), strict=True)
    ]
    if not rows:
        raise UserError("there are no runs to collect")
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: _kind([row.get(name) for row in rows]) for name in names}
    frame = pd.DataFrame(
        {n: pd.Series([_as(kinds[n], r.get(n)) for r in rows], dtype=_PANDAS[kinds[n]]) for n in names}
    )
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False) if out.suffix == ".csv" else frame.to_parquet(temporary, index=False)
    return len(frame)


def choices(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What each run was made with, flat: run (its id), editor, model, task, trajectory by name, seed, layer.index, and
    every other option in which any two of the runs differ, as `editor.v_lr`."""
    flat = [_flat({k: v for k, v in run.config.items() if k not in _ASIDE}) for run in runs]
    options = list(dict.fromkeys(key for one in flat for key in one))
    differ = [k for k in options if len({json.dumps(one.get(k), default=str) for one in flat}) > 1]
    shown = list(dict.fromkeys(["seed", "layer.index", *(k for k in differ if not _told(k))]))
    return [
        {
            "run": run.id,
            **{part: _name_of(run.config.get(part)) for part in _PARTS},
            **{key: _single(one.get(key)) for key in shown},
        }
        for run, one in zip(runs, flat, strict=True)
    ]


def _single(value: Any) -> Any:
    """A list of one thing is that thing: most edits are made in one layer."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _told(key: str) -> bool:
    """Whether the columns of names say it already."""
    part, _, option = key.partition(".")
    return part in _PARTS and option in ("name", "_target_")


def _name_of(node: Any) -> str | None:
    if not isinstance(node, Mapping):
        return None
    return str(node.get("name") or str(node.get("_target_", "")).rpartition(".")[2])


def _flat(node: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A nested config as dotted options; lists and what is empty stay whole."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def _check(out: Path) -> None:
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: {out.suffix or 'no suffix'} is not known; {nearest(out.suffix, SUFFIXES)}")


def _kind(values: Sequence[Any]) -> str:
    """The narrowest of bool, int, float and text that holds all values of a column."""
    kinds = {type(value) for value in values} - {type(None)}
    for name, fits in (("bool", {bool}), ("int", {int}), ("float", {int, float})):
        if kinds and kinds <= fits:
            return name
    return "text"


def _as(kind: str, value: Any) -> Any:
    """A value in the type of its column; lists and the like as JSON."""
    if value is None or kind in ("bool", "int"):
        return value
    if kind == "float":
        return float(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _records(run: Run) -> Iterator[dict[str, Any]]:
    """A run's own records, then those of what it was asked later; a number that was measured twice comes once."""
    known: set[int] = set()
    later = run.evaluations
    for path in [run.path, *(one.path for one in later)]:
        for line in _lines(path / "records.jsonl"):
            one = {**json.loads(line), "run": run.id}
            one["request"] = one.get("request") or ""
            if later:
                key = hash(tuple(v for k, v in sorted(one.items()) if k not in ("value", "n")))
                if key in known:
                    continue
                known.add(key)
            yield one


def _lines(path: Path) -> Iterator[str]:
    """The whole lines of a file, one after the other: a run that goes on may be writing the last."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.endswith("\n") and line.strip():
                    yield line


def _parts(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while part := list(islice(records, PART)):
        yield part


@contextmanager
def _writer(out: Path, path: Path, schema: Any) -> Iterator[Any]:
    """Of batches of rows, in the form that the suffix of `out` names."""
    if out.suffix == ".csv":
        from pyarrow.csv import CSVWriter

        with CSVWriter(path, schema) as writer:
            yield writer
    else:
        from pyarrow.parquet import ParquetWriter

        with ParquetWriter(path, schema, compression="zstd") as parquet:
            yield parquet
