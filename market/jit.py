"""How the hot paths are compiled.

`compiled` and `inlined` leave out numba's reference counting: what they compile allocates nothing,
and counting every array that is passed around would cost ten times the work itself. Machine code
is cached on disk, so a fresh process or another Ray worker loads it instead of compiling. numba's
own cache looks at a function's own file alone; ours also at all that the function calls and at
the constants that it reads, so that an edit elsewhere never leaves old code running.
"""

import hashlib
from collections.abc import Callable
from enum import Enum
from types import CodeType
from typing import Any, TypeVar, cast

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def _fingerprint(function: Callable[..., Any]) -> str:
    """Return a hash of a function's code, of all it calls, and of the constants they read."""
    found = hashlib.sha256()
    seen, waiting = set(), [(function.__code__, function.__globals__)]
    while waiting:
        code, names = waiting.pop()
        if code in seen:
            continue
        seen.add(code)
        found.update(code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                waiting.append((constant, names))
            else:
                found.update(repr(constant).encode())
        for name in code.co_names:
            value = names.get(name)
            if isinstance(value, Dispatcher):
                waiting.append((value.py_func.__code__, value.py_func.__globals__))
            elif isinstance(value, int | float | str | tuple | Enum):
                found.update(f"{name}={value!r}".encode())
    return found.hexdigest()


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
