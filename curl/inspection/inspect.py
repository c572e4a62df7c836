"""Look inside a saved run: play, measure, judge, and write a page.

It imports MuJoCo's renderer, so import it after `choose_opengl`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curl.data.seeding import Stream, generator_seed, seed_everything
from curl.inspection import analysis, measures
from curl.inspection.analysis import Inspection
from curl.inspection.experience import Experience, gather
from curl.inspection.parts import Parts
from curl.run.build import build_agent
from curl.run.checkpoint import CheckpointError
from curl.run.clock import words
from curl.run.folder import RunFolder
from curl.run.guard import Watchdog
from curl.run.policy import Policy, load, make_env
from curl.study.grid import DM_CONTROL, DM_CONTROL_MAXIMUM
from curl.study.runs import read_run


def inspect(
    run: Path,
    *,
    episodes: int,
    seed: int,
    device: str = "auto",
    opengl: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    watchdog: Watchdog | None = None,
) -> Inspection:
    """The numbers of a run folder's newest sound checkpoint, or of a state file.

    Args:
        episodes: how many of each kind are played (`curl/inspection/experience.py`).
        seed: of the episodes and of everything that is drawn.
        stop, watchdog: see `curl/run/recording.py`.

    Raises:
        CheckpointError: there is no such run, or its networks hold numbers that are not finite.
        ValueError, OpenGLError: its environment cannot be made, or failed.
        InterruptedError: `stop` said so. TimeoutError: the environment did not answer.
    """
    policy = load(run, device=device, seed=seed)
    if broken := analysis.not_finite(policy.agent):
        raise CheckpointError(
            f"{run}: weights of {', '.join(broken)} are not finite numbers: the run diverged, and "
            "there is nothing else to see"
        )
    env = make_env(run, device=device, opengl=opengl)
    try:
        generator = seed_everything(seed, policy.device)  # some environments draw from global ones
        played = gather(policy, env, episodes=episodes, seed=seed, stop=stop, watchdog=watchdog)
    finally:
        with (
            contextlib.nullcontext() if watchdog is None else watchdog.watching(interruptible=True)
        ):
            env.close()
    return analyse(run, policy, played, generator)


def analyse(
    run: Path, policy: Policy, played: Experience, generator: torch.Generator
) -> Inspection:
    """The numbers of a policy and its episodes."""
    parts, untrained = Parts.of(policy.agent), Parts.of(beginner(policy))
    batch_size = int(policy.config.get("batch_size", analysis.QUERIES))
    norms, metrics = analysis.dynamics(parts, untrained, played, min(batch_size, analysis.QUERIES))
    sheet = analysis.retrieval(parts, played, generator, batch_size)
    rank = untrained_rank = dim = None
    if parts.encoder is not None and untrained.encoder is not None:
        observed = analysis.stacks(played, analysis.chosen(played, analysis.MIXED, analysis.UNITS))
        latents, before = (
            each.latent(analysis.encoded(each, observed)).detach().cpu().numpy()
            for each in (parts, untrained)
        )
        rank, untrained_rank = map(measures.effective_rank, (latents, before))
        dim = latents.shape[1]
    return Inspection(
        facts=facts(run, policy),
        updates=policy.clock.updates,
        maximum=maximum(policy),
        returns={kind: played.returns(kind) for kind in played.episodes},
        evaluations=evaluations(run, policy),
        retrieval=sheet,
        decoding=analysis.decoding(parts, untrained, played),
        projected=analysis.projected(parts, played),
        values=analysis.values(parts, played, generator),
        actions=analysis.actions(played),
        layers=analysis.layers(parts, untrained, played),
        norms=norms,
        metrics=metrics,
        looks=analysis.looks(parts, played),
        latent_rank=rank,
        untrained_latent_rank=untrained_rank,
        latent_dim=dim,
        left_out=left_out(parts, sheet, played.state is not None),
    )


def beginner(policy: Policy) -> Any:
    """The agent as a run of these settings would begin: with networks that nothing has trained."""
    generator = torch.Generator(policy.device).manual_seed(generator_seed(0, Stream.INSPECTION))
    with torch.random.fork_rng(devices=[policy.device] if policy.device.type == "cuda" else []):
        torch.manual_seed(generator.initial_seed())
        return build_agent(policy.config, action_dim=policy.action_dim, generator=generator)


def facts(run: Path, policy: Policy) -> list[tuple[str, str]]:
    """What the run is."""
    config, clock = policy.config, policy.clock
    counts = [f"{clock.now:,} {words(clock.axis)}", f"{clock.updates:,} updates"]
    return [
        ("run", str(run)),
        ("task", str(config["task"]["name"])),
        ("agent", str(config["agent"]["name"])),
        ("augmentation", str(config["augmentation"].get("label", "?"))),
        ("objective", str(config["objective"]["name"])),
        ("position", ", ".join(dict.fromkeys(counts))),
        ("device", str(policy.device)),
    ]


def maximum(policy: Policy) -> float | None:
    """The highest return that there is: 1000 on DMControl, unknown elsewhere."""
    known = str(policy.config["task"]["env_id"]).startswith(DM_CONTROL)
    return DM_CONTROL_MAXIMUM if known else None


def evaluations(run: Path, policy: Policy) -> list[float]:
    """The mean returns that the run recorded until this checkpoint, oldest first."""
    folder = RunFolder.of(run).path
    try:
        found = read_run(folder, folder.name)
    except (ValueError, OSError):
        return []
    return [float(value) for value in found.returns[np.asarray(found.steps) <= policy.clock.now]]


def left_out(parts: Parts, sheet: analysis.Retrieval | None, state: bool) -> list[str]:
    """What the page lacks, and why."""
    lines = []
    if parts.encoder is None:
        lines.append("retrieval, latents and their rank: this agent has no query encoder")
    if parts.critic is None:
        lines.append("values and the saliency of Q: this agent has no critic")
    if parts.objective is None:
        lines.append("the accuracy of the objective: the run has none")
    elif sheet is not None and not sheet.own:
        name = type(parts.objective).__name__
        lines.append(f"retrieval by the objective: {name} does not choose among observations")
    if not state:
        lines.append("positions and velocities: the environment observes nothing besides frames")
    return lines
