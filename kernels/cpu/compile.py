"""Compiling kernels: Numba's options, and a disk cache that may fail without harm."""

import hashlib
import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import types
from numba.core.compiler import Flags

from graphattn.kernels.cpu.shape import Shape, numba_type
from graphattn.kernels.cpu.vector import named_intrinsic

# No fastmath: it removes the tests for inf and NaN that masks and empty rows rest on.
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_CACHE_ERRORS = (OSError, EOFError, pickle.UnpicklingError)
_IMPORT = re.compile(r"^from graphattn\.kernels\.([\w.]+) import (\w*)", re.MULTILINE)
_ROOT = Path(__file__).resolve().parents[1]


def made_of(path: Path) -> set[Path]:
    """A kernel's file and all files of ``graphattn.kernels`` that it imports, directly or not."""
    found, left = set(), [path]
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            for module, name in _IMPORT.findall(path.read_text()):
                inside = _ROOT.joinpath(*module.split("."))
                files = inside.with_suffix(".py"), inside / f"{name}.py"
                left += [file for file in files if file.exists()]
    return found


def version_of(function: Callable[..., None]) -> str:
    """Hash of what a kernel is made of; Numba itself looks at the kernel's own file alone."""
    files = sorted(made_of(Path(inspect.getfile(function)).resolve()))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _numba_type(argument: Any, version: str) -> types.Type:
    if argument is None:
        return types.none
    if isinstance(argument, Shape):
        return numba_type(argument, version)
    if isinstance(argument, tuple):
        return types.NamedUniTuple(types.int64, len(argument), type(argument))
    return types.float64 if isinstance(argument, float) else types.int64


def helper(result: types.Type | Callable[..., types.Type]) -> Callable[[Any], Any]:
    """Make a function callable from kernels; ``result``: its type, or a function of its arguments'.

    A nested ``njit`` function gets an entry point and machine code of its own, which nobody calls;
    compiled as a subroutine it only becomes part of the kernel, in a third of the time.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return choice(result, lambda *arguments: None, {None: function}, function.__doc__ or "")

    return decorate


def choice(
    result: types.Type | Callable[..., types.Type],
    key: Callable[..., Any],
    functions: dict[Any, Callable[..., Any]],
    doc: str,
) -> Any:
    """As ``helper``, the function being that under ``key`` of the arguments' types."""

    def definition(typingctx: Any, *arguments: types.Type) -> Any:
        plain = [types.unliteral(argument) for argument in arguments]
        kind = result if isinstance(result, types.Type) else result(*plain)
        return kind(*plain), lower

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        flags = Flags()
        flags.error_model = "numpy"
        flags.forceinline = True
        function = functions[key(*sig.args)]
        made = context.compile_subroutine(builder, function, sig, flags=flags)
        return context.call_internal(builder, made.fndesc, sig, args)

    first = next(iter(functions.values()))
    names = " ".join(inspect.signature(first).parameters)
    return named_intrinsic(first.__name__, doc, names, definition)


def compiled(function: Callable[..., Any], signature: tuple[types.Type, ...]) -> Callable[..., Any]:
    """Machine code of a function, cached on disk.

    A damaged cache, as a process leaves that is killed while it writes, is begun anew; where the
    folder cannot be written the code is in memory alone.
    """
    try:
        entry = _cached(function, signature)
    except _CACHE_ERRORS:
        entry = _cached_anew(function, signature)
    if entry is None:
        entry = njit(**_OPTIONS)(function).compile(signature)
    return entry


def _cached(
    function: Callable[..., Any], signature: tuple[types.Type, ...]
) -> Callable[..., Any] | None:
    """As ``compiled``, by way of the disk; None where there is no folder for it."""
    try:
        cached = njit(cache=True, **_OPTIONS)(function)
        entry: Callable[..., Any] = cached.compile(signature)
    except RuntimeError:  # Numba's, when no cache folder can be written
        return None
    # Two processes that compile at the same time can exchange entries in Numba's cache.
    return entry if signature in cached.overloads else None


def _cached_anew(
    function: Callable[..., Any], signature: tuple[types.Type, ...]
) -> Callable[..., Any] | None:
    """As ``_cached``, without what the cache holds of this function."""
    try:
        njit(cache=True, **_OPTIONS)(function)._cache.flush()
        return _cached(function, signature)
    except _CACHE_ERRORS:
        return None


class Kernel:
    """A Numba function compiled per shape and per set of options, at its first use.

    Arguments are a Shape, ints, floats, None and named tuples of ints, so the signature is known
    without Numba's own, slower, look at each argument.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self._entries: dict[Any, Callable[..., None]] = {}
        self.__doc__ = function.__doc__

    def compiled(self, arguments: tuple[Any, ...]) -> Callable[..., None]:
        """Machine code for these arguments' types."""
        key = (arguments[0], tuple(map(type, arguments)))
        entry = self._entries.get(key)
        if entry is None:
            version = version_of(self.function)
            signature = tuple(_numba_type(a, version) for a in arguments)
            entry = self._entries[key] = compiled(self.function, signature)
        return entry
