"""Local files that are in place whole or not at all, and stay so when the power goes.

A name is on disk only once its folder is: without that a rename, or a new folder, may be lost.
"""

import os
import uuid
from pathlib import Path


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Put a file in place whole and on disk, its name too; its folder is made where missing."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that they outlive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
