"""Triton's interpreter, where the tests run in it, without work that it does again and again."""

import os
from typing import Any

import pytest


def patch_once_per_launch(patch: pytest.MonkeyPatch) -> None:
    """Every call of a device function patches Triton's language anew, to the same functions.

    That took two fifths of an interpreted test. Here a launch does it once for each set of modules
    that its functions see.
    """
    from triton.runtime import interpreter

    done: set[tuple[int, ...]] = set()
    before, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__

    def patch_lang(function: Any) -> Any:
        language = interpreter.tl, interpreter.tl.core
        seen = tuple(sorted(id(m) for m in function.__globals__.values() if m in language))
        if seen in done:
            return None
        done.add(seen)
        scope = before(function)
        # Triton 3.6 makes an int of an array of one number, which NumPy 2.4 refuses.
        interpreter.tl.tensor.__index__ = lambda one: one.handle.data.item()
        return scope

    def first_patch(executor: Any, *arguments: Any, **options: Any) -> Any:
        done.clear()
        return launch(executor, *arguments, **options)

    patch.setattr(interpreter, "_patch_lang", patch_lang)
    patch.setattr(interpreter.GridExecutor, "__call__", first_patch)


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> Any:
    """Only where it is chosen; it goes by private names that have not changed since Triton 3.6."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("TRITON_INTERPRET") == "1":
            patch_once_per_launch(patch)
        yield
