"""The check of a target at submit, in a child process with limits (`targets.checks.check_worker`). Imports no torch.

The result for a set of files is remembered as long as the files are the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable
from pathlib import Path

from eda_service.config.job import EngineKind
from eda_service.errors import InputError, TargetIncompatibleError, TargetNotFoundError, UnsafeCheckpointError
from eda_service.storage.inputs.beneath import FileIdentity
from eda_service.targets.checks.check_worker import ENVIRONMENT
from eda_service.targets.child import JsonChild
from eda_service.targets.files.resolve import ResolvedTarget

logger = logging.getLogger(__name__)

_TIMEOUT_S = 120.0  # for a machine under heavy load; the child's limit of processor time is reached first
_MAX_REMEMBERED = 256
_KINDS: dict[str, type[InputError]] = {
    kind.__name__: kind for kind in (TargetIncompatibleError, TargetNotFoundError, UnsafeCheckpointError)
}

Finding = tuple[str, ...] | InputError


class TargetChecker:
    """Checks targets and remembers the results; calls from several threads take turns."""

    def __init__(self) -> None:
        self._child = JsonChild(
            "eda_service.targets.checks.check_worker", options=("-P",), environment=ENVIRONMENT, timeout_s=_TIMEOUT_S
        )
        self._lock = threading.Lock()
        self._found: dict[Hashable, Finding] = {}

    def check(
        self, resolved: ResolvedTarget, *, converses: bool, engine: EngineKind = EngineKind.EDA
    ) -> tuple[str, ...]:
        """Return the notes for a target's user.

        Args:
            resolved: Files of the target on this machine.
            converses: Whether the target must render conversations; see
                `eda_service.targets.checks.check.check_target`.
            engine: Engine that will run the target.

        Raises:
            TargetNotFoundError, TargetIncompatibleError, UnsafeCheckpointError: The target cannot be used.
        """
        key = (resolved.model, converses, engine, _identity(resolved.model_dir), _identity(resolved.adapter_dir))
        with self._lock:
            found = self._found.get(key)
        if found is None:
            try:
                found = self._ask(resolved, converses, engine)
            except (OSError, RuntimeError) as error:  # no child could be started; the next check tries again
                logger.error("targets are not checked at submit: %s", error)  # a traceback would add nothing
                return ("the target's files could not be checked at submit; they are where they are read",)
            resolved.require_unchanged()
            with self._lock:
                while len(self._found) >= _MAX_REMEMBERED:
                    self._found.pop(next(iter(self._found)))
                self._found[key] = found
        if isinstance(found, InputError):
            raise type(found)(found.message, param=found.param)
        return found

    def close(self) -> None:
        """End the child process."""
        self._child.close()

    def _ask(self, resolved: ResolvedTarget, converses: bool, engine: EngineKind) -> Finding:
        adapter_dir = None if resolved.adapter_dir is None else str(resolved.adapter_dir)
        order = {"model_dir": str(resolved.model_dir), "adapter_dir": adapter_dir}
        answer = self._child.ask({**order, "model": resolved.model, "converses": converses, "engine": engine.value})
        if answer is None:
            logger.warning("%s takes too much to be checked at submit; it is checked where it is read", resolved.model)
            return (f"{resolved.model} could not be checked in the time and memory for it; the job checks it again",)
        if "error" in answer:
            told = answer["error"]
            return _KINDS.get(told["kind"], TargetIncompatibleError)(told["message"], param=told["param"])
        return tuple(answer["notes"])


def _identity(directory: Path | None) -> Hashable:
    """Return the identity of a directory's files and their state."""
    if directory is None:
        return None
    files = [(path.name, path.stat()) for path in sorted(directory.iterdir()) if path.is_file()]
    return str(directory), tuple((name, FileIdentity.of(status)) for name, status in files)


CHECKER = TargetChecker()
"""The checker of this process."""
