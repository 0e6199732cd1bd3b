"""What is said of a path of a caller's that cannot be used: field, reason, next step; never what lies elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eda_service.errors import DatasetInvalidError, DraftSourceMissingError, InputError, TargetNotFoundError
from eda_service.names import is_model_id
from eda_service.storage.inputs.beneath import OutsideError, Roots


def is_path(value: str, param: str) -> bool:
    """Whether a value is a path rather than an id.

    Raises:
        TargetNotFoundError, DatasetInvalidError: It is neither.
    """
    if is_model_id(value):
        return False
    if not value.startswith("/") or "\0" in value:
        raise _kind(param)(f"{param} is neither an id (`name` or `owner/name`) nor an absolute path", param=param)
    return True


@contextmanager
def given(param: str, roots: Roots) -> Iterator[None]:
    """Every error of looking at a path of a caller's as a 400 that names the field.

    Raises:
        InputError: It does not lie beneath a root; the same whether something is there or not.
        TargetNotFoundError, DatasetInvalidError: It cannot be opened.
    """
    try:
        yield
    except OutsideError as error:
        raise InputError(_outside(param, roots, error), param=param) from None
    except FileNotFoundError:
        raise _kind(param)(f"{param}: nothing is at that path", param=param) from None
    except OSError as error:
        raise _kind(param)(f"{param} cannot be read: {error.strerror}", param=param) from None
    except (ValueError, RuntimeError):
        raise _kind(param)(f"{param} is no path", param=param) from None


def _kind(param: str) -> type[InputError]:
    if param == "source":
        return DraftSourceMissingError
    return DatasetInvalidError if "dataset" in param else TargetNotFoundError


def _outside(param: str, roots: Roots, error: OutsideError) -> str:
    if error.entry:
        return f"{param} holds a link to outside of the allowed roots ({error.entry[:64]}); copy the file instead"
    shown = ", ".join(str(root) for root in roots.directories)
    upload = "upload it (`eda data upload FILE`), or " if "dataset" in param else ""
    if not shown:
        return f"{param} is a path and no directory is allowed; {upload}start it with `eda up --allow DIRECTORY`"
    where = f"{param} is outside the allowed roots ({shown})"
    return f"{where}; {upload}move it there, or start `eda up` with --allow DIRECTORY"
