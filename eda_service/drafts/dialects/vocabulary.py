"""The token ids of the rows of a draft's head: from `d2t` and `t2d`, either of which may be missing.

`d2t` holds differences, token id minus row; `t2d` marks the target's tokens that the draft scores.

Shapes: W draft vocabulary, V the target's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eda_service.drafts.dialects.names import D2T, T2D
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.settings import Fields
from eda_service.drafts.dialects.tensors import TensorAt

_D2T_DTYPES = ("I64", "I32")
_T2D_DTYPES = ("BOOL", "U8", "I64", "I32")


def draft_vocabulary(
    d2t: TensorAt | None, t2d: TensorAt | None, *, draft_vocab_size: int, vocab_size: int, fields: Fields
) -> Tensor | None:
    """Return the token ids (W) of the head's rows, int32; None if they are all of the target's tokens in order.

    Raises:
        DraftIncompatibleError: The ids are unknown, lie outside the target's vocabulary, name a token twice, or the two
            maps disagree.
    """
    marked_V = None if t2d is None else _marks(t2d, vocab_size)
    if d2t is None:
        if draft_vocab_size == vocab_size:
            _require_marks(marked_V, torch.arange(vocab_size))
            return None
        if marked_V is None:
            raise refusal(
                f"the draft scores {draft_vocab_size} tokens of the target's {vocab_size}, and the file has neither "
                f"{D2T} nor {T2D} that says which; fetch the draft again with its vocabulary map"
            )
        ids_W = marked_V.nonzero().flatten()
        if len(ids_W) != draft_vocab_size:
            raise refusal(
                f"{T2D} marks {len(ids_W)} tokens, the draft scores {draft_vocab_size}; fetch the draft again"
            )
        fields.assume(D2T, "from t2d", f"the file has no {D2T}, so the rows are the tokens that {T2D} marks, ascending")
    else:
        ids_W = _ids(d2t, draft_vocab_size, vocab_size)
        _require_marks(marked_V, ids_W)
    if draft_vocab_size == vocab_size and torch.equal(ids_W, torch.arange(vocab_size)):
        return None
    return ids_W.to(torch.int32)


def _ids(d2t: TensorAt, draft_vocab_size: int, vocab_size: int) -> Tensor:
    _require_form(d2t, _D2T_DTYPES, draft_vocab_size, "draft_vocab_size")
    differences_W = d2t.load().long()
    rows_W = torch.arange(draft_vocab_size)
    bound = 1 << 40  # so that the sum below cannot wrap around
    ids_W = rows_W + differences_W.clamp(-bound, bound)
    outside = ((ids_W < 0) | (ids_W >= vocab_size)).nonzero().flatten()
    if len(outside):
        row = int(outside[0])
        as_ids = (
            differences_W.min() >= 0 and differences_W.max() < vocab_size and len(differences_W.unique()) == len(rows_W)
        )
        hint = (
            "its numbers would be sound as token ids themselves, and engines read differences: subtract the row from "
            "each"
            if as_ids
            else "import the draft for the target that it was trained for"
        )
        raise refusal(
            f"{d2t.file.name}: {D2T}[{row}] is {int(differences_W[row])}, so row {row} would be token "
            f"{int(ids_W[row])}, outside the target's {vocab_size} ({len(outside)} of {draft_vocab_size} rows are); "
            f"{hint}"
        )
    ordered, order = ids_W.sort(stable=True)
    twice = (ordered[1:] == ordered[:-1]).nonzero().flatten()
    if len(twice):
        first, second = sorted(int(order[int(twice[0]) + offset]) for offset in (0, 1))
        raise refusal(
            f"{d2t.file.name}: {D2T} maps rows {first} and {second} to one token, {int(ordered[int(twice[0])])}; each "
            "token has one row: fetch the draft again"
        )
    return ids_W


def _marks(t2d: TensorAt, vocab_size: int) -> Tensor:
    _require_form(t2d, _T2D_DTYPES, vocab_size, "the target's vocabulary")
    marks_V = t2d.load()
    if marks_V.dtype != torch.bool and bool(((marks_V != 0) & (marks_V != 1)).any()):
        raise refusal(f"{t2d.file.name}: {T2D} holds numbers other than 0 and 1; fetch the draft again")
    return marks_V.bool()


def _require_marks(marked_V: Tensor | None, ids_W: Tensor) -> None:
    if marked_V is None:
        return
    unmarked = ids_W[~marked_V[ids_W]]
    num_marked = int(marked_V.sum())
    if len(unmarked) or num_marked != len(ids_W):
        what = (
            f"{D2T} names token {int(unmarked[0])}, which {T2D} does not mark"
            if len(unmarked)
            else f"{T2D} marks {num_marked} tokens, the head has {len(ids_W)} rows"
        )
        raise refusal(f"the draft's vocabulary maps disagree: {what}; fetch the draft again, or save it without {T2D}")


def _require_form(at: TensorAt, dtypes: tuple[str, ...], length: int, of: str) -> None:
    if at.dtype not in dtypes or at.shape != (length,):
        raise refusal(
            f"{at.file.name}: {at.name} is {at.dtype} {list(at.shape)}, {' or '.join(dtypes)} [{length}] is needed by "
            f"{of}; import the draft for the target that it was trained for, or fetch it again"
        )
