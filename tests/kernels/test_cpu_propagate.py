"""Label propagation and sums over communities against plain Python and dense matrices."""

import numpy as np
import pytest
from scipy import sparse

from graphattn.kernels.cpu.propagate import community_moments, propagate_labels


def random_matrix(nodes, entries, seed=0):
    random = np.random.default_rng(seed)
    pairs = random.integers(0, nodes, (2, entries))
    matrix = sparse.csr_array((random.integers(1, 4, entries) * 1.0, pairs), shape=(nodes, nodes))
    return sparse.csr_array(matrix + matrix.T)


def plain_labels(matrix, order, sweeps):
    labels = list(range(matrix.shape[0]))
    for _ in range(sweeps):
        for node in order:
            around, best, most = {}, None, 0.0
            entries = range(matrix.indptr[node], matrix.indptr[node + 1])
            turn = int(node) * 40_503 % max(len(entries), 1)
            for entry in (*entries[turn:], *entries[:turn]):
                other, weight = matrix.indices[entry], matrix.data[entry]
                if other == node:
                    continue
                label = labels[other]
                around[label] = around.get(label, 0.0) + weight
                if around[label] > most:
                    best, most = label, around[label]
            if most > around.get(labels[node], 0.0):
                labels[node] = best
    names = sorted(set(labels))
    return [names.index(label) for label in labels]


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("weight", [np.float32, np.float64])
@pytest.mark.parametrize("sweeps", [1, 3])
def test_labels(index, weight, sweeps):
    matrix = random_matrix(60, 90)  # loops, duplicates, isolated nodes
    order = np.random.default_rng(1).permutation(60)
    entries = matrix.indptr.astype(index), matrix.indices.astype(index), matrix.data.astype(weight)
    found = propagate_labels(*entries, order, sweeps, settled=-1)
    assert found.tolist() == plain_labels(matrix, order, sweeps)
    assert len(set(found)) < 60


def test_no_more_sweeps_once_settled():
    matrix, order = random_matrix(60, 90), np.arange(60)
    entries = matrix.indptr, matrix.indices, matrix.data
    once = propagate_labels(*entries, order, 1, settled=0)
    assert (propagate_labels(*entries, order, 9, settled=60) == once).all()
    many, more = (propagate_labels(*entries, order, sweeps, 0) for sweeps in (50, 51))
    assert (many == more).all() and (many != once).any()


def test_nodes_without_neighbours_keep_their_labels():
    empty = sparse.csr_array((3, 3))
    entries = empty.indptr, empty.indices, empty.data
    assert propagate_labels(*entries, np.arange(3), 4, 0).tolist() == [0, 1, 2]


def test_moments():
    matrix, random = random_matrix(40, 100), np.random.default_rng(2)
    labels, scale = random.integers(0, 5, 40), random.random(40)
    assigned = np.zeros((40, 5))
    assigned[np.arange(40), labels] = scale
    dense = matrix.toarray()
    given = matrix.indptr, matrix.indices, matrix.data, scale, labels, 5
    first, second = community_moments(*given, most=40 * 25)
    np.testing.assert_allclose(first, assigned.T @ dense @ assigned)
    np.testing.assert_allclose(second, assigned.T @ dense @ dense @ assigned)
    assert community_moments(*given, most=100) is None
