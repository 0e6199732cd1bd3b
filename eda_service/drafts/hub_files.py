"""The files of a draft on the model hub and their sizes, before anything is fetched: one request lists them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote

import httpx

from eda_service.errors import InsufficientStorageError
from eda_service.targets.files.resolve import HUB_TIMEOUT_S

logger = logging.getLogger(__name__)

SAFE = ("*.json", "*.safetensors")
PICKLED = ("*.json", "pytorch_model*.bin")
_WEIGHTS = (".safetensors", ".bin")
_STAGED = 2
"""Number of copies of the weights that staging makes: the staged draft and, for a while, the converted files."""


@dataclass(frozen=True)
class HubFiles:
    """A draft on the hub.

    Attributes:
        name: Id on the hub.
        commit: Commit that was listed.
        sizes: Size of every file in bytes, by name.
    """

    name: str
    commit: str
    sizes: Mapping[str, int]

    @property
    def patterns(self) -> list[str]:
        """Patterns of the files to fetch: pickled weights only if there are no others."""
        is_safe = any("/" not in file and file.endswith(".safetensors") for file in self.sizes)
        return list(SAFE if is_safe else PICKLED)

    @property
    def needed_sizes(self) -> dict[str, int]:
        """Sizes in bytes of the files to fetch, by name."""
        return {file: size for file, size in self.sizes.items() if any(fnmatch(file, each) for each in self.patterns)}

    @property
    def weights(self) -> dict[str, int]:
        """Sizes in bytes of the files to fetch that hold weights, by name."""
        return {file: size for file, size in self.needed_sizes.items() if file.endswith(_WEIGHTS)}

    def missing_bytes(self) -> int:
        """Bytes that are not in the hub's cache on this machine."""
        from huggingface_hub import try_to_load_from_cache

        found = {file: try_to_load_from_cache(self.name, file, revision=self.commit) for file in self.needed_sizes}
        return sum(size for file, size in self.needed_sizes.items() if not isinstance(found[file], str))


def list_files(name: str, revision: str | None) -> HubFiles | None:
    """List the files of an id. None if the hub does not list them: its cache on this machine may have them, and the
    fetch reports the error otherwise.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return None
    token = get_token()
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    address = f"{str(constants.ENDPOINT).rstrip('/')}/api/models/{name}"
    if revision is not None:
        address += f"/revision/{quote(revision, safe='')}"
    try:
        with httpx.Client(headers=headers, timeout=HUB_TIMEOUT_S, follow_redirects=True) as http:
            answer = http.get(address, params={"blobs": "true"})
            answer.raise_for_status()
            model_info = answer.json()
            sizes = {str(each["rfilename"]): int(each.get("size") or 0) for each in model_info["siblings"]}
            return HubFiles(name, str(model_info["sha"]), sizes)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.info("the model hub does not list the files of %s (%s)", name, type(error).__name__)
        return None


def require_room(files: HubFiles, work_dir: Path | None) -> None:
    """Check, before anything is fetched, that the files fit on the disk and are below the size limit.

    Args:
        files: Files of the draft.
        work_dir: Directory in which the draft will be staged; None: it will not be staged.

    Raises:
        DraftIncompatibleError: Pickled weights are larger than the limit.
        InsufficientStorageError: The disk of the hub's cache or of the staging directory has too little free space.
    """
    from huggingface_hub import constants

    from eda_service.drafts.dialects.conversion import ImportLimits, require_pickle_size

    weights = files.weights
    if tuple(files.patterns) == PICKLED:
        require_pickle_size(weights, ImportLimits())
    needs = [(Path(constants.HF_HUB_CACHE), files.missing_bytes())]
    if work_dir is not None:
        needs.append((work_dir, _STAGED * sum(weights.values())))
    together: dict[int, tuple[Path, int]] = {}
    for path, need_bytes in needs:
        there = _existing(path)
        device = there.stat().st_dev
        _, other = together.get(device, (there, 0))
        together[device] = (there, other + need_bytes)
    for path, need_bytes in together.values():
        free_bytes = shutil.disk_usage(path).free
        if free_bytes < need_bytes:
            raise InsufficientStorageError(
                f"{files.name} has {sum(weights.values()) / 1e9:.2f} GB of weights; fetching and staging them needs "
                f"{need_bytes / 1e9:.2f} GB on the disk of {path} and {free_bytes / 1e9:.2f} GB is free; free space, "
                "or point EDA_HOME or HF_HOME elsewhere",
                param="source",
            )


def _existing(path: Path) -> Path:
    """Return the path, or the nearest parent directory that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())
