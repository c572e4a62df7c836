"""Published scores on the DeepMind Control suite: mean ± std over seeds, at env steps.

`CURL` and `PIXEL_SAC` are of Laskin et al. 2020, Table 1 (10 seeds, batch 512). The others are of
their own papers: DrQ (Kostrikov et al. 2020), MLR (Yu et al. 2022), Simoun (2023).
"""

from __future__ import annotations

from curl.run.clock import ENV_STEPS

CURL = {
    100_000: {
        "finger_spin": (767, 56),
        "cartpole_swingup": (582, 146),
        "reacher_easy": (538, 233),
        "cheetah_run": (299, 48),
        "walker_walk": (403, 24),
        "ball_in_cup_catch": (769, 43),
    },
    500_000: {
        "finger_spin": (926, 45),
        "cartpole_swingup": (841, 45),
        "reacher_easy": (929, 44),
        "cheetah_run": (518, 28),
        "walker_walk": (902, 43),
        "ball_in_cup_catch": (959, 27),
    },
}

PIXEL_SAC = {
    "finger_spin": (179, 66),
    "cartpole_swingup": (419, 40),
    "reacher_easy": (145, 30),
    "cheetah_run": (197, 15),
    "walker_walk": (42, 12),
    "ball_in_cup_catch": (312, 63),
}
DRQ = {
    "finger_spin": (901, 104),
    "cartpole_swingup": (759, 92),
    "reacher_easy": (601, 213),
    "cheetah_run": (344, 67),
    "walker_walk": (612, 164),
    "ball_in_cup_catch": (913, 53),
}
MLR = {
    "finger_spin": (907, 58),
    "cartpole_swingup": (806, 48),
    "reacher_easy": (866, 103),
    "cheetah_run": (482, 38),
    "walker_walk": (643, 114),
    "ball_in_cup_catch": (933, 16),
}
SIMOUN = {
    "finger_spin": (872, 90),
    "cartpole_swingup": (851, 14),
    "reacher_easy": (910, 65),
    "cheetah_run": (518, 57),
    "walker_walk": (869, 45),
    "ball_in_cup_catch": (971, 17),
}
AT_100K = {
    "CURL": CURL[100_000],
    "pixel SAC": PIXEL_SAC,
    "DrQ": DRQ,
    "MLR": MLR,
    "Simoun": SIMOUN,
}


def published(task: str, at: int, axis: str) -> tuple[int, int] | None:
    """CURL's published mean and std of returns at a position on an axis; None where there is none.

    All published scores are at env steps.
    """
    return CURL.get(at, {}).get(task) if axis == ENV_STEPS else None


def reference_lines(task: str, until: int, axis: str) -> dict[int, int]:
    """Env steps -> published mean, for a curve up to `until`: 100k always, 500k if reached."""
    if axis != ENV_STEPS:
        return {}
    steps = [step for step in CURL if step <= max(until, min(CURL))]
    return {step: CURL[step][task][0] for step in steps if task in CURL[step]}
