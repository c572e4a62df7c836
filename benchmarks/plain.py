"""A plain CURL (SAC on pixels with a contrastive head), written in the way of 2020.

This is the slow side of the speed and memory benchmarks: float32, NCHW and eager throughout, frame
stacks stored twice in NumPy, crops on the CPU, one optimiser per loss (and two for the contrastive
one), a pass through the convolutions wherever features are needed, every scalar read back at once.
It computes what the reference implementation computes.
"""

import copy
import math

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

LATENT_DIM = 50
LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0

Images = NDArray[np.uint8]
Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def random_crop(images: Images, size: int, rng: np.random.Generator) -> Images:
    """Crops each stack of [B, C, H, W] at its own offset, the same for all channels.

    The exclusive bound leaves out the last offset, as in the reference implementation.
    """
    windows = sliding_window_view(images, (size, size), axis=(2, 3))
    count = len(images)
    top = rng.integers(0, images.shape[2] - size, count)
    left = rng.integers(0, images.shape[3] - size, count)
    return windows[np.arange(count), :, top, left]


def initialise(module: nn.Module) -> None:
    """Orthogonal linear and delta-orthogonal convolution weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        middle = module.kernel_size[0] // 2
        nn.init.zeros_(module.weight)
        nn.init.orthogonal_(module.weight.data[:, :, middle, middle], gain=math.sqrt(2))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    head = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*head, nn.Linear(hidden, outputs))


def soft_update(source: nn.Module, target: nn.Module, tau: float) -> None:
    """Moves each target parameter a step of `tau` towards its source."""
    for param, target_param in zip(source.parameters(), target.parameters(), strict=True):
        target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)


class PlainEncoder(nn.Module):
    """Four convolutions, a projection and a LayerNorm, without a non-linearity after it."""

    def __init__(self, channels: int = 9, image_size: int = 84) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(channels, 32, 3, stride=2)] + [nn.Conv2d(32, 32, 3) for _ in range(3)]
        )
        side = (image_size - 3) // 2 + 1 - 6
        self.projection = nn.Linear(32 * side * side, LATENT_DIM)
        self.norm = nn.LayerNorm(LATENT_DIM)

    def forward(self, obs: Tensor, detach: bool = False) -> Tensor:
        features = obs / 255.0
        for conv in self.convs:
            features = torch.relu(conv(features))
        features = features.flatten(1)
        if detach:
            features = features.detach()
        return self.norm(self.projection(features))


class PlainActor(nn.Module):
    """A tanh-squashed Gaussian policy with its own encoder."""

    def __init__(self, action_dim: int, hidden_dim: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.encoder = PlainEncoder(channels, image_size)
        self.policy = mlp(LATENT_DIM, hidden_dim, 2 * action_dim)
        self.apply(initialise)

    def forward(
        self, obs: Tensor, detach_encoder: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the mean action, a sampled action, its log-probability [B, 1] and the log-std."""
        mean, log_std = self.policy(self.encoder(obs, detach_encoder)).chunk(2, dim=-1)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1)
        noise = torch.randn_like(mean)
        action = torch.tanh(mean + noise * log_std.exp())
        log_prob = (-0.5 * noise.pow(2) - log_std).sum(-1, keepdim=True)
        log_prob = log_prob - 0.5 * math.log(2 * math.pi) * mean.shape[-1]
        squash = torch.log(functional.relu(1 - action.pow(2)) + 1e-6).sum(-1, keepdim=True)
        return torch.tanh(mean), action, log_prob - squash, log_std


class PlainCritic(nn.Module):
    """Two Q functions on one encoder."""

    def __init__(self, action_dim: int, hidden_dim: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.encoder = PlainEncoder(channels, image_size)
        self.q1 = mlp(LATENT_DIM + action_dim, hidden_dim, 1)
        self.q2 = mlp(LATENT_DIM + action_dim, hidden_dim, 1)
        self.apply(initialise)

    def forward(
        self, obs: Tensor, action: Tensor, detach_encoder: bool = False
    ) -> tuple[Tensor, Tensor]:
        inputs = torch.cat([self.encoder(obs, detach_encoder), action], dim=-1)
        return self.q1(inputs), self.q2(inputs)


class PlainReplay:
    """A ring buffer that stores every frame stack twice, as `obs` and as `next_obs`."""

    def __init__(
        self,
        capacity: int,
        action_dim: int,
        device: torch.device | str = "cpu",
        obs_shape: tuple[int, int, int] = (9, 100, 100),
        crop_size: int = 84,
        seed: int = 0,
    ) -> None:
        self.capacity = capacity
        self.device = torch.device(device)
        self.crop_size = crop_size
        self.rng = np.random.default_rng(seed)
        self.obs = np.empty((capacity, *obs_shape), np.uint8)
        self.next_obs = np.empty((capacity, *obs_shape), np.uint8)
        self.action = np.empty((capacity, action_dim), np.float32)
        self.reward = np.empty((capacity, 1), np.float32)
        self.not_done = np.empty((capacity, 1), np.float32)
        self.position = 0
        self.full = False

    def __len__(self) -> int:
        return self.capacity if self.full else self.position

    @property
    def count_bytes(self) -> int:
        """The bytes that the arrays take up once they are filled."""
        arrays = (self.obs, self.next_obs, self.action, self.reward, self.not_done)
        return sum(array.nbytes for array in arrays)

    def add(
        self, obs: Images, action: NDArray[np.float32], reward: float, next_obs: Images, done: bool
    ) -> None:
        """Stores a transition; `done` means that it must not bootstrap."""
        self.obs[self.position] = obs
        self.next_obs[self.position] = next_obs
        self.action[self.position] = action
        self.reward[self.position] = reward
        self.not_done[self.position] = not done
        self.position = (self.position + 1) % self.capacity
        self.full = self.full or self.position == 0

    def sample_curl(self, batch_size: int) -> Batch:
        """Returns obs, action, reward, next_obs, not_done and key; key is a second crop of obs."""
        index = self.rng.integers(0, len(self), batch_size)
        stacks, next_stacks = self.obs[index], self.next_obs[index]
        obs = random_crop(stacks, self.crop_size, self.rng)
        next_obs = random_crop(next_stacks, self.crop_size, self.rng)
        key = random_crop(stacks, self.crop_size, self.rng)
        return (
            torch.as_tensor(obs, device=self.device).float(),
            torch.as_tensor(self.action[index], device=self.device),
            torch.as_tensor(self.reward[index], device=self.device),
            torch.as_tensor(next_obs, device=self.device).float(),
            torch.as_tensor(self.not_done[index], device=self.device),
            torch.as_tensor(key, device=self.device).float(),
        )


class PlainAgent:
    """SAC with a contrastive head; `update` is one full update, sampling included."""

    def __init__(
        self,
        action_dim: int,
        hidden_dim: int = 1024,
        batch_size: int = 128,
        lr: float = 1e-3,
        alpha_lr: float = 1e-4,
        device: torch.device | str = "cpu",
        channels: int = 9,
        image_size: int = 84,
    ) -> None:
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.image_size = image_size
        self.discount, self.critic_tau, self.encoder_tau = 0.99, 0.01, 0.05
        self.target_entropy = -float(action_dim)

        sizes = (action_dim, hidden_dim, channels, image_size)
        self.actor = PlainActor(*sizes).to(self.device)
        self.critic = PlainCritic(*sizes).to(self.device)
        self.target = copy.deepcopy(self.critic)
        self.actor.encoder.convs = self.critic.encoder.convs
        self.bilinear = nn.Parameter(torch.rand(LATENT_DIM, LATENT_DIM, device=self.device))
        self.log_alpha = torch.tensor(math.log(0.1), device=self.device, requires_grad=True)

        encoder = list(self.critic.encoder.parameters())
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], alpha_lr, betas=(0.5, 0.999))
        self.encoder_optimizer = torch.optim.Adam(encoder, lr)
        self.curl_optimizer = torch.optim.Adam([*encoder, self.bilinear], lr)
        self.metrics: dict[str, float] = {}

    @property
    def alpha(self) -> Tensor:
        return self.log_alpha.exp()

    @torch.no_grad()
    def act(self, obs_stack: Images, deterministic: bool = False) -> NDArray[np.float32]:
        """Picks an action for one frame stack [C, H, W], after a centre crop."""
        size = self.image_size
        top, left = (obs_stack.shape[1] - size) // 2, (obs_stack.shape[2] - size) // 2
        image = obs_stack[None, :, top : top + size, left : left + size]
        obs = torch.as_tensor(image, device=self.device).float()
        mean, action, _, _ = self.actor(obs)
        return (mean if deterministic else action).cpu().numpy().flatten()

    def update(self, replay: PlainReplay, step: int) -> dict[str, float]:
        """Samples a batch and updates everything once."""
        return self.update_on(*replay.sample_curl(self.batch_size), step)

    def update_on(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        not_done: Tensor,
        key: Tensor,
        step: int,
    ) -> dict[str, float]:
        """Updates everything once on float tensors that are cropped already."""
        self.metrics = {"batch_reward": reward.mean().item()}
        self.update_critic(obs, action, reward, next_obs, not_done)
        if step % 2 == 0:
            self.update_actor_and_alpha(obs)
            soft_update(self.critic.q1, self.target.q1, self.critic_tau)
            soft_update(self.critic.q2, self.target.q2, self.critic_tau)
            soft_update(self.critic.encoder, self.target.encoder, self.encoder_tau)
        self.update_contrast(obs, key)
        return self.metrics

    def update_critic(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, not_done: Tensor
    ) -> None:
        with torch.no_grad():
            _, next_action, next_log_prob, _ = self.actor(next_obs)
            target_q1, target_q2 = self.target(next_obs, next_action)
            value = torch.min(target_q1, target_q2) - self.alpha.detach() * next_log_prob
            target = reward + self.discount * not_done * value
        q1, q2 = self.critic(obs, action)
        loss = functional.mse_loss(q1, target) + functional.mse_loss(q2, target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        self.metrics["critic_loss"] = loss.item()

    def update_actor_and_alpha(self, obs: Tensor) -> None:
        _, action, log_prob, log_std = self.actor(obs, detach_encoder=True)
        q1, q2 = self.critic(obs, action, detach_encoder=True)
        actor_loss = (self.alpha.detach() * log_prob - torch.min(q1, q2)).mean()
        gaussian = log_std.sum(-1) + 0.5 * log_std.shape[-1] * (1 + math.log(2 * math.pi))
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.metrics["actor_loss"] = actor_loss.item()
        self.metrics["entropy"] = gaussian.mean().item()

        alpha_loss = (self.alpha * (-log_prob - self.target_entropy).detach()).mean()
        self.metrics["alpha_loss"] = alpha_loss.item()
        self.metrics["alpha"] = self.alpha.item()
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()

    def update_contrast(self, obs: Tensor, key: Tensor) -> None:
        """Tells the key of each query from the others; two optimisers step on one gradient."""
        query = self.critic.encoder(obs)
        with torch.no_grad():
            keys = self.target.encoder(key)
        logits = query @ (self.bilinear @ keys.T)
        logits = logits - logits.max(dim=1, keepdim=True).values
        loss = functional.cross_entropy(logits, torch.arange(len(logits), device=self.device))
        self.encoder_optimizer.zero_grad()
        self.curl_optimizer.zero_grad()
        loss.backward()
        self.encoder_optimizer.step()
        self.curl_optimizer.step()
        self.metrics["curl_loss"] = loss.item()
