"""Shapes of attention for which a query's sums have one order on a CPU, whatever else the forward contains.

Torch's attention multiplies tiles of queries with tiles of 512 keys. Three properties of a tile change the rounding of
its rows, and with it, at a near tie, the most likely token (`make bench NAME=one-answer` counts texts):

* fewer than four rows, for which the library has other kernels;
* keys beyond the last multiple of 16, whose exponentials are taken one by one by another formula;
* between 193 and 511 keys in the last tile, whose products are then summed in parts of another length.

So queries are rounded up to multiples of 8 rows and keys to lengths that avoid the other two cases; the mask hides what
is added. Together with packed products (`packed`), which give a row the same bits whatever the other rows are, a
forward then gives a token the same logits in every round, batch and depth. It costs time, so it applies only within
`one_order`: an endpoint's engine uses it, one that writes samples or measures does not. Other devices are unchanged,
and nothing of this kind is promised for them.
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
    """Use, inside the block and in this thread, shapes on the CPU whose sums have one order; if not
    wanted, do nothing.
    """
    token = _IS_ORDERED.set(wanted)
    try:
        yield
    finally:
        _IS_ORDERED.reset(token)


def is_ordered(device: torch.device) -> bool:
    """Whether shapes are rounded up now."""
    return _IS_ORDERED.get() and device.type == "cpu"


def whole_keys(num_keys: int, device: torch.device) -> int:
    """Return the number of keys of a forward that needs `num_keys`: the same number, or a few hidden ones more."""
    return most_keys(num_keys) if is_ordered(device) else num_keys


def most_keys(num_keys: int) -> int:
    """Round `num_keys` up as within `one_order`."""
    last = num_keys % _WHOLE
    rounded = -(-last // _KEYS) * _KEYS
    return num_keys - last + (_WHOLE if rounded > _SHORT else rounded)


def whole_rows(num_rows: int, device: torch.device) -> int:
    """Return the number of rows of queries in an attention that needs `num_rows`."""
    return -(-num_rows // _ROWS) * _ROWS if is_ordered(device) else num_rows
