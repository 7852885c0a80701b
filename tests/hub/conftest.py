"""The small Hub, and processes whose Hub it is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import watched
from toys.local_hub import LocalHub


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub without repositories; child processes find it, with a token that may write and an empty cache."""
    with LocalHub() as hub:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        for name, value in hub.environment(tmp_path / "hf_home").items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs lines in a new process, in an empty folder; environment variables by keyword, None: without it."""

    def run(code: str, *arguments: object, **environment: str | None) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "elsewhere"
        folder.mkdir(exist_ok=True)
        changed = {**os.environ, **environment}
        return watched.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            cwd=folder,
            env={name: value for name, value in changed.items() if value is not None},
        )

    return run
