"""The recorded updates of the reference implementation, their batches and tolerances.

`reference_updates.json` was recorded in float32 on a CPU with torch 2.13.0. Tolerances are what the
reference differs from itself by, with a margin. Those of a GPU are explained in
tests/agents/test_golden.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = json.loads(Path(__file__).with_name("reference_updates.json").read_text())
DEVICE = torch.device(os.environ.get("CURL_TEST_DEVICE", "cpu"))


def source(name: str) -> str:
    """The name whose values a tensor starts from: the target critic copies the critic."""
    copied = name.removeprefix("target.")
    if copied != name and copied.startswith(("projection", "norm")):
        return f"critic.{copied}"
    return copied


def golden_batch(update: int) -> tuple[Tensor, ...]:
    """obs, action, reward, terminated, next_obs, key: the arguments of `SAC.learn`."""
    rng = np.random.default_rng(1000 + update)
    obs = rng.integers(0, 256, (8, 9, 84, 84), np.uint8)
    next_obs = rng.integers(0, 256, (8, 9, 84, 84), np.uint8)
    key = np.clip(obs + rng.integers(-20, 21, obs.shape), 0, 255).astype(np.uint8)
    action = rng.uniform(-1, 1, (8, 2)).astype(np.float32)
    reward = rng.uniform(0, 2, (8, 1)).astype(np.float32)
    terminated = ~(rng.uniform(size=(8, 1)) > 0.25)
    arrays = (obs, action, reward, terminated, next_obs, key)
    return tuple(torch.as_tensor(a) for a in arrays)


def tensor_deviations(tensors: dict[str, Tensor], records: dict[str, Any]) -> dict[str, float]:
    """The worst deviation from the recorded rms (relative) and values (absolute)."""
    found = {"rms": 0.0, "value": 0.0}
    for name, record in records.items():
        tensor = tensors[name].detach().double().cpu()
        rms = abs(tensor.square().mean().sqrt().item() / record["rms"] - 1)
        values = tensor.flatten()[record["at"]] - torch.tensor(record["values"]).double()
        found["rms"] = max(found["rms"], rms)
        found["value"] = max(found["value"], values.abs().max().item())
    return found


def within_tolerance(worst: list[dict[str, float]]) -> bool:
    first, later = {"loss": 1e-5, "rms": 1e-4, "value": 1e-5}, {"loss": 3e-3, "rms": 2e-3}
    later["value"] = 1.5e-3
    limits = [first if DEVICE.type == "cpu" else later, *[later] * (len(worst) - 1)]
    return all(w[k] <= limit[k] for w, limit in zip(worst, limits, strict=True) for k in limit)
