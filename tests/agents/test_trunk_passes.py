"""No pass of the trunk is thrown away, and no graph is recorded that nobody differentiates.

What an update needs is written down here from the equations, for every combination of the options
that decide it, and compared with the passes that an agent makes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curl.agents.sac import SAC
from curl.learning.networks import ConvTrunk
from curl.objectives.base import Objective
from curl.objectives.cpc import CPC
from curl.objectives.infonce import InfoNCE
from curl.objectives.inverse import Inverse
from curl.objectives.temporal import Temporal
from support.agents import make_agent
from support.replays import make_batch_of

BATCH, ROWS = 8, 3
UPDATES = 6  # a multiple of every period below


def objective(name: str) -> Objective | None:
    torch.manual_seed(0)
    sizes = {"latent_dim": 16, "hidden_dim": 8}
    if name == "cpc":
        return CPC(**sizes, action_dim=2, window=2, horizon=2, rows=ROWS, actions=False)
    made = {
        "infonce": InfoNCE(latent_dim=16),
        "inverse": Inverse(**sizes, action_dim=2),
        "temporal": Temporal(**sizes, offset=2),
    }
    return made.get(name)


@dataclass
class Pass:
    """One call of a trunk: its rows, whether it recorded a graph, and whether that was used."""

    rows: int
    graph: bool
    used: list[bool] = field(default_factory=list)


def watch(trunk: nn.Module) -> list[Pass]:
    """The passes of a trunk, as they happen."""
    passes: list[Pass] = []

    def note(module: nn.Module, args: Any, out: Tensor) -> None:
        passes.append(Pass(len(out), out.requires_grad))
        if out.requires_grad:
            out.register_hook(lambda gradient, this=passes[-1]: this.used.append(True))

    trunk.register_forward_hook(note)
    return passes


def rows(passes: list[Pass]) -> Counter[bool]:
    """Rows with a graph (True) and without (False)."""
    counted: Counter[bool] = Counter()
    for one in passes:
        counted[one.graph] += one.rows
    return +counted


def needed(agent: SAC, update: int, options: dict[str, Any]) -> tuple[Counter[bool], Counter[bool]]:
    """What the equations ask of the trunk and of the target trunk in an update."""
    trunk, target = Counter({False: BATCH}), Counter({False: BATCH})  # a' and Q'(s', a')
    joint, detach = options["joint"], options["detach_encoder"]
    due = agent.objective is not None and update % options["contrastive_every"] == 0
    shares = not (options["first_frame_only"] or options["clean_critic"])
    count = (agent.objective.rows or BATCH) if agent.objective else 0
    anchors = count if due and shares else 0

    def features(total: int, graph: int) -> None:
        trunk.update({True: graph, False: total - graph})

    features(BATCH, anchors if detach else BATCH)  # Q(s, a)
    if not joint and not detach:  # the trunk has moved
        features(BATCH if update % options["actor_update_every"] == 0 else anchors, anchors)
    if due and agent.objective is not None:
        queries = len(agent.objective.query_offsets) - int(shares)
        trunk.update({True: queries * count})
        keys = {False: len(agent.objective.key_offsets) * count}  # none for some objectives
        (trunk if options["shared_key_encoder"] else target).update(keys)
    return +trunk, +target


SWITCHES = {
    "joint": (False, True),
    "detach_encoder": (False, True),
    "shared_key_encoder": (False, True),
    "contrastive_every": (1, 3),
    "actor_update_every": (1, 2),
    "view": ("shared", "first_frame_only", "clean_critic"),
}


def combinations() -> list[dict[str, Any]]:
    found = []
    for values in itertools.product(*SWITCHES.values()):
        options = dict(zip(SWITCHES, values, strict=True))
        view = options.pop("view")
        options |= {name: view == name for name in ("first_frame_only", "clean_critic")}
        if not (options["joint"] and options["contrastive_every"] != 1):  # refused
            found.append(options)
    return found


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("none", torch.float32),
        ("infonce", torch.float32),
        ("inverse", torch.float32),  # without keys
        ("temporal", torch.float32),
        ("cpc", torch.bfloat16),
    ],
)
def test_an_update_makes_the_passes_that_its_equations_need(
    name: str, precision: torch.dtype
) -> None:
    tried = 0
    for options in combinations():
        if name == "none" and options["joint"]:
            continue  # without an objective, the same as separate
        agent = make_agent(objective=objective(name), precision=precision, **options)
        passes, target_passes = watch(agent.trunk), watch(agent.target_trunk)
        batch = make_batch_of(agent, BATCH)
        for update in range(UPDATES):
            agent.update(batch)
            made = rows(passes), rows(target_passes)
            assert made == needed(agent, update, options), (update, options)
            for one in passes:
                assert bool(one.used) == one.graph, (update, options, one)
            passes.clear(), target_passes.clear()
        tried += 1
    assert tried == (48 if name == "none" else 72)


def test_the_crop_only_control_makes_one_pass_less_on_odd_updates() -> None:
    """Policy and critic on every update, the actor's on every second one."""
    agent = make_agent(contrastive=False)
    passes, counts = watch(agent.trunk), []
    for _ in range(4):
        agent.update(make_batch_of(agent, BATCH))
        counts.append(len(passes))
        passes.clear()
    assert counts == [3, 2, 3, 2]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_rows_without_a_graph_have_the_same_features(precision: torch.dtype) -> None:
    """Up to rounding: a smaller batch may be summed in another order."""
    agent = make_agent(precision=precision)
    agent.update(make_batch_of(agent, BATCH))
    obs = make_batch_of(agent, BATCH).obs.centre(agent.query.size)
    whole = agent._features(obs, graph=BATCH)
    assert isinstance(agent.trunk, ConvTrunk) and whole.requires_grad
    for graph in (0, ROWS):
        parts = agent._features(obs, graph=graph)
        assert parts.requires_grad == (graph > 0)
        torch.testing.assert_close(parts, whole)
