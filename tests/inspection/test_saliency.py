"""Both maps of functions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from curl.inspection.saliency import corners, gradient_times_input, grey, occlusion, saliency

SIZE = 18
VIEW = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def one_place(views: Tensor) -> Tensor:
    """Looks at a square of 2 x 2 pixels, linearly."""
    return 5 * views[:, :, 4:6, 10:12].sum((1, 2, 3))[:, None]


def everywhere(views: Tensor) -> Tensor:
    """Two linear functions of all pixels."""
    weights = torch.randn(2, *VIEW.shape, generator=torch.Generator().manual_seed(1))
    return torch.einsum("bchw,kchw->bk", views, weights)


def blind(views: Tensor) -> Tensor:
    return (0 * views).sum((1, 2, 3))[:, None]


def test_patches_cover_the_view() -> None:
    for size in (1, 8, 20, 44, 84):
        starts, patch = corners(size)
        covered = {row for start in starts for row in range(start, start + patch)}
        assert covered == set(range(size))


def test_the_gradient_map_is_zero_where_nothing_is_looked_at() -> None:
    found = saliency(one_place, VIEW).gradient
    outside = np.ones((SIZE, SIZE), dtype=bool)
    outside[4:6, 10:12] = False
    assert not found[outside].any() and found[4:6, 10:12].all()


def test_occlusion_changes_the_output_where_it_looks() -> None:
    found, (starts, patch) = saliency(one_place, VIEW).occlusion, corners(SIZE)
    for i, top in enumerate(starts):
        for j, left in enumerate(starts):
            seen = top < 6 and top + patch > 4 and left < 12 and left + patch > 10
            assert (found[i, j] > 0) == seen


def test_a_linear_function_has_gradients_that_occlusion_confirms() -> None:
    """Of such a one, gradient x input summed over a patch is its occlusion, exactly."""
    found = saliency(everywhere, VIEW)
    assert found.agreement == pytest.approx(1)
    product = gradient_times_input(everywhere, VIEW).sum(1).numpy()
    (starts, patch), changes = corners(SIZE), occlusion(everywhere, VIEW)
    first = product[:, starts[0] : patch, starts[1] : starts[1] + patch].sum((1, 2))
    assert np.allclose(-first, changes[:, 1], rtol=1e-4)


def test_what_occlusion_does_not_confirm_is_told_apart() -> None:
    """The gradient of a steep wave says nothing about what a whole patch does."""

    def wave(views: Tensor) -> Tensor:
        return torch.sin(1000 * everywhere(views)) / 1000

    assert saliency(wave, VIEW).agreement < 0.9
    assert np.isnan(saliency(blind, VIEW).agreement)


def test_nothing_is_looked_at_in_a_grey_view() -> None:
    plain = grey(VIEW).expand_as(VIEW)
    found = saliency(everywhere, plain)
    assert np.allclose(found.gradient, 0, atol=1e-5) and np.allclose(found.occlusion, 0, atol=1e-3)
