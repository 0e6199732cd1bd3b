"""Every constant of the plan, with its source. GPUs: published peaks times an assumed utilisation, not measured here.
The CPU core: measured, from files under benchmarks/results.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """The rates at which one worker multiplies and reads: effective rates, not peaks.

    Attributes:
        name: Name of the device.
        bandwidth_bytes_per_s: Rate of reading weights and cached keys and values while decoding.
        decode_flops_per_s: Rate of the products of a decoding step.
        prefill_flops_per_s: Rate of the products over whole prompts.
        train_flops_per_s: Rate of forward and backward of a draft.
        memory_bytes: Memory of the device; None: it shares the machine's.
        exchange_bytes_per_s: Rate between two workers.
        step_overhead_s: Seconds of an optimizer step beside its products: reading samples, the optimizer, the
            collective.
        start_s: Seconds to start the processes of a stage, actors or a worker group, with their imports.
        load_bytes_per_s: Rate of loading weights from storage.
        is_measured: Whether the rates were measured here rather than computed from published peaks.
        source: Source of the rates.
    """

    name: str
    bandwidth_bytes_per_s: float
    decode_flops_per_s: float
    prefill_flops_per_s: float
    train_flops_per_s: float
    memory_bytes: float | None
    exchange_bytes_per_s: float
    step_overhead_s: float
    start_s: float
    load_bytes_per_s: float
    is_measured: bool
    source: str


# Assumed, not measured: shares of a GPU's published peaks that these loops reach.
BANDWIDTH_UTILISATION = 0.5
DECODE_UTILISATION = 0.3
PREFILL_UTILISATION = 0.4
TRAIN_UTILISATION = 0.2
_GPU_STEP_OVERHEAD_S = 0.05
_GPU_START_S = 45.0
_GPU_LOAD_BYTES_PER_S = 1e9
_GPU_EXCHANGE_BYTES_PER_S = 50e9  # between workers of one machine; over a network it is the network's rate


def _gpu(name: str, flops: float, bandwidth: float, memory: float, source: str) -> Device:
    return Device(
        name=name,
        bandwidth_bytes_per_s=BANDWIDTH_UTILISATION * bandwidth,
        decode_flops_per_s=DECODE_UTILISATION * flops,
        prefill_flops_per_s=PREFILL_UTILISATION * flops,
        train_flops_per_s=TRAIN_UTILISATION * flops,
        memory_bytes=memory,
        exchange_bytes_per_s=_GPU_EXCHANGE_BYTES_PER_S,
        step_overhead_s=_GPU_STEP_OVERHEAD_S,
        start_s=_GPU_START_S,
        load_bytes_per_s=_GPU_LOAD_BYTES_PER_S,
        is_measured=False,
        source=f"{source}, dense bfloat16 peak; utilisation assumed",
    )


CORE = Device(
    name="core",
    # decode-growth.json, two threads: a round takes 10.5 ms + 0.79 ms a row (least squares over batches of 1 to 64),
    # with 269 MB of weights and 134.5M parameters; a core has half of both.
    bandwidth_bytes_per_s=12.8e9,
    decode_flops_per_s=169e9,
    prefill_flops_per_s=169e9,
    # paper/math-eda_all-selfgen-s0.json: 928 steps in 246.9 s with one thread, held-out passes included.
    train_flops_per_s=300e9,
    memory_bytes=None,
    exchange_bytes_per_s=1e9,  # assumed: loopback
    step_overhead_s=0.0,
    # demo-2026-11-24.json
    start_s=20.0,
    load_bytes_per_s=0.3e9,
    is_measured=True,
    source="benchmarks/results/decode-growth.json, paper/math-eda_all-selfgen-s0.json (AMD EPYC, AVX-512 BF16)",
)

DEVICES: dict[str, Device] = {
    "h100": _gpu("h100", 989e12, 3.35e12, 80e9, "NVIDIA H100 SXM data sheet"),
    "h200": _gpu("h200", 989e12, 4.8e12, 141e9, "NVIDIA H200 SXM data sheet"),
    "a100": _gpu("a100", 312e12, 2.04e12, 80e9, "NVIDIA A100 80GB SXM data sheet"),
    "l40s": _gpu("l40s", 362e12, 0.864e12, 48e9, "NVIDIA L40S data sheet"),
    "core": CORE,
}

ACCELERATORS = {"H100": "h100", "H200": "h200", "A100-80G": "a100", "L40S": "l40s"}
"""Ray's names of the GPUs whose memory follows from their name; a plain A100 may have 40 or 80 GB."""

TENSOR_PARALLEL_EFFICIENCY = 0.8
"""Assumed, not measured here: efficiency on the GPUs of one machine, which wait for each other twice per layer."""

ACROSS_NODES_EFFICIENCY = 0.5
"""Assumed, not measured here: efficiency on GPUs that wait for each other over a network."""

VLLM_START_S = 60.0
"""Assumed: seconds from loaded weights to the first answer, with compilation and graphs."""

VLLM_WORK_BYTES = 3e9
"""Assumed: bytes of each GPU that vLLM keeps beside weights, keys and values: activations, graphs, the collective's."""

VALIDATE_S = 5.2
"""Source: demo-2026-11-24.json."""

PUBLISH_S = 1.0
"""Assumed: seconds to copy and hash a pack."""

STORE_BYTES_PER_S = 1e9
"""Assumed: rate at which one machine reads from or writes to shared storage."""

ACTIVATION_FACTOR = 16.0
"""Assumed: bytes per token and hidden unit that one draft layer keeps for its backward pass, beside the logits."""
