"""Numba kernels over NumPy arrays: for integer work, where whole vectors have nothing to win."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import typeof
from numba.core import cgutils, types
from numba.extending import intrinsic

from graphattn.kernels.cpu.compile import compiled, version_of
from graphattn.kernels.cpu.shape import ConstantType


class ArrayKernel:
    """A Numba function of arrays and numbers, compiled per types at its first use, without the GIL.

    Its first parameter, ``version``, is not looked at: its type carries the version of the
    function's sources, which is how an edited helper invalidates what is cached on disk.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._entries: dict[Any, Callable[..., Any]] = {}
        self.__doc__ = function.__doc__

    def __call__(self, *arguments: Any) -> Any:
        signature = tuple(map(typeof, arguments))
        entry = self._entries.get(signature)
        if entry is None:
            version = ConstantType("arrays", version_of(self.function))
            entry = self._entries[signature] = compiled(self.function, (version, *signature))
        return entry(None, *arguments)


@intrinsic
def prefetch(typingctx: Any, array: types.Array, position: types.Type) -> Any:
    """Ask the memory for the line that holds an entry of a one-dimensional array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.args[0]
        data = context.make_array(kind)(context, builder, args[0]).data
        word = ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [ir.PointerType(), word, word, word])
        function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        at = builder.bitcast(builder.gep(data, [args[1]]), ir.PointerType())
        builder.call(function, [at, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen
