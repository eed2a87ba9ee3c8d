"""Which particles interact: all pairs, or lists of neighbours where the kernel is compact.

The physics is written once, in terms of a block of pairs (i, j): its rows are particles i, its
columns the particles j that they feel. Values of a pair are an array over the pairs, (n, N) for
all pairs and (E,) for listed ones; sums over j come back as arrays over the rows. Everything a
pair force needs is a scalar per pair times a difference of vectors, so no (N, N, d) array exists:

    sum_j c_ij (b_i - b_j) = b_i sum_j c_ij - sum_j c_ij b_j
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from pymc_sph.fluid.radial_kernels import RadialKernel
from pymc_sph.fluid.state import Array, namespace

BLOCK = 1_000_000
"""Pairs in one block of all pairs."""
LISTED_DIM, LISTED_PARTICLES = 3, 1000
"""Neighbours are listed up to this dimension, from this number of particles."""


@dataclass(frozen=True)
class AllPairs:
    """Some rows of the matrix of all pairs."""

    rows: slice

    def i(self, x: Array) -> Array:
        """Values of the particles i, (n, 1)."""
        return x[self.rows][:, None]

    def j(self, x: Array) -> Array:
        """Values of the particles j, (1, N)."""
        return x[None, :]

    def dot(self, a: Array, b: Array) -> Array:
        """Inner products a_i . b_j, (n, N)."""
        return a[self.rows] @ b.T

    def sum(self, c: Array) -> Array:
        """Sum over j, (n,)."""
        return namespace(c).sum(c, axis=1)

    def weigh(self, c: Array, b: Array) -> Array:
        """Sum over j of c_ij b_j, (n, d)."""
        return c @ b


@dataclass(frozen=True)
class ListedPairs:
    """Pairs of all particles with their neighbours, sorted by i; NumPy arrays only."""

    first: np.ndarray
    second: np.ndarray
    starts: np.ndarray
    rows: slice = field(default_factory=lambda: slice(None))

    def i(self, x: np.ndarray) -> np.ndarray:
        """Values of the particles i, (E,)."""
        return x[self.first]

    def j(self, x: np.ndarray) -> np.ndarray:
        """Values of the particles j, (E,)."""
        return x[self.second]

    def dot(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Inner products a_i . b_j, (E,); a coordinate at a time, for no (E, d) array is needed."""
        out = np.zeros(len(self.first))
        for k in range(a.shape[1]):
            out += a[self.first, k] * b[self.second, k]
        return out

    def sum(self, c: np.ndarray) -> np.ndarray:
        """Sum over j, (N,); every particle is its own neighbour, so no row is empty."""
        return np.add.reduceat(c, self.starts[:-1])

    def weigh(self, c: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Sum over j of c_ij b_j, (N, d)."""
        n = len(b)
        return csr_array((c, self.second, self.starts), shape=(n, n)) @ b


Block = AllPairs | ListedPairs
"""Pairs of the particles i of some rows with particles j."""


@dataclass(frozen=True)
class Neighbours:
    """The pairs of a set of particles, in blocks.

    Attributes
    ----------
    n : int
        Number of particles N.
    listed : ListedPairs or None
        Lists of neighbours; None for all pairs.
    """

    n: int
    listed: ListedPairs | None = None

    def blocks(self) -> Iterator[Block]:
        """Blocks whose rows cover all particles, in order."""
        if self.listed is not None:
            yield self.listed
            return
        size = max(1, BLOCK // self.n)
        for i in range(0, self.n, size):
            yield AllPairs(slice(i, i + size))

    def n_pairs(self) -> int:
        """Count the pairs, each from both sides."""
        return self.n**2 if self.listed is None else len(self.listed.first)


def squared_distances(block: Block, z: Array) -> Array:
    """|z_i - z_j|^2 of the pairs of a block, expanded about the particles' mean."""
    xp = namespace(z)
    z = z - xp.mean(z, axis=0)
    square = xp.sum(z * z, axis=1)
    return xp.maximum(block.i(square) + block.j(square) - 2.0 * block.dot(z, z), 0.0)


def find_neighbours(z: Array, h: Array, kernel: RadialKernel) -> Neighbours:
    """Return the pairs whose kernels, or one of them, reach the other's particle.

    Lists, by a k-d tree, for a compact kernel, N >= 1000 and d <= 3; all pairs otherwise: with few
    particles or many dimensions nearly every pair interacts.
    """
    n, d = z.shape
    if not np.isfinite(kernel.support) or d > LISTED_DIM or n < LISTED_PARTICLES:
        return Neighbours(n)
    reach = kernel.support * np.asarray(h)
    return Neighbours(n, list_pairs(np.asarray(z), reach))


def list_pairs(z: np.ndarray, reach: np.ndarray) -> ListedPairs:
    """Pairs with |z_i - z_j| <= max(reach_i, reach_j), the particles themselves included."""
    n = len(z)
    tree = cKDTree(z)
    if np.ptp(reach) == 0:
        near = tree.query_pairs(float(reach[0]), output_type="ndarray")
        first = np.concatenate([np.arange(n), near[:, 0]])
        second = np.concatenate([np.arange(n), near[:, 1]])
    else:
        found = tree.query_ball_point(z, reach, return_sorted=False)
        counts = np.fromiter(map(len, found), dtype=np.intp, count=n)
        first = np.repeat(np.arange(n), counts)
        second = np.fromiter(chain.from_iterable(found), dtype=np.intp, count=int(counts.sum()))
    near = csr_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(n, n))
    both = near + near.T  # a pair is one, whichever of the two reaches the other
    both.sort_indices()
    starts = both.indptr.astype(np.intp)
    return ListedPairs(np.repeat(np.arange(n), np.diff(starts)), both.indices, starts)
