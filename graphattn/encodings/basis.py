"""The basis of a Lanczos search: orthonormal rows, grown a block at a time and shrunk again."""

from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]

_ROUNDING = 100.0  # units of rounding that a product's remainder may lose


class Basis:
    """Orthonormal rows V and the projected matrix H = V Op V'.

    Args:
        apply: The operator, ``[n, b] -> [n, b]``.
        project: Projection of ``[n, b]`` onto the space that is searched.
        rows: Room for the vectors ``[room + b, n]``; gives their dtype and device.
        block: Number of vectors b that the operator is applied to at once.

    Attributes:
        filled: Rows whose part of H is known; the block after them is ready to be multiplied.
        applied: Vectors multiplied so far.
        values, turn: Eigenvalues of H, largest first, and its eigenvectors; float64 on the CPU.
        exact: Whether the residuals of all Ritz vectors lie in the span of the next block; not so
            after a challenge, nor when a part of them drowned beside another.
    """

    def __init__(self, apply: Apply, project: Apply, rows: Tensor, block: int) -> None:
        self.apply, self.project, self.rows, self.block = apply, project, rows, block
        self.matrix = torch.zeros(len(rows), len(rows), dtype=torch.float64, device="cpu")
        self.values, self.turn = torch.empty(0), torch.empty(0, 0)
        self.rest = torch.empty(0, 0)  # the last product's new part, in terms of the next block
        self.seeds = torch.Generator("cpu").manual_seed(0)
        self.filled, self.applied, self.exact = 0, 0, True
        self._put(0, self._random())

    @property
    def full(self) -> bool:
        """Whether there is no room for another step."""
        return self.filled + 2 * self.block > self.rows.shape[0]

    def step(self) -> None:
        """Multiply the next block, orthogonalise the product against every row."""
        start, stop = self.filled, self.filled + self.block
        known = self.rows[:stop]
        image = self.project(self.apply(self.rows[start:stop].t().contiguous())).t().contiguous()
        weights = known @ image.t()
        self.matrix[:stop, start:stop] = weights
        self.matrix[start:stop, :stop] = weights.t()
        rest = torch.addmm(image, weights.t(), known, alpha=-1)
        dropped = self._put(stop, rest)
        self.rest = (self.rows[stop : stop + self.block] @ rest.t()).double().cpu()
        self.applied += self.block
        self.filled = stop
        values, turn = torch.linalg.eigh(self.matrix[:stop, :stop])
        self.values, self.turn = values.flip(0), turn.flip(1)
        if dropped:
            self.exact &= self._lost(stop, rest) <= _ROUNDING * torch.finfo(rest.dtype).eps

    def residuals(self, count: int) -> Tensor:
        """Residual norms of the first Ritz vectors under the operator, without a product."""
        new: Tensor = self.rest @ self.turn[-self.block :, :count]
        return new.square().sum(0).sqrt()

    def ritz_vectors(self, count: int) -> Tensor:
        """Approximate eigenvectors ``[n, count]``, largest eigenvalue first, orthonormal."""
        vectors: Tensor = self.turn[:, :count].t().to(self.rows) @ self.rows[: self.filled]
        return vectors.t()

    def eigenvectors(self, count: int) -> Tensor:
        """``Op`` times the Ritz vectors, normalised ``[n, count]``: better ones, without a product.

        A Ritz vector of an inverse or a filter has traces of the far end of the spectrum, small
        for the operator and large for the original problem; one more product removes them
        (Ericsson and Ruhe, "The spectral transformation Lanczos method", 1980).
        """
        added = self.rest @ self.turn[-self.block :, :count] / self.values[:count]
        both = torch.cat([self.turn[:, :count], added]).to(self.rows)
        vectors: Tensor = both.t() @ self.rows[: self.filled + self.block]
        return (vectors / vectors.square().sum(1, keepdim=True).sqrt()).t()

    def restart(self, keep: int, wanted: int) -> None:
        """Shrink the basis to ``keep`` Ritz vectors; the search goes on along their residuals.

        Those lie in the span of the last block. Where that is not so (``exact``), the residuals of
        the ``wanted`` ones are computed, and the largest directions followed.
        """
        following = self.rows[self.filled : self.filled + self.block].clone()
        keep = min(keep, self.filled)
        self._start_from(self.ritz_vectors(keep).t(), self.values[:keep])
        if self.exact:
            self.rows[keep : keep + self.block] = following
            return
        found = self.rows[:wanted]
        image = self.project(self.apply(found.t().contiguous())).t()
        residuals = image - self.values[:wanted, None].to(found) * found
        _, turn = _gram(residuals)
        self._put(keep, turn[:, -self.block :].t().to(found) @ residuals)
        self.applied += wanted

    def challenge(self, found: Tensor, values: Tensor) -> None:
        """Shrink the basis to ``found`` ``[n, m]`` and look on from fresh random vectors.

        Args:
            found: Eigenvectors within some tolerance.
            values: Their eigenvalues under the operator, on the CPU.
        """
        rows, _ = torch.linalg.qr(found)
        self._start_from(rows.t(), values)
        self.exact = False
        self._put(self.filled, self._random())

    def _start_from(self, rows: Tensor, values: Tensor) -> None:
        self.filled = len(rows)
        self.rows[: self.filled] = rows
        self.matrix.zero_()
        self.matrix[: self.filled, : self.filled] = torch.diag(values)

    def _random(self) -> Tensor:
        """Drawn on the CPU: the same on every device."""
        shape = (self.rows.shape[1], self.block)
        drawn = torch.randn(shape, generator=self.seeds, dtype=self.rows.dtype, device="cpu")
        return self.project(drawn.to(self.rows.device)).t().contiguous()

    def _lost(self, start: int, rest: Tensor) -> float:
        """How much of ``rest`` the block at ``start`` does not hold, relative to the operator."""
        block = self.rows[start : start + self.block]
        missed = torch.addmm(rest, self.rest.t().to(rest), block, alpha=-1)
        scale = max(float(self.values.abs().max()), float(self.rest.norm()), 1e-300)
        return float(missed.norm()) / scale

    def _put(self, start: int, block: Tensor) -> bool:
        """Make ``block`` ``[b, n]`` orthonormal to the rows before ``start`` and store it there.

        Directions that vanish give way to random ones; whether any did. The Krylov space is
        exhausted then, or one direction is so much longer that the others drown beside it.
        """
        before, dropped = self.rows[:start], False
        for _ in range(6):
            values, turn = _gram(block)
            weak = values <= values[-1].clamp(min=1e-28) * 1e3 * torch.finfo(block.dtype).eps
            block = (turn / values.clamp(min=1e-300).sqrt()).t().to(block) @ block
            if weak.any():
                dropped = True
                block[weak.to(block.device)] = self._random()[weak.to(block.device)]
            block = torch.addmm(block, (before @ block.t()).t(), before, alpha=-1)
            values, turn = _gram(block)
            if not weak.any() and values[0] > 0.5:  # little was taken away: orthogonal to rounding
                break
        self.rows[start : start + self.block] = (turn / values.sqrt()).t().to(block) @ block
        return dropped


def _gram(block: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenpairs of ``block block'``, ascending, in float64 on the CPU."""
    values, turn = torch.linalg.eigh((block @ block.t()).double().cpu())
    return values, turn
