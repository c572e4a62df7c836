"""What lies beside an exported policy: a card for programs, and a page for people.

`card.json` says what goes in and comes out, which environment the policy is for, how it was
trained and scored, and how far the exported programs are from the checkpoint. `README.md` says the
same in words, and shows how to run the policy. `requirements.txt` names the packages with which the
ONNX file was checked.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from curl.files import sha256, write_json
from curl.run.clock import words
from curl.run.exporting import ACTION, FRAMES, ONNX_FILE
from curl.run.policy import Policy
from curl.version import VERSION, commit

FORMAT = 1
CARD, PAGE, REQUIREMENTS = "card.json", "README.md", "requirements.txt"
SERVED_BY = ("numpy", "onnxruntime")
"""The packages that act with the ONNX file."""


def card_of(
    policy: Policy,
    *,
    run: Path,
    space: gym.spaces.Box,
    environment: Mapping[str, Any],
    used: Mapping[str, Any] | None,
    commits: list[str],
    evaluations: list[dict[str, Any]],
    checks: Mapping[str, Any],
) -> dict[str, Any]:
    """The card of a policy.

    Args:
        run: where it was loaded from.
        space: the action space of the environment itself.
        environment: `curl.data.environment.constructor` of its environment.
        used: what its run found on its machine; None if nobody knows.
        commits: the versions of the code that trained it, as far as they are known.
        evaluations: its scores.
        checks: how the programs were compared with the checkpoint: agent steps, the checkpoint's
            rounding error, what was allowed, and the largest difference of each file.
    """
    config, edge = policy.config, policy.render_size
    task = config["task"]
    return {
        "format": FORMAT,
        "task": task["name"],
        "input": {
            "name": FRAMES,
            "dtype": "uint8",
            "shape": ["batch", policy.frame_stack, edge, edge, 3],
            "axes": ["batch", "time, the oldest frame first", "row", "column", "red, green, blue"],
        },
        "output": {
            "name": ACTION,
            "dtype": "float32",
            "shape": ["batch", *space.shape],
            "low": space.low.tolist(),
            "high": space.high.tolist(),
        },
        "environment": {
            **environment,
            "action_repeat": task["action_repeat"],
            "render_size": edge,
            "frame_stack": policy.frame_stack,
        },
        "training": {
            "run": str(run),
            "axis": policy.clock.axis,
            **policy.clock.counts(),
            "commits": commits,
            "used": None if used is None else dict(used),
            "settings": config,
        },
        "evaluations": evaluations,
        "checks": dict(checks),
        "exported": {
            "curl": VERSION,
            "commit": commit(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version for name in SERVED_BY if (version := installed(name)) is not None},
        },
    }


def installed(package: str) -> str | None:
    """The version of a package; None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the card, the page and the requirements beside the programs, with their checksums."""
    programs = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    write_json(folder / CARD, {**card, "sha256": programs})
    (folder / PAGE).write_text(page(card), encoding="utf-8")
    if ONNX_FILE in programs:
        pins = [f"{name}=={card['exported'][name]}" for name in SERVED_BY]
        (folder / REQUIREMENTS).write_text("\n".join(pins) + "\n")


# -- the page --------------------------------------------------------------------------------------

ONNX_USE = """
With NumPy and ONNX Runtime alone (`pip install -r requirements.txt`):

```python
import numpy as np
import onnxruntime

policy = onnxruntime.InferenceSession("policy.onnx")
frames = np.zeros({shape}, np.uint8)
(action,) = policy.run(["action"], {{"frames": frames}})
```
"""

TORCH_USE = """
With PyTorch {torch} or newer:

```python
import torch

policy = torch.export.load("policy.pt2").module()
frames = torch.zeros({shape}, dtype=torch.uint8)
action = policy(frames)
```
"""

PAGE_TEXT = """# A policy for {task}

{agent} on `{environment}`, exported with curl {version} after {position}.
{scores}
| | name | type | shape |
| --- | --- | --- | --- |
| input | `frames` | uint8 | `[B, {input}]` |
| output | `action` | float32 | `[B{output}]` |

Frames are RGB, the newest {stack} of an episode, the oldest one first. At the beginning of an
episode its first frame is repeated. The whole frames go in: cropping and scaling are parts of the
program.
Actions are in the environment's own bounds, from {low} to {high}. An action is held for {repeat}
control steps. `card.json` has everything that made the policy what it is, and the arguments for
`gymnasium.make`.
{uses}
## How it was checked

| file | largest difference |
| --- | --- |
{checks}

Actions were compared with the checkpoint's in {steps} steps of an episode, one stack at a time and
all of them in one batch. A difference is the largest one in any component, relative to half the
width of its bounds; {tolerance:.1e} was allowed. The checkpoint computed in float32 on a CPU, as
the exported programs do, and its own rounding error was {rounding:.1e}.{precision}
"""


def page(card: Mapping[str, Any]) -> str:
    """README.md."""
    training, checks, output = card["training"], card["checks"], card["output"]
    agent, found = training["settings"]["agent"], checks["largest_difference"]
    _, *shape = card["input"]["shape"]
    _, *action = output["shape"]
    axis, example = training["axis"], (1, *shape)
    uses = ONNX_USE.format(shape=example) if ONNX_FILE in found else ""
    uses += TORCH_USE.format(shape=example, torch=release(card["exported"]["torch"]))
    rounded = (training["used"] or {}).get("precision") == "bfloat16"
    return PAGE_TEXT.format(
        task=card["task"],
        agent=agent.get("label", agent["name"]),
        environment=card["environment"]["id"],
        version=card["exported"]["curl"],
        position=f"{training[axis]:,} {words(axis)}",
        scores="".join(f"{score(one)}\n" for one in card["evaluations"]),
        input=", ".join(map(str, shape)),
        stack=shape[0],
        output="".join(f", {size}" for size in action),
        low=output["low"],
        high=output["high"],
        repeat=card["environment"]["action_repeat"],
        uses=uses,
        checks="\n".join(f"| `{name}` | {value:.1e} |" for name, value in found.items()),
        steps=checks["steps"],
        tolerance=checks["tolerance"],
        rounding=checks["rounding"],
        precision=" The run itself acted in bfloat16." if rounded else "",
    )


def release(version: str) -> str:
    """A version without its build: 2.13.0 of 2.13.0+cpu."""
    return version.split("+")[0]


def score(evaluation: Mapping[str, Any]) -> str:
    """One evaluation in words."""
    axis = evaluation["axis"]
    at = f"{evaluation[axis]:,} {words(axis)}"
    return (
        f"Mean return {evaluation['mean']:.1f} in {evaluation['episodes']} episodes after {at} "
        f"({evaluation['source']})."
    )
