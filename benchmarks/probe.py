"""What an objective teaches an encoder: `python -m benchmarks.probe [--json results/probe.json]`.

Frames are drawn from a state that is known: a cart whose pole turns under random actions. The real
agent's encoder learns from them by contrastive steps alone (steps, moving averages and views as in
training, no reward). Then a ridge regression, fitted on other episodes, reads the sine of the
pole's angle out of the evaluation view's latent. Its held-out R^2, against that of the same encoder
untrained, says what the objective put there; the cart's wandering keeps it from being linear in the
pixels. `none` has no contrastive step: its row is SAC's own updates on a reward that is always 0.

One row an objective x augmentation, means over seeds: `r2`, `r2_untrained`, the objective's
`accuracy` and `effective_rank` on its last batch, and the median CPU milliseconds of a whole
agent update at this size, on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from curl.agents.sac import SAC
from curl.command.views import resolved
from curl.data.replay import ReplayBuffer
from curl.data.seeding import seed_everything
from curl.hardware.device import machine
from curl.run.build import build_agent

CONFIGS = Path(__file__).parents[1] / "configs"
EDGE, EPISODES, STEPS = 36, 60, 30  # pixels, episodes, agent steps of each
SCALED = ("size", "pad", "min_edge", "max_edge")  # knobs in pixels of a 100 x 100 frame
REACH = 0.18  # of the cart, in frames
BATCH, UPDATES = 64, 400


def draw(place: float, angle: float) -> np.ndarray:
    """uint8 [EDGE, EDGE, 3]: a cart at `place` in [-1, 1], its pole `angle` from upright."""
    y, x = np.mgrid[0:EDGE, 0:EDGE] / EDGE
    pivot_x, pivot_y, length = 0.5 + REACH * place, 0.55, 0.25
    along = (x - pivot_x) * np.sin(angle) - (y - pivot_y) * np.cos(angle)
    aside = np.hypot(
        x - pivot_x - np.clip(along, 0, length) * np.sin(angle),
        y - pivot_y + np.clip(along, 0, length) * np.cos(angle),
    )
    pole = np.clip(1.5 - aside * EDGE, 0, 1)[..., None]
    cart = (np.abs(x - pivot_x) < 0.1) & (np.abs(y - pivot_y) < 0.05)
    frame = np.array([40, 60, 90]) * (1 + 0.3 * y[..., None])  # a sky
    frame = np.where(cart[..., None], [150, 150, 150], frame)
    return ((1 - pole) * frame + pole * np.array([220, 160, 60])).astype(np.uint8)


def record(seed: int, episodes: int = EPISODES) -> tuple[ReplayBuffer, np.ndarray]:
    """A buffer of episodes, and the sine of the pole's angle at each of its frames."""
    rng = np.random.default_rng(seed)
    replay = ReplayBuffer(capacity=episodes * (STEPS + 1), frame_size=EDGE, action_dim=1)
    sines = []
    for _ in range(episodes):
        place, angle = rng.uniform(-1, 1), rng.uniform(-np.pi, np.pi)
        speed, drift = rng.normal(0, 0.15), rng.normal(0, 0.05)
        for step in range(STEPS + 1):
            action = rng.uniform(-1, 1, 1).astype(np.float32)
            if step:
                speed = 0.95 * speed + 0.1 * float(action[0])
                drift = 0.9 * drift + rng.normal(0, 0.03)
                place, angle = float(np.clip(place + drift, -1, 1)), angle + speed
                replay.add(action, 0.0, False, draw(place, angle))
            else:
                replay.begin(draw(place, angle))
            sines.append(np.sin(angle))
    return replay, np.array(sines)


def make_agent(objective: str, augmentation: str, seed: int) -> SAC:
    """The agent of `configs/`, smaller, and with pixel sizes scaled from 100 to EDGE."""
    generator = seed_everything(seed, torch.device("cpu"))
    settings = OmegaConf.load(CONFIGS / "agent" / "curl.yaml")
    settings.learning_rate, settings.hidden_dim = 1e-3, 64
    config = {
        "agent": OmegaConf.to_container(settings),
        "augmentation": scaled(load("augmentation", augmentation)),
        "objective": load("objective", objective),
        "frame_stack": 3,
        "precision": "auto",
    }
    agent = build_agent(config, action_dim=1, generator=generator)
    assert isinstance(agent, SAC)
    return agent


def load(group: str, name: str) -> Any:
    return resolved(CONFIGS / group / f"{name}.yaml")


def scaled(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {k: pixels(v) if k in SCALED else scaled(v) for k, v in settings.items()}
    return [scaled(value) for value in settings] if isinstance(settings, list) else settings


def pixels(value: int) -> int:
    return max(1, round(value * EDGE / 100))


@torch.no_grad()
def latents(agent: SAC, replay: ReplayBuffer) -> np.ndarray:
    """Of the evaluation view at every frame, float64 [frames, D]."""
    found = []
    for newest in torch.arange(replay.written).split(256):
        view = agent.query.evaluate(replay.stacks(newest))
        found.append(agent.encoder[1](agent.encoder[0](view)))
    return torch.cat(found).double().numpy()


def decode(agent: SAC, fit: tuple[Any, Any], test: tuple[Any, Any]) -> float:
    """Held-out R^2 of a ridge regression from latent to sine; each a replay and its sines."""
    x, y = latents(agent, fit[0]), fit[1]
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x = np.c_[(x - mean) / spread, np.ones(len(x))]
    weights = np.linalg.solve(x.T @ x + 1e-2 * len(x) * np.eye(x.shape[1]), x.T @ y)
    x, y = np.c_[(latents(agent, test[0]) - mean) / spread, np.ones(len(test[1]))], test[1]
    return float(1 - ((x @ weights - y) ** 2).mean() / y.var())


def learn(agent: SAC, replay: ReplayBuffer, *, updates: int, batch_size: int) -> dict[str, Any]:
    """Contrastive steps and moving averages; SAC's updates for an agent without an objective."""
    metrics: dict[str, Any] = {}
    for number in range(updates):
        batch = replay.sample(batch_size, agent.generator, agent.offsets)
        if agent.objective is None:
            agent.update(batch)
            continue
        features = agent.trunk(agent.query(batch.obs, agent.generator))
        views = agent.contrast.views(batch, agent.generator, number)
        assert views is not None  # with an objective and contrastive_every=1
        metrics = agent.update_contrast(features, views)
        if number % agent.target_update_every == 0:
            agent.update_targets()
    return metrics


def milliseconds(agent: SAC, replay: ReplayBuffer, batch_size: int, calls: int = 8) -> float:
    """Median CPU time of whole updates, after two that are not timed."""
    seconds = []
    for _ in range(calls + 2):
        batch = replay.sample(batch_size, agent.generator, agent.offsets)
        begin = time.process_time()
        agent.update(batch)
        seconds.append(time.process_time() - begin)
    return 1e3 * statistics.median(seconds[2:])


def probe(
    objective: str, augmentation: str, *, seed: int, updates: int, batch_size: int = BATCH
) -> dict[str, float]:
    """One cell of the table at one seed."""
    learning, fit, test = record(seed)[0], record(seed + 1000), record(seed + 2000)
    agent = make_agent(objective, augmentation, seed)
    row = {"r2_untrained": decode(agent, fit, test)}
    metrics = learn(agent, learning, updates=updates, batch_size=batch_size)
    row["r2"] = decode(agent, fit, test)
    for name in ("accuracy", "effective_rank"):
        if f"contrastive_{name}" in metrics:
            row[name] = metrics[f"contrastive_{name}"].item()
    row["ms_per_update"] = milliseconds(agent, learning, batch_size)
    return row


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def table(rows: list[dict[str, Any]]) -> Table:
    columns = ("r2", "r2_untrained", "accuracy", "effective_rank", "ms_per_update")
    drawn = Table()
    for column in ("objective", "augmentation", *(c.replace("_", " ") for c in columns)):
        drawn.add_column(column, overflow="fold")
    for row in rows:
        cells = [f"{row[c]:.3g}" if c in row else "" for c in columns]
        drawn.add_row(row["objective"], row["augmentation"], *cells)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--objectives", nargs="+", default=names("objective"))
    parser.add_argument("--augmentations", nargs="+", default=["crop", "gaussian", "shift"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for augmentation in options.augmentations:
        for objective in options.objectives:
            cells = [
                probe(objective, augmentation, seed=seed, updates=options.updates)
                for seed in options.seeds
            ]
            means = {key: statistics.mean(cell[key] for cell in cells) for key in cells[0]}
            rows.append({"objective": objective, "augmentation": augmentation, **means})
            shown = ", ".join(f"{name} {value:.3g}" for name, value in means.items())
            Console().print(f"{objective}, {augmentation}: {shown}")
            if options.json is not None:
                settings = {"seeds": options.seeds, "updates": options.updates, "batch": BATCH}
                settings |= {"frame": EDGE, "machine": machine(torch.device("cpu"))}
                options.json.write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n")
    Console().print(table(rows))


if __name__ == "__main__":
    main()
