"""Networks: shapes and orders, initialisation, the squashed Gaussian, moving averages."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from curl.learning.networks import (
    MLP,
    Actor,
    ConvTrunk,
    Critic,
    Projection,
    begin_trunk,
    initialise,
    move_average,
    smallest_input,
    squashed_gaussian,
)


def images(count: int = 2, channels: int = 9, size: int = 21, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator).byte()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Initial weights come from PyTorch's global generator."""
    torch.manual_seed(0)


# -- trunk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "edge"), [(84, 35), (21, 4), (15, 1)])
def test_trunk_of_four_3x3_convolutions(size: int, edge: int) -> None:
    trunk = ConvTrunk(channels=9, size=size)
    assert [c.stride for c in trunk.convolutions] == [(2, 2), (1, 1), (1, 1), (1, 1)]
    assert trunk.features == 32 * edge * edge
    assert trunk(images(size=size)).shape == (2, 32 * edge * edge)


STRIDES = [(1,), (2,), (3,), (2, 1, 1, 1), (2, 2, 1, 1), (2, 2, 2, 1), (1, 2, 1), (3, 2, 1, 2)]


@pytest.mark.parametrize("strides", STRIDES, ids=str)
def test_trunk_sizes_are_those_of_its_convolutions(strides: tuple[int, ...]) -> None:
    """Every size from the smallest on, against the convolutions themselves; below it, refusal."""
    least = smallest_input(strides)
    for size in range(1, least + 20):
        if size < least:
            with pytest.raises(
                ValueError, match=rf"views of {size} pixels .* {least} is the least"
            ):
                ConvTrunk(channels=2, size=size, strides=strides, filters=3)
        else:
            trunk = ConvTrunk(channels=2, size=size, strides=strides, filters=3)
            x = images(count=1, channels=2, size=size).float()
            for convolution in trunk.convolutions:
                x = convolution(x)
            assert trunk.features == x[0].numel()
            assert trunk(images(count=1, channels=2, size=size)).shape == (1, trunk.features)
            assert [c.stride for c in trunk.convolutions] == [(s, s) for s in strides]


@pytest.mark.parametrize("strides", [[], [2, 0], [2, 1.5], [True], 2, "21", None])
def test_trunk_refuses_strides_that_are_none(strides: Any) -> None:
    with pytest.raises(ValueError, match="strides must be a"):
        ConvTrunk(channels=9, size=84, strides=strides)


@pytest.mark.parametrize("filters", [0, -1, 1.5, True, "32"])
def test_trunk_refuses_filters_that_are_none(filters: Any) -> None:
    with pytest.raises(ValueError, match="filters must be an integer >= 1"):
        ConvTrunk(channels=9, size=84, filters=filters)


def test_trunk_keeps_the_names_that_old_checkpoints_have() -> None:
    names = [f"convolutions.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]
    assert list(ConvTrunk(channels=9, size=84).state_dict()) == names


def test_trunk_features_are_in_row_column_filter_order() -> None:
    trunk = ConvTrunk(channels=9, size=21)
    x = images().float() / 255
    for convolution in trunk.convolutions:
        x = convolution(x).relu()  # [2, 32, 4, 4]
    features = trunk(images())
    for filter_, row, column in [(0, 0, 0), (5, 1, 3), (31, 3, 2)]:
        found = features[:, (row * 4 + column) * 32 + filter_]
        torch.testing.assert_close(found, x[:, filter_, row, column])


def test_trunk_reads_bytes_as_the_fractions_of_255() -> None:
    trunk, pixels = ConvTrunk(channels=9, size=21), images()
    torch.testing.assert_close(trunk(pixels), trunk(pixels.float() / 255))


def test_trunk_leaves_its_input_alone() -> None:
    fractions = images().float() / 255
    before = fractions.clone()
    ConvTrunk(channels=9, size=21)(fractions)
    assert torch.equal(fractions, before)


@pytest.mark.parametrize("size", [84, 21])
def test_passes_without_gradient_compute_the_same(size: int) -> None:
    """On a CPU they take a fused kernel in bfloat16; targets must not differ by it."""
    trunk, pixels = ConvTrunk(channels=9, size=size), images(size=size)
    for precise in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
            trained = trunk(pixels)
            with torch.no_grad():
                assert torch.equal(trunk(pixels), trained)


# -- weights of another trunk ---------------------------------------------------------------------


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("target", [False, True])
def test_a_trunk_computes_what_the_one_did_that_it_begins_with(source: bool, target: bool) -> None:
    """Also where one of the two sees centred pixels and the other one does not."""
    other = ConvTrunk(channels=9, size=21, centred=source)
    trunk = ConvTrunk(channels=9, size=21, centred=target)
    assert not torch.allclose(trunk(images()), other(images()))
    begin_trunk(trunk, other.weights(), frozen=False)
    torch.testing.assert_close(trunk(images()), other(images()))
    if source == target:
        assert all(map(torch.equal, trunk.state_dict().values(), other.state_dict().values()))


def test_a_bare_state_is_taken_as_it_is() -> None:
    other, trunk = (ConvTrunk(channels=9, size=21, centred=centred) for centred in (False, True))
    begin_trunk(trunk, other.state_dict(), frozen=False)
    assert all(map(torch.equal, trunk.state_dict().values(), other.state_dict().values()))


def test_weights_for_other_strides_are_refused() -> None:
    """Their shapes are the same."""
    other = ConvTrunk(channels=9, size=84, strides=(2, 2, 1, 1))
    told = re.escape("its strides are [2, 2, 1, 1], those of this agent are [2, 1, 1, 1]")
    with pytest.raises(ValueError, match=told):
        begin_trunk(ConvTrunk(channels=9, size=84), other.weights(), frozen=False)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_trunk_records_no_gradient(frozen: bool) -> None:
    trunk = ConvTrunk(channels=9, size=21)
    begin_trunk(trunk, None, frozen=frozen)
    assert trunk(images()).requires_grad is not frozen


# -- heads -----------------------------------------------------------------------------------------


def test_heads_have_their_shapes() -> None:
    sizes = {"features": 40, "latent_dim": 7, "hidden_dim": 16, "action_dim": 3}
    mean, log_std = Actor(**sizes)(normal(5, 40))
    critic = Critic(**sizes)
    q1, q2 = critic(critic.projection(normal(5, 40)), normal(5, 3))
    assert mean.shape == log_std.shape == (5, 3)
    assert q1.shape == q2.shape == (5, 1)
    assert not torch.equal(q1, q2)


def test_projection_ends_in_layer_norm() -> None:
    latent = Projection(features=40, latent_dim=50)(100 * normal(5, 40))
    torch.testing.assert_close(latent.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(latent.square().mean(1), torch.ones(5), atol=1e-3, rtol=0)


def test_log_std_fills_its_bounds_and_no_more() -> None:
    """[-10, 2] of Table 3, reached at both ends by a network with large outputs."""
    actor = Actor(features=40, latent_dim=7, hidden_dim=16, action_dim=3)
    nn.init.normal_(actor.policy.output.weight, std=100)
    _, log_std = actor(normal(200, 40))
    assert log_std.min().item() == pytest.approx(-10)
    assert log_std.max().item() == pytest.approx(2)


def test_last_layers_stay_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ConvTrunk(channels=9, size=21)(images()).dtype == torch.bfloat16
        assert Projection(features=40, latent_dim=7)(normal(5, 40)).dtype == torch.float32
        assert MLP(40, 16, 2)(normal(5, 40)).dtype == torch.float32


# -- squashed Gaussian -----------------------------------------------------------------------------


def test_log_probability_is_that_of_torch_distributions() -> None:
    mean, noise = 0.5 * normal(100, 3, seed=1).double(), normal(100, 3, seed=2).double()
    log_std = normal(100, 3, seed=3).double().clamp(-3, -0.5)
    action, log_pi = squashed_gaussian(mean, log_std, noise)
    policy = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    expected = policy.log_prob(action).sum(1, keepdim=True)
    torch.testing.assert_close(log_pi, expected, atol=2e-4, rtol=0)


def test_log_probability_is_finite_where_tanh_saturates() -> None:
    mean = torch.tensor([[50.0, -50.0]], requires_grad=True)
    action, log_pi = squashed_gaussian(mean, torch.zeros(1, 2), torch.zeros(1, 2))
    assert action.tolist() == [[1.0, -1.0]]
    (gradient,) = torch.autograd.grad(log_pi.sum(), mean)
    assert log_pi.isfinite().all() and gradient.isfinite().all()


# -- initialisation --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [9, 32, 60])
def test_convolutions_are_delta_orthogonal(channels: int) -> None:
    """Only the centre is non-zero; its rows or columns, whichever are fewer, have W W^T = 2 I."""
    convolution = nn.Conv2d(channels, 32, 3)
    initialise(convolution)
    centre = convolution.weight.detach()[:, :, 1, 1].clone()  # [32, channels]
    gram = centre.T @ centre if channels <= 32 else centre @ centre.T
    torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), atol=1e-5, rtol=0)
    assert convolution.weight.count_nonzero() == centre.count_nonzero()
    assert not convolution.bias.any()


@pytest.mark.parametrize("channels", [2, 9, 32])
def test_convolutions_can_be_orthogonal(channels: int) -> None:
    """The kernels as rows [32, 9 * channels] have W W^T = 2 I, or W^T W where rows are more."""
    convolution = nn.Conv2d(channels, 32, 3)
    initialise(convolution, convolutions="orthogonal")
    rows = convolution.weight.detach().flatten(1)
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    torch.testing.assert_close(gram, 2 * torch.eye(len(gram)), atol=1e-5, rtol=0)
    assert convolution.weight.count_nonzero() == convolution.weight.numel()
    assert not convolution.bias.any()


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"convolution_init must be one of .*'orthogonl'"):
        initialise(nn.Conv2d(9, 32, 3), convolutions="orthogonl")


def test_linear_layers_are_orthogonal_and_layer_norm_is_left_alone() -> None:
    projection = Projection(features=40, latent_dim=7)
    initialise(projection)
    weight = projection.linear.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(7), atol=1e-5, rtol=0)
    assert not projection.linear.bias.any()
    assert (projection.norm.weight == 1).all()


# -- moving averages -------------------------------------------------------------------------------


def test_moving_average_has_its_closed_form() -> None:
    """After n steps the start's share is (1 - tau)^n."""
    start, source, tau, steps = normal(4, 5, seed=1), normal(4, 5, seed=2), 0.05, 30
    target = start.clone()
    for _ in range(steps):
        move_average([target], [source], tau)
    torch.testing.assert_close(target, source + (1 - tau) ** steps * (start - source))


def test_moving_average_moves_in_place_and_only_the_target() -> None:
    target, source = nn.Linear(3, 2), nn.Linear(3, 2)
    parameters, before = list(target.parameters()), source.weight.detach().clone()
    move_average(target.parameters(), source.parameters(), 1.0)
    assert parameters[0] is target.weight
    torch.testing.assert_close(target.weight, source.weight)
    assert torch.equal(source.weight, before)
