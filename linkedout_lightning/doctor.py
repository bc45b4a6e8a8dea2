"""``linkedout doctor``: what is installed, what is missing, and the command that adds it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from linkedout_lightning.machine import usable_cores

Status = Literal["ok", "missing", "wrong"]

_PARTS = {
    "torch": (None, "everything"),
    "lightning": (None, "training"),
    "torchmetrics": (None, "evaluation"),
    "einops": (None, "fusion"),
    "numpy": (None, "everything"),
    "pyarrow": (None, "reading tables"),
    "safetensors": (None, "weights and snapshots"),
    "pylance": (None, "the feature store"),
    "jsonargparse": ("cli", "the linkedout command"),
    "av": ("video", "the default video decoder"),
    "decord": ("video", "the decord backend"),
    "transformers": ("video", "tapping a video LLM"),
    "pillow": ("video", "image processors of video LLMs"),
    "accelerate": ("video", "models spread over devices, GGUF files"),
    "gguf": ("video", "text models in GGUF files"),
    "jinja2": ("report", "report.html"),
    "ray": ("ray", "extraction on Ray"),
    "onnx": ("onnx", "bundles with the sequence encoder as ONNX"),
    "onnxscript": ("onnx", "bundles with the sequence encoder as ONNX"),
    "onnxruntime": ("onnx", "checking and running that form"),
    "faiss-cpu": ("search", "the indexes flat and ivf"),
    "fastapi": ("serve", "linkedout serve"),
    "uvicorn": ("serve", "linkedout serve"),
    "prometheus-client": ("serve", "the numbers of linkedout serve"),
}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check the installation.

    Args:
        strict: End with exit code 1 when an optional package is missing, too.
    """

    strict: bool = False


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Args:
        part: What was looked at.
        status: ``"ok"``, ``"missing"`` (optional and absent) or ``"wrong"``.
        detail: The version, or what is wrong.
        cure: The command or the step that mends it; empty when there is nothing to mend.
    """

    part: str
    status: Status
    detail: str
    cure: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, with what a shell needs to know of them."""

    findings: tuple[Finding, ...]
    strict: bool

    @property
    def exit_code(self) -> int:
        """0 when the installation works as it is, 1 otherwise."""
        bad = {"wrong", "missing"} if self.strict else {"wrong"}
        return int(any(finding.status in bad for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        """The findings as plain objects."""
        return {"findings": [vars(finding) for finding in self.findings], "ok": not self.exit_code}

    def summary(self) -> str:
        """A table for people."""
        width = max(len(finding.part) for finding in self.findings)
        marks = {"ok": "ok     ", "missing": "missing", "wrong": "WRONG  "}
        lines = []
        for finding in self.findings:
            lines.append(f"{marks[finding.status]}  {finding.part:<{width}}  {finding.detail}")
            if finding.cure:
                lines.append(f"{'':7}  {'':<{width}}  -> {finding.cure}")
        return "\n".join(lines)


def doctor(config: DoctorConfig, *, progress: bool = True) -> Diagnosis:
    """Look at packages, decoders and devices.

    Args:
        config: What counts as a failure.
        progress: Unused; every command takes it.

    Returns:
        The findings in the order in which the parts matter.
    """
    del progress
    findings = [*_machine(), *_packages(), *_pairs(), *_recbole(), *_devices()]
    return Diagnosis(tuple(findings), strict=config.strict)


def _machine() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    free = shutil.disk_usage(".").free / 2**30
    yield Finding(
        "machine", "ok", f"{usable_cores()} cores, {free:.0f} GiB free on the current disk"
    )


def _packages() -> Iterator[Finding]:
    for package, (extra, use) in _PARTS.items():
        installed = _version(package)
        if installed:
            yield Finding(package, "ok", f"{installed} ({use})")
        elif extra:
            cure = f"pip install 'linkedout-lightning[{extra}]'"
            yield Finding(package, "missing", f"optional: {use}", cure)
        else:
            yield Finding(package, "wrong", f"needed for {use}", f"pip install {package}")


def _pairs() -> Iterator[Finding]:
    """Pairs of packages that break each other."""
    torch_version, vision = _version("torch"), _version("torchvision")
    if torch_version and vision:
        reason = _torchvision_fault()
        if reason:
            yield Finding(
                "torchvision",
                "wrong",
                f"{vision} does not fit torch {torch_version}: {reason}; it also breaks "
                "`import lightning`, because torchmetrics imports torchvision where it finds it",
                "pip uninstall torchvision, or install the build that matches torch's",
            )
        else:
            yield Finding("torchvision", "ok", f"{vision} (video processors of transformers)")
    elif not vision:
        yield Finding(
            "torchvision",
            "missing",
            "optional: the video processors of transformers (SmolVLM2, Qwen-VL) need it",
            "pip install torchvision, from the same index as torch",
        )
    if _version("decord") and _version("decord2"):
        yield Finding(
            "decord",
            "wrong",
            "decord and decord2 are both installed and overwrite each other's files",
            "pip uninstall decord decord2 && pip install decord",
        )


def _recbole() -> Iterator[Finding]:
    """RecBole, and the versions beside which its figures are right."""
    from recbole_adapters.compat import INSTALL, NEEDS, RECBOLE

    recbole, pandas = _version("recbole"), _version("pandas")
    if not recbole:
        detail = "optional: RecBole's models with LinkedOut's item vectors"
        yield Finding("recbole", "missing", detail, INSTALL)
        return
    absent = [package for package in NEEDS if not _version(package)]
    if absent:
        detail = f"{recbole} imports {', '.join(absent)}, not installed"
        yield Finding("recbole", "wrong", detail, INSTALL)
    elif recbole != RECBOLE:
        detail = f"{recbole}; the adapters are made for {RECBOLE}"
        yield Finding("recbole", "wrong", detail, f"pip install --no-deps recbole=={RECBOLE}")
    else:
        yield Finding("recbole", "ok", f"{recbole} (but for its tuner, which wants an old ray)")
    if pandas and int(pandas.partition(".")[0]) >= 3:
        yield Finding(
            "pandas",
            "wrong",
            f"{pandas}; with pandas 3 RecBole {recbole} turns padding tokens into "
            "-9223372036854775808 without a word; nothing else here needs pandas",
            "pip install 'pandas<3'",
        )
    elif pandas:
        yield Finding("pandas", "ok", f"{pandas} (RecBole alone; held below 3 for its sake)")


def _torchvision_fault() -> str:
    # In a process of its own: a failed import leaves half-registered operators behind.
    import subprocess
    import sys

    command = [sys.executable, "-c", "import torchvision"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if outcome.returncode == 0 else outcome.stderr.strip().splitlines()[-1]


def _devices() -> Iterator[Finding]:
    if not _version("torch"):
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield Finding(f"gpu {index}", "ok", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
        return
    if torch.backends.mps.is_available():
        yield Finding("gpu", "ok", "Apple MPS")
        return
    detail = f"none; models run on the CPU with {torch.get_num_threads()} threads"
    cure = ""
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        cure = "this torch is a CPU build: pip install torch from the CUDA index of pytorch.org"
    yield Finding("gpu", "missing", detail, cure)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
