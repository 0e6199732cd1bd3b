"""Comparison of packs: which of two is better, and which of many is the champion.

Numbers of two drafts are compared only if they come from one measurement: the job of one of the packs measured the
other beside it, both were measured on the fixed evaluation of their name and target, or both jobs measured the same
prompts with the same settings. A job always measures the base draft alone beside its own pack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from eda_service.config.deploy import DeployConfig
from eda_service.storage.published.packs import PackVersion

BASE_ALONE = "its base draft alone"


@dataclass(frozen=True)
class Comparison:
    """Two drafts in one measurement.

    Attributes:
        new: name@version of the pack to be served.
        old: name@version of the other pack, or its base draft alone.
        length: Acceptance length of the new pack.
        old_length: Acceptance length of the other.
        speedup: Speedup of the new pack over decoding without a draft; None if it was not measured.
        old_speedup: Speedup of the other over decoding without a draft; None if it was not measured.
        by: Description of the measurement.
    """

    new: str
    old: str
    length: float
    old_length: float
    speedup: float | None = None
    old_speedup: float | None = None
    by: str = field(default="", compare=False)

    @property
    def gain(self) -> float:
        """Acceptance length of the new pack divided by that of the other."""
        return self.length / self.old_length

    @property
    def speed_gain(self) -> float | None:
        """Speed of the new pack divided by that of the other; None if one was not measured."""
        if self.speedup is None or not self.old_speedup:
            return None
        return self.speedup / self.old_speedup

    def in_words(self) -> str:
        """Describe the numbers of both packs in words."""
        told = f"acceptance_length {self.length:.3f} against {self.old_length:.3f} of {self.old}"
        if self.speed_gain is None:
            return f"{told}, speed was not measured"
        return f"{told}, speed {self.speedup:.2f}x against {self.old_speedup:.2f}x"


def beside_base(new: PackVersion) -> Comparison | None:
    """Compare a pack with its base draft alone; None for a pack without measured numbers."""
    mine = new.evaluation
    if mine is None:
        return None
    lengths = mine.acceptance_length, mine.base_acceptance_length
    return Comparison(new.reference, BASE_ALONE, *lengths, mine.speedup, mine.base_speedup)


def beside(new: PackVersion, old: str) -> Comparison | None:
    """Compare a pack with another that its own job measured; None if that job did not."""
    mine = new.evaluation
    for rival in () if mine is None else mine.rivals:
        if rival.pack == old and mine is not None:
            lengths = mine.acceptance_length, rival.acceptance_length
            by = f"the job of {new.reference} measured both, on {mine.measured_on}"
            return Comparison(new.reference, old, *lengths, mine.speedup, rival.speedup, by)
    return None


def common(new: PackVersion, old: PackVersion, versions: Iterable[PackVersion] = ()) -> Comparison | None:
    """Compare two packs by any measurement that contains both; None without one.

    Args:
        new: The pack to be served.
        old: The pack that it would replace.
        versions: Other packs whose jobs may have measured one of the two on the fixed evaluation.
    """
    direct = beside(new, old.reference)
    if direct is not None:
        return direct
    turned = beside(old, new.reference)
    if turned is not None:
        return Comparison(
            new.reference,
            old.reference,
            turned.old_length,
            turned.length,
            turned.old_speedup,
            turned.speedup,
            turned.by,
        )
    for lengths in _fixed_lengths([new, old, *versions]).values():
        if new.reference in lengths and old.reference in lengths:
            by = f"both were measured on the fixed evaluation of {new.name}"
            return Comparison(new.reference, old.reference, lengths[new.reference], lengths[old.reference], by=by)
    mine, before = new.evaluation, old.evaluation
    if mine is not None and before is not None and mine.compared_by == before.compared_by:
        by = f"the jobs of both measured the same, on {mine.measured_on}"
        return Comparison(new.reference, old.reference, mine.acceptance_length, before.acceptance_length, by=by)
    return None


def why_apart(new: PackVersion, old: PackVersion) -> str:
    """Return why the numbers of two packs without a common measurement cannot be compared."""
    for each in (new, old):
        if each.evaluation is None:
            return f"{each.reference} does not say what it measured"
    for each in (new, old):
        if each.is_pulled:
            return f"{each.reference} was pulled, so that its numbers were measured elsewhere and nobody here knows how"
    if _weights(new) != _weights(old):
        return f"{new.reference} and {old.reference} were made for different targets"
    for one, other in ((new, old), (old, new)):
        assert one.evaluation is not None
        reason = one.evaluation.unmeasured_rivals.get(other.reference)
        if reason is not None:
            return f"the job of {one.reference} could not measure {other.reference} beside its own: {reason}"
    return (
        f"they were measured apart, with other prompts or settings: {new.reference} on {_measured_on(new)}, "
        f"{old.reference} on {_measured_on(old)}"
    )


def regression(found: Comparison) -> str | None:
    """Return why the new pack is worse, with both numbers; None if it is as good or better."""
    if found.length >= found.old_length:
        return None
    return (
        f"pack {found.new} has acceptance_length {found.length:.3f}, below the {found.old_length:.3f} of {found.old} "
        "on the same evaluation"
    )


def shortfall(found: Comparison, gate: DeployConfig) -> str | None:
    """Return why a gain is too small to deploy, with the numbers; None if it is enough.

    Over the base draft alone, a pack also has to be faster than decoding without any draft.
    """
    if found.gain < gate.min_gain:
        return f"{found.in_words()}: a gain of {found.gain:.3f}, deploy.min_gain is {gate.min_gain:g}"
    least = gate.min_speed_gain
    if not least or found.speed_gain is None or found.speedup is None:
        return None
    if found.speed_gain <= least:
        return (
            f"{found.in_words()}: a gain in speed of {found.speed_gain:.3f}, which has to be above "
            f"deploy.min_speed_gain, {least:g}"
        )
    if found.old == BASE_ALONE and found.speedup <= least:
        return (
            f"{found.in_words()}: without a draft it is as fast, and {found.speedup:.2f}x has to be above "
            f"deploy.min_speed_gain, {least:g}"
        )
    return None


def champion(versions: Sequence[PackVersion]) -> PackVersion | None:
    """Choose the best version on the fixed evaluation of the newest one's target, the older of equals; None if none was
    measured.

    A version from before there were fixed evaluations stays the champion until a later job has measured it there, or
    could not load it any more. A version that was pulled from elsewhere is never the champion by its numbers, because
    another service reported them.
    """
    known_here = [each for each in versions if not each.is_pulled]
    measured = [each for each in known_here if each.manifest is not None and each.evaluation is not None]
    if not measured:
        return None
    weights = _weights(max(measured, key=lambda each: each.version))
    alike = [each for each in measured if _weights(each) == weights]
    earlier = _best_of_before([each for each in measured if _has_no_fixed(each)])
    rated = [each for each in alike if not _has_no_fixed(each)]
    if not rated:
        return earlier
    newest = max(rated, key=lambda each: each.version)
    lengths = _fixed_lengths(alike)[_fixed_of(newest)]
    known = {each.reference: each for each in alike}
    best = max((ref for ref in lengths if ref in known), key=lambda ref: (lengths[ref], -known[ref].version))
    if earlier is None or earlier not in alike or earlier.reference in lengths or _is_gone(earlier, rated):
        return known[best]
    return earlier


def _best_of_before(versions: Sequence[PackVersion]) -> PackVersion | None:
    """Choose the best of the versions that were measured in the same way as the newest of them."""
    measured = [(each, each.evaluation) for each in versions if each.evaluation is not None]
    if not measured:
        return None
    newest = max(measured, key=lambda pair: pair[0].version)[1]
    equal = [pair for pair in measured if pair[1].compared_by == newest.compared_by]
    return max(equal, key=lambda pair: (pair[1].acceptance_length, -pair[0].version))[0]


def _fixed_lengths(versions: Iterable[PackVersion]) -> dict[str, dict[str, float]]:
    """Return the acceptance length of every pack by fixed evaluation; of several measurements of one
    pack, the first.
    """
    found: dict[str, dict[str, float]] = {}
    for each in versions:
        fixed = None if each.evaluation is None else each.evaluation.fixed
        if fixed is not None:
            found[fixed.evaluation] = {**fixed.lengths, **found.get(fixed.evaluation, {})}
    return found


def _measured_on(version: PackVersion) -> str:
    assert version.evaluation is not None
    return f"{version.evaluation.measured_on} at T={version.evaluation.temperature:g}"


def _weights(version: PackVersion) -> str | None:
    return None if version.manifest is None else version.manifest.target.weights_sha256


def _has_no_fixed(version: PackVersion) -> bool:
    return version.evaluation is None or version.evaluation.fixed is None


def _fixed_of(version: PackVersion) -> str:
    assert version.evaluation is not None
    assert version.evaluation.fixed is not None
    return version.evaluation.fixed.evaluation


def _is_gone(version: PackVersion, rated: Iterable[PackVersion]) -> bool:
    return any(each.evaluation is not None and version.reference in each.evaluation.unmeasured_rivals for each in rated)
