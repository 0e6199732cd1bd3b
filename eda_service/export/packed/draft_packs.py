"""The packs of one draft inside an engine: the pack of each adapter, and adding and removing packs.

A pack that is added is the plugin export of that one pack (`eda export PACK --to vllm --form plugin`): it must share
with this draft everything that its packs share. It is copied into memory that is already allocated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.names import canonical_name
from eda_service.errors import ArtifactCorruptError, InputError, NotFoundError
from eda_service.export.files.directory import WEIGHTS, read_eda_config
from eda_service.export.files.eda_config import EdaConfig, ExportedPack, PackPlaces
from eda_service.export.packed.ffn import PackedFFN, PackedFuse
from eda_service.export.packed.pack_parts import (
    VOCABULARIES,
    beside_packs,
    from_export,
    is_of_packs,
    own_parts,
    shared_sha256,
)
from eda_service.export.packed.rows import PackedRows
from eda_service.export.packed.vocabulary import PackedVocabulary
from eda_service.measured_rows import Frozen
from eda_service.storage.files import sha256_file


class PlacedPack(Frozen):
    """A pack and the adapter that it drafts for."""

    adapter: str
    source: str
    place: int


class DraftPacks:
    """Holds the places for packs in a draft's modules; see the module's docstring.

    Args:
        eda: The `eda_config` of the export with several packs.
        rows: Buffers with the place of each row.
        ffn: Module in the place of the draft's MLP.
        fuse: Module in the place of its fc; None: all packs share the fc.
        vocabulary: Draft vocabularies of the packs; None: all packs share one.
    """

    def __init__(
        self,
        eda: EdaConfig,
        rows: PackedRows,
        ffn: PackedFFN,
        fuse: PackedFuse | None,
        vocabulary: PackedVocabulary | None,
    ) -> None:
        assert eda.places is not None
        self.eda, self.places = eda, eda.places
        self.rows, self.ffn, self.fuse, self.vocabulary = rows, ffn, fuse, vocabulary
        self._of_adapter: dict[str, tuple[int, ExportedPack]] = {}

    def load(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fill the places from an export's tensors; return the tensors that the engine itself loads."""
        rest = {beside_packs(name): tensor for name, tensor in tensors.items() if not is_of_packs(name)}
        if self.fuse is not None:
            self.fuse.put(0, rest.pop(names.FC))
        for number, pack in enumerate(self.eda.packs or ()):
            self._put(number + 1, pack, from_export(number, tensors))
        if self.vocabulary is not None:
            vocabularies = tensors[VOCABULARIES]
            self.vocabulary.load(rest.pop(names.D2T, None), vocabularies)
            for place in range(len(vocabularies), self.places.count + 1):
                self.vocabulary.clear(place)
        return rest

    def set_requests(self, adapters: Sequence[str | None]) -> None:
        """Set the adapter of each request of the batch, in the batch's order."""
        none = (0, None)
        self.rows.set_requests([self._of_adapter.get(name, none)[0] if name else 0 for name in adapters])

    def placed(self) -> list[PlacedPack]:
        """List the packs, by place."""
        made = [PlacedPack(adapter=name, source=pack.source, place=i) for name, (i, pack) in self._of_adapter.items()]
        return sorted(made, key=lambda each: each.place)

    def put(self, adapter: str, directory: Path) -> PlacedPack:
        """Give an adapter a pack, or replace its pack.

        Args:
            adapter: Name of the adapter in vLLM.
            directory: Directory of the pack's plugin export.

        Raises:
            ArtifactCorruptError: The export cannot be read.
            InputError: The pack does not fit; then nothing has changed.
        """
        eda, tensors = _read(directory)
        self._check(eda, tensors, directory)
        held = self._of_adapter.get(adapter)
        place = self._free_place(adapter) if held is None else held[0]
        assert eda.private is not None
        pack = ExportedPack(
            adapter=adapter,
            source=eda.source,
            source_sha256=eda.source_sha256,
            private=eda.private,
            scale=eda.scale,
            verifier=eda.verifier,
        )
        if self.vocabulary is not None:
            offsets_W = tensors.get(names.D2T)
            token_W = None if offsets_W is None else torch.arange(len(offsets_W)) + offsets_W
            self.vocabulary.put(place, token_W, tensors.get(names.HEAD))
        self._put(place, pack, own_parts(tensors, with_fuse=self.fuse is not None))
        return PlacedPack(adapter=adapter, source=pack.source, place=place)

    def remove(self, adapter: str) -> None:
        """Remove an adapter's pack, so that its requests use the base draft again.

        Raises:
            NotFoundError: The adapter has no pack.
        """
        if adapter not in self._of_adapter:
            raise NotFoundError(
                f"no pack drafts for the adapter {adapter!r}; those with one: {self._known()}", param="adapter"
            )
        place, _ = self._of_adapter.pop(adapter)
        self.ffn.put(place, None, {})
        if self.fuse is not None:
            self.fuse.clear(place)
        if self.vocabulary is not None:
            self.vocabulary.clear(place)

    def _put(self, place: int, pack: ExportedPack, parts: Mapping[str, Tensor]) -> None:
        self.ffn.put(place, pack, parts)
        if self.fuse is not None:
            self.fuse.put(place, parts[names.FC])
        self._of_adapter[pack.adapter] = (place, pack)

    def _known(self) -> str:
        return ", ".join(sorted(self._of_adapter)) or "none"

    def _free_place(self, adapter: str) -> int:
        taken = {place for place, _ in self._of_adapter.values()}
        for place in range(1, self.places.count + 1):
            if place not in taken:
                return place
        raise InputError(
            f"{adapter!r} would be one pack too many: the draft was exported with {self.places.count} places, and "
            f"{self._known()} have them; remove one, or export again with more --places",
            param="adapter",
        )

    def _check(self, eda: EdaConfig, tensors: Mapping[str, Tensor], directory: Path) -> None:
        if eda.private is None or eda.packs is not None:
            raise InputError(
                f"{directory} holds no single pack with a private expert but {eda.source}; export the pack with "
                "`eda export PACK --to vllm --form plugin`",
                param="directory",
            )
        if eda.private.private_width > self.places.width:
            raise InputError(
                f"{eda.source} has a private expert of width {eda.private.private_width}, the places here are "
                f"{self.places.width} wide; export the packs again together",
                param="directory",
            )
        if shared_of(tensors, self.places) != self.places.shared_sha256:
            raise InputError(
                f"{eda.source} over {eda.base_draft} is not over the very draft that runs here ({self.eda.source}), or "
                "it has trained a part of it for which there is no place; export the packs again together",
                param="directory",
            )


def shared_of(tensors: Mapping[str, Tensor], places: PackPlaces) -> str:
    """Compute `shared_sha256` for the parts of which the places hold one per pack."""
    return shared_sha256(tensors, has_fuse=places.has_fuse, has_vocabulary=places.has_vocabulary)


def _read(directory: Path) -> tuple[EdaConfig, dict[str, Tensor]]:
    eda, path = read_eda_config(directory), directory / WEIGHTS
    try:
        if sha256_file(path) != eda.weights_sha256:
            raise ArtifactCorruptError(f"{path} is not the file that its config speaks of; export again")
        return eda, {canonical_name(name): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}; export again") from error
