"""`python -m curl views`: a contact sheet of every augmentation on one observation of a task."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from torch import Tensor

from curl import augmentations
from curl.checks import integer
from curl.command import CONFIGS
from curl.command.parser import Parser, add_opengl, add_out, add_seed, number
from curl.command.tasks import task_settings
from curl.data.batch import FrameStacks, stack_of
from curl.data.seeding import Stream, episode_seed, generator_seed, random_action
from curl.hardware.device import choose_opengl, load_renderer, renders_in_software

CPU = torch.device("cpu")
RENDER_SIZE, FRAME_STACK = 100, 3  # as in the paper
CELL = 0.88  # inches
LEVELS = 16  # of each colour: textures and noise compress badly, so this halves the file
STYLE: dict[Any, Any] = {"font.size": 8, "savefig.dpi": 100, "image.interpolation": "nearest"}


@dataclass(frozen=True)
class Row:
    """One configured augmentation, each image uint8 [size, size, 3]."""

    label: str
    evaluation: np.ndarray
    query: list[np.ndarray]
    key: list[np.ndarray]


def configured() -> dict[str, dict[str, Any]]:
    """Every file of `configs/augmentation` by its name, the unaugmented one first."""
    files = sorted(
        CONFIGS.glob("augmentation/*.yaml"), key=lambda path: (path.stem != "none", path.stem)
    )
    return {path.stem: resolved(path) for path in files}


def resolved(path: Path) -> dict[str, Any]:
    """What a configuration file says, with values that follow others filled in."""
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def observe(
    task: Mapping[str, Any], *, seed: int, steps: int = 12, opengl: str = "auto"
) -> FrameStacks:
    """The stack of frames after `steps` random agent steps of a task."""
    backend = choose_opengl(opengl, CPU)
    load_renderer(backend)
    software = renders_in_software(backend, CPU)
    # after the OpenGL backend has been chosen
    from curl.data.environment import environment_settings, make_env

    config = {"task": task, "render_size": RENDER_SIZE, "shadow_size": "auto"}
    env = make_env(**environment_settings(config, software))
    with contextlib.closing(env):
        frames = [env.reset(seed=episode_seed(seed, Stream.VIEWS, 0))[0]]
        for step in range(steps):
            action = random_action(seed, step, int(env.action_space.shape[0]))  # pyright: ignore
            frames.append(env.step(action.numpy())[0])
    return stack_of(torch.as_tensor(np.stack(frames[-FRAME_STACK:])))


def rows(stacks: FrameStacks, *, views: int, seed: int) -> list[Row]:
    """`views` random query and key views of the one stack, for every configured augmentation."""
    many = FrameStacks(stacks.frames, stacks.indices.expand(views, -1))
    out = []
    for label, config in configured().items():
        query, key = (augmentations.make(**config[side]) for side in ("query", "key"))
        generator = torch.Generator().manual_seed(generator_seed(seed, Stream.VIEWS))
        drawn = [[picture(view) for view in side(many, generator)] for side in (query, key)]
        out.append(Row(label, picture(query.evaluate(stacks)[0]), *drawn))
    return out


def picture(view: Tensor) -> np.ndarray:
    """The newest frame of one view [C, size, size]: uint8 [size, size, 3], in `LEVELS` steps."""
    frame = view[-3:].permute(1, 2, 0).float()
    if view.dtype == torch.uint8:
        frame = frame / 255
    steps = (frame * (LEVELS - 1)).round() / (LEVELS - 1)
    return (255 * steps).round().to(torch.uint8).numpy()


def draw(sheet: Sequence[Row], title: str) -> Figure:
    """One row an augmentation: the evaluation view, then the query and the key views."""
    views = len(sheet[0].query)
    gap = [0.12]  # a narrow empty column between the three groups
    widths = [1.0, *gap, *[1.0] * views, *gap, *[1.0] * views]
    starts = {"evaluation": 0, "query": 2, "key": 3 + views}
    figure = Figure(
        figsize=(CELL * (sum(widths) + 1.6), CELL * (len(sheet) + 0.6)), layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)  # pyright: ignore
    grid = figure.add_gridspec(len(sheet), len(widths), width_ratios=widths)
    for line, row in enumerate(sheet):
        sides = {"evaluation": [row.evaluation], "query": row.query, "key": row.key}
        for name, pictures in sides.items():
            for place, pixels in enumerate(pictures):
                axes = figure.add_subplot(grid[line, starts[name] + place])
                axes.imshow(pixels)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if line == 0 and place == 0:
                    axes.set_title(name, loc="left")
                if name == "evaluation":
                    axes.set_ylabel(row.label, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def parser() -> Parser:
    parser = Parser(
        "views",
        "Draw a sheet with every configured augmentation: one row for each, with the view that "
        "acting\nand evaluation use, and random views of the query and of the key encoder, all of "
        "one observation\nof a task.",
        examples={
            "": "The sheet of cartpole swing-up, as views.png.",
            "--task walker_walk --views 5 --out walker.png": "Five random views of each side, of "
            "another task.",
        },
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        default="cartpole_swingup",
        help="The task that is observed: a name of configs/task. The default is cartpole_swingup.",
    )
    parser.add_argument(
        "--views",
        type=number,
        metavar="N",
        default=3,
        help="How many random views of each side are drawn. The default is 3.",
    )
    add_seed(parser, "The seed of the observation and of the random views.")
    add_opengl(parser)
    add_out(parser, "The image to write, as PNG.", Path("views.png"))
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command. Refusals are raised as ValueError, OSError or OpenGLError."""
    options = parser().parse_args(arguments)
    integer("--views", options.views)
    integer("--seed", options.seed, at_least=0)
    task = task_settings(options.task)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    observed = observe(task, seed=options.seed, opengl=options.opengl)
    sheet = rows(observed, views=options.views, seed=options.seed)
    title = f"{options.task}: the newest of {FRAME_STACK} frames, {RENDER_SIZE} x {RENDER_SIZE}"
    with matplotlib.rc_context(STYLE):
        draw(sheet, title).savefig(options.out, format="png", pil_kwargs={"optimize": True})
    print(options.out)
    return 0
