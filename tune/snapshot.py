"""What can be read of the files from which Tune goes on with a sweep.

Tune puts its table of trials, and its searcher's state, into the sweep's folder every few seconds,
not whole or not at all: a kill or a full disk may cut a file short. Then an older table will do, or
none, since each trial goes on from a file of its own.
"""

from collections.abc import Callable
from pathlib import PurePosixPath

from ray import cloudpickle
from ray.tune import ExperimentAnalysis

from actors.patience import patiently
from actors.store import Store
from market.errors import QuaverError
from tune.config import SweepConfig
from tune.schedule import name_of
from tune.search import trials

_TABLE = "experiment_state-"
_SUGGESTER, _GRID = "search_gen_state-", "basic-variant-state-"


def restorable(store: Store, folder: str, config: SweepConfig) -> bool:
    """Return whether Tune can go on from its files in a sweep's folder.

    It takes the newest of each sort; damaged ones are removed.
    """
    learns = config.search == "optuna"
    trials_known = 1 if learns else trials(config)  # Those of a grid are made before all else.

    def check_table(path: str) -> None:
        filesystem = None if store.is_local else store.filesystem
        table = ExperimentAnalysis(store.full_path(path), storage_filesystem=filesystem)
        if len([name_of(trial) for trial in table.trials or ()]) < trials_known:
            raise ValueError("trials are missing")

    def check_state(path: str) -> None:
        cloudpickle.loads(patiently(lambda: store.read(path)))

    table = _newest(store, folder, _TABLE, check_table)
    suggester = _newest(store, folder, _SUGGESTER, check_state)
    _newest(store, folder, _GRID, check_state)  # May be missing, not damaged.
    return table and (suggester or not learns)


def _newest(store: Store, folder: str, prefix: str, check: Callable[[str], None]) -> bool:
    """Remove the newest files of a sort up to one that can be read; return whether there is one."""
    paths = [PurePosixPath(path) for path in patiently(lambda: store.files(folder))]
    mine = [p for p in paths if str(p.parent) == folder and p.name.startswith(prefix)]
    for path in map(str, reversed(mine)):
        try:
            check(path)
        except (OSError, QuaverError):
            raise  # The file may be good.
        except Exception:  # Whatever pickle and JSON make of damage.
            store.delete(path)
        else:
            return True
    return False
