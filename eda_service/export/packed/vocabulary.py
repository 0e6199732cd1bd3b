"""Draft vocabularies of several packs over one head that contains the rows of all of them.

Each place knows its rows, and its logits are minus infinity elsewhere, which equals a head of those rows alone. Rows
that no place uses are free for packs that are added later.

Shapes: N requests, U rows of the head, V vocabulary, W tokens of one pack, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eda_service.errors import InputError
from eda_service.export.packed.rows import PackedRows


class PackedVocabulary(nn.Module):
    """The rows of the head that each place uses.

    Args:
        num_rows: Number of rows U of the head.
        vocab_size: Size V of the vocabulary; a free row has this number as its id.
        count: Largest number of packs.
        rows: Buffers with the place of each request.
        write_rows: Function that writes rows of the head, from their numbers and values; None if the head is the
            target's.
    """

    token_U: Tensor
    is_own_PU: Tensor

    def __init__(
        self,
        num_rows: int,
        vocab_size: int,
        count: int,
        rows: PackedRows,
        write_rows: Callable[[Tensor, Tensor], None] | None,
    ) -> None:
        super().__init__()
        self._rows, self._write_rows, self._vocab_size = (rows,), write_rows, vocab_size
        self.register_buffer("token_U", torch.arange(num_rows), persistent=False)
        self.register_buffer("is_own_PU", torch.zeros(count + 1, num_rows, dtype=torch.bool), persistent=False)

    def load(self, offsets_U: Tensor | None, is_own_PU: Tensor) -> None:
        """Load the vocabularies of an export: token minus row (None: all tokens in order), and the rows of each filled
        place.
        """
        if offsets_U is not None:
            self.token_U.copy_(torch.arange(len(offsets_U)) + offsets_U)
        self.is_own_PU[: len(is_own_PU)].copy_(is_own_PU)

    def put(self, place: int, token_W: Tensor | None, head_WD: Tensor | None) -> None:
        """Give a place other tokens; their rows are written to free rows.

        Args:
            place: Number of the place, from 1.
            token_W: Token ids, ascending; None: all.
            head_WD: Rows of the tokens, from the target's head.

        Raises:
            InputError: Fewer rows are free than the tokens need; then nothing has changed.
        """
        device = self.token_U.device
        wanted_W = torch.arange(self._vocab_size) if token_W is None else token_W.cpu().long()
        row_of_V = torch.full((self._vocab_size + 1,), -1)
        row_of_V[self.token_U.cpu()] = torch.arange(len(self.token_U))
        row_of_V[self._vocab_size] = -1
        others_PU = self.is_own_PU.cpu().clone()
        others_PU[place] = False
        row_W = row_of_V[wanted_W]
        is_taken_U = others_PU.any(dim=0)
        is_taken_U[row_W[row_W >= 0]] = True
        new_W, free_U = (row_W < 0).nonzero()[:, 0], (~is_taken_U).nonzero()[:, 0]
        if len(new_W) > len(free_U) or (len(new_W) and (head_WD is None or self._write_rows is None)):
            raise InputError(
                f"the pack scores {len(new_W)} tokens that no other pack does, and the head has {len(free_U)} free "
                "rows; remove another pack first, or export again with one more of --places",
                param="directory",
            )
        row_W[new_W] = free_U[: len(new_W)]
        if len(new_W) and head_WD is not None and self._write_rows is not None:
            self.token_U[row_W[new_W].to(device)] = wanted_W[new_W].to(device)
            self._write_rows(row_W[new_W], head_WD.cpu()[new_W])
        self.is_own_PU[place] = False
        self.is_own_PU[place, row_W.to(device)] = True

    def clear(self, place: int) -> None:
        """Give a place the base draft's tokens, because its rows are drafted with the base draft."""
        self.is_own_PU[place] = self.is_own_PU[0]

    def forward(self, logits_NU: Tensor) -> Tensor:
        """Map logits (N, U) to (N, V); a token that the request's place does not score has minus infinity."""
        place_N = self._rows[0].of_requests(logits_NU.shape[0])
        own_NU = logits_NU.masked_fill(~self.is_own_PU[place_N], float("-inf"))
        logits_NX = logits_NU.new_full((logits_NU.shape[0], self._vocab_size + 1), float("-inf"))
        logits_NX[:, self.token_U] = own_NU
        return logits_NX[:, : self._vocab_size]
