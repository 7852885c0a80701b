"""`rscc push`: what goes to the Hub, what is refused, and what happens when the transfer breaks."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import watched
from huggingface_hub import ModelCard
from toys.ccexpert import save_tiny_ccexpert
from typer.testing import CliRunner

from rscc_hf.commands.app import app
from rscc_hf.formats.cards import MARKER
from rscc_hf.hub.push_model import push_model
from rscc_hf.hub.upload import PushPlan

RSCC = Path(sys.executable).with_name("rscc")


@pytest.fixture
def hub(local_hub, monkeypatch):
    """The small Hub for this process too (the client reads the environment when it is imported)."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", local_hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr("rscc_hf.hub.upload._FIRST_WAIT", 0.0)
    return local_hub


@pytest.fixture
def folder(tiny_checkpoints, tmp_path):
    return shutil.copytree(tiny_checkpoints["optional"], tmp_path / "model")


def push(*arguments, fails=False):
    """Runs `rscc push` in this process, without loading the model, which tests of their own do."""
    result = CliRunner().invoke(app, ["push", *map(str, arguments), "--skip-loading"])
    assert (result.exit_code != 0) == fails, result.output
    if fails:
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        return line
    return result.stdout


def status_of(stdout):
    """What is said of each file."""
    rows = re.findall(r"^(new|changed|same|removed|kept|left out) +(?:[\d.]+ k?M?B)? +(\S+)", stdout, re.MULTILINE)
    return {name: what for what, name in rows}


def test_the_lines_of_a_user_from_push_to_caption(local_hub, tiny_checkpoints, tmp_path, write_image):
    """Push, then the pushed card's own lines, where rscc_hf is not installed."""

    def rscc(*arguments):
        return watched.run([RSCC, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=tmp_path)

    folder = tiny_checkpoints["none"]
    done = rscc("push", folder, "org/change-captions", "--license", "mit")
    assert done.returncode == 0, done.stderr
    there = local_hub.files("org/change-captions")
    assert set(there) == {path.name for path in folder.iterdir()} | {"README.md", ".gitattributes"}
    assert set(status_of(done.stdout)) == set(there) - {".gitattributes"}
    assert there["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert f"{local_hub.url}/org/change-captions" in done.stdout

    code = "\n".join(re.findall(r"```python\n(.*?)```", there["README.md"].decode(), re.DOTALL))
    for seed, name in enumerate(("before", "after")):
        write_image(tmp_path / f"{name}.png", seed)
    alone = "import sys; sys.modules['rscc_hf'] = None\n"
    caption = watched.run(
        [sys.executable, "-c", alone + code + "\nprint(captions, answer)"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "new")},
    )  # fmt: skip
    assert caption.returncode == 0, caption.stderr
    assert re.fullmatch(r"\['(\w.*)'\] \[\{'generated_text': '\1'\}\]", caption.stdout.splitlines()[-1])


def test_a_dry_run_says_what_would_change_and_changes_nothing(hub, folder):
    push(folder, "org/m")
    assert set(status_of(push(folder, "org/m", "--dry-run")).values()) == {"same"}
    before, requests = hub.files("org/m"), len(hub.requests)
    (folder / "notes.txt").write_text("new")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "num_beams": 3}))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # as many bytes as before
    (folder / "model.safetensors").write_bytes(weights)
    hub.add_commit("org/m", {"model-00002-of-00002.safetensors": b"old shard", "picture.png": b"of the owner"})
    stdout = push(folder, "org/m", "--dry-run")
    found = status_of(stdout)
    assert {name for name, what in found.items() if what == "new"} == {"notes.txt"}
    changed = {"generation_config.json", "model.safetensors", "README.md"}
    assert {name for name, what in found.items() if what == "changed"} == changed
    assert found["model-00002-of-00002.safetensors"] == "removed" and found["picture.png"] == "kept"
    assert all(request.method in ("GET", "HEAD") for request in hub.requests[requests:])
    assert "1 new, 3 changed" in stdout and "Nothing was pushed to the public model org/m." in stdout
    push(folder, "org/m")
    after = hub.files("org/m")
    assert set(after) == set(before) | {"notes.txt", "picture.png"}, "an old shard is gone, the owner's picture is not"
    assert after["model.safetensors"] == bytes(weights)
    assert set(status_of(push(folder, "org/m")).values()) == {"same", "kept"}


def test_nothing_to_do_makes_no_commit(hub, folder):
    push(folder, "org/m")
    commits = len(hub.commits("org/m"))
    assert "is as it should be" in push(folder, "org/m")
    assert len(hub.commits("org/m")) == commits


def test_visibility_owner_branch_and_message(hub, folder):
    assert "private model org/secret" in push(folder, "org/secret", "--private")
    assert hub.repo("org/secret").private
    push(folder, "mine")
    assert "config.json" in hub.files("tester/mine")
    assert push(folder, "mine", "--private", fails=True) == (
        "Error: tester/mine exists and is public; make it private in its settings, or leave out --private."
    )
    (folder / "notes.txt").write_text("on the branch")
    push(folder, "mine", "--revision", "next", "--message", "Try notes")
    assert "notes.txt" in hub.files("tester/mine", "next") and "notes.txt" not in hub.files("tester/mine")
    assert hub.commit("tester/mine", "next").message == "Try notes"
    assert set(status_of(push(folder, "mine", "--revision", "next", "--dry-run")).values()) == {"same"}


def test_a_broken_upload_is_taken_up_again(hub, folder):
    hub.break_uploads(after=1000, times=2)
    push(folder, "org/m")
    assert hub.files("org/m")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_what_has_arrived_is_not_sent_again(hub, folder, monkeypatch):
    """Two large files; the transfer of the second breaks for good. The same command then sends the second alone."""
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    with (folder / "other.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"abcd")
    monkeypatch.setattr("rscc_hf.hub.upload._ATTEMPTS", 1)
    hub.fail("POST", "/commit/main", 503, times=50)
    line = push(folder, "org/m", fails=True)
    assert line.startswith("Error: the upload to org/m broke off (") and "the same command goes on" in line
    assert "config.json" not in hub.files("org/m"), "there is no half of a model"
    sent = [request for request in hub.requests if request.method == "PUT"]
    assert len(sent) == 2
    hub._breaks.clear()
    push(folder, "org/m")
    assert [request for request in hub.requests if request.method == "PUT"] == sent
    assert {"model.safetensors", "other.safetensors", "config.json"} <= set(hub.files("org/m"))


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub, folder):
    hub.fail("POST", "/commit/main", 503, times=1)
    push(folder, "org/m")
    assert "config.json" in hub.files("org/m")


@pytest.mark.parametrize(
    ("token", "said"),
    [("", "nobody is logged in to the Hub; run `hf auth login`"), ("hf_localReadToken", "may not write to org/m"),
     ("hf_unknown", "does not know your token")],
)  # fmt: skip
def test_tokens_that_do_not_do(hub, folder, monkeypatch, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    line = push(folder, "org/m", fails=True)
    assert said in line and "\n" not in line
    assert ("model", "org/m") not in hub.repos


def test_a_hub_that_is_not_there(hub, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    line = push(folder, "org/m", "--dry-run", fails=True)
    assert line.startswith("Error: the Hub cannot be asked for org/m (") and line.endswith("try again.")


@pytest.mark.parametrize("name", ["a/b/c", "org/", "org/with space", "-x", "org/a--b"])
def test_names_that_are_none(hub, folder, name):
    with pytest.raises(ValueError, match="OWNER/NAME"):
        push_model(folder, name, load=False)


def test_a_training_run_goes_without_what_it_needs_for_itself(hub, folder):
    for name in ("checkpoints/step-00000001/optimizer.pt", "last/model.safetensors", "tracker/events.out.tfevents.1"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"\x80\x02}.")
    (folder / "recipe.yaml").write_text("train_data: /home/alice/levir\noutput_dir: outputs/x\n")
    (folder / "training_summary.json").write_text(
        '{"trained_on": "synthetic", "data": "/home/alice/levir", "split": "train"}'
    )
    line = push(folder, "org/m", fails=True)
    assert "/home/alice/levir" in line and "--shorten-paths" in line
    assert ("model", "org/m") not in hub.repos
    stdout = push(folder, "org/m", "--shorten-paths")
    there = hub.files("org/m")
    assert not any(b"alice" in content for content in there.values())
    assert (
        b"train_data: levir" in there["recipe.yaml"] and json.loads(there["training_summary.json"])["data"] == "levir"
    )
    assert not any(name.startswith(("checkpoints", "last", "tracker")) for name in there)
    assert {name for name, what in status_of(stdout).items() if what == "left out"} == {
        "checkpoints/",
        "last/",
        "tracker/",
    }
    assert "alice" in (folder / "recipe.yaml").read_text(), "the folder is not changed"


def damage(folder, kind):
    """Does something to a checkpoint that forbids that it is pushed; part of what is then said."""
    token = "hf_" + "x" * 34
    if kind == "pickled weights":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
        return r"pytorch_model\.bin is a pickle.*safetensors"
    if kind == "pickle by name":
        (folder / "scaler.pkl").write_bytes(b"")
        return r"scaler\.pkl is named like a pickle"
    if kind == "token":
        (folder / "notes.md").write_text(f"push with {token}")
        return r"notes\.md holds a Hugging Face token \(hf_xxxx\.\.\.\); remove it"
    if kind == "token in code":
        path = folder / "modeling_mmodalcc.py"
        path.write_text(path.read_text() + f"\nTOKEN = '{token}'\n")
        return r"modeling_mmodalcc\.py holds a Hugging Face token"
    if kind == "path in config":
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "teacher": "/data/runs/7"}))
        return r"config\.json has the path /data/runs/7 of this machine in teacher; put a name"
    if kind == "home in a README":
        (folder / "README.md").write_text("---\nlicense: mit\n---\nSee /home/alice/notes.\n")
        return r"README\.md names /home/alice/notes\., a folder of this machine"
    if kind == "no processor":
        (folder / "processor_config.json").unlink()
        return r"holds no processor_config\.json; save the processor"
    if kind == "no weights":
        (folder / "model.safetensors").unlink()
        return "holds no safetensors"
    if kind == "no config":
        (folder / "config.json").unlink()
        return r"holds no config\.json"
    if kind == "cut weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        return r"model\.safetensors is cut off"
    if kind == "missing shard":
        index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return r"names model-00002-of-00002\.safetensors, which is not there"
    if kind == "adapters":
        (folder / "adapter_config.json").write_text("{}")
        return r"holds adapters.*training/adapters\.py"
    assert kind == "bad metadata"
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    return r"README\.md has metadata that cannot be read"


@pytest.mark.parametrize(
    "kind",
    [
        *("pickled weights", "pickle by name", "token", "token in code", "path in config", "home in a README"),
        *("no processor", "no weights", "no config", "cut weights", "missing shard", "adapters", "bad metadata"),
    ],
)
def test_what_must_not_go_is_refused_in_one_sentence(hub, folder, kind):
    expected = damage(folder, kind)
    line = push(folder, "org/m", fails=True)
    assert re.search(expected, line), line
    assert hub.requests == [] or all(request.method == "GET" for request in hub.requests)
    assert ("model", "org/m") not in hub.repos


def test_a_folder_that_does_not_load_is_refused(hub, folder):
    """Its code needs what only this machine has."""
    (folder / "processing_mmodalcc.py").write_text("from rscc_hf import nothing\n")
    with pytest.raises(ValueError, match=r"does not load in a new process .*save model and processor there again"):
        push_model(folder, "org/m")
    assert ("model", "org/m") not in hub.repos


def test_a_ccexpert_with_a_card_of_somebody_else(hub, tmp_path):
    folder = save_tiny_ccexpert(tmp_path / "ccexpert")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Hand-made\n")
    plan = push_model(folder, "org/hand-made")
    assert isinstance(plan, PushPlan) and plan.url == f"{hub.url}/org/hand-made"
    assert hub.files("org/hand-made")["README.md"] == (folder / "README.md").read_bytes()
    assert any("goes as it is" in note for note in plan.notes)


def test_the_card_is_written_for_the_repository(hub, folder):
    result = CliRunner().invoke(app, ["card", str(folder), "--license", "mit"])
    assert result.exit_code == 0, result.output
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card + "## Notes\n\nOf mine.\n")
    push(folder, "org/m")
    pushed = hub.files("org/m")["README.md"].decode()
    assert 'from_pretrained("org/m", trust_remote_code=True)' in pushed and 'from_pretrained("model"' in card
    assert pushed.endswith("Of mine.\n") and MARKER in pushed and ModelCard(pushed).data.license == "mit"


def test_card_adds_scores(folder, tmp_path):
    from toys.report import write_toy_report

    report = write_toy_report(tmp_path / "report.json")
    command = ["card", str(folder), "--results", str(report), "--dataset", "LEVIR-CC", "--split", "test"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'README.md'}\n" and "--license" in result.stderr
    assert "57.12" in (folder / "README.md").read_text()
    for wrong in (["--results", str(report)], ["--dataset", "LEVIR-CC"]):
        result = CliRunner().invoke(app, ["card", str(folder), *wrong])
        assert result.exit_code == 2
