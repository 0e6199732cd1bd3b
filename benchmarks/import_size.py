"""Importing a draft for an 8B target: `make bench NAME=import` writes `benchmarks/results/import.json`.

It uses random bfloat16 weights of the shapes of an official EAGLE-3 draft of Llama-3.1-8B (with its embedding, 0.95
billion parameters), written by this script, as safetensors and as the pickle format of the official drafts. Measured
are seconds and peak memory of a process that reads, checks and stores it, hashing included; three runs each, and the
median.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.workloads import header, write_result

GOAL_S, GOAL_GB = 60.0, 4.0
RUNS = 3
D, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCAB, DRAFT_VOCAB, LAYERS = 4096, 32, 8, 128, 14_336, 128_256, 32_000, 32
SHAPES: dict[str, tuple[int, ...]] = {
    "embed_tokens.weight": (VOCAB, D),
    "fc.weight": (D, 3 * D),
    "midlayer.input_layernorm.weight": (D,),
    "midlayer.hidden_norm.weight": (D,),
    "midlayer.self_attn.q_proj.weight": (HEADS * HEAD_DIM, 2 * D),
    "midlayer.self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, 2 * D),
    "midlayer.self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, 2 * D),
    "midlayer.self_attn.o_proj.weight": (D, HEADS * HEAD_DIM),
    "midlayer.post_attention_layernorm.weight": (D,),
    "midlayer.mlp.gate_proj.weight": (WIDTH, D),
    "midlayer.mlp.up_proj.weight": (WIDTH, D),
    "midlayer.mlp.down_proj.weight": (D, WIDTH),
    "norm.weight": (D,),
    "lm_head.weight": (DRAFT_VOCAB, D),
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": D,
    "intermediate_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": 1,
    "vocab_size": VOCAB,
    "draft_vocab_size": DRAFT_VOCAB,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}


def random_tensors() -> dict[str, Tensor]:
    """Make the tensors of the whole draft, with its vocabulary maps."""
    rng = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2**14, shape, generator=rng, dtype=torch.int16).view(torch.bfloat16)
        for name, shape in SHAPES.items()
    }
    ids_W = torch.randperm(VOCAB, generator=rng)[:DRAFT_VOCAB].sort().values
    tensors["d2t"] = ids_W - torch.arange(DRAFT_VOCAB)
    tensors["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, ids_W, True)
    return tensors


def write_source(directory: Path, *, pickled: bool) -> int:
    """Write a draft as it is published; return its bytes."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    path = directory / ("pytorch_model.bin" if pickled else "model.safetensors")
    if pickled:
        torch.save(random_tensors(), path)
    else:
        save_file(random_tensors(), path)
    return path.stat().st_size


def import_once(source: Path, staging: Path, scratch: Path) -> dict[str, float]:
    """Read, check and store a draft once, in a process of its own."""
    from eda_service.drafts.dialects.read import read_source
    from eda_service.drafts.dialects.record import BaseTarget
    from eda_service.drafts.dialects.store import write_imported

    started = time.monotonic()
    target = BaseTarget(num_layers=LAYERS, vocab_size=VOCAB, hidden_size=D, max_position_embeddings=131_072)
    write_imported(read_source(source, target, scratch=scratch), staging)
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": round(time.monotonic() - started, 2), "peak_gb": round(max(own, children) * 1024 / 1e9, 3)}


def measure(name: str, directory: Path) -> dict[str, Any]:
    """Measure three imports of one form of the file."""
    source = directory / name
    # In a process of its own: a child inherits its parent's peak memory.
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.import_size", "--write", str(source)], check=True, stdout=subprocess.PIPE
    )
    size = int(made.stdout)
    runs = []
    for _ in range(RUNS):
        places = [directory / each for each in ("staging", "scratch")]
        for place in places:
            place.mkdir()
        command = [sys.executable, "-m", "benchmarks.import_size", "--once", str(source), *map(str, places)]
        runs.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
        for place in places:
            shutil.rmtree(place)
    shutil.rmtree(source)
    seconds, peak = (statistics.median(run[key] for run in runs) for key in ("seconds", "peak_gb"))
    return {
        "bytes": size,
        "runs": runs,
        "median_seconds": seconds,
        "median_peak_gb": peak,
        "meets_goals": seconds <= GOAL_S and peak <= GOAL_GB,
    }


def main() -> int:
    """Measure both forms."""
    if "--write" in sys.argv:
        source = Path(sys.argv[2])
        sys.stdout.write(str(write_source(source, pickled=source.name == "pickle")))
        return 0
    if "--once" in sys.argv:
        source, staging, scratch = map(Path, sys.argv[2:5])
        sys.stdout.write(json.dumps(import_once(source, staging, scratch)))
        return 0
    with tempfile.TemporaryDirectory(prefix="eda-import-") as name:
        forms = {form: measure(form, Path(name)) for form in ("safetensors", "pickle")}
    parameters = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    write_result(
        "import.json",
        {
            **header("make bench NAME=import"),
            "goal_seconds": GOAL_S,
            "goal_peak_gb": GOAL_GB,
            "num_parameters": parameters,
            "forms": forms,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
