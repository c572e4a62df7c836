"""A replay buffer whose frames and actions show their number, and batches out of it."""

from __future__ import annotations

import numpy as np
import torch

from curl.agents.sac import SAC
from curl.data.batch import Batch
from curl.data.replay import ReplayBuffer
from support.agents import ACTIONS

EDGE = 24
EPISODES = [9, 4, 12]  # agent steps each


def filled_replay() -> ReplayBuffer:
    """Frames that show their number; the action that led to frame n is (n, -n) / 100, its reward n.

    Every episode but the last terminates.
    """
    replay = ReplayBuffer(capacity=60, frame_size=EDGE, action_dim=ACTIONS)
    number = 0
    for steps in EPISODES:
        for step in range(steps + 1):
            frame = np.full((EDGE, EDGE, 3), number, np.uint8)
            if step:
                over = step == steps and steps != EPISODES[-1]
                replay.add(np.array([number, -number]) / 100, float(number), over, frame)
            else:
                replay.begin(frame)
            number += 1
    return replay


def make_batch_of(agent: SAC, count: int) -> Batch:
    return filled_replay().sample(count, torch.Generator().manual_seed(3), agent.offsets)
