"""The command line as a user meets it: help, mistakes, and a capture made into samples."""

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError
from rich.console import Console

from actors.store import Store
from cluster import cli
from cluster.config import load_config
from datasets.loader import load_samples
from datasets.recipe import Recipe
from datasets.tables import read_windows, stored
from market.errors import QuaverError
from tests.helpers import recording, replay_windows

VERBS = (
    "demo", "import", "build", "check-leakage", "sweep", "report", "serve", "health", "replay",
    "exchange", "show-config",
)  # fmt: skip


def quaver(*arguments: str, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as wide as a wide terminal."""
    environment = os.environ | {"COLUMNS": "160", "RAY_AUTH_MODE": "disabled"}
    return subprocess.run(
        [sys.executable, "-c", "from cluster.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )


def test_help_names_every_verb() -> None:
    shown = quaver("--help").stdout
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    done = quaver(verb, "--help")
    assert done.returncode == 0
    assert "--help" in done.stdout and len(done.stdout) > 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command"),
        (["import"], "files"),
        (["import", "x", "--format", "csv", "--out", "y"], "coinbase-exchange"),
        (["import", "absent.gz", "--format", "coinbase-advanced", "--out", "OUT"], "absent.gz"),
        (["report", "--data", "OUT", "--name", "none"], "quaver sweep"),
        (["serve", "--data", "OUT", "--name", "none"], "quaver sweep"),
        (["demo", "--set", "demo.hour=3"], "did you mean demo.hours?"),
        (["show-config", "--config", "absent.toml"], "absent.toml"),
        (["build", "--data", "nowhere://x"], "folder or s3://bucket/prefix"),
        (
            [
                *("record", "--data", "OUT", "--feed", "ws://127.0.0.1:1"),
                *("--set", "ray_address=ray://host:1"),
            ],
            "host:port",
        ),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_1(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    done = quaver(*[str(tmp_path) if a == "OUT" else a for a in arguments])
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.slow
def test_the_demo_refuses_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years")
    done = quaver("demo", "--out", str(tmp_path))
    assert done.returncode == 1 and "--out" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


@pytest.fixture
def clear() -> Callable[[Path], None]:
    """Return a function that starts a demo which ends once it has its folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray Serve warns about itself when imported.
        from cluster.demo import run_demo
    config = load_config(None, ["ray_address=ray://nowhere:1"])
    return lambda out: run_demo(config, out, Console(file=io.StringIO()))


def test_the_demo_empties_its_folder_and_leaves_the_link_to_it(
    clear: Callable[[Path], None], tmp_path: Path
) -> None:
    folder, out, other = tmp_path / "folder", tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("ten years")
    out.symlink_to(folder)
    folder.mkdir()
    for _ in range(2):
        with pytest.raises(QuaverError, match="ray://"):
            clear(out)
        assert out.is_symlink() and len(list(folder.iterdir())) == 1
        (folder / "raw" / "day").mkdir(parents=True)
        (folder / "raw" / "day" / "old").write_text("of the last run")
        (folder / "report").write_text("of the last run")
        (folder / "linked").symlink_to(other)
    assert (other / "thesis.txt").read_text() == "ten years"


@pytest.mark.parametrize("out", ["file", "file/below", "dangling", "x" * 300])
def test_the_demo_names_a_folder_that_it_cannot_use(
    clear: Callable[[Path], None], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").write_text("ten years")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nothing")
    with pytest.raises(QuaverError) as caught:
        clear(tmp_path / out)
    assert str(tmp_path / out) in str(caught.value) and "--out" in str(caught.value)
    assert (tmp_path / "file").read_text() == "ten years"


def of_a_task(cause: Exception) -> Exception:
    """What `ray.get` raises for an error in a task."""
    return RayTaskError("work", f"Traceback\n{cause!r}", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ActorDiedError(), "a Ray process died: The actor died unexpectedly"),
        (WorkerCrashedError(), "a Ray process died: The worker died unexpectedly"),
        (of_a_task(QuaverError("mend [this]")), "error: mend [this]\n"),
    ],
)
def test_what_ray_raises_is_one_line(
    raised: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_fails_with(raised, monkeypatch)
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert not said.startswith("a Ray") or shown.endswith("/tmp/ray/session_latest/logs\n")


def assert_fails_with(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line whose command raises this; its exit code is 1."""

    def app() -> None:
        raise raised

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1


@pytest.mark.parametrize("raised", [KeyError("x"), of_a_task(KeyError("x"))])
def test_an_error_in_the_code_keeps_its_traceback(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError):
        assert_fails_with(raised, monkeypatch)


@pytest.mark.ray
@pytest.mark.slow
def test_a_capture_is_imported_and_built_into_windows_and_samples(tmp_path: Path) -> None:
    path = recording("exchange-btc-usd-2018-45min.jsonl.gz")
    root = str(tmp_path / "root")
    imported = quaver("import", str(path), "--format", "coinbase-exchange", "--out", root)
    assert imported.returncode == 0, imported.stderr
    assert "134,417 frames" in imported.stdout and "no losses" in imported.stdout
    built = quaver("build", "--data", root)
    assert built.returncode == 0, built.stderr
    store = Store(root)
    ((product_id, day),) = stored(store, "windows")
    plain = replay_windows(path, {"BTC-USD": ("0.01", "0.00000001")}, tmp_path / "other")
    windows = read_windows(store, product_id, day)
    for name in windows.dtype.names or ():
        assert (windows[name] == plain["BTC-USD"][name]).all()
    samples = load_samples(store, Recipe())
    valid = int(windows["valid"].sum())
    # One unbroken run: 68 beats before the first sample, 75 after the last label.
    assert (len(samples), int(samples.labelled.sum())) == (valid - 68, valid - 68 - 75)
