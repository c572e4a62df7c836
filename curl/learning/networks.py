"""The networks of agents on pixels, and what is done to them: initialisation and moving averages.

Convolutions and hidden layers run in the autocast precision; last layers, LayerNorm and all
parameters are float32. Trunk and projection are separate modules, so that sharing the trunk is a
plain reference and stopping a gradient is a `detach()` at the call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl.checks import choice, integer
from curl.hardware.kernels import kernels_on

FUSED_CONVOLUTION = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_convolution_pointwise"
)
CHANNELS = 8  # cuDNN's fast bfloat16 convolutions read the input's channels in groups of so many
CONVOLUTION_INITS = ("delta_orthogonal", "orthogonal")
LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0  # CURL, Table 3


class ConvTrunk(nn.Module):
    """3x3 convolutions without padding, each followed by a ReLU.

    The defaults are CURL's (Table 3). ATC (Stooke et al. 2021) has strides 2, 2, 2, 1.

    Args:
        channels: channels of a frame stack.
        size: edge of the input in pixels.
        strides: one number per layer.
        filters: output channels of every layer.
        centred: pixels are in [-0.5, 0.5] and not in [0, 1], as in DrQ-v2's code.

    Raises:
        ValueError: no layer, a stride or a number of filters that is not a positive integer,
            or an input too small for these layers.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        strides: Sequence[int] = (2, 1, 1, 1),
        filters: int = 32,
        centred: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(strides, str) or not isinstance(strides, Sequence) or not strides:
            raise ValueError(f"strides must be a list of integers, got {strides!r}")
        strides = [integer("each of strides", stride) for stride in strides]
        filters = integer("filters", filters)
        edge = size
        for stride in strides:
            edge = (edge - 3) // stride + 1
            if edge < 1:
                raise ValueError(
                    f"views of {size} pixels are too small for convolutions of strides {strides}: "
                    f"{smallest_input(strides)} is the least"
                )
        inputs = [channels, *[filters] * (len(strides) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels_in, filters, 3, stride=stride)
            for channels_in, stride in zip(inputs, strides, strict=True)
        )
        self.channels, self.features = channels, filters * edge * edge
        self.centred = centred
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 in [0, 255] or float in [0, 1], [B, C, size, size] -> features [B, F].

        Features are flattened in memory (row, column, filter) order, which copies nothing.
        """
        x = self.scaled(pixels)
        if self.centred:
            x = x - 0.5
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv2d)
            x = convolve_and_rectify(convolution, x)
        return x.permute(0, 2, 3, 1).flatten(1)

    def scaled(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] in the dtype of the convolutions, which `forward` takes as well.

        An agent that shows a view to several networks converts it once.
        """
        dtype = compute_dtype(pixels.device)
        if fused_on_cuda(pixels.device, dtype):
            done = pixels.shape[1] > self.channels
            return pixels if done else with_more_channels(pixels, dtype)
        x = pixels.to(dtype)  # before the division: uint8 / 255 is float32
        return x.div_(255) if pixels.dtype == torch.uint8 else x

    def weights(self) -> dict[str, Tensor]:
        """What another trunk can begin with: the `state_dict()`, and how it is used.

        `strides` is int64 [L], and `centred` bool [].
        """
        strides = [c.stride[0] for c in self.convolutions if isinstance(c, nn.Conv2d)]
        use = {"strides": torch.tensor(strides), "centred": torch.tensor(self.centred)}
        return self.state_dict() | use


@torch.no_grad()
def begin_trunk(trunk: ConvTrunk, pretrained: Mapping[str, Tensor] | None, *, frozen: bool) -> None:
    """What a trunk begins with, before any copy of it is made.

    Args:
        pretrained: the `weights()` of another trunk; None: the trunk keeps its own. Pixels may be
            centred for one of the two alone, because the first biases can make up for it. A bare
            `state_dict()` is taken to be that of a trunk with these strides and these pixels.
        frozen: it is never trained, and no gradient is computed through it.

    Raises:
        ValueError: the weights are those of another kind of trunk.
    """
    trunk.requires_grad_(not frozen)
    if pretrained is None:
        return
    own = trunk.weights()
    theirs = {"strides": own["strides"], "centred": own["centred"], **pretrained}
    for name in dict.fromkeys([*own, *theirs]):
        found, wanted = (
            list(weights[name].shape) if name in weights else "missing" for weights in (theirs, own)
        )
        if found != wanted:
            raise ValueError(
                f"the pretrained encoder does not fit: its {name} is {found}, "
                f"that of this agent is {wanted}"
            )
    found, wanted = theirs["strides"].tolist(), own["strides"].tolist()
    if found != wanted:
        raise ValueError(
            f"the pretrained encoder does not fit: its strides are {found}, "
            f"those of this agent are {wanted}"
        )
    first = "convolutions.0"
    lower = 0.5 * (own["centred"].int() - theirs["centred"].int()).item()  # than their pixels
    bias = theirs[f"{first}.bias"] + lower * theirs[f"{first}.weight"].sum((1, 2, 3))
    theirs[f"{first}.bias"] = bias
    trunk.load_state_dict({name: theirs[name] for name in trunk.state_dict()})


def smallest_input(strides: Sequence[int]) -> int:
    """Edge in pixels of the smallest input that 3x3 convolutions of these strides can take."""
    edge = 1
    for stride in reversed(strides):
        edge = (edge - 1) * stride + 3
    return edge


def convolve_and_rectify(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """relu(layer(x)): in bfloat16 in one kernel, where cuDNN or oneDNN has one."""
    assert layer.bias is not None
    if fused_on_cuda(x.device, x.dtype):
        weight, bias = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
        if added := x.shape[1] - layer.in_channels:
            weight = F.pad(weight, (0, 0, 0, 0, 0, added))
        return RectifiedConvolution.apply(x, weight, bias, layer.stride)
    fused = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    if not (fused and FUSED_CONVOLUTION):
        return F.relu_(layer(x))
    weight, bias = layer.weight.to(x.dtype), layer.bias.to(x.dtype)
    geometry = ([0, 0], list(layer.stride), [1, 1], 1)  # padding, stride, dilation, groups
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, "relu", [], "")


@functools.cache
def fused_on_cuda(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether convolutions here are `RectifiedConvolution`s: on NVIDIA GPUs that know bfloat16."""
    return (
        (device.type, dtype) == ("cuda", torch.bfloat16)
        and torch.version.hip is None
        and torch.backends.cudnn.is_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def with_more_channels(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels in [0, 1] of `dtype`, with zeros up to a multiple of `CHANNELS`, channels last."""
    batch, channels, *edges = pixels.shape
    wanted, kernels = channels + -channels % CHANNELS, kernels_on(pixels.device)
    if kernels is not None and pixels.dtype == torch.uint8 and dense(pixels, wanted):
        return kernels.scaled(pixels, wanted, dtype)
    shape = (batch, wanted, *edges)
    x = torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=torch.channels_last)
    x.zero_()  # all of it: filling some channels alone takes longer
    torch.div(pixels, 255 if pixels.dtype == torch.uint8 else 1, out=x[:, :channels])
    return x


def dense(x: Tensor, channels: int) -> bool:
    """Whether Triton's kernels take `x`, and `channels` of it: a power of two, channels last."""
    power = channels & (channels - 1) == 0
    return power and x.is_contiguous(memory_format=torch.channels_last)


class RectifiedConvolution(torch.autograd.Function):
    """relu(conv2d(x, weight, bias)) of cuDNN, which adds the bias and rectifies as it writes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int]) -> Tensor:
        y = torch.cudnn_convolution_relu(x, weight, bias, stride, (0, 0), (1, 1), 1)
        ctx.save_for_backward(x, weight, y)
        ctx.stride = stride
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        geometry = (ctx.stride, (0, 0), (1, 1), False, (0, 0), 1)
        kernels, of_bias = kernels_on(y.device), None
        if kernels is not None and dense(y, y.shape[1]) and dense(grad, y.shape[1]):
            grad, of_bias = kernels.rectified_gradient(grad, y)
        else:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        wanted = (ctx.needs_input_grad[0], True, of_bias is None)
        of_x, of_weight, summed = torch.ops.aten.convolution_backward(
            grad, x, weight, [weight.shape[0]], *geometry, wanted
        )
        return of_x, of_weight, summed if of_bias is None else of_bias, None


def compute_dtype(device: torch.device) -> torch.dtype:
    """What convolutions compute in: the autocast dtype, float32 outside of autocast."""
    on = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else torch.float32


class Projection(nn.Module):
    """Features [B, F] -> latent [B, D]: a linear layer and LayerNorm, and tanh if `bounded`."""

    def __init__(self, *, features: int, latent_dim: int, bounded: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(features, latent_dim)
        self.norm = nn.LayerNorm(latent_dim)
        self.bounded = bounded

    def forward(self, features: Tensor) -> Tensor:
        latent = self.norm(self.linear(features).float())
        return torch.tanh(latent) if self.bounded else latent


class MLP(nn.Module):
    """Two hidden ReLU layers and a float32 output layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)])
        self.output = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = F.relu(layer(x))
        with torch.autocast(x.device.type, enabled=False):
            return self.output(x.float())


class Actor(nn.Module):
    """SAC's pi(a|s): features -> own projection -> a squashed Gaussian over actions in [-1, 1]."""

    def __init__(self, *, features: int, latent_dim: int, hidden_dim: int, action_dim: int) -> None:
        super().__init__()
        self.projection = Projection(features=features, latent_dim=latent_dim)
        self.policy = MLP(latent_dim, hidden_dim, 2 * action_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] -> mean [B, A] before the squashing, log standard deviation [B, A]."""
        mean, log_std = self.policy(self.projection(features)).chunk(2, dim=-1)
        span = LOG_STD_MAX - LOG_STD_MIN
        return mean, LOG_STD_MIN + 0.5 * span * (torch.tanh(log_std) + 1)


class DeterministicActor(nn.Module):
    """DrQ-v2's pi: features [B, F] -> own projection -> mean action [B, A] in [-1, 1]."""

    def __init__(self, *, features: int, latent_dim: int, hidden_dim: int, action_dim: int) -> None:
        super().__init__()
        self.projection = Projection(features=features, latent_dim=latent_dim, bounded=True)
        self.policy = MLP(latent_dim, hidden_dim, action_dim)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.policy(self.projection(features)))


class Critic(nn.Module):
    """Q1 and Q2 on one projection, whose latents are in [-1, 1] if `bounded`."""

    def __init__(
        self,
        *,
        features: int,
        latent_dim: int,
        hidden_dim: int,
        action_dim: int,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self.projection = Projection(features=features, latent_dim=latent_dim, bounded=bounded)
        self.q1 = MLP(latent_dim + action_dim, hidden_dim, 1)
        self.q2 = MLP(latent_dim + action_dim, hidden_dim, 1)

    def forward(self, latent: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Latent [B, D] (the projection's output) and action [B, A] -> Q1, Q2, each [B, 1]."""
        x = torch.cat([latent, action], dim=-1)
        return self.q1(x), self.q2(x)


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """a = tanh(mean + std * noise) and its log-probability (SAC, appendix C).

    Args:
        mean, log_std, noise: float32 [B, A].

    Returns:
        action [B, A] in [-1, 1]; log pi [B, 1], with the reference's relu and 1e-6 in the
        Jacobian term, which keep it finite where tanh saturates.
    """
    action = torch.tanh(mean + log_std.exp() * noise)
    log_gaussian = (-0.5 * noise.square() - log_std).sum(-1, keepdim=True)
    log_gaussian = log_gaussian - 0.5 * math.log(2 * math.pi) * mean.shape[-1]
    log_jacobian = torch.log(F.relu(1 - action.square()) + 1e-6).sum(-1, keepdim=True)
    return action, log_gaussian - log_jacobian


@torch.no_grad()
def initialise(module: nn.Module, *, convolutions: str = "delta_orthogonal") -> None:
    """Orthogonal linear layers, orthogonal convolutions with gain sqrt(2), zero biases.

    Args:
        convolutions: "delta_orthogonal" (Xiao et al. 2018; CURL): only the kernel's centre is
            non-zero, and orthogonal. "orthogonal" (DrQ): the kernels as rows of a matrix. After
            several strides of 2 the first kind begins by looking at few of the pixels.

    Raises:
        ValueError: another kind.
    """
    choice("convolution_init", convolutions, CONVOLUTION_INITS)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            if convolutions == "orthogonal":
                layer.weight.copy_(orthogonal(layer.weight.shape))
                continue
            nn.init.zeros_(layer.weight)
            centre = layer.weight[:, :, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2]
            centre.copy_(orthogonal(centre.shape))


def orthogonal(shape: torch.Size) -> Tensor:
    """A matrix with orthogonal rows or columns, whichever are fewer, of length sqrt(2)."""
    return nn.init.orthogonal_(torch.empty(shape), math.sqrt(2))


@torch.no_grad()
def move_average(targets: Iterable[Tensor], sources: Iterable[Tensor], tau: float) -> None:
    """target <- (1 - tau) * target + tau * source, in place."""
    torch._foreach_lerp_(list(targets), list(sources), tau)  # pyright: ignore
