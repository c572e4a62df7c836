"""Published scores: CURL, Laskin et al. 2020, Table 1: mean ± std of 10 seeds, batch 512."""

from __future__ import annotations

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


def published(task: str, at: int) -> tuple[int, int] | None:
    """CURL's published mean and std at `at` env steps, returns; None where there is none."""
    return CURL.get(at, {}).get(task)


def reference_lines(task: str, until: int) -> dict[int, int]:
    """Env steps -> published mean, for a curve up to `until`: 100k always, 500k if reached."""
    steps = [step for step in CURL if step <= max(until, min(CURL))]
    return {step: CURL[step][task][0] for step in steps if task in CURL[step]}
