"""The shell command that serves an export."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eda_service.export.files.contents import TOKEN_MAP
from eda_service.export.files.eda_config import Destination, EdaConfig, ExportForm, PackPlaces
from eda_service.export.vllm_plugin import PACK_WORKER

SGLANG_PACKAGE = "eda_service.export.sglang_models"
_INSTALL = "`pip install --no-deps .` in a checkout of it"
VLLM_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts as `--max-lora-rank`, except 1."""


@dataclass(frozen=True)
class ServedTarget:
    """A target as an engine loads it: a directory, or a hub id at a commit."""

    model: str
    revision: str | None = None

    @property
    def words(self) -> str:
        """The words for a shell; vLLM and SGLang write the revision alike."""
        revision = "" if self.revision is None else f" --revision {shlex.quote(self.revision)}"
        return shlex.quote(self.model) + revision


@dataclass(frozen=True)
class ServedAdapter:
    """A LoRA adapter as vLLM loads it: its name in requests, and its directory."""

    name: str
    directory: Path

    @property
    def rank(self) -> int:
        """The rank of its updates; the largest if there are several."""
        config = json.loads((self.directory / "adapter_config.json").read_text(encoding="utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])


def serve_command(
    directory: Path,
    target: ServedTarget,
    eda: EdaConfig,
    num_draft_tokens: int,
    adapters: Sequence[ServedAdapter] = (),
) -> str:
    """Write the command on one line.

    Args:
        directory: Directory of the export.
        target: Target of the export.
        eda: The export's config.
        num_draft_tokens: Number of tokens K of the chains.
        adapters: Adapters that vLLM adds to the target, each with a pack in the export.
    """
    if eda.destination is Destination.VLLM:
        speculative = {"method": eda.vllm_method, "model": str(directory), "num_speculative_tokens": num_draft_tokens}
        command = f"vllm serve {target.words} --speculative-config {shlex.quote(json.dumps(speculative))}"
        return command if eda.places is None else f"{command} {_adapters(eda.places, adapters)}"
    if eda.destination is Destination.SGLANG:
        return _sglang(directory, target, eda, num_draft_tokens)
    return f"hf upload OWNER/NAME {shlex.quote(str(directory))}"


def serving_needs(eda: EdaConfig, command: str) -> tuple[str, ...]:
    """List the requirements of the machine that runs `command`, one sentence each; empty for engines without any.

    Args:
        eda: The export's config.
        command: Command from `serve_command`.
    """
    if eda.destination is Destination.SGLANG and eda.form is ExportForm.PLUGIN:
        return (f"SGLang's environment needs this package: {_INSTALL}. An unmodified SGLang loads --form dense",)
    if eda.destination is not Destination.VLLM:
        return ()
    is_plugin = eda.form is ExportForm.PLUGIN
    told = [
        f"vLLM's environment needs this package: {_INSTALL}; where VLLM_PLUGINS is set, it has to name eda. An "
        "unmodified vLLM loads --form dense",
    ]
    return (*(told if is_plugin else []), f"with vLLM's CPU build, whose vllm command does not start: {_cpu(command)}")


def _cpu(command: str) -> str:
    """Return the command of the same server without vLLM's own command, which the CPU build cannot start under another
    name.
    """
    return command.replace("vllm serve ", "python -m vllm.entrypoints.openai.api_server --model ", 1)


def _adapters(places: PackPlaces, adapters: Sequence[ServedAdapter]) -> str:
    modules = " ".join(shlex.quote(f"{each.name}={each.directory}") for each in adapters)
    rank = max(each.rank for each in adapters)
    fitting = next((size for size in VLLM_LORA_RANKS if size >= rank), rank)
    return (
        f"--worker-cls {PACK_WORKER} --enable-lora --max-loras {places.count} --max-lora-rank {fitting} "
        f"--lora-modules {modules}"
    )


def _sglang(directory: Path, target: ServedTarget, eda: EdaConfig, num_draft_tokens: int) -> str:
    package = [f"SGLANG_EXTERNAL_MODEL_PACKAGE={SGLANG_PACKAGE}"] if eda.form is ExportForm.PLUGIN else []
    is_eagle3 = eda.draft.kind == "eagle3"
    algorithm = "EAGLE3" if is_eagle3 else "EAGLE"
    token_map = [] if is_eagle3 or eda.draft_vocab_size is None else [directory / TOKEN_MAP]
    return " ".join(
        [
            *package,
            f"python -m sglang.launch_server --model-path {target.words} --speculative-algorithm {algorithm}",
            f"--speculative-draft-model-path {shlex.quote(str(directory))} --speculative-num-steps {num_draft_tokens}",
            f"--speculative-eagle-topk 1 --speculative-num-draft-tokens {num_draft_tokens + 1}",
            *(f"--speculative-token-map {shlex.quote(str(path))}" for path in token_map),
        ]
    )
