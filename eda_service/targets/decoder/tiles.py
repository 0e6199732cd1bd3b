"""Shapes of attention under which a query's sums have one order on a CPU, whatever else its forward holds.

Torch's attention multiplies tiles of queries with tiles of 512 keys. Three things about a tile change how a row in it
is rounded, and with it, at a near tie, which token is the most likely one (`make bench NAME=one-answer` counts texts):

* fewer than four rows, for which the library has other kernels;
* keys beyond the last multiple of 16, whose exponentials are taken one by one by another formula;
* between 193 and 511 keys in the last tile, whose products are then summed in parts of another length.

So queries are rounded up to multiples of 8 rows and keys to lengths that avoid the rest; what is added is hidden by the
mask. Together with packed products (`packed`), which give a row the same bits whatever stands beside it, a forward then
gives a token the same logits in every round, batch and depth. It costs time, so it holds within `one_order` alone: an
endpoint's engine decodes so, one that writes samples or measures does not. Other devices are left as they are: there
nothing of this kind is promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_ROWS = 8
_KEYS = 64
_WHOLE = 512
_SHORT = 192

_IS_ORDERED = ContextVar("eda_one_order", default=False)


@contextmanager
def one_order(wanted: bool = True) -> Iterator[None]:
    """Within it, what this thread computes on a CPU has shapes whose sums have one order; or, not wanted, its own."""
    token = _IS_ORDERED.set(wanted)
    try:
        yield
    finally:
        _IS_ORDERED.reset(token)


def is_ordered(device: torch.device) -> bool:
    """Whether shapes are rounded up now."""
    return _IS_ORDERED.get() and device.type == "cpu"


def whole_keys(num_keys: int, device: torch.device) -> int:
    """How many keys a forward looks at that needs `num_keys`: as many, or a few hidden ones more."""
    return most_keys(num_keys) if is_ordered(device) else num_keys


def most_keys(num_keys: int) -> int:
    """`num_keys`, rounded up as within `one_order`."""
    last = num_keys % _WHOLE
    rounded = -(-last // _KEYS) * _KEYS
    return num_keys - last + (_WHOLE if rounded > _SHORT else rounded)


def whole_rows(num_rows: int, device: torch.device) -> int:
    """How many rows of queries stand in an attention of `num_rows`."""
    return -(-num_rows // _ROWS) * _ROWS if is_ordered(device) else num_rows
