"""`python -m eda_service.drafts.dialects.conversion_worker`: converts pickled weights, one JSON order per line.

Each order is `{"source", "made", "max_bytes", "cpu_s"}`, each answer `{"sha256", "size_bytes"}` of the source or
`{"error"}`; an empty object comes first. The process reads no network and starts no program (`confine`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from eda_service.drafts.dialects.confine import confine
from eda_service.targets.child_worker import limit, limit_order, say

MEMORY_BYTES = 4 << 30
"""Memory limit in bytes beside the file itself, which is mapped."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
_BLOCK_BYTES = 16 << 20
_MAX_SHOWN = 200
_CODE = re.compile(r"GLOBAL ([\w.]+)")


class NotTensorsError(Exception):
    """A pickle holds something else than tensors by name; the message is a whole sentence for the caller."""


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Convert one file and return the answer to the order."""
    source, made = Path(order["source"]), Path(order["made"])
    try:
        size_bytes = source.stat().st_size
        limit(resource.RLIMIT_DATA, size_bytes + MEMORY_BYTES)
        limit(resource.RLIMIT_FSIZE, order["max_bytes"] + _BLOCK_BYTES)
        limit_order(order["cpu_s"])
        write(tensors_of(source, order["max_bytes"]), made)
        return {"sha256": _sha256(source), "size_bytes": size_bytes}
    except NotTensorsError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"reading it takes more than its size and {MEMORY_BYTES} bytes; save the draft as safetensors"}
    except Exception as error:
        words = " ".join(str(error).split())[:_MAX_SHOWN]
        return {
            "error": f"it cannot be read as torch's zip format ({type(error).__name__}: {words}); save the draft "
            "as safetensors"
        }


def tensors_of(source: Path, max_bytes: int) -> dict[str, Any]:
    """Return the tensors in a pickled file by name, memory-mapped.

    Args:
        source: Pickled file in the format that `torch.save` writes since torch 1.6.
        max_bytes: Largest size of all tensors together in bytes; a small file can claim to hold large ones.

    Raises:
        NotTensorsError: The file holds something else.
    """
    import pickle

    import torch

    try:
        value = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        code = _CODE.search(str(error))
        what = f"it calls {code[1]}" if code else " ".join(str(error).split())[:_MAX_SHOWN]
        raise NotTensorsError(
            f"the pickle holds code or objects, and not tensors alone ({what}); nothing of it was run: do not trust "
            "the file, or save its weights as safetensors on a machine where you do"
        ) from error
    if not isinstance(value, dict) or not value:
        raise NotTensorsError(f"it holds a {type(value).__name__}, tensors by name are needed; save the weights alone")
    total = 0
    for name, tensor in value.items():
        _require_plain(name, tensor)
        total += tensor.numel() * tensor.element_size()
        if total > max_bytes:
            raise NotTensorsError(
                f"its tensors take more than {max_bytes} bytes from {name[:64]} on, the limit for pickled weights; "
                "save the draft as safetensors, or raise the limit"
            )
    return value


def write(tensors: Mapping[str, Any], made: Path) -> None:
    """Write tensors as safetensors, one after the other in the given order.

    Args:
        tensors: Tensors on the CPU by name.
        made: Path of the new file.
    """
    import torch

    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
    kinds |= {
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    ordered = sorted(tensors.items(), key=lambda each: -each[1].element_size())  # each is aligned to its element
    for name, tensor in ordered:
        if tensor.dtype not in kinds:
            raise NotTensorsError(
                f"{name[:64]} is of {tensor.dtype}; numbers of {', '.join(kinds.values())} are converted"
            )
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with made.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            if tensor.numel():
                data = memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
                for begin in range(0, len(data), _BLOCK_BYTES):
                    stream.write(data[begin : begin + _BLOCK_BYTES])
        stream.flush()
        os.fsync(stream.fileno())


def _require_plain(name: object, tensor: Any) -> None:
    import torch

    if not isinstance(name, str):
        raise NotTensorsError(f"it has an entry under {str(name)[:64]!r}, which is no name; save the weights alone")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise NotTensorsError(
            f"{name[:64]!r} is a {type(tensor).__name__}, tensors by name and nothing else are converted; save the "
            "weights alone (`state_dict()` of the draft)"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise NotTensorsError(f"{name[:64]!r} is sparse, quantised or without data; save the weights as dense tensors")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def work(answers: TextIO) -> None:
    """Answer orders until the input ends."""
    limit(resource.RLIMIT_CORE, 0)
    import torch  # imported before the confinement refuses the calls that this needs

    torch.set_num_threads(1)
    confine()
    say({}, answers)
    for line in sys.stdin:
        say(answer(json.loads(line)), answers)


if __name__ == "__main__":
    # Output of libraries goes to the log, so that it does not mix with the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        work(stream)
