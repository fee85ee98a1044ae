"""A Laplacian as torch tensors on some device: products, null space, residuals."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        self._products: dict[torch.dtype, SparseProduct] = {}

    def multiply(self, vectors: Tensor) -> Tensor:
        """``L X`` for X ``[n, b]`` in the precision of X."""
        with self._on_its_threads():
            return self._product(vectors.dtype)(vectors)

    def accumulate(self, into: Tensor, vectors: Tensor, kept: float, scale: float) -> Tensor:
        """``kept Y + scale L X`` in place of Y ``[n, b]``, which is returned."""
        with self._on_its_threads():
            return self._product(vectors.dtype).accumulate(into, vectors, kept, scale)

    def _product(self, dtype: torch.dtype) -> "SparseProduct":
        if dtype not in self._products:
            self._products[dtype] = SparseProduct(self.laplacian.matrix, dtype, self.device)
        return self._products[dtype]

    @contextmanager
    def _on_its_threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def project(self, vectors: Tensor) -> Tensor:
        """Remove the null space from ``[n, b]``."""
        root, mass = self._root.to(vectors.dtype), self._mass.to(vectors.dtype)
        if len(mass) == 1:  # most graphs: a dot product, no indices
            return vectors - root * ((root.t() @ vectors) / mass)
        heights, labels = self._components
        return vectors - root * torch.index_select(heights(vectors) / mass, 0, labels)

    @cached_property
    def _components(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Sums over each component, weighted by the root, and the component of each node."""
        import numpy as np
        from scipy import sparse

        root, labels = self.laplacian.root, self.laplacian.labels
        shape = (self.laplacian.nullity, len(labels))
        sums = sparse.csr_array((root, (labels, np.arange(len(labels)))), shape=shape)
        products: dict[torch.dtype, SparseProduct] = {}

        def heights(vectors: Tensor) -> Tensor:
            if vectors.dtype not in products:
                products[vectors.dtype] = SparseProduct(sums, vectors.dtype, self.device)
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


class SparseProduct:
    """``X -> matrix X`` for a scipy CSR matrix and dense X ``[n, b]`` in ``dtype`` on ``device``.

    On the CPU by MKL where torch has it, several times faster than scipy for several vectors.
    """

    def __init__(self, matrix: Any, dtype: torch.dtype, device: torch.device) -> None:
        import numpy as np

        self._kept = self._tensor = None
        if device.type == "cpu" and not torch.backends.mkl.is_available():
            self._kept = matrix.astype(np.float32 if dtype == torch.float32 else np.float64)
            return
        width = np.int32 if matrix.nnz < 2**31 else np.int64
        entries = matrix.indptr, matrix.indices
        starts, columns = (torch.from_numpy(part.astype(width, copy=False)) for part in entries)
        with warnings.catch_warnings():  # torch calls its CSR tensors beta; products are not
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            data = torch.from_numpy(matrix.data).to(dtype)
            self._tensor = torch.sparse_csr_tensor(
                starts, columns, data, size=matrix.shape, check_invariants=False
            ).to(device)

    def __call__(self, vectors: Tensor) -> Tensor:
        if self._tensor is None:
            return torch.from_numpy(self._kept @ vectors.numpy())
        return self._tensor @ vectors

    def accumulate(self, into: Tensor, vectors: Tensor, kept: float, scale: float) -> Tensor:
        """``kept Y + scale matrix X`` in place of Y."""
        if self._tensor is None:
            return into.mul_(kept).add_(self(vectors), alpha=scale)
        return into.addmm_(self._tensor, vectors, beta=kept, alpha=scale)
