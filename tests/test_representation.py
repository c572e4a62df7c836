"""Each objective teaches its encoder a known state (benchmarks/probe.py); `none` does not.

A linear probe reads the sine of a pole's angle out of the latent; held-out R^2 must beat that of
the untrained encoder by MARGIN after some hundred contrastive steps.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.probe import UPDATES, draw, names, probe, record

MARGIN = 0.15
QUICK = ("infonce", "none")  # the others are slow tests


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "objective",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in names("objective")],
)
def test_an_objective_teaches_the_state_and_none_does_not(objective: str) -> None:
    row = probe(objective, "crop", seed=0, updates=UPDATES)
    gain = row["r2"] - row["r2_untrained"]
    assert (gain > MARGIN) == (objective != "none"), row


def test_the_drawing_shows_the_angle_and_the_place() -> None:
    """A pole to the right has its bright pixels to the right of the cart; an upright one above."""
    pole = {angle: draw(0.0, angle)[..., 0] > 180 for angle in (-1.5, 0.0, 1.5)}
    columns = {angle: where.nonzero()[1].mean() for angle, where in pole.items()}
    assert columns[-1.5] < 15 < columns[0.0] < 21 < columns[1.5]
    assert draw(1.0, 0.0)[20, :, 0].argmax() > draw(-1.0, 0.0)[20, :, 0].argmax()


def test_records_hold_one_sine_a_frame() -> None:
    replay, sines = record(seed=1, episodes=3)
    assert replay.written == len(sines) and abs(sines).max() <= 1
    again, same = record(seed=1, episodes=3)
    assert torch.equal(replay.frames[: replay.written], again.frames[: again.written])
    assert (sines == same).all()
