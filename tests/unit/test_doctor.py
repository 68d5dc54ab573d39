"""What the doctor finds: faults that are planted, each with its mend; what pruning removes."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from edit_robust.core.errors import UserError
from edit_robust.doctor import caches, examined, libraries, machine, parts
from edit_robust.verbs.doctor import doctor


def test_a_torchvision_of_another_torch_is_told_by_its_own_requirement() -> None:
    installed = {"torch": "2.15.0+cu132", "torchvision": "0.28.0"}.__getitem__
    found = libraries.torchvision(installed, lambda name: ["numpy", "torch==2.14.0", "pillow>=5"])
    assert found.state == "fault" and "built for torch==2.14.0, and torch is 2.15.0+cu132" in found.text
    assert "torchvision" in found.mend
    assert libraries.torchvision(installed, lambda name: ["torch==2.15.0"]).state == "ok"


def test_the_missing_operator_has_its_mend() -> None:
    def fails(name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    found = libraries.loaded("torchvision", "torchvision.ops", fails)
    assert found.state == "fault" and "nms does not exist" in found.text and "from one index" in found.mend


def test_absent_and_old_requirements() -> None:
    def installed(name: str) -> str:
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "rich" else "99"

    found = {one.name: one for one in libraries.requirements(installed)}
    assert found["timm"].state == "fault" and 'pip install -c constraints.txt "timm' in found["timm"].mend
    assert "0.1 is installed" in found["rich"].text
    assert libraries.python("3.9.1").state == "fault" and libraries.python("3.12.1").state == "ok"


def test_memory_and_disk(tmp_path: Path) -> None:
    assert [machine.memory(free).state for free in (5e8, 2e9, 9e9, None)] == ["fault", "note", "ok", "note"]
    assert (machine.available_memory() or 0) > 0
    assert [machine.disk(tmp_path, free).state for free in (5e7, 1e9, 9e9)] == ["fault", "note", "ok"]
    assert machine.disk(tmp_path / "not" / "yet").state in ("ok", "note")
    (tmp_path / "file").write_text("")
    assert machine.disk(tmp_path / "file" / "outputs").state == "fault"


def test_threads_without_cores_of_their_own() -> None:
    assert machine.threads("16", 2, 0.0).state == "note" and "2 cores" in machine.threads("16", 2, 0.0).text
    assert machine.threads("2", 2, 9.0).state == "note"
    assert machine.threads("2", 2, 0.5).state == "ok"


def test_built_in_models_and_data_are_here() -> None:
    known = {one.name: one for one in parts.models()}
    assert known["fact-gpt"].text == known["scene-clip"].text == "built in"
    assert "model.path" in known["hf"].text and "model.factory" in known["module"].text
    tasks = {one.name: one for one in parts.data()}
    assert tasks["fact-world"].state == "ok" and "task.path" in tasks["facts"].text


def test_weights_in_the_hubs_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    node = {"path": "openai-community/gpt2"}
    assert parts.model("gpt2", node).state == "note" and "downloads" in parts.model("gpt2", node).mend
    kept = tmp_path / "models--openai-community--gpt2" / "snapshots" / "abc"
    kept.mkdir(parents=True)
    (kept / "model.safetensors").write_bytes(b"x")
    assert parts.model("gpt2", node).state == "ok"


def test_wandb_keys_are_found_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "not logged in" in next(parts.tracking()).text
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert "not logged in" not in next(parts.tracking()).text


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for name, size in (("moments", 2000), ("corrupted", 500), ("data", 100)):
        folder = tmp_path / "outputs" / "cache" / name
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"0" * size)
    return tmp_path / "outputs"


def test_pruning_lists_asks_and_leaves_what_cannot_be_made_again(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("typer.confirm", lambda text: bool(asked.append(text)))
    doctor(outputs, prune=True)
    assert "2.5 KB" in asked[0] and (outputs / "cache" / "moments" / "x").exists()
    said = capsys.readouterr().out
    assert "moments" in said and "data" not in said.replace(str(outputs), "") and "Nothing was removed" in said
    doctor(outputs, prune=True, yes=True)
    assert sorted(p.name for p in (outputs / "cache").iterdir()) == ["data"]
    doctor(outputs, prune=True, yes=True)
    assert "nothing to prune" in capsys.readouterr().out


def test_nothing_is_pruned_under_a_run(outputs: Path) -> None:
    from edit_robust.runs.status import lock

    path = outputs / "runs" / "one"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("{}")
    (path / "status.json").write_text(json.dumps({"status": "running"}))
    held = lock(path)
    try:
        with pytest.raises(UserError, match="one is being run"):
            caches.prune(outputs)
    finally:
        held.release()
    assert caches.prune(outputs) == 2500


def test_faults_end_with_1_and_json_holds_everything(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examined(outputs)
    assert {one.about for one in found} == {"libraries", "machine", "tracking", "caches", "models", "data"}
    monkeypatch.setattr("edit_robust.doctor.examined", lambda folder: found)
    faults = [one for one in found if one.state == "fault"]
    if not faults:
        doctor(outputs, as_json=True)
        told = json.loads(capsys.readouterr().out)
        assert len(told) == len(found) and set(told[0]) == {"about", "name", "state", "text", "mend"}
    bad = [*found, machine.memory(1.0)]
    monkeypatch.setattr("edit_robust.doctor.examined", lambda folder: bad)
    with pytest.raises(SystemExit) as ended:
        doctor(outputs)
    assert ended.value.code == 1 and "stop runs: memory" in " ".join(capsys.readouterr().out.split())
