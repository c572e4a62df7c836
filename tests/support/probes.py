"""Probe environments: so small that the right value or action is known, each for one ability.

They are drawn as 36 x 36 frames of one grey level and pass through `make_env`, the replay buffer
and the agent like any task. `learn` is the training loop without its chores.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from curl.agents.drqv2 import DrQV2
from curl.agents.sac import SAC
from curl.augmentations.crop import Crop
from curl.data.batch import stack_of
from curl.data.environment import make_env
from curl.data.replay import ReplayBuffer
from curl.data.seeding import seed_everything
from curl.objectives.infonce import InfoNCE

EDGE, BLACK, GREY, WHITE = 36, 0, 128, 255


class Probe(gym.Env[np.ndarray, np.ndarray]):
    """An episode of one step whose frame is black or white; subclasses say the reward."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gym.spaces.Box(0, 255, (EDGE, EDGE, 3), np.uint8)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.level = self.sign = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.sign = int(self.np_random.choice([-1, 1]))
        self.level = WHITE if self.sign > 0 else BLACK
        return self.render(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward, terminated, truncated = self.outcome(float(action[0]))
        return self.render(), reward, terminated, truncated, {}

    def render(self) -> np.ndarray:
        return frame(self.level)

    def outcome(self, action: float) -> tuple[float, bool, bool]:
        """Reward, terminated, truncated."""
        raise NotImplementedError


class One(Probe):
    """Reward 1, then the episode terminates: Q = 1."""

    def outcome(self, action: float) -> tuple[float, bool, bool]:
        return 1.0, True, False


class OneTruncated(Probe):
    """Reward 1, then the episode is cut off: Q = 1 + gamma + gamma^2 + ... = 1 / (1 - gamma)."""

    def outcome(self, action: float) -> tuple[float, bool, bool]:
        return 1.0, False, True


class Colour(Probe):
    """White pays 1, black -1."""

    def outcome(self, action: float) -> tuple[float, bool, bool]:
        return float(self.sign), True, False


class Delayed(Probe):
    """A black or white frame, then a grey one, after which the first one's sign is paid.

    Q = +-gamma at the first step; +-1 at the second, which takes a stack of two frames to see.
    """

    def outcome(self, action: float) -> tuple[float, bool, bool]:
        last = self.level == GREY
        self.level = GREY
        return (float(self.sign), True, False) if last else (0.0, False, False)


class Target(Probe):
    """The best action is 0.5."""

    def outcome(self, action: float) -> tuple[float, bool, bool]:
        return 1.0 - (action - 0.5) ** 2, True, False


class ColourTarget(Probe):
    """The best action is 0.5 at white and -0.5 at black."""

    def outcome(self, action: float) -> tuple[float, bool, bool]:
        return 1.0 - (action - 0.5 * self.sign) ** 2, True, False


for probe in (One, OneTruncated, Colour, Delayed, Target, ColourTarget):
    gym.register(f"probe/{probe.__name__}-v0", probe, max_episode_steps=10)


def frame(level: int) -> np.ndarray:
    return np.full((EDGE, EDGE, 3), level, np.uint8)


def learn(
    probe: type[Probe],
    *,
    updates: int,
    discount: float = 0.5,
    frame_stack: int = 1,
    contrast: bool = False,
    temperature: float = 1e-3,
    learning_rate: float = 3e-3,
    kind: type[SAC | DrQV2] = SAC,
    seed: int = 0,
) -> SAC | DrQV2:
    """Train a small agent on a probe: 64 random steps, then act, update, step.

    `temperature` is SAC's; DrQ-v2's exploration noise decays over the first half of the run.
    """
    generator = seed_everything(seed, torch.device("cpu"))
    env = make_env(env_id=f"probe/{probe.__name__}-v0", action_repeat=1, render_size=EDGE)
    replay = ReplayBuffer(capacity=1000, frame_size=EDGE, action_dim=1, frame_stack=frame_stack)
    own: dict[str, Any] = {"initial_temperature": temperature}
    if kind is DrQV2:
        own = {"noise_steps": updates // 2, "updates_per_step": 1}
        own["actor_learning_rate"] = learning_rate
    agent = kind(
        channels=3 * frame_stack,
        action_dim=1,
        query=Crop(size=32),
        key=Crop(size=32),
        objective=InfoNCE(latent_dim=8) if contrast else None,
        generator=generator,
        discount=discount,
        hidden_dim=32,
        latent_dim=8,
        learning_rate=learning_rate,
        critic_tau=0.1,
        encoder_tau=0.1,
        **own,
    )
    over, episode = True, 0
    for step in range(64 + updates):
        if over:
            replay.begin(env.reset(seed=seed + episode)[0])
            episode += 1
        if step < 64:
            action = 2 * torch.rand(1, generator=generator) - 1
        else:
            action = agent.act(replay.latest(), deterministic=False)[0]
            agent.update(replay.sample(16, generator, agent.offsets))
        pixels, reward, terminated, truncated, _ = env.step(action.numpy())
        replay.add(action, float(reward), terminated, pixels)
        over = terminated or truncated
    env.close()
    return agent


@torch.no_grad()
def q_value(agent: SAC | DrQV2, *levels: int, action: float = 0.0) -> float:
    """min Q of `action` at a stack of frames of these grey levels, oldest first."""
    stack = stack_of(torch.as_tensor(np.stack([frame(level) for level in levels])))
    latent = agent.critic.projection(agent.trunk(agent.query.evaluate(stack)))
    return torch.minimum(*agent.critic(latent, torch.tensor([[action]]))).item()


def best_action(agent: SAC | DrQV2, *levels: int) -> float:
    """The deterministic action at a stack of frames of these grey levels, oldest first."""
    stack = stack_of(torch.as_tensor(np.stack([frame(level) for level in levels])))
    return agent.act(stack, deterministic=True).item()
