"""Files of others, plain or gzip, read a block of whole lines at a time.

Never more than a block and the line that it cuts is held, whatever the file's size; where a file
breaks off, the whole lines before that are still given.
"""

import gzip
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from market.errors import QuaverError

_LINE_FEED = ord("\n")
BLOCK_BYTES = 1 << 20  # As few calls for each as pay, and its rows still fit a processor's cache.
LONGEST_LINE_BYTES = 64 << 20  # Ten times a snapshot of the largest book.


def blocks(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in blocks of whole lines, each of which ends with a line feed.

    A block has about BLOCK_BYTES, more where one line does; the same lines are cut in the same
    way whether packed or not. QuaverError names file and line where reading breaks off.
    """
    lines, rest = 0, b""
    try:
        for chunk in _chunks(path, BLOCK_BYTES):
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                if len(rest) > LONGEST_LINE_BYTES:
                    raise QuaverError(
                        f"{path}: line {lines + 1} is longer than {LONGEST_LINE_BYTES >> 20} MiB; "
                        "is it a capture, one frame a line?"
                    )
                continue
            block, rest = rest + chunk[:cut], chunk[cut:]
            lines += np.count_nonzero(np.frombuffer(block, np.uint8) == _LINE_FEED)
            yield block
    except (OSError, EOFError, zlib.error) as e:
        after = f" after line {lines}" if lines else ""
        raise QuaverError(f"{path}: cannot be read{after}: {e}") from None
    if rest:
        yield rest + b"\n"


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked, so many at a time; what comes before an error first."""
    with path.open("rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        file: BufferedIOBase = gzip.open(plain) if zipped else plain
        parts: list[bytes] = []
        held = 0
        try:
            while part := file.read1(size - held):
                parts.append(part)
                held += len(part)
                if held == size:
                    yield b"".join(parts)
                    parts, held = [], 0
        except (OSError, EOFError, zlib.error):
            if parts:
                yield b"".join(parts)
            raise
        if parts:
            yield b"".join(parts)
