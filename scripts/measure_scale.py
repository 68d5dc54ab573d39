"""Memory and disk of runs on random models an eighth as wide as GPT-J-6B and Llama-3-8B, against docs/scale.md.

Every run is `edit-robust run` in a process of its own. The most memory that a phase takes is read from Linux, which is
told to forget the earlier maximum when a phase begins.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
#: Freed matrices of an eighth of the width go back to the system, as those of the whole width do.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(MIB)}
#: d, inner width, blocks of the random model, edited blocks: an eighth of the real widths, as many edited blocks.
SHAPES = {"gptj": (512, 2048, 6, [0, 1, 2, 3, 4, 5]), "llama": (512, 1792, 5, [0, 1, 2, 3, 4])}
EDITORS = {
    "memit": ["editor.v_num_grad_steps=2", "editor.mom2_n_samples=64"],
    "alphaedit": ["editor.v_num_grad_steps=2", "editor.mom2_n_samples=64", "editor.nullspace_threshold=THRESHOLD"],
}


def checkpoint(kind: str, folder: Path) -> Path:
    """A random model of the kind, with a tokenizer of the tests' tiny world."""
    import torch
    import transformers
    from helpers.tiny import tiny_tokenizer  # type: ignore[import-not-found]

    d, inner, blocks, _ = SHAPES[kind]
    tokenizer = tiny_tokenizer(kind)
    shared = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    shared["eos_token_id"] = tokenizer.eos_token_id
    if kind == "gptj":
        config: Any = transformers.GPTJConfig(
            n_embd=d, n_inner=inner, n_layer=blocks, n_head=8, rotary_dim=16, n_positions=128, **shared
        )
    else:
        config = transformers.LlamaConfig(
            hidden_size=d,
            intermediate_size=inner,
            num_hidden_layers=blocks,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=128,
            **shared,
        )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def watched(arguments: list[str], told: Path) -> None:
    """Run the command line in this process, and write the most memory that each phase took (MiB above its start)."""
    from edit_robust import cli
    from edit_robust.editors.language.helpers import family, moments
    from edit_robust.editors.language.helpers.remembering import RememberingEditor
    from edit_robust.models.language.causal_lm import CausalLM

    found: dict[str, list[float]] = {}

    def watch(owner: Any, name: str, phase: str) -> None:
        action: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(action)
        def timed(*args: Any, **kwargs: Any) -> Any:
            before, _ = resident(forget=True)
            start = time.process_time()
            try:
                return action(*args, **kwargs)
            finally:
                after, most = resident()
                found.setdefault(phase, []).append(most - before)
                found.setdefault(f"{phase}, kept", []).append(after - before)
                found.setdefault(f"{phase}, seconds", []).append(time.process_time() - start)

        setattr(owner, name, timed)

    watch(CausalLM, "__init__", "load")
    watch(moments, "sums_over", "sums")
    watch(family, "second_moments", "moments")
    for kind in (family.LayerEditor, RememberingEditor):
        watch(kind, "given", "factors")
    watch(family.LayerEditor, "targets", "values")
    watch(family.LayerEditor, "spread", "solve")
    found["imports"] = [resident()[0]]
    try:
        sys.argv = ["edit-robust", *arguments]
        cli.main()
    except SystemExit as e:
        if e.code:
            raise
    told.write_text(json.dumps(found))


def resident(forget: bool = False) -> tuple[float, float]:
    """MiB that are resident now, and the most since the last `forget`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    return tuple(float(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def measured(kind: str, editor: str, n: int, folder: Path) -> dict[str, Any]:
    """One run: memory by phase, and bytes on disk."""
    from helpers.tiny import tiny_facts, tiny_texts

    model = folder / kind
    if not model.exists():
        checkpoint(kind, model)
    facts, corpus = folder / "facts.json", folder / "corpus.txt"
    facts.write_text(json.dumps(tiny_facts(n)))
    corpus.write_text("\n".join(tiny_texts()))
    outputs, told = folder / f"{kind}-{editor}", folder / f"{kind}-{editor}.json"
    layers = ",".join(map(str, SHAPES[kind][3]))
    given = [f"editor={editor}", "model=hf", f"model.path={model}", "task=counterfact", f"task.path={facts}"]
    given += [f"task.n_requests={n}", f"task.corpus_path={corpus}", f"layer.index=[{layers}]", "trajectory.every=10"]
    given += ["measure=[edits,answers,forgetting]", "figures=false", "tracker=none", "device=cpu", "threads=1"]
    given += [f"paths.outputs={outputs}", *(o.replace("THRESHOLD", "1e-6") for o in EDITORS[editor])]
    command = [sys.executable, __file__, "--watch", str(told), "run", *given]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **MALLOC})
    sizes = {
        name: sum(p.stat().st_size for p in outputs.rglob(pattern) if p.is_file())
        for name, pattern in {
            "moments": "cache/moments/*.npz",
            "eigenvectors": "cache/eigenvectors/*",
            "deltas": "runs/*/deltas/*",
            "carried": "runs/*/state/0*.safetensors",
            "outcomes": "runs/*/outcomes/*",
            "records": "runs/*/records.jsonl",
        }.items()
    }
    return {"memory": json.loads(told.read_text()), "disk": sizes}


def formulas(kind: str, editor: str, n: int) -> dict[str, float]:
    """What docs/scale.md says of the same run: MiB of memory by phase, bytes of disk by name."""
    d, inner, _, layers = SHAPES[kind]
    square, blocks = 8 * inner * inner, len(layers)
    spectral = editor == "alphaedit"
    return {
        "sums": (blocks + 2) * square / MIB,
        "moments, kept": blocks * square / MIB,
        "disk moments": blocks * square,
        "disk eigenvectors": blocks * square if spectral else 0,
        "disk deltas": 4 * n * blocks * (d + inner),
        "disk carried": 4 * n * blocks * inner if spectral else 0,
    }


def main() -> None:
    """Measure all, and print each number beside its formula's."""
    if sys.argv[1:2] == ["--watch"]:
        watched(sys.argv[3:], Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=[], help="some of: " + ", ".join(SHAPES))
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    with tempfile.TemporaryDirectory() as name:
        for kind in args.only or SHAPES:
            for editor in EDITORS:
                found = measured(kind, editor, args.edits, Path(name))
                print(kind, editor)
                for key, values in found["memory"].items():
                    print(f"  {key}: {max(values):.2f}")
                for key, size in found["disk"].items():
                    print(f"  disk {key}: {size} bytes")
                for key, value in formulas(kind, editor, args.edits).items():
                    print(f"  formula {key}: {value:.1f}", flush=True)


if __name__ == "__main__":
    main()
