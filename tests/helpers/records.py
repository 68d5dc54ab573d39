"""Records of the language tasks' files, whole and damaged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from helpers.tiny import tiny_facts


def zsre_records(n: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "subject": f"Lake {c}",
            "src": f"Where does Lake {c} lie?",
            "pred": "Peru",
            "rephrase": f"In which country is Lake {c}?",
            "alt": "Chile",
            "answers": ["Norway", "Kingdom of Norway"],
            "loc": f"nq question: who wrote book {c}",
            "loc_ans": "Ibsen",
            "cond": "",
        }
        for c in "ABCDEFGHIJ"[:n]
    ]


def edited(**changes: Any) -> dict[str, Any]:
    """A record with dotted fields replaced, or removed where the value is `...`."""
    record = copy.deepcopy(tiny_facts(1)[0])
    for field, value in changes.items():
        *path, last = field.split("__")
        place = record
        for key in path:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return record


def facts_file(folder: Path, text: str, name: str = "my.csv", encoding: str = "utf-8") -> str:
    path = folder / name
    path.write_text(text, encoding=encoding, newline="")
    return str(path)
