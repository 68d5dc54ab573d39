"""Python and the libraries: are they there, of versions that go together, and do they load?"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata

from edit_robust.doctor.finding import Finding

ABOUT = "libraries"
PIP = "pip install -c constraints.txt"


def of_libraries() -> Iterator[Finding]:
    """Python, every requirement of this package, torch with torchvision, and CUDA."""
    yield python()
    yield from requirements()
    yield torchvision()
    yield loaded("torch", "torch")
    yield loaded("torchvision", "torchvision.ops")
    yield loaded("transformers", "transformers")
    yield cuda()


def python(version: str = "") -> Finding:
    """Against what the package asks for."""
    version, wanted = version or platform.python_version(), _requires_python()
    if not _fits(version, wanted):
        return Finding(
            ABOUT, "python", "fault", f"{version}; {wanted} is needed", "make the environment with a newer one"
        )
    return Finding(ABOUT, "python", "ok", f"{version} ({sys.executable})")


def requirements(installed: Callable[[str], str] = metadata.version) -> Iterator[Finding]:
    """Those of the package that are absent or of another version than it asks for; one line where all fit."""
    from packaging.requirements import Requirement

    wrong = 0
    try:
        wanted = [Requirement(text) for text in metadata.requires("edit-robust") or []]
    except metadata.PackageNotFoundError:
        yield Finding(ABOUT, "edit-robust", "note", "runs from its source, not installed: requirements are not known")
        return
    plain = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    for one in plain:
        try:
            version = installed(one.name)
        except metadata.PackageNotFoundError:
            wrong += 1
            yield Finding(ABOUT, one.name, "fault", "is not installed", f'{PIP} "{one.name}{one.specifier}"')
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong += 1
            text = f"{version} is installed, {one.specifier} is needed"
            yield Finding(ABOUT, one.name, "fault", text, f'{PIP} "{one.name}{one.specifier}"')
    if not wrong:
        yield Finding(ABOUT, "requirements", "ok", f"all {len(plain)} are installed, in versions that fit")


def torchvision(
    installed: Callable[[str], str] = metadata.version, requires: Callable[[str], list[str] | None] = metadata.requires
) -> Finding:
    """Whether torchvision was built for the torch that is here: another one lacks its operators."""
    from packaging.requirements import Requirement

    try:
        torch, vision = installed("torch"), installed("torchvision")
    except metadata.PackageNotFoundError as e:
        return Finding(ABOUT, "torchvision", "fault", f"{e.name} is not installed", f"{PIP} torch torchvision")
    built = [Requirement(text) for text in requires("torchvision") or [] if re.match(r"torch\b(?!v)", text)]
    public = torch.partition("+")[0]
    for one in built:
        if not one.specifier.contains(public, prereleases=True):
            return Finding(
                ABOUT,
                "torchvision",
                "fault",
                f"{vision} was built for torch{one.specifier}, and torch is {torch}",
                f"pip install --force-reinstall --no-deps torchvision (the one for torch {public}), "
                "from the same index as torch",
            )
    return Finding(ABOUT, "torchvision", "ok", f"{vision} goes with torch {torch}")


def loaded(name: str, module: str, load: Callable[[str], object] = import_module) -> Finding:
    """Whether a library loads; how it fails says what is wrong with it."""
    try:
        load(module)
    except Exception as e:
        text = " ".join(str(e).split())[:200]
        mend = f"{PIP} --force-reinstall {name}"
        if "torchvision::" in text or "torchvision" in module:
            mend = "pip install --force-reinstall torch torchvision -c constraints.txt (both from one index)"
        elif "libcud" in text or "libnv" in text or "CUDA" in text:
            mend = "reinstall torch for this machine's driver, or the build without CUDA: see pytorch.org"
        return Finding(ABOUT, name, "fault", f"does not load: {text}", mend)
    version = getattr(sys.modules.get(name), "__version__", "")
    return Finding(ABOUT, name, "ok", f"{version} loads".strip())


def cuda() -> Finding:
    """The GPUs that torch can use, with their memory; a GPU that it cannot use is worth a word."""
    try:
        import torch

        if torch.cuda.is_available():
            told = []
            for i in range(torch.cuda.device_count()):
                free, total = torch.cuda.mem_get_info(i)
                told.append(f"{torch.cuda.get_device_name(i)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
            return Finding(ABOUT, "cuda", "ok", f"{'; '.join(told)} (CUDA {torch.version.cuda})")
        built = torch.version.cuda
    except Exception as e:
        return Finding(ABOUT, "cuda", "fault", " ".join(str(e).split())[:200], "device=cpu runs without it")
    seen = _driver()
    if seen and built:
        mend = f"a newer driver, or a torch for this one (torch is built for CUDA {built}); device=cpu runs without it"
        return Finding(ABOUT, "cuda", "note", f"torch cannot use the GPU that is here ({seen})", mend)
    if seen:
        mend = "install the build of torch for CUDA: see pytorch.org"
        return Finding(ABOUT, "cuda", "note", f"there is a GPU ({seen}), and torch is built without CUDA", mend)
    return Finding(ABOUT, "cuda", "ok", "no GPU: runs use the processor")


def _driver() -> str:
    """What nvidia-smi says of GPUs and driver; "" where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (
        "; driver ".join(done.stdout.strip().splitlines()[0].split(", "))
        if done.returncode == 0 and done.stdout
        else ""
    )


def _requires_python() -> str:
    try:
        return str(metadata.metadata("edit-robust")["Requires-Python"] or ">=3.11")
    except metadata.PackageNotFoundError:
        return ">=3.11"


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version.rstrip("+"), prereleases=True)
