"""How the hot paths are compiled.

`compiled` and `inlined` leave out numba's reference counting: what they compile allocates nothing,
and counting every array that is passed around would cost ten times the work itself. Machine code
is cached on disk, so a fresh process or another Ray worker loads it instead of compiling. numba's
own cache looks at a function's own file alone; ours also at the files of all that it calls and at
the constants that they read, so that an edit elsewhere never leaves old code running.
"""

import hashlib
import sys
from collections.abc import Callable
from enum import Enum
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def _fingerprint(function: Callable[..., Any]) -> str:
    """Return a hash of all that compiled code holds.

    That is the source of each module of which the function reaches a function, so what types they
    use is in it too, and the values of the constants that these functions read.
    """
    found = hashlib.sha256()
    modules, seen, waiting = {__name__}, set(), [function]
    while waiting:
        reached = waiting.pop()
        seen.add(reached)
        modules.add(reached.__module__)
        for name in sorted(_names(reached.__code__)):
            value = reached.__globals__.get(name)
            if isinstance(value, Dispatcher) and value.py_func not in seen:
                waiting.append(value.py_func)
            elif isinstance(value, np.ndarray):
                found.update(f"{name}={value.dtype}{value.shape}".encode() + value.tobytes())
            elif isinstance(value, int | float | str | tuple | Enum | np.dtype):
                found.update(f"{name}={value!r}".encode())
    for module in sorted(modules):
        found.update(_source(module))
    return found.hexdigest()


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


@cache
def _source(module: str) -> bytes:
    return Path(sys.modules[module].__file__ or "").read_bytes()


class _Cache(FunctionCache):
    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), _fingerprint(self._py_func))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except (AttributeError, ImportError):  # Written for a type that is no more.
            self.flush()
            return None


def compiled(function: F, **options: Any) -> F:
    """Compile a function that allocates nothing."""
    options["_nrt"] = False
    dispatcher: Any = njit(**options)(function)
    dispatcher._cache = _Cache(function)
    return cast(F, dispatcher)


def inlined(function: F) -> F:
    """Compile a function into its callers: where a call would cost more than the work."""
    return compiled(function, forceinline=True)


@intrinsic
def prefetch(typingctx, array, row, i):  # type: ignore[no-untyped-def]
    """Ask the processor to fetch array[row, i] of a two-dimensional array soon; a hint only."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        values = context.make_array(kind)(context, builder, args[0])
        at = cgutils.get_item_pointer(context, builder, kind, values, list(args[1:]))
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        signature = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        hint = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        builder.call(hint, [builder.bitcast(at, byte), word(1), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), emit
