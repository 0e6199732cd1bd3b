"""The variants an engine serves over its one target: each an adapter (or none) and a draft (or none) under a name.

A variant that is replaced or removed takes no new request; its requests end on it, then its adapter and draft are
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
        name: The name that requests give.
        adapter: Key of its adapter among the target's loaded adapters; None for the target itself.
        decoding_draft: The draft of the variant; None decodes autoregressively.
        num_requests: Number of requests that wait or run on this version.
        retired: Whether it takes no new request.
    """

    name: str
    adapter: str | None
    decoding_draft: DecodingDraft | None
    num_requests: int = 0
    retired: bool = False


@dataclass(frozen=True)
class VariantLoad:
    """Memory and requests of a variant now.

    Attributes:
        adapter_bytes: Bytes of its adapter on the target's device; equal adapters are held once and counted for each
            variant.
        num_requests: Number of requests that wait or run on the variant's newest version.
    """

    adapter_bytes: int
    num_requests: int


class Variants:
    """Variants by name; `BASE` is the engine's own: the target without adapter and the draft the engine was made with.

    Args:
        target: The target that all variants share.
        decoding_draft: The draft of `BASE`.
    """

    def __init__(self, target: Target, decoding_draft: DecodingDraft | None) -> None:
        self._target = target
        self._by_name = {BASE: Variant(BASE, None, decoding_draft)}

    def __getitem__(self, name: str) -> Variant:
        """Return the newest version of a variant.

        Raises:
            NotFoundError: The engine has no such variant.
        """
        variant = self._by_name.get(name)
        if variant is None:
            raise NotFoundError(
                f"no variant {name[:96]!r} is loaded here; there is {', '.join(self.names) or 'none'}", param="model"
            )
        return variant

    @property
    def names(self) -> list[str]:
        """Names of all variants but `BASE`."""
        return sorted(name for name in self._by_name if name != BASE)

    def add(self, name: str, adapter: Adapter | None, decoding_draft: DecodingDraft | None) -> Variant:
        """Add a variant under a name; the version it replaces is retired.

        Raises:
            TargetIncompatibleError: The target takes no adapters, or the adapter does not fit it.
            ResourceError: The sum of the adapters' ranks is above the limit.
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
            NotFoundError: The engine has no such variant.
        """
        self._retire(self[name])
        del self._by_name[name]

    def end(self, variant: Variant) -> bool:
        """Count one request of a variant as ended; return whether that freed the variant."""
        variant.num_requests -= 1
        return self._free(variant)

    def loads(self) -> dict[str, VariantLoad]:
        """Return memory and requests of each variant but `BASE`."""
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
