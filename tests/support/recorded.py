"""Recorded episodes of random actions in the environment of grey frames."""

from __future__ import annotations

import numpy as np

from curl.data.episode import Episode
from support.faulty import Sound

STEPS = 20


def played(seed: int) -> Episode:
    env, draw = Sound(), np.random.default_rng(seed)
    env.reset(seed=2 * seed)
    frames, rewards = [env.render()], []
    actions = draw.uniform(-1, 1, (STEPS, 1)).astype(np.float32)
    for action in actions:
        rewards.append(env.step(action)[1])
        frames.append(env.render())
    return Episode(np.stack(frames), actions, np.float32(rewards), False, True, seed=2 * seed)
