"""docs/data.md: every table under a root, every column of it, its unit, and who writes it.

`python -m datasets.describe` rewrites the page. Names and types come from the schemas that the code
writes by; a column that nobody described, or that is gone, stops it.
"""

from pathlib import Path
from typing import NamedTuple, get_type_hints

import msgspec
import pyarrow as pa

from actors.raw import FORMAT, RAW_SCHEMA, Gap, Manifest, Part, Session
from datasets.external import EXTERNAL_SCHEMA
from datasets.neighbours import NEIGHBOURS_FORMAT, NEIGHBOURS_PATH, Neighbour, Neighbours
from datasets.table_manifest import FORMAT as MANIFEST_FORMAT
from datasets.table_manifest import TableManifest
from datasets.tables import SAMPLES_FORMAT, SAMPLES_SCHEMA, WINDOWS_FORMAT, WINDOWS_SCHEMA
from market import cross, external
from market.actions import Action
from market.cross import CrossConfig
from market.events import Kind, Reason
from market.external import ExternalConfig
from market.features import MEDIAN_LAGS
from market.signals import NAMES, SignalsConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"
_BUCKETS = "lots in each 0.1 % bucket from the median when the beat ends, nearest first"
_KINDS = ", ".join(f"{kind.value} {kind.name}" for kind in Kind)
_REASONS = ", ".join(f"{why.value} {why.name}" for why in Reason if why)
_INTRO = """# The tables under a data root

Written by `python -m datasets.describe` from the schemas in the code; a test compares. A root is a
folder or `s3://bucket/prefix`, laid out the same. Days are UTC. Prices are whole ticks (the
product's quote increment), sizes whole lots (its base increment): both increments are in the raw
manifest. Times are nanoseconds since 1970, UTC. Beat `k` is the four seconds from `4k` on.

`cache/samples/KEY/COLUMN.npy` holds samples as plain columns, a copy that training maps into
memory; it may be deleted. Corrupt frames lie verbatim in `quarantine/`, sweeps in `runs/`, reports
in `reports/`.
"""


class _Table(NamedTuple):
    title: str
    path: str
    format: str
    writer: str
    about: str
    schema: pa.Schema
    columns: dict[str, tuple[str, str]]  # Unit and meaning, by name.


_TABLES = (
    _Table(
        "Raw events",
        "raw/product=BTC-USD/day=2026-08-09/part-SESSION-NUMBER.parquet",
        FORMAT,
        "`quaver record`, `quaver import`",
        "One row per level, trade or mark, in order of arrival. A part that the manifest does not "
        "list does not exist.",
        RAW_SCHEMA,
        {
            "ns": ("ns", "event clock of the frame that brought the row"),
            "recv_ns": ("ns", "our own clock when the frame came; 0 in captures without it"),
            "kind": ("", f"{_KINDS}; the last three are marks"),
            "side": ("", "0 bid, 1 ask; of a trade, what the taker did: 0 bought, 1 sold"),
            "last": ("", "the last row of its frame for this product"),
            "reason": ("", f"of UNSYNC, why the book is not known: {_REASONS}; else 0"),
            "price": ("ticks", "of the level or trade; 0 in marks"),
            "size": ("lots", "what rests at the price, 0 deletes it; of a trade, what was traded"),
            "trade_id": ("", "the venue's; 0 where the row is no trade"),
        },
    ),
    _Table(
        "Windows",
        "windows/product=BTC-USD/day=2026-08-09/windows.parquet",
        WINDOWS_FORMAT,
        "`quaver build`",
        "One row per beat of the partition, also where nothing changed.",
        WINDOWS_SCHEMA,
        {
            "beat": ("4 s", "k: the beat from 4k to 4k + 4 seconds"),
            "valid": ("", "whether the book was known from the beat's start to its end"),
            "bid": ("ticks", "best bid when the beat ends; 0 if the book is not known then"),
            "ask": ("ticks", "best ask when the beat ends; 0 if the book is not known then"),
            "low_ask": ("ticks", "lowest best ask over the beat, its opening state included"),
            "high_bid": ("ticks", "highest best bid over the beat, its opening state included"),
            "trade_low": ("ticks", "lowest trade; null without trades"),
            "trade_high": ("ticks", "highest trade; null without trades"),
            "buy_lots": ("lots", "what takers bought"),
            "sell_lots": ("lots", "what takers sold"),
            "trades": ("", "number of trades"),
            "bid_depth": ("lots", _BUCKETS),
            "ask_depth": ("lots", _BUCKETS),
            "updates": ("", "number of level changes"),
        },
    ),
    _Table(
        "Samples",
        "samples/product=BTC-USD/day=2026-08-09/samples.parquet",
        SAMPLES_FORMAT,
        "`quaver build`",
        "One row per beat k whose beats k-68 .. k are valid. The file's metadata holds the recipe "
        "(fees, horizon, signals and the coins that they look at) that they were made by.",
        SAMPLES_SCHEMA,
        {
            "beat": ("4 s", "k, when the features are known: at the end of the beat"),
            "product": ("", "index in the universe"),
            "medians": (
                "quote currency",
                f"medians at beats k-{MEDIAN_LAGS[0]} .. k, one every 30 s, oldest first",
            ),
            "bids": ("share", "bid depth over beats k-2 .. k by bucket, divided by its sum"),
            "asks": ("share", "ask depth over beats k-2 .. k by bucket, divided by its sum"),
            "label": (
                "bp",
                "best profit over the next five minutes after each first action ("
                + ", ".join(action.name for action in Action)
                + "); null unless beats k .. k+75 are valid",
            ),
        },
    ),
)
_EXTERNAL = _Table(
    "External series",
    "PATH.parquet",
    "Parquet",
    "whoever has them",
    "News, sentiment and the like, as `[external]` in the configuration names them. Of a beat "
    "counts the last value known before it ended. Rows in any order; of two with the same `ns` and "
    "`name` the later one counts. Further columns are passed over. A file that is in use is "
    "replaced as a whole, never written into.",
    EXTERNAL_SCHEMA,
    {
        "ns": ("ns", "since when the value could be read, not what it is about; from 2001 on"),
        "name": ("", "of the series"),
        "value": ("the series' own", "finite"),
    },
)
_MANIFESTS: dict[type[msgspec.Struct], tuple[str, dict[str, str]]] = {
    Manifest: (
        "manifest.json of raw parts",
        {
            "format": f"`{FORMAT}`",
            "product": "its id",
            "day": "UTC",
            "quote_increment": "size of a tick in quote currency",
            "base_increment": "size of a lot in coins",
            "base_min_size": "smallest order, in coins",
            "sessions": "unbroken recordings into this partition",
        },
    ),
    Session: (
        "Session",
        {
            "session": "event time of its first row in ns; of a live one also its writer",
            "source": "where the frames came from; begins with `simulated` if no venue sent them",
            "live": "recorded from a connection, not imported",
            "parts": "its files, in order",
            "gaps": "when its book was not known",
            "counts": "of its connection: duplicates, corrupt frames, gaps, trade holes",
            "book_sha256": "hash of the running book at its end; null where it broke off",
        },
    ),
    Part: (
        "Part",
        {
            "name": "of the file",
            "rows": "in it",
            "first_ns": "event time of its first row",
            "last_ns": "latest event time in it",
            "sha256": "of its bytes",
        },
    ),
    Gap: (
        "Gap",
        {
            "ns": "from when",
            "until_ns": "until when; null: to the session's end",
            "reason": "of the UNSYNC mark; `start`: no snapshot had come; `broke off`: killed",
        },
    ),
    TableManifest: (
        "manifest.json of windows or samples",
        {
            "format": f"`{MANIFEST_FORMAT}`",
            "table": "`windows` or `samples`",
            "product": "its id",
            "day": "UTC",
            "inputs_sha256": "hash of all that was read: raw parts, or windows, rows of external "
            "series and the recipe",
            "code_sha256": "hash of the code that made it and of its libraries' versions",
            "rows": "in the file",
            "valid": "valid beats, or samples with a label",
            "units": "of windows: tick in quote currency, lot in coins; null of samples",
            "bytes": "of the file",
            "sha256": "of the file's bytes",
        },
    ),
    Neighbours: (
        NEIGHBOURS_PATH,
        {
            "format": f"`{NEIGHBOURS_FORMAT}`",
            "lag_beats": "beats over which returns are taken, one after the other",
            "least_returns": "that two products must have in common to be compared",
            "first_beat": "the first median used",
            "until_beat": "all medians used are of beats before this one, the end of train",
            "inputs_sha256": "hash of all medians used",
            "products": "those compared",
            "nearest": "of each product the others, nearest first",
        },
    ),
    Neighbour: (
        "One that is near",
        {
            "product": "its id",
            "correlation": "Pearson's, of the returns that both have",
            "returns": "how many those are",
        },
    ),
}


def page() -> str:
    """Return the page; ValueError if descriptions and schemas do not name the same columns."""
    lines = [_INTRO]
    for table in _TABLES:
        lines += _described(table)
    lines += _signals() + _described(_EXTERNAL)
    lines += [
        "## Manifests",
        "JSON beside the files. A raw one makes its parts part of the data; that of windows or of "
        "samples says from what and by what code its file was made, so that a build does only what "
        f"is missing or stale. `{NEIGHBOURS_PATH}` is written by the first build with "
        "`cross.neighbours`; remove it to have the nearest coins worked out again.\n",
    ]
    for struct, (title, meanings) in _MANIFESTS.items():
        _check(title, list(struct.__struct_fields__), list(meanings))
        lines += [f"| {title} | meaning |", "| --- | --- |"]
        lines += [f"| `{name}` | {meaning} |" for name, meaning in meanings.items()] + [""]
    return "\n".join(lines)


def _described(table: _Table) -> list[str]:
    _check(table.title, table.schema.names, list(table.columns))
    lines = [
        f"## {table.title}",
        f"`{table.path}`, format `{table.format}`, written by {table.writer}. {table.about}\n",
        "| column | type | unit | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for field in table.schema:
        unit, meaning = table.columns[field.name]
        null = " or null" if field.nullable else ""
        lines.append(f"| `{field.name}` | {_type(field.type)}{null} | {unit} | {meaning} |")
    return [*lines, ""]


def _signals() -> list[str]:
    """The columns of the list `signals`, by the switch that asks for them."""
    both, one = CrossConfig(btc_eth=True), CrossConfig(neighbours=1)
    columns = {
        **{(SignalsConfig, switch): own for switch, own in NAMES.items()},
        (CrossConfig, "btc_eth"): cross.names(both),
        (CrossConfig, "neighbours"): (*cross.names(one), "..."),
        (ExternalConfig, "series"): external.names(ExternalConfig(path="-", series=("NAME",))),
    }
    lines = [
        "With signals, samples have one more column, `signals`: a fixed-size list of doubles, the "
        "columns of each switch that is on, in this order. Their names are in the file's metadata, "
        "their formulas in `market/signals.py`, `cross.py` and `external.py`. What another product "
        "or a series gives is 0 where it is not known, which the column `known` says.\n",
        "| switch | columns | meaning |",
        "| --- | --- | --- |",
    ]
    for (config, switch), own in columns.items():
        table = config.__name__.removesuffix("Config").lower()
        meaning = get_type_hints(config, include_extras=True)[switch].__metadata__[0].description
        named = ", ".join(f"`{name}`" if name != "..." else name for name in own)
        lines.append(f"| `{table}.{switch}` | {named} | {meaning} |")
    return [*lines, ""]


def _type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} x {kind.value_type}"
    return str(kind)


def _check(title: str, written: list[str], described: list[str]) -> None:
    if written != described:
        raise ValueError(f"{title} has columns {written}, but {described} are described")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
