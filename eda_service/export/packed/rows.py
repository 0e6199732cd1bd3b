"""The pack of each row of a batch, in buffers at fixed addresses.

An engine's recorded graphs read addresses, so no buffer is reallocated: a worker writes the place of every request
before the draft runs, and the draft's outer forward copies them to the rows before the layers read them.

Shapes: N rows of a batch, R requests. Place 0 is no pack: the shared expert alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PackedRows(nn.Module):
    """Buffers with the places of requests and of rows.

    Args:
        max_requests: Largest number of requests R.
        max_rows: Largest number of rows N.
    """

    request_place_R: Tensor
    row_place_N: Tensor
    _numbers_N: Tensor

    def __init__(self, max_requests: int, max_rows: int) -> None:
        super().__init__()
        self.register_buffer("request_place_R", torch.zeros(max_requests + 1, dtype=torch.long), persistent=False)
        self.register_buffer("row_place_N", torch.zeros(max_rows, dtype=torch.long), persistent=False)
        self.register_buffer("_numbers_N", torch.arange(max_rows), persistent=False)

    def set_requests(self, places: Sequence[int]) -> None:
        """Write the place of every request of the batch, in the batch's order; later entries become 0."""
        buffer = self.request_place_R
        made = torch.zeros(len(buffer), dtype=buffer.dtype, pin_memory=buffer.is_cuda)
        made[: len(places)] = torch.tensor(places, dtype=buffer.dtype)
        buffer.copy_(made, non_blocking=True)

    def spread(self, num_rows: int, starts_R: Tensor | None) -> None:
        """Write the place of every row.

        Args:
            num_rows: Number of rows of the batch, padding included.
            starts_R: First row of each request and, after them, the number of rows; None: rows that belong to no
                request.
        """
        rows_N = self.row_place_N[:num_rows]
        if starts_R is None:
            rows_N.zero_()
            return
        numbers_N = self._numbers_N[:num_rows].to(starts_R.dtype)
        request_N = torch.searchsorted(starts_R, numbers_N, right=True) - 1
        # Rows after the last request point to the entry after it: a place that is 0.
        torch.index_select(self.request_place_R, 0, request_N.clamp_(0, len(self.request_place_R) - 1), out=rows_N)

    def of_rows(self, num_rows: int) -> Tensor:
        """Return the places (N,) of the rows of a forward pass."""
        return self.row_place_N[:num_rows]

    def of_requests(self, num_requests: int) -> Tensor:
        """Return the places (R,) of the batch's requests; larger trial batches of an engine get place 0."""
        places_R = self.request_place_R[:num_requests]
        if len(places_R) < num_requests:
            places_R = torch.cat([places_R, places_R.new_zeros(num_requests - len(places_R))])
        return places_R


def present(places_N: Tensor) -> list[int] | None:
    """List the places that occur, if reading them is free; None on other devices and inside graphs."""
    if places_N.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    return [int(place) for place in torch.unique(places_N)]
