"""Each finding, on both sides of its threshold, and the verdict that tells runs apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from curl.inspection import findings
from curl.inspection.analysis import Actions, Decoding, Inspection, Layer, Norms, Values
from curl.inspection.findings import CAUTION, FINE, PROBLEM, find, verdict
from curl.inspection.measures import Calibration
from support.inspections import plain


def decoding(*r2: float) -> Decoding:
    names = ["position", "angle", "reward"][: len(r2)]
    found = np.array(r2)
    return Decoding(names, found, found, found, fitted=20, held_out=10)


def healthy(**changes: Any) -> Inspection:
    """A good run in all respects, but for `changes`."""
    seen = plain()
    assert seen.retrieval is not None and seen.looks is not None
    maps = {
        name: [replace(each, agreement=0.9) for each in maps]
        for name, maps in seen.looks.maps.items()
    }
    good: dict[str, Any] = {
        "updates": 20_000,
        "maximum": 1000.0,
        "returns": {"mean": [800.0, 820.0], "sample": [790.0, 800.0], "random": [100.0, 120.0]},
        "evaluations": [100.0, 805.0, 800.0],
        "retrieval": replace(seen.retrieval, own=True, accuracy=0.99, cosine=0.3),
        "decoding": decoding(0.9, 0.95, 0.9),
        "values": Values(np.zeros(1), np.zeros(1), Calibration(90.0, 100.0, -0.1, 0.8), 1.0),
        "actions": Actions(np.zeros((1, 1)), np.array([0.2]), 0.5),
        "layers": [Layer("trunk.0", 32, 0.1, 0.0, 0.0, None, None, 32)],
        "norms": [Norms("trunk", 20.0, 15.0, 0.001)],
        "looks": replace(seen.looks, maps=maps),
        "latent_rank": 40,
        "untrained_latent_rank": 45,
        "latent_dim": 50,
    }
    return replace(seen, **good | changes)


def kinds(seen: Inspection, part: str) -> list[str]:
    """The kinds of the findings that say this."""
    return [each.kind for each in find(seen) if part in each.text]


def test_a_healthy_run_has_fine_findings_alone() -> None:
    assert {each.kind for each in find(healthy())} == {FINE}
    assert verdict(healthy()).startswith("Healthy")


def sheet(**changes: Any) -> dict[str, Any]:
    found = healthy().retrieval
    assert found is not None
    return {"retrieval": replace(found, **changes)}


def critic(bias: float, correlation: float = 0.8) -> dict[str, Any]:
    numbers = Calibration(100 * (1 + bias), 100.0, bias, correlation)
    return {"values": Values(np.zeros(1), np.zeros(1), numbers, 1.0)}


def returns(mean: float, **changes: Any) -> dict[str, Any]:
    found = {"mean": [mean, mean], "sample": [mean], "random": [100.0, 120.0]}
    return {"returns": found, **changes}


def maps(agreement: float) -> dict[str, Any]:
    seen = healthy().looks
    assert seen is not None
    changed = {
        name: [replace(each, agreement=agreement) for each in maps]
        for name, maps in seen.maps.items()
    }
    return {"looks": replace(seen, maps=changed)}


def layer(dormant: float) -> dict[str, Any]:
    return {"layers": [Layer("trunk.0", 32, dormant, 0.0, 0.0, None, None, 32)]}


FINDINGS = [
    (returns(120.0), PROBLEM, "no better than random"),
    (returns(250.0), CAUTION, "the policy is weak"),
    (returns(250.0, evaluations=[1.0, 2.0, 3.0]), CAUTION, "still rising, from 2.0 to 3.0"),
    (returns(250.0, updates=9_999), CAUTION, "9,999 updates, which is few"),
    (sheet(accuracy=0.01), PROBLEM, "the contrastive task is not learnt"),
    (sheet(accuracy=0.89), CAUTION, "learnt in part"),
    ({"decoding": decoding(0.9, 0.4)}, CAUTION, "angle (R² 0.40) cannot be decoded"),
    (
        {"decoding": decoding(0.9, 0.4)},
        CAUTION,
        "the latent does not say: angle 0.40 (untrained 0.40)",
    ),
    (sheet(cosine=0.995), PROBLEM, "the encoder has collapsed"),
    ({"latent_rank": 22}, CAUTION, "effective rank 22 of 50"),
    (critic(0.51), PROBLEM, "Q over-estimates"),
    (critic(-0.51), CAUTION, "Q under-estimates"),
    (critic(0.0, 0.1), CAUTION, "Q does not order states"),
    (critic(0.0, float("nan")), PROBLEM, "the same in all states"),
    ({"actions": Actions(np.zeros((1, 1)), np.array([0.2]), 0.01)}, PROBLEM, "whatever it sees"),
    ({"actions": Actions(np.zeros((1, 1)), np.array([0.96]), 0.5)}, CAUTION, "at its bounds"),
    (layer(0.6), CAUTION, "most units are dormant: trunk.0 60%"),
    (layer(0.97), PROBLEM, "hardly any unit is active: trunk.0 97%"),
    ({"norms": [Norms("actor", 20.0, 15.0, 0.11)]}, PROBLEM, "actor 0.11; the learning rate"),
    ({"norms": [Norms("actor", 80.0, 15.0, 0.01)]}, PROBLEM, "have grown to many times"),
    (maps(0.2), CAUTION, "does not agree with occlusion, rank correlation 0.20"),
    (maps(float("nan")), PROBLEM, "does not change whatever"),
]


@pytest.mark.parametrize(("changes", "kind", "part"), FINDINGS, ids=[f[2] for f in FINDINGS])
def test_each_finding_is_made_where_its_threshold_is_crossed(
    changes: dict[str, Any], kind: str, part: str
) -> None:
    found = kinds(healthy(**changes), part)
    assert found and set(found) == {kind}
    assert kinds(healthy(), part) == []


def test_the_worst_findings_come_first() -> None:
    found = [each.kind for each in find(healthy(**critic(1.0), **layer(0.6)))]
    assert found == sorted(found, key=[PROBLEM, CAUTION, FINE].index) and found[0] == PROBLEM


def test_every_finding_says_its_number_and_its_threshold() -> None:
    for changes, _, _ in FINDINGS:
        for each in find(healthy(**changes)):
            assert each.threshold and str(each).endswith(f"(threshold: {each.threshold}).")
            assert any(letter.isdigit() for letter in each.text) or "nan" not in each.text


BROKEN = [
    ({"norms": [Norms("actor", 20.0, 15.0, 0.11)]}, "one update changes the weights too much"),
    ({"norms": [Norms("actor", 80.0, 15.0, 0.01)]}, "the weights have grown too much"),
    (layer(0.97), "a layer is dead"),
    (sheet(cosine=0.995), "the encoder has collapsed"),
    ({"actions": Actions(np.zeros((1, 1)), np.array([0.2]), 0.01)}, "ignores what it sees"),
]


@pytest.mark.parametrize(("changes", "part"), BROKEN)
def test_a_broken_run_is_called_broken_and_a_young_one_young(
    changes: dict[str, Any], part: str
) -> None:
    young = returns(120.0, updates=500)
    assert verdict(healthy(**young)).startswith("Too early to tell: the policy is weak after 500")
    for broken in (healthy(**changes), healthy(**young | changes)):
        assert verdict(broken).startswith("Broken: ") and part in verdict(broken)


def test_what_is_not_broken_is_weak_or_of_unknown_strength() -> None:
    assert verdict(healthy(**returns(250.0))).startswith("Weak after 20,000 updates")
    rising = returns(250.0, updates=500, evaluations=[1.0, 2.0, 3.0])
    assert verdict(healthy(**rising)).endswith("Its evaluations were still rising.")
    assert "Nobody knows the largest return" in verdict(healthy(maximum=None))


def test_parts_that_an_agent_lacks_have_no_findings() -> None:
    without = healthy(
        retrieval=None, values=None, looks=None, latent_rank=None, layers=[], norms=[], maximum=None
    )
    assert {each.kind for each in find(without)} == {FINE}
    without = replace(without, decoding=decoding(float("nan")))
    assert find(without) and findings.decoded(without) == {}
