"""A Laplacian as torch tensors on some device: products, null space, residuals."""

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray


class DeviceLaplacian:
    """What a search needs of a :class:`Laplacian`, on ``device``.

    Sums over rows and components run in a fixed order: the same bits on every call. On the CPU
    products take ``threads`` threads; whatever sums over nodes takes the caller's, which must be
    one for the same bits on every machine.

    Memory: the matrix in each precision that is used, 8 or 12 bytes per entry.
    """

    def __init__(self, laplacian: Laplacian, device: torch.device, threads: int = 1) -> None:
        self.laplacian, self.device, self.threads = laplacian, device, threads
        self._root = torch.from_numpy(laplacian.root).to(device)[:, None]
        self._mass = torch.from_numpy(laplacian.mass).to(device)[:, None]
        self._products: dict[torch.dtype, Callable[[Tensor], Tensor]] = {}

    def multiply(self, vectors: Tensor) -> Tensor:
        """``L X`` for X ``[n, b]`` in the precision of X."""
        if vectors.dtype not in self._products:
            matrix = self.laplacian.matrix
            self._products[vectors.dtype] = sparse_product(matrix, vectors.dtype, self.device)
        if self.threads == 1 or vectors.is_cuda:
            return self._products[vectors.dtype](vectors)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self._products[vectors.dtype](vectors)
        finally:
            torch.set_num_threads(before)

    def project(self, vectors: Tensor) -> Tensor:
        """Remove the null space from ``[n, b]``."""
        root, mass = self._root.to(vectors.dtype), self._mass.to(vectors.dtype)
        if len(mass) == 1:  # most graphs: a dot product, no indices
            return vectors - root * ((root.t() @ vectors) / mass)
        heights, labels = self._components
        return vectors - root * (heights(vectors) / mass)[labels]

    @cached_property
    def _components(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Sums over each component, weighted by the root, and the component of each node."""
        import numpy as np
        from scipy import sparse

        root, labels = self.laplacian.root, self.laplacian.labels
        shape = (self.laplacian.nullity, len(labels))
        sums = sparse.csr_array((root, (labels, np.arange(len(labels)))), shape=shape)
        products: dict[torch.dtype, Callable[[Tensor], Tensor]] = {}

        def heights(vectors: Tensor) -> Tensor:
            if vectors.dtype not in products:
                products[vectors.dtype] = sparse_product(sums, vectors.dtype, self.device)
            return products[vectors.dtype](vectors)

        return heights, torch.from_numpy(labels).to(self.device)

    def measure(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Rayleigh quotients ``[j]`` and residual norms ``[j]`` of unit vectors ``[n, j]``.

        In the precision of the vectors; results on the CPU. A quotient in the noise of that
        precision, where it may come out negative, counts as large as the noise: what is compared
        with it then does not pass for converged.
        """
        vectors = vectors.contiguous()
        image = self.multiply(vectors)
        values = (vectors * image).sum(0)
        norms = (image - vectors * values).norm(dim=0)
        noise = torch.finfo(vectors.dtype).eps * self.laplacian.bound
        return values.double().cpu().clamp(min=noise), norms.double().cpu()

    def rotate(self, vectors: Tensor) -> tuple[Array, Array]:
        """Rayleigh-Ritz on L itself: ascending values and vectors of the span of ``[n, m]``.

        No value is negative: L is semidefinite.
        """
        vectors, _ = torch.linalg.qr(vectors.double())
        small = vectors.t() @ self.multiply(vectors.contiguous())
        values, turn = torch.linalg.eigh(((small + small.t()) / 2).cpu())
        return values.clamp(min=0).numpy(), (vectors @ turn.to(vectors.device)).cpu().numpy()


def sparse_product(
    matrix: Any, dtype: torch.dtype, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """``X -> matrix X`` for a scipy CSR matrix and dense X ``[n, b]`` in ``dtype`` on ``device``.

    On the CPU by MKL where torch has it, several times faster than scipy for several vectors.
    """
    import numpy as np

    if device.type == "cpu" and not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        kept = matrix.astype(np.float32 if dtype == torch.float32 else np.float64)
        return lambda vectors: torch.from_numpy(kept @ vectors.numpy())
    width = np.int32 if matrix.nnz < 2**31 else np.int64
    starts, columns = (torch.from_numpy(a.astype(width)) for a in (matrix.indptr, matrix.indices))
    with warnings.catch_warnings():  # torch calls its CSR tensors beta; products are not
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        data = torch.from_numpy(matrix.data).to(dtype)
        tensor = torch.sparse_csr_tensor(
            starts, columns, data, size=matrix.shape, check_invariants=False
        ).to(device)
    return lambda vectors: tensor @ vectors
