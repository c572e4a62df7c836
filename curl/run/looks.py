"""Score a saved run on several looks of its environment, in the same episodes on each.

The first look is the one that the run trained on. Each look is written as soon as its episodes are
over, and what the file holds of an earlier evaluation is not played again: an episode is known by
the checkpoint, by its seed, and by the settings of the look.

It imports MuJoCo's renderer, so import it after `choose_opengl`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curl.data.environment import environment_settings
from curl.data.seeding import Stream, episode_seed, seed_everything
from curl.files import sha256, write_json
from curl.hardware.device import renders_in_software
from curl.run.checkpoint import refuse_foreign_content
from curl.run.evaluation import Evaluator, Shift, senseless
from curl.run.folder import RunFolder
from curl.run.look_files import TRAINING, read_looks
from curl.run.policy import Policy, load
from curl.run.scoring import summary

log = logging.getLogger("curl")

SAME = ("sha256", "seed", "shadow_size")  # of a file that an evaluation goes on with


@dataclass
class Evaluated:
    """What an evaluation on several looks found.

    Attributes:
        content: what the file holds, of the looks and episodes that were asked for.
        file: where it is written.
        folder: of the run.
        seen: name of a look -> uint8 [T, H, W, 3], what the agent saw in the first episode; only of
            looks that were played now.
        videos: name of a look -> its MP4.
        failures: lines about files that could not be written.
    """

    content: dict[str, Any]
    file: Path
    folder: RunFolder
    seen: dict[str, np.ndarray] = field(default_factory=dict)
    videos: dict[str, Path] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def sheet(self) -> Path:
        """Where a picture of all looks belongs."""
        return self.folder.look_sheet(*self._place)

    def strip(self, look: str) -> Path:
        """Where a picture of one look belongs."""
        return self.folder.look_strip(*self._place, look)

    @property
    def _place(self) -> tuple[int, int]:
        return self.content[self.content["axis"]], self.content["seed"]


@torch.no_grad()
def evaluate_looks(
    run: Path,
    *,
    looks: Mapping[str, Shift],
    named: Collection[str],
    episodes: int,
    seed: int,
    video: bool,
    device: torch.device,
    backend: str,
    processes: int,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluated:
    """Evaluate a run's newest sound checkpoint, or the state file `run`, on several looks.

    A look takes the place of the one that the run trained on, which is always evaluated as well.

    Args:
        looks: name -> settings, as `shift` of a configuration.
        named: looks that are refused where they make no sense; the others are left out there.
        episodes: how many, on each look.
        seed: of the episodes.
        video: whether the first episode on each look is shown by an MP4.
        backend: what draws, as `choose_opengl` returned it.
        processes: see `Evaluator`.
        stop: asked before every step; see `Evaluator`.

    Returns:
        The checkpoint, the seeds of the episodes, and for each look its settings, its returns and
        what `summary` makes of them. `left_out` holds the looks that make no sense on the task,
        with the reasons.

    Raises:
        CheckpointError: there is no such run, or it has no sound checkpoint of ours.
        ValueError: a look that was named makes no sense on the task.
        InterruptedError: `stop` said so; the looks that were finished are in the file.
    """
    policy = load(run, device=device, seed=seed)
    folder, clock = RunFolder.of(run), policy.clock
    with refuse_foreign_content(run):
        settings = environment_settings(policy.config, renders_in_software(backend, device))
    left_out = senseless(settings, looks)
    for name, why in left_out.items():
        if name in named:
            raise ValueError(f"{run}: {why}")
        log.info("%s: %s is left out: %s", run, name, why)
    wanted = {TRAINING: settings["shift"], **looks}
    wanted = {name: shift for name, shift in wanted.items() if name not in left_out}
    checkpoint = folder.checkpoint(clock.now) if run.is_dir() else run
    content: dict[str, Any] = {
        "run": str(run),
        "task": str(policy.config["task"]["name"]),
        "checkpoint": checkpoint.name,
        "sha256": sha256(checkpoint),
        "axis": clock.axis,
        **clock.counts(),
        "seed": seed,
        "episode_seeds": [episode_seed(seed, Stream.EVALUATION, i) for i in range(episodes)],
        "shadow_size": settings["shadow_size"],
        "left_out": left_out,
        "looks": {},
    }
    found = Evaluated(content, folder.looks(clock.now, seed), folder)
    kept = content | {"looks": earlier(found.file, content)}
    player = Player(policy, settings, episodes=episodes, seed=seed, processes=processes, stop=stop)
    with contextlib.closing(player):
        for number, (name, shift) in enumerate(wanted.items(), 1):
            film = folder.look_video(clock.now, seed, name) if video else None
            returns, seen = known(kept, shift), []
            if len(returns) < episodes:
                returns, seen = player.play(shift, film)
            elif film is not None and not film.exists():
                _, seen = player.play(shift, film, episodes=1)
            content["looks"][name] = result(shift, returns[:episodes])
            if kept["looks"].get(name) != (longest := result(shift, returns)):
                kept["looks"][name] = longest
                keep(found, kept)
            mean = content["looks"][name]["mean"]
            log.info("%s: %s %.1f (%d of %d)", run, name, mean, number, len(wanted))
            if seen:
                found.seen[name] = np.stack(seen)
            if film is not None and film.exists():
                found.videos[name] = film
            elif film is not None:
                found.failures.append(f"{film} could not be written")
    return found


def result(shift: Shift, returns: list[float]) -> dict[str, Any]:
    """What the file says of one look."""
    return {"shift": shift, "episodes": len(returns), **summary(returns), "returns": returns}


class Player:
    """Plays the same episodes on one look after another; its processes are started once.

    Args:
        settings: arguments of `make_env`.
        others: see `evaluate_looks`.
    """

    def __init__(
        self,
        policy: Policy,
        settings: Mapping[str, Any],
        *,
        episodes: int,
        seed: int,
        processes: int,
        stop: Callable[[], bool],
    ) -> None:
        self.policy, self.settings, self.seed = policy, settings, seed
        self.episodes, self.stop = episodes, stop
        self.evaluator = self._evaluator(episodes, processes)

    def play(
        self, shift: Shift, film: Path | None, episodes: int | None = None
    ) -> tuple[list[float], list[np.ndarray]]:
        """The returns on a look, and what the agent saw in the first episode.

        Args:
            film: an MP4 of that episode, which replaces an earlier one.
            episodes: only so many, here and one after another; None: all of them.
        """
        if film is not None:
            with contextlib.suppress(OSError):
                film.unlink(missing_ok=True)
        seed_everything(self.seed, self.policy.device)  # for environments that draw from globals
        evaluator = self.evaluator if episodes is None else self._evaluator(episodes, 1)
        seen: list[np.ndarray] = []
        returns = evaluator(
            self.policy.agent, seed=self.seed, video=film, seen=seen, shift=shift, stop=self.stop
        )
        return returns, seen

    def close(self) -> None:
        self.evaluator.close()

    def _evaluator(self, episodes: int, processes: int) -> Evaluator:
        return Evaluator(
            settings=self.settings,
            episodes=episodes,
            frame_stack=self.policy.frame_stack,
            device=self.policy.device,
            processes=processes,
        )


# -- the file --------------------------------------------------------------------------------------


def earlier(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The looks that the file holds of the same checkpoint and seed."""
    try:
        found = read_looks(file)
    except (OSError, ValueError):
        return {}
    return found["looks"] if all(found.get(key) == content[key] for key in SAME) else {}


def known(kept: Mapping[str, Any], shift: Shift) -> list[float]:
    """The most returns that are there on a look of these settings, whatever it is called."""
    found = [look["returns"] for look in kept["looks"].values() if look["shift"] == shift]
    return max(found, key=len, default=[])


def keep(found: Evaluated, kept: Mapping[str, Any]) -> None:
    """Write the file, with the seeds of as many episodes as any look has."""
    count = max(len(look["returns"]) for look in kept["looks"].values())
    seeds = [episode_seed(kept["seed"], Stream.EVALUATION, i) for i in range(count)]
    try:
        found.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(found.file, {**kept, "episode_seeds": seeds, "looks": kept["looks"]})
    except OSError as error:
        line = f"{found.file} could not be written: {error.strerror}"
        if line not in found.failures:
            found.failures.append(line)
