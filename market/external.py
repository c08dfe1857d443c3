"""External series (news, sentiment): joined to a beat strictly by what was known before it ended.

A row of a series says since when a value was known, which is when it could be read, not what it is
about. Of beat k counts the last one known before (k+1) * BEAT_NS. Before the first value, and where
the last one is older than allowed, the column is 0 and its flag says so: nothing is invented.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.errors import QuaverError
from market.windows import BEAT_NS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_NS_PER_S = 1_000_000_000
_Age = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class ExternalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which series of which file become columns of a sample."""

    path: Annotated[
        str, msgspec.Meta(description="Parquet file under the data root, with ns, name and value")
    ] = ""
    series: Annotated[
        tuple[str, ...], msgspec.Meta(description="names of the series, in the order of columns")
    ] = ()
    max_age_s: Annotated[
        _Age | None,
        msgspec.Meta(description="an older value is not known any more; none: it stays for ever"),
    ] = None

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as problem:
                raise QuaverError(f"external: {field.name} is {value!r}: {problem}") from None
        if bool(self.path) != bool(self.series):
            raise QuaverError(
                f"external: path is {self.path!r} and series is {list(self.series)}; give both, "
                "a Parquet file and the names of its series, or neither"
            )
        if len(set(self.series)) < len(self.series):
            raise QuaverError(f"external: series names one twice: {', '.join(self.series)}")


class Series(NamedTuple):
    """One series, in order of time; of rows with the same time the last one counts."""

    ns: Ints  # [n], known since
    values: Floats  # [n], finite


def names(config: ExternalConfig) -> tuple[str, ...]:
    """Return the name of each column, in the order of `external`."""
    return tuple(f"external_{name}{part}" for name in config.series for part in ("", "_known"))


def external(beats: Ints, series: Mapping[str, Series], config: ExternalConfig) -> Floats:
    """Return the columns of beats (i8[n]), f8[n, 2 * series]: each one's value, and 1 where known.

    A series that is not among those given has no values.
    """
    ends = (np.asarray(beats, np.int64) + 1) * BEAT_NS
    out = np.zeros((len(ends), 2 * len(config.series)))
    for place, name in enumerate(config.series):
        if name not in series:
            continue
        ns, values = series[name]
        last = np.searchsorted(ns, ends, side="left") - 1
        known = np.flatnonzero(last >= 0)
        if config.max_age_s is not None:
            age_ns = ends[known] - ns[last[known]]
            known = known[age_ns <= round(config.max_age_s * _NS_PER_S)]
        out[known, 2 * place] = values[last[known]]
        out[known, 2 * place + 1] = 1.0
    return out
