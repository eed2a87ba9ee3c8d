"""Pairs: blocks and lists give the sums of a double loop."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from pymc_sph.fluid import neighbours as room
from pymc_sph.fluid.neighbours import Neighbours, find_neighbours, list_pairs, squared_distances
from pymc_sph.fluid.radial_kernels import radial_kernel


def total(pairs, z, values, kernel, h):
    """Sums of W and of W b, over all blocks."""
    weights, vectors = [], []
    for block in pairs.blocks():
        W = kernel.value(squared_distances(block, z), block.j(h))
        weights.append(block.sum(W))
        vectors.append(block.weigh(W * block.i(values), z))
    return np.concatenate(weights), np.concatenate(vectors)


@pytest.mark.parametrize("equal", [True, False])
def test_lists_and_blocks_agree_with_a_double_loop(equal):
    rng = np.random.default_rng(1)
    z, values = rng.standard_normal((60, 2)), rng.standard_normal(60)
    h = np.full(60, 0.2) if equal else rng.uniform(0.05, 0.4, 60)
    kernel = radial_kernel("wendland2", 2)
    W = np.array(
        [
            [float(kernel.value(np.sum((a - b) ** 2), s)) for b, s in zip(z, h, strict=True)]
            for a in z
        ]
    )
    listed = Neighbours(60, list_pairs(z, kernel.support * h))
    with mock.patch.object(room, "BLOCK", 60 * 7):  # seven rows in a block
        for pairs in (Neighbours(60), listed):
            weights, vectors = total(pairs, z, values, kernel, h)
            np.testing.assert_allclose(weights, W.sum(axis=1), rtol=1e-11)
            np.testing.assert_allclose(vectors, (W * values[:, None]) @ z, rtol=1e-10, atol=1e-12)
    assert len(list(Neighbours(60).blocks())) == 1
    reach = kernel.support * np.maximum(h[:, None], h)
    expected = np.sum(np.linalg.norm(z[:, None] - z, axis=-1) <= reach)
    assert listed.n_pairs() == expected < 60**2


def test_lists_are_symmetric_and_sorted():
    rng = np.random.default_rng(2)
    pairs = list_pairs(rng.standard_normal((50, 3)), rng.uniform(0.1, 1.0, 50))
    seen = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(seen) == len(pairs.first)
    assert all((j, i) in seen for i, j in seen) and all((i, i) in seen for i in range(50))
    assert (np.diff(pairs.first) >= 0).all()


def test_lists_only_where_they_pay():
    rng = np.random.default_rng(3)
    for n, d, name, listed in [
        (1000, 2, "wendland2", True),
        (1000, 2, "gaussian", False),
        (1000, 4, "wendland2", False),
        (999, 2, "wendland2", False),
    ]:
        pairs = find_neighbours(
            rng.standard_normal((n, d)), np.full(n, 0.1), radial_kernel(name, d)
        )
        assert (pairs.listed is not None) == listed
