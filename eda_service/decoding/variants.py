"""The variants an engine serves over its one target: each an adapter (or none) and a draft (or none) under a name.

A variant that is replaced or removed takes no new request; those it has end on it, then its adapter and draft are
freed.
"""

from __future__ import annotations

from dataclasses import dataclass

from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.errors import NotFoundError, TargetIncompatibleError
from eda_service.targets.adapters.adapter import Adapter
from eda_service.targets.loader import Target

BASE = ""


@dataclass
class Variant:
    """One version of a variant.

    Attributes:
        name: What requests ask for.
        adapter: Its key in the target's bank; None for the target as it is.
        decoding_draft: Its draft; None decodes autoregressively.
        num_requests: Requests that wait or run on it.
        retired: Takes no new request.
    """

    name: str
    adapter: str | None
    decoding_draft: DecodingDraft | None
    num_requests: int = 0
    retired: bool = False


@dataclass(frozen=True)
class VariantLoad:
    """What a variant takes now.

    Attributes:
        adapter_bytes: Of its adapter in the target's bank; equal adapters are held once and counted for each.
        num_requests: That wait or run on its newest version.
    """

    adapter_bytes: int
    num_requests: int


class Variants:
    """Variants by name; `BASE` is the engine's own: the target as it is with the draft the engine was made with.

    Args:
        target: What they share.
        decoding_draft: The draft of `BASE`.
    """

    def __init__(self, target: Target, decoding_draft: DecodingDraft | None) -> None:
        self._target = target
        self._by_name = {BASE: Variant(BASE, None, decoding_draft)}

    def __getitem__(self, name: str) -> Variant:
        """The newest version of a variant.

        Raises:
            NotFoundError: No such variant.
        """
        variant = self._by_name.get(name)
        if variant is None:
            raise NotFoundError(
                f"no variant {name[:96]!r} is loaded here; there is {', '.join(self.names) or 'none'}", param="model"
            )
        return variant

    @property
    def names(self) -> list[str]:
        """All but `BASE`."""
        return sorted(name for name in self._by_name if name != BASE)

    def add(self, name: str, adapter: Adapter | None, decoding_draft: DecodingDraft | None) -> Variant:
        """Put a variant under a name; the version it replaces is retired.

        Raises:
            TargetIncompatibleError: The target takes no adapters, or the adapter does not fit it.
            ResourceError: Too many ranks of adapters.
        """
        bank = self._target.adapters
        if adapter is not None and bank is None:
            raise TargetIncompatibleError(
                f"{self._target.config.model_type} decoders take no adapters beside each other; serve the merged model",
                param="target.adapter",
            )
        key = None if adapter is None or bank is None else bank.acquire(adapter)
        variant = Variant(name, key, decoding_draft)
        old, self._by_name[name] = self._by_name.get(name), variant
        if old is not None:
            self._retire(old)
        return variant

    def remove(self, name: str) -> None:
        """Retire a variant.

        Raises:
            NotFoundError: No such variant.
        """
        self._retire(self[name])
        del self._by_name[name]

    def end(self, variant: Variant) -> bool:
        """One of its requests has ended; whether that freed it."""
        variant.num_requests -= 1
        return self._free(variant)

    def loads(self) -> dict[str, VariantLoad]:
        """What each variant but `BASE` takes."""
        return {name: self._load(self._by_name[name]) for name in self.names}

    def _load(self, variant: Variant) -> VariantLoad:
        bank = self._target.adapters
        size = 0 if bank is None or variant.adapter is None else bank.size_bytes(variant.adapter)
        return VariantLoad(size, variant.num_requests)

    def _retire(self, variant: Variant) -> None:
        variant.retired = True
        self._free(variant)

    def _free(self, variant: Variant) -> bool:
        if not variant.retired or variant.num_requests:
            return False
        if variant.adapter is not None and self._target.adapters is not None:
            self._target.adapters.release(variant.adapter)
            variant.adapter = None
        variant.decoding_draft = None
        return True
