"""Readers of pickles, Matlab files and tables of numbers; a damaged file is named, none is run."""

from __future__ import annotations

import io
import pickle
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.files import need_file, reading


def _latin1(text: str, encoding: str) -> bytes:
    """What python 3 writes for bytes under protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"refused the text encoding {encoding!r}")
    return text.encode("latin1")


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays, scipy CSR matrices, lists and dicts, and refuses everything else.

    Python-2 pickles name modules that numpy and scipy have moved since; the table below maps those
    names to today's objects instead of importing what a file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Looks a global up in the table.

        Raises:
            pickle.UnpicklingError: If the pickle names anything else.
        """
        from scipy.sparse import csr_matrix

        package = module.partition(".")[0]
        known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("scipy", "csr_matrix"): csr_matrix,
            ("collections", "defaultdict"): defaultdict,
            ("__builtin__", "list"): list,
            ("builtins", "list"): list,
            ("_codecs", "encode"): _latin1,
        }
        if (package, name) not in known:
            raise pickle.UnpicklingError(
                f"refused {module}.{name}: only numpy and scipy arrays are read"
            )
        return known[package, name]


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """``reading`` for formats whose readers raise anything at all on damaged input.

    Args:
        path: The file that the block reads.

    Raises:
        ValueError: Naming the file and the remedy.
    """
    with reading(path):
        try:
            yield
        except (OSError, MemoryError):
            raise
        except Exception as error:
            # Opcodes and Matlab tags read from garbage end in TypeError, MatReadError, ...
            raise ValueError(f"{type(error).__name__}: {error}") from error


def read_pickle(path: Path, name: str) -> Any:
    """Reads a pickle of arrays.

    Args:
        path: The file.
        name: Data set name for the messages.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or names anything but arrays.
    """
    need_file(path, name)
    with decoding(path), open(path, "rb") as stream:
        return verified(ArrayUnpickler(stream, encoding="latin1").load())


def read_object_npy(path: Path, name: str) -> list[Any]:
    """Reads an .npy file of Python objects (dicts of arrays or lists), flattened.

    Args:
        path: The file.
        name: Data set name for the messages.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or names anything but arrays.
    """
    need_file(path, name)
    with decoding(path):
        stream = io.BytesIO(path.read_bytes())
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"expected .npy version (1, 0), got {version}")
        np.lib.format.read_array_header_1_0(stream)
        items: list[Any] = ArrayUnpickler(stream, encoding="latin1").load().ravel().tolist()
        return items


def read_mat(path: Path, keys: Sequence[str], name: str) -> dict[str, Any]:
    """Reads variables of a Matlab 5 file.

    Args:
        path: The file.
        keys: Variables wanted.
        name: Data set name for the messages.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or lacks a variable (the message lists those it has).
    """
    from scipy.io import loadmat

    need_file(path, name)
    with decoding(path):
        found = {key: verified(value) for key, value in loadmat(str(path)).items()}
    missing = [key for key in keys if key not in found]
    if missing:
        present = ", ".join(key for key in found if not key.startswith("__"))
        raise ValueError(f"{path} has no variable {', '.join(missing)}; it has {present}")
    return {key: found[key] for key in keys}


def numbers(
    source: Path | TextIO,
    kind: type = np.int64,
    delimiter: str | None = None,
    skiprows: int = 0,
    usecols: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Reads a text table; call it inside ``reading``, which names the file.

    Args:
        source: A file or an open stream.
        kind: numpy type of the entries.
        delimiter: Between columns; None = white space.
        skiprows: Header lines.
        usecols: Columns wanted; None = all.

    Returns:
        Array [rows, columns].

    Raises:
        ValueError: If there is no number in it, or a line does not fit.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data", UserWarning)
        table: np.ndarray = np.loadtxt(
            source, kind, delimiter=delimiter, skiprows=skiprows, usecols=usecols, ndmin=2
        )
    if not table.size:
        raise ValueError("no numbers in it")
    return table


def verified(value: Any) -> Any:
    """Returns a CSR or CSC matrix whose indices are in range; any other value as it is.

    scipy's converters trust the indices and would write outside their arrays.

    Raises:
        ValueError: If an index is out of range.
    """
    if hasattr(value, "check_format"):
        value.check_format(full_check=True)
    return value


def dense(matrix: Any) -> Tensor:
    """A scipy sparse matrix or an array as a float32 tensor [rows, columns], C order."""
    if hasattr(matrix, "toarray"):
        matrix = matrix.astype(np.float32).toarray(order="C")
    return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))


def sparse_edges(matrix: Any) -> Tensor:
    """Non-zeros of a scipy matrix, row by row: int64 [2, E], row = source, column = target."""
    entries = matrix.tocsr().tocoo()
    return torch.from_numpy(np.stack([entries.row, entries.col]).astype(np.int64))
