"""`quaver demo`: the whole pipeline once, on a simulated market, on this machine."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console

from actors.store import Store
from cluster import stages
from cluster.build import build_tables
from cluster.config import Config
from cluster.judge import judge, print_summary, write_report_to
from cluster.live import trade_simulated
from cluster.progress import Display
from cluster.session import ray_session
from market.errors import QuaverError
from serve_app import app

_SWEEP = "demo"
_MARKER = ".quaver-demo"


def run_demo(config: Config, out: Path, console: Console) -> None:
    """Collect, build, sweep, judge, serve and trade; write the report and say where it is."""
    _clear(out)
    store = Store(str(out))
    ports = app.free_ports()
    with Display(console) as display, ExitStack() as stack:
        with display.stage("start Ray") as stage:
            session = ray_session(config.ray_address, app.ray_environment(ports))
            stage.update(1, 1, f"its log is in {stack.enter_context(session)}")
        with display.stage("collect") as stage:
            stages.collect_simulated(config, store, stage)
        with display.stage("build") as stage:
            build_tables(store, config, stage)
        with display.stage("sweep") as stage:
            stages.sweep(store, config, _SWEEP, False, stage)
        with display.stage("judge") as stage:
            judged = judge(store, config, _SWEEP, stage)
        with display.stage("serve and trade") as stage:
            _, samples, splits = stages.split_samples(store, config)
            test = samples.select(splits["test"])
            live, checked = trade_simulated(config, store, _SWEEP, test, ports, stage)
    note = f"{checked} predictions over HTTP were compared with the model's own: equal."
    judged = msgspec.structs.replace(judged, live=live, notes=[*judged.notes, note])
    print_summary(judged, write_report_to(store, judged), console)


def _clear(out: Path) -> None:
    """Empty the demo's own folder; refuse one that holds anything else."""
    marker = out / _MARKER
    try:
        out.mkdir(parents=True, exist_ok=True)
        children = [child for child in out.iterdir() if child != marker]
        if children and not marker.exists():
            raise QuaverError(
                f"{out} holds files that are not the demo's; give another folder with --out"
            )
        for child in children:
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
        marker.write_text("Written by quaver demo; the next run replaces what is in this folder.\n")
    except OSError as e:
        raise QuaverError(
            f"cannot use {out} as the demo's folder: {e}; give another folder with --out"
        ) from None
