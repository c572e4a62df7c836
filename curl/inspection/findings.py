"""The numbers of an inspection -> what is wrong, what may be, and what is not.

All thresholds are here, and docs/inspect.md says where each comes from. Those without a source are
ours, chosen with the runs that are shown there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from curl.inspection.analysis import SATURATED, Inspection
from curl.inspection.measures import DORMANT

# -- thresholds: each finding names its own --------------------------------------------------------

BETTER_THAN_RANDOM = 2.0
"""Standard deviations (of random actions' returns) that a policy must be above their mean."""
WEAK = 0.3
"""Share of the largest return below which a policy is weak, where that return is known."""
SOLVED, NEAR_CHANCE = 0.9, 3.0
"""Retrieval accuracy from which a task is solved; multiple of 1/B up to which it is chance."""
COLLAPSED = 0.99
"""Mean cosine of the latents of different observations from which they are one point."""
LOW_RANK = 0.5
"""Share of the untrained encoder's effective rank below which rank has been lost."""
DECODED, LOST = 0.8, 0.5
"""R^2 from which a quantity is decoded, and below which it is not."""
UNFAITHFUL = 0.3
"""Rank correlation of gradient x input with occlusion below which maps are not to be trusted."""
OVERESTIMATED, UNDERESTIMATED = 0.5, -0.5
"""Relative bias of Q."""
UNORDERED = 0.2
"""Rank correlation of Q with returns below which Q does not know which states are better."""
SATURATED_SHARE = 0.95
"""Share of saturated actions from which a policy is at its bounds."""
CONSTANT = 0.02
"""Standard deviation of actions within an episode below which the policy ignores what it sees; the
actions' range is 2."""
MANY_DORMANT, ALL_DORMANT = 0.5, 0.95
"""Share of dormant units of a layer above which it uses few of its units, and hardly any."""
LARGE_STEP = 0.1
"""Change by one update, relative to the weights."""
GROWN = 5.0
"""Norm of the weights of a module, relative to those of an untrained one."""
FEW_UPDATES = 10_000
"""Updates below which a weak policy may just be young: the paper's 100k env steps are 12 500 at an
action repeat of 8."""

PROBLEM, CAUTION, FINE = "Problem", "Caution", "Fine"
"""Kinds of findings."""


@dataclass(frozen=True)
class Finding:
    """One sentence with its number.

    Attributes:
        kind: PROBLEM, CAUTION or FINE.
        text: what is so, with the number.
        threshold: what the number was compared with.
    """

    kind: str
    text: str
    threshold: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} (threshold: {self.threshold})."


def find(seen: Inspection) -> list[Finding]:
    """All findings, the worst first; the verdict, which draws on several of them, is apart."""
    found = [
        *_score(seen),
        *_contrast(seen),
        *_collapse(seen),
        *_rank(seen),
        *_decoding(seen),
        *_values(seen),
        *_actions(seen),
        *_units(seen),
        *_steps(seen),
        *_saliency(seen),
    ]
    order = [PROBLEM, CAUTION, FINE]
    return sorted(found, key=lambda finding: order.index(finding.kind))


def verdict(seen: Inspection) -> str:
    """One sentence on the whole."""
    broken = [
        name
        for name, is_so in (
            ("one update changes the weights too much", large_step(seen)),
            ("the weights have grown too much", bool(grown(seen))),
            ("a layer is dead", bool(dormant(seen, ALL_DORMANT))),
            ("the encoder has collapsed", collapsed(seen)),
            ("the policy ignores what it sees", constant(seen)),
        )
        if is_so
    ]
    if broken:
        return f"Broken: {'; '.join(broken)}."
    strength = strong(seen)
    if strength is False and seen.updates < FEW_UPDATES:
        rising = " Its evaluations were still rising." if still_rising(seen) else ""
        return (
            f"Too early to tell: the policy is weak after {seen.updates:,} updates, and nothing "
            f"looks broken.{rising}"
        )
    if strength is False:
        return f"Weak after {seen.updates:,} updates, and nothing looks broken."
    if strength:
        return "Healthy: the policy is good, and nothing looks broken."
    return "Nothing looks broken. Nobody knows the largest return, so that good is not defined."


# -- what the verdict asks -------------------------------------------------------------------------


def better_than_random(seen: Inspection) -> bool:
    return float(np.mean(seen.returns["mean"])) > bar(seen)


def bar(seen: Inspection) -> float:
    """The return that a policy must exceed to be better than random actions."""
    random = seen.returns["random"]
    spread = float(np.std(random, ddof=1)) if len(random) > 1 else 0.0
    return float(np.mean(random)) + BETTER_THAN_RANDOM * spread


def strong(seen: Inspection) -> bool | None:
    """Whether the policy is good; None where nobody knows how good one can be."""
    if not better_than_random(seen):
        return False
    if seen.maximum is None:
        return None
    return float(np.mean(seen.returns["mean"])) >= WEAK * seen.maximum


def still_rising(seen: Inspection) -> bool:
    """Whether the last of three evaluations or more is the best."""
    returns = seen.evaluations
    return len(returns) > 2 and returns[-1] > max(returns[:-1])


def large_step(seen: Inspection) -> bool:
    return any(each.step > LARGE_STEP for each in seen.norms)


def grown(seen: Inspection) -> dict[str, float]:
    """The modules whose weights have grown too much -> how many times."""
    ratios = {each.name: each.weights / max(each.untrained, 1e-12) for each in seen.norms}
    return {name: ratio for name, ratio in ratios.items() if ratio > GROWN}


def dormant(seen: Inspection, share: float) -> list[str]:
    """The layers of which more than this share is dormant, with their shares."""
    found = [layer for layer in seen.layers if layer.dormant > share]
    return [f"{layer.name} {layer.dormant:.0%}" for layer in found]


def collapsed(seen: Inspection) -> bool:
    return seen.retrieval is not None and seen.retrieval.cosine >= COLLAPSED


def constant(seen: Inspection) -> bool:
    return seen.actions.spread < CONSTANT


def decoded(seen: Inspection) -> dict[str, float]:
    """What is decoded from the latent (from the trunk, without one) -> R^2, where it varies."""
    best = seen.decoding.latent
    if np.isnan(best).all():
        best = seen.decoding.trunk
    pairs = zip(seen.decoding.names, best, strict=True)
    return {name: float(r2) for name, r2 in pairs if not math.isnan(r2)}


# -- the findings ----------------------------------------------------------------------------------


def _score(seen: Inspection) -> list[Finding]:
    mean, random = (float(np.mean(seen.returns[kind])) for kind in ("mean", "random"))
    found = []
    if better_than_random(seen):
        line = f"the policy earns {mean:.1f} per episode, random actions {random:.1f}"
        found.append(Finding(FINE, line, f"above {bar(seen):.1f}, random + 2 std"))
    else:
        line = f"the policy is no better than random: {mean:.1f} per episode, random {random:.1f}"
        found.append(Finding(PROBLEM, line, f"above {bar(seen):.1f}, random + 2 std"))
    if seen.maximum is not None and better_than_random(seen) and not strong(seen):
        line = f"the policy is weak: {mean:.1f} per episode, and {seen.maximum:.0f} is the most"
        found.append(Finding(CAUTION, line, f"{WEAK:g} of it"))
    if not strong(seen) and still_rising(seen):
        before, last = max(seen.evaluations[:-1]), seen.evaluations[-1]
        line = f"evaluations were still rising, from {before:.1f} to {last:.1f} at the last one"
        found.append(Finding(CAUTION, line, "the last is the best"))
    if strong(seen) is False and seen.updates < FEW_UPDATES:
        line = f"the agent made {seen.updates:,} updates, which is few"
        found.append(Finding(CAUTION, line, f"{FEW_UPDATES:,}"))
    return found


def _contrast(seen: Inspection) -> list[Finding]:
    found = seen.retrieval
    if found is None or not found.own:
        return []
    chance, accuracy = 1 / len(found), found.accuracy
    if accuracy <= NEAR_CHANCE * chance:
        line = f"the contrastive task is not learnt: accuracy {accuracy:.3f}, chance {chance:.3f}"
        return [Finding(PROBLEM, line, f"{NEAR_CHANCE:g} x chance")]
    if accuracy < SOLVED:
        line = (
            f"the contrastive task is learnt in part: accuracy {accuracy:.2f} of {len(found)} keys"
        )
        return [Finding(CAUTION, line, f"{SOLVED:g}")]
    lost = [f"{name} (R² {r2:.2f})" for name, r2 in decoded(seen).items() if r2 < LOST]
    if lost:
        line = (
            f"the contrastive task is solved, accuracy {accuracy:.2f}, and {', '.join(lost)} "
            "cannot be decoded: the views may be too easy to tell apart"
        )
        return [Finding(CAUTION, line, f"accuracy {SOLVED:g}, R² {LOST:g}")]
    line = f"the contrastive task is solved: accuracy {accuracy:.2f} of {len(found)} keys"
    return [Finding(FINE, line, f"{SOLVED:g}")]


def _collapse(seen: Inspection) -> list[Finding]:
    if seen.retrieval is None:
        return []
    cosine = seen.retrieval.cosine
    if collapsed(seen):
        line = (
            f"the encoder has collapsed: latents of different observations have cosine {cosine:.4f}"
        )
        return [Finding(PROBLEM, line, f"{COLLAPSED:g}")]
    line = f"latents of different observations differ: their mean cosine is {cosine:.2f}"
    return [Finding(FINE, line, f"{COLLAPSED:g}")]


def _rank(seen: Inspection) -> list[Finding]:
    if seen.latent_rank is None or seen.untrained_latent_rank is None:
        return []
    rank, before, most = seen.latent_rank, seen.untrained_latent_rank, seen.latent_dim
    limit = f"{LOW_RANK:g} of the untrained encoder's {before}"
    if rank < LOW_RANK * before:
        line = f"the latent uses few of its directions: effective rank {rank} of {most}"
        return [Finding(CAUTION, line, limit)]
    return [Finding(FINE, f"the latent has effective rank {rank} of {most}", limit)]


def _decoding(seen: Inspection) -> list[Finding]:
    r2 = decoded(seen)
    if not r2:
        return []
    known = [f"{name} {value:.2f}" for name, value in r2.items() if value >= DECODED]
    before = dict(zip(seen.decoding.names, seen.decoding.untrained, strict=True))
    lost = [
        f"{name} {value:.2f} (untrained {before[name]:.2f})"
        for name, value in r2.items()
        if value < LOST
    ]
    found = []
    if lost:
        line = f"the latent does not say: {', '.join(lost)}, held-out R²"
        found.append(Finding(CAUTION, line, f"R² {LOST:g}"))
    if known:
        line = f"the latent says: {', '.join(known)} (held-out R²)"
        found.append(Finding(FINE, line, f"R² {DECODED:g}"))
    return found


def _values(seen: Inspection) -> list[Finding]:
    if seen.values is None:
        return []
    q, found = seen.values.calibration, []
    numbers = f"it promises {q.predicted:.1f} and {q.earned:.1f} is earned"
    if q.bias > OVERESTIMATED:
        line = f"Q over-estimates: {numbers}, {q.bias:+.0%}"
        found.append(Finding(PROBLEM, line, f"{OVERESTIMATED:+.0%}"))
    elif q.bias < UNDERESTIMATED:
        line = f"Q under-estimates: {numbers}, {q.bias:+.0%}"
        found.append(Finding(CAUTION, line, f"{UNDERESTIMATED:+.0%}"))
    else:
        limits = f"{UNDERESTIMATED:+.0%} to {OVERESTIMATED:+.0%}"
        found.append(Finding(FINE, f"Q is near the returns: {numbers}, {q.bias:+.0%}", limits))
    if math.isnan(q.correlation):
        line = "Q or what is earned is the same in all states: they have no rank correlation"
        found.append(Finding(PROBLEM, line, f"{UNORDERED:g}"))
    elif q.correlation < UNORDERED:
        line = f"Q does not order states by their returns: rank correlation {q.correlation:.2f}"
        found.append(Finding(CAUTION, line, f"{UNORDERED:g}"))
    else:
        line = f"Q orders states by their returns: rank correlation {q.correlation:.2f}"
        found.append(Finding(FINE, line, f"{UNORDERED:g}"))
    return found


def _actions(seen: Inspection) -> list[Finding]:
    share, spread = float(seen.actions.saturated.mean()), seen.actions.spread
    if constant(seen):
        line = (
            f"the policy does the same whatever it sees: its actions' standard deviation within an "
            f"episode is {spread:.4f}"
        )
        return [Finding(PROBLEM, line, f"{CONSTANT:g}")]
    if share > SATURATED_SHARE:
        line = f"{share:.0%} of the actions are beyond {SATURATED:g}: the policy is at its bounds"
        return [Finding(CAUTION, line, f"{SATURATED_SHARE:.0%}")]
    line = f"{share:.0%} of the actions are beyond {SATURATED:g}, and they vary by {spread:.2f}"
    return [Finding(FINE, line, f"{SATURATED_SHARE:.0%}; {CONSTANT:g}")]


def _units(seen: Inspection) -> list[Finding]:
    if not seen.layers:
        return []
    for share, kind, what in (
        (ALL_DORMANT, PROBLEM, "hardly any unit is active"),
        (MANY_DORMANT, CAUTION, "most units are dormant"),
    ):
        if layers := dormant(seen, share):
            limit = f"{share:.0%} of a layer, score {DORMANT:g}"
            return [Finding(kind, f"{what}: {', '.join(layers)} are dormant", limit)]
    most = max(seen.layers, key=lambda layer: layer.dormant)
    line = f"at most {most.dormant:.0%} of the units of a layer are dormant ({most.name})"
    return [Finding(FINE, line, f"{MANY_DORMANT:.0%} of a layer, score {DORMANT:g}")]


def _steps(seen: Inspection) -> list[Finding]:
    if not seen.norms:
        return []
    steps = ", ".join(f"{each.name} {each.step:.2g}" for each in seen.norms)
    if large_step(seen):
        line = (
            f"one update changes the weights by a large part of their norm: {steps}; the learning "
            "rate is too high"
        )
        found = [Finding(PROBLEM, line, f"{LARGE_STEP:g}")]
    else:
        line = f"one update changes the weights by a small part of their norm: {steps}"
        found = [Finding(FINE, line, f"{LARGE_STEP:g}")]
    if many := grown(seen):
        ratios = ", ".join(f"{name} {ratio:.1f}" for name, ratio in many.items())
        line = (
            f"weights have grown to many times those of an untrained network: {ratios}; a learning "
            "rate that is too high does this"
        )
        found.append(Finding(PROBLEM, line, f"{GROWN:g} times"))
    return found


def _saliency(seen: Inspection) -> list[Finding]:
    if seen.looks is None:
        return []
    found = []
    for name in seen.looks.maps:
        agreement = seen.looks.agreement(name)
        if math.isnan(agreement):
            line = f"{name} does not change whatever part of a frame is covered"
            found.append(Finding(PROBLEM, line, "any change"))
            continue
        with_number = f"with occlusion, rank correlation {agreement:.2f}"
        if agreement >= UNFAITHFUL:
            kind, line = FINE, f"the gradient map of {name} agrees {with_number}"
        else:
            line = f"the gradient map of {name} does not agree {with_number}: do not read it"
            kind = CAUTION
        found.append(Finding(kind, line, f"{UNFAITHFUL:g}"))
    return found
