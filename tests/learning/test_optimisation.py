"""Adam's state travels between machines; how it computes does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from curl.learning.optimisation import adam, load_optimizer
from support.agents import make_agent

SETTINGS = [
    {"fused": fused, "capturable": capturable, "foreach": foreach}
    for fused, capturable, foreach in [
        (True, True, None),  # of a GPU
        (True, False, None),  # of a CPU
        (False, False, None),  # of somebody else
        (None, False, None),
        (False, True, True),
    ]
]


def trained(**settings: Any) -> torch.optim.Adam:
    parameter = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=1e-3, betas=(0.5, 0.999), fused=True)
    for gradient in (1.0, -2.0):
        parameter.grad = torch.full((3,), gradient)
        optimizer.step()
    optimizer.param_groups[0].update(settings)
    return optimizer


@pytest.mark.parametrize("theirs", SETTINGS, ids=str)
@pytest.mark.parametrize("ours", SETTINGS, ids=str)
def test_an_optimiser_keeps_how_it_computes_and_takes_the_rest(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    saved = copy.deepcopy(trained(**theirs).state_dict())
    parameter = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=5.0)
    optimizer.param_groups[0].update(ours)
    load_optimizer(optimizer, saved)
    group = optimizer.param_groups[0]
    assert {name: group[name] for name in ours} == ours
    assert (group["lr"], group["betas"]) == (1e-3, (0.5, 0.999))
    loaded = optimizer.state[parameter]
    for name, value in saved["state"][0].items():
        assert torch.equal(loaded[name], value), name
    assert saved["param_groups"][0]["capturable"] == theirs["capturable"]  # left as it was


@pytest.mark.parametrize("theirs", SETTINGS, ids=str)
def test_step_counts_go_where_the_gpu_looks_for_them(theirs: dict[str, Any]) -> None:
    """PyTorch places them by the settings, which may mean another device than the parameters'."""
    saved = copy.deepcopy(trained(**theirs).state_dict())
    parameter = torch.zeros(3, device="meta", requires_grad=True)  # stands for a GPU
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    optimizer.param_groups[0].update(fused=True, capturable=True)
    load_optimizer(optimizer, saved)
    assert {name: value.device.type for name, value in optimizer.state[parameter].items()} == {
        "step": "meta",
        "exp_avg": "meta",
        "exp_avg_sq": "meta",
    }


def test_an_agent_loads_its_optimisers_so() -> None:
    """A checkpoint from a GPU on a CPU: nothing is capturable there."""
    agent, other = make_agent(), make_agent(1)
    state = copy.deepcopy(other.state())
    for optimizer in state["optimizers"].values():
        optimizer["param_groups"][0].update(capturable=True, fused=False)
    agent.load(state)
    for name, optimizer in agent.optimizers.items():
        group = optimizer.param_groups[0]
        assert (group["capturable"], group["fused"]) == (False, True), name


def test_a_state_with_other_groups_is_refused() -> None:
    saved = trained().state_dict()
    saved["param_groups"] = []
    with pytest.raises(ValueError):
        load_optimizer(adam([torch.zeros(3, requires_grad=True)], 1e-3), saved)
