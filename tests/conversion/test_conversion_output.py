"""A new checkpoint is there whole or not at all; its provenance; its trial in a new process."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import watched
from safetensors.torch import load_file, save_file

from rscc_hf.checkpoint_folder import new_checkpoint
from rscc_hf.conversion.output import check_unchanged, source_of, stamps, write_provenance
from rscc_hf.files import new_folder
from rscc_hf.hub.cards import write_model_card
from rscc_hf.trial import run_a_pair

KILLED = """
import sys, time
from pathlib import Path
from rscc_hf.checkpoint_folder import new_checkpoint
old, new = map(Path, sys.argv[1:])
with new_checkpoint(old, overwrite=True) as one, new_checkpoint(new, overwrite=True) as two:
    for folder in (one, two):
        (folder / "config.json").write_text("{}")
    print("writing", flush=True)
    time.sleep(600)
"""


def write(out: Path, text: str, *, overwrite: bool = False) -> None:
    with new_checkpoint(out, overwrite=overwrite) as folder:
        assert folder.parent.parent == out.parent  # the same disk: a rename is all that is left to do
        (folder / "config.json").write_text(text)
        (folder / "model.safetensors").touch()  # beside damaged JSON they make it a checkpoint


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_checkpoint(out, overwrite=False) as folder:
        (folder / "config.json").write_text("new")
        assert not out.exists()
    assert (out / "config.json").read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), new_checkpoint(out, overwrite=False) as folder:
        (folder / "config.json").write_text("new")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    write(out, "old")
    with pytest.raises(ZeroDivisionError), new_checkpoint(out, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
        raise ZeroDivisionError
    assert (out / "config.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_killed_process_leaves_what_was_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "old")
    command = [sys.executable, "-c", KILLED, str(old), str(new)]
    with watched.started(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert (old / "config.json").read_text() == "old" and not new.exists()


def test_a_terminated_process_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, "old")
    command = [sys.executable, "-c", KILLED, str(old), str(new)]
    with watched.started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert process.stderr is not None and process.stderr.read() == ""
    assert (old / "config.json").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["old"]


def test_sigterm_is_what_it_was_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def mine(*_: Any) -> None:
        raise AssertionError

    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with new_checkpoint(tmp_path / "one", overwrite=False):
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, mine)  # a program that handles it goes on doing so
        with new_checkpoint(tmp_path / "two", overwrite=False):
            assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    thread = threading.Thread(target=write, args=(tmp_path / "three", "new"))  # where no handler may be set
    thread.start()
    thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]


def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, "old")
    (out / "inner").mkdir()
    (tmp_path / "link").symlink_to(out)
    monkeypatch.chdir(out)
    for name in (Path(), out, tmp_path / "link"):
        with pytest.raises(ValueError, match="the folder you work in; name another folder"):
            write(name, "new", overwrite=True)
    monkeypatch.chdir(out / "inner")
    for name in (Path(".."), out):
        with pytest.raises(ValueError, match="is, or holds, the folder you work in"):
            write(name, "new", overwrite=True)
    with pytest.raises(FileExistsError, match="the folder you work in"), new_folder(Path(), overwrite=True):
        pass
    assert (out / "config.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_was_there_comes_back_when_the_last_rename_fails(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write(out, "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            assert not out.exists()
            raise error("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(error):
        write(out, "new", overwrite=True)
    assert (out / "config.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_only_checkpoints_and_empty_folders_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out, "one")  # an empty folder holds nothing to lose
    with pytest.raises(ValueError, match="out exists; choose another folder or --overwrite it"):
        write(out, "two")
    write(out, "two", overwrite=True)
    assert (out / "config.json").read_text() == "two"
    (out / "config.json").rename(out / "thesis.txt")
    with pytest.raises(ValueError, match=r"is no checkpoint \(no config.json\), so it is not replaced"):
        write(out, "three", overwrite=True)
    assert (out / "thesis.txt").read_text() == "two"
    with pytest.raises(ValueError, match=r"thesis.txt is a file"):
        write(out / "thesis.txt", "four", overwrite=True)


def test_provenance_tells_names_and_digests_and_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights" * 1000)
    write_provenance(tmp_path, [source_of(path), source_of(path, "shards/weights.bin")], {"dropped": ["a.b"]})
    found = json.loads((tmp_path / "conversion.json").read_text())
    assert found["dropped"] == ["a.b"] and set(found["versions"]) == {
        "rscc_hf",
        "transformers",
        "torch",
        "safetensors",
    }
    digest = sha256(path.read_bytes()).hexdigest()
    assert found["sources"] == [
        {"name": "weights.bin", "sha256": digest, "bytes": 7000},
        {"name": "shards/weights.bin", "sha256": digest, "bytes": 7000},
    ]
    for details in ({"from": str(tmp_path)}, {"nested": [{"a": str(path)}]}):
        with pytest.raises(ValueError, match="of this machine"):
            write_provenance(tmp_path, [], details)


def test_sources_that_change_are_noticed(tmp_path: Path) -> None:
    weights, config, notes = (tmp_path / name for name in ("model.safetensors", "config.json", "README.md"))
    for path in (weights, config, notes):
        path.write_text("one")
    before = stamps(tmp_path, tmp_path / "nowhere")
    assert set(before) == {weights, config} and set(stamps(notes)) == {notes}
    notes.write_text("is not read")
    check_unchanged(before)
    (tmp_path / "other").write_text("one")
    (tmp_path / "other").replace(config)
    with pytest.raises(ValueError, match=r"config\.json changed while it was converted"):
        check_unchanged(before)
    before = stamps(tmp_path)
    weights.write_text("more")
    with pytest.raises(ValueError, match=r"model\.safetensors changed while it was converted"):
        check_unchanged(before)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors changed while it was converted"):
        check_unchanged(before)


def test_a_dropped_name_stays_in_its_line_of_the_card(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoints["required"], folder)
    (folder / "README.md").unlink(missing_ok=True)
    write_provenance(
        folder, [], {"converter": "rscc convert mmodalcc", "dropped": ["a.b", "c`\n# Title\r<img src=x>`"]}
    )
    write_model_card(folder, name="checkpoint")
    lines = (folder / "README.md").read_text().splitlines()
    assert "- `a.b`" in lines and "- `c' # Title <img src=x>'`" in lines


def test_the_trial_runs_a_pair_with_the_code_of_the_folder_alone(tiny_checkpoints: dict[str, Path]) -> None:
    assert run_a_pair(tiny_checkpoints["required"])


def test_the_trial_refuses_what_gives_no_numbers(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoints["required"], folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("lm_head.bias"))
    weights[name][-1] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"a made-up pair gives numbers that are not finite") as caught:
        run_a_pair(folder)
    assert "\n" not in str(caught.value)


def test_the_trial_of_a_damaged_folder_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mmodalcc"}')
    with pytest.raises(ValueError, match="the new checkpoint does not work when it is loaded again: ") as caught:
        run_a_pair(tmp_path)
    assert "\n" not in str(caught.value)
