"""Compiling kernels: Numba's options, and a disk cache that may fail without harm."""

import inspect
import pickle
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import types
from numba.core.compiler import Flags

from graphattn.kernels.cpu.shape import Shape, numba_type
from graphattn.kernels.cpu.vector import named_intrinsic

# No fastmath: it removes the tests for inf and NaN that masks and empty rows rest on.
OPTIONS = {"nogil": True, "error_model": "numpy"}
CACHE_ERRORS = (OSError, EOFError, pickle.UnpicklingError)


def _numba_type(argument: Any) -> types.Type:
    if argument is None:
        return types.none
    if isinstance(argument, Shape):
        return numba_type(argument)
    if isinstance(argument, tuple):
        return types.NamedUniTuple(types.int64, len(argument), type(argument))
    return types.float64 if isinstance(argument, float) else types.int64


def helper(result: types.Type | Callable[..., types.Type]) -> Callable[[Any], Any]:
    """Make a function callable from kernels; ``result``: its type, or a function of its arguments'.

    A nested ``njit`` function gets an entry point and machine code of its own, which nobody calls;
    compiled as a subroutine it only becomes part of the kernel, in a third of the time.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        def definition(typingctx: Any, *arguments: types.Type) -> Any:
            plain = [types.unliteral(argument) for argument in arguments]
            kind = result if isinstance(result, types.Type) else result(*plain)
            return kind(*plain), lower

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            flags = Flags()
            flags.error_model = "numpy"
            flags.forceinline = True
            made = context.compile_subroutine(builder, function, sig, flags=flags)
            return context.call_internal(builder, made.fndesc, sig, args)

        names = " ".join(inspect.signature(function).parameters)
        return named_intrinsic(function.__name__, function.__doc__ or "", names, definition)

    return decorate


class Kernel:
    """A Numba function compiled per shape and per set of options, at its first use.

    Arguments are a Shape, ints, floats, None and named tuples of ints, so the signature is known
    without Numba's own, slower, look at each argument. Machine code is cached on disk; where the
    cache folder cannot be written, or an entry is damaged, the kernel is compiled in memory.
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
            entry = self._compile(tuple(map(_numba_type, arguments)))
            self._entries[key] = entry
        return entry

    def _compile(self, signature: tuple[types.Type, ...]) -> Callable[..., None]:
        try:
            # Numba raises RuntimeError when no cache folder can be written.
            cached = njit(cache=True, **OPTIONS)(self.function)
            entry: Callable[..., None] = cached.compile(signature)
        except (RuntimeError, *CACHE_ERRORS):
            return self._compile_in_memory(signature)
        # Two processes that compile at the same time can exchange entries in Numba's cache.
        return entry if signature in cached.overloads else self._compile_in_memory(signature)

    def _compile_in_memory(self, signature: tuple[types.Type, ...]) -> Callable[..., None]:
        entry: Callable[..., None] = njit(**OPTIONS)(self.function).compile(signature)
        return entry
