"""Asks exported models with their own libraries alone. Run as a script: `python outside.py JOBS.json ANSWERS.json`.

Nothing of the project is imported, and the script says so by ending with an error where something of it was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

torch.set_num_threads(1)


@torch.no_grad()
def text(net: Any, tokenizer: Any, questions: list[dict[str, Any]]) -> list[list[float]]:
    """Mean log-probability per token of each choice after each prompt."""
    found = []
    for q in questions:
        row = []
        for choice in q["choices"]:
            prompt, whole = tokenizer(q["prompt"]).input_ids, tokenizer(q["prompt"] + choice).input_ids
            logp = net(torch.tensor([whole])).logits[0].float().log_softmax(-1)
            places = range(len(prompt) - 1, len(whole) - 1)
            row.append(float(np.mean([float(logp[i, whole[i + 1]]) for i in places])))
        found.append(row)
    return found


def hf(job: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    net = AutoModelForCausalLM.from_pretrained(job["folder"]).eval()
    return [*text(net, AutoTokenizer.from_pretrained(job["folder"]), job["questions"]), str(net.dtype)]


def peft(job: dict[str, Any]) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(job["base"]).eval()
    net = PeftModel.from_pretrained(base, job["folder"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    beside = text(net, tokenizer, job["questions"])
    return [beside, text(net.merge_and_unload(), tokenizer, job["questions"])]


def _pictures(job: dict[str, Any]) -> list[Image.Image]:
    return [Image.fromarray(x) for x in np.load(job["images"])["pixels"]]


@torch.no_grad()
def timm(job: dict[str, Any]) -> Any:
    import timm as library

    if (Path(job["folder"]) / "network.py").exists():
        sys.path.insert(0, job["folder"])
        import network  # noqa: F401 - registers the architecture
    net = library.create_model(f"local-dir:{job['folder']}", pretrained=True).eval()
    transform = library.data.create_transform(**library.data.resolve_data_config({}, model=net))
    if job.get("checkpoint"):  # the other way that timm has
        file = f"{job['folder']}/model.safetensors"
        net = library.create_model(job["checkpoint"], checkpoint_path=file, **job["options"]).eval()
    x = torch.stack([transform(p) for p in _pictures(job)])
    return net(x).argmax(-1).tolist()


@torch.no_grad()
def open_clip(job: dict[str, Any]) -> Any:
    if (Path(job["folder"]) / "stem.py").exists():
        sys.path.insert(0, job["folder"])
        from stem import create_model_and_transforms

        model, preprocess, tokenizer = create_model_and_transforms(job["folder"])
    else:
        import open_clip as library

        model, _, preprocess = library.create_model_and_transforms(f"local-dir:{job['folder']}")
        tokenizer = library.get_tokenizer(f"local-dir:{job['folder']}")
    model.eval()
    rows = []
    for name in job["classes"]:
        e = model.encode_text(tokenizer([t.replace("{}", name) for t in job["templates"]]), normalize=True).mean(0)
        rows.append(e / e.norm())
    x = torch.stack([preprocess(p) for p in _pictures(job)])
    return (model.encode_image(x, normalize=True) @ torch.stack(rows).T).argmax(-1).tolist()


ASK = {"hf": hf, "peft": peft, "timm": timm, "open_clip": open_clip}

if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    answers = {name: ASK[job["kind"]](job) for name, job in jobs.items()}
    if any(m.partition(".")[0] == "edit_robust" for m in sys.modules):
        raise SystemExit("edit_robust was imported")
    Path(sys.argv[2]).write_text(json.dumps(answers))
