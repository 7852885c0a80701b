"""Secrets and paths of a machine are found; what only looks like them passes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rscc_hf.errors import PushError
from rscc_hf.hub.contents import check_files, choose_files, shortened, staged
from rscc_hf.hub.leaks import leak_in_file, leak_in_text, secret_in

# In pieces, so that no scanner of secrets takes this file for a leak.
SECRETS = {
    "Hugging Face": "hf_" + "aB3" * 12,
    "GitHub": "ghp_" + "a1B2" * 9,
    "GitHub, fine-grained": "github_pat_" + "A1" * 41,
    "GitLab": "glpat-" + "x" * 20,
    "OpenAI": "sk-" + "proj-" + "a1B2" * 10,
    "Anthropic": "sk-" + "ant-" + "a1B2" * 10,
    "AWS": "AKIA" + "ABCDEFGHIJKLMNOP",
    "Google": "AIza" + "a" * 35,
    "Slack": "xoxb-" + "1234567890-abcdefghijk",
    "npm": "npm_" + "a" * 36,
    "wandb": "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "wandb, in prose": "wandb key: " + "0123456789" * 4,
    "key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "password": "https://bob:" + "hunter2@example.org/x",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_found_and_not_repeated(tmp_path, kind):
    secret = SECRETS[kind]
    for name, text in (
        ("a.md", f"use {secret} here"),
        ("b.json", json.dumps({"a": ["b", secret]})),
        ("c", f"\n{secret}\n"),
    ):
        path = tmp_path / name
        path.write_text(text)
        said = leak_in_file(path, name)
        assert said is not None and "remove it" in said
        assert secret not in said, "an error message must not spread it"
    assert leak_in_text(secret)


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download and hf_token are names",
        "sk-learn and a task-list of a dozen-and-more words-with-hyphens",
        "risk-management-of-very-long-hyphenated-words-in-prose",
        "https://huggingface.co/org/model@main",
        "ghp_short",
        "AKIAabcdefghijklmnopq",
        "0123456789abcdef" * 3,
        "https://{user}:{password}@host",
        "hf_" + "a" * 10,
        "mailto:bob@example.org",
        "http://host:8080/x@y",
    ],
)
def test_what_only_looks_like_a_secret_passes(text):
    assert secret_in(text) is None


def test_a_secret_across_two_blocks_is_found(tmp_path, monkeypatch):
    path = tmp_path / "long.txt"
    for before in ((1 << 20) - 20, (1 << 20) - 1, 3 << 20):
        path.write_text("." * (before - 1) + " " + SECRETS["Hugging Face"])
        assert "Hugging Face" in leak_in_file(path, path.name)


def test_the_header_of_weights_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt", "from": "/home/alice/run7"})
    assert "/home/alice/run7" in leak_in_file(path, path.name)
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    assert leak_in_file(path, path.name) is None


@pytest.mark.parametrize(
    "value",
    [
        "/home/alice/data",
        "/data/levir",
        "/mnt/disk 1/x",
        "~/runs/1",
        "C:\\Users\\bob\\x",
        "D:/data/x",
        "\\\\server\\share",
        "file:///srv/data/x",
    ],
)
@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "log.jsonl"])
def test_absolute_paths_in_settings_are_found(tmp_path, value, name):
    path = tmp_path / name
    content = json.dumps({"outer": {"train_data": [value]}})  # JSON is YAML
    path.write_text(content + "\n")
    said = leak_in_file(path, name)
    assert said is not None and (value in said or "folder of this machine" in said)


@pytest.mark.parametrize(
    "value",
    [
        "org/model",
        "outputs/mine",
        "https://a.org/home/x/y",
        "a/b",
        "/",
        "//",
        "{% if a %}/{% endif %}",
        "and/or",
        "1/2",
        "data/train-*.parquet",
        "https://github.com/home/user",
        "s3://bucket/key",
        "<image>",
        "/ or /",
    ],
)
def test_what_is_no_path_of_a_machine_passes(tmp_path, value):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": value}))
    assert leak_in_file(path, path.name) is None


@pytest.mark.parametrize(
    "text", ["see /home/alice/notes", "at C:\\Users\\bob\\x", "in /Users/bob/work/a.py", "/root/x"]
)
def test_home_folders_are_found_in_prose_and_code(tmp_path, text):
    for name in ("README.md", "code.py"):
        (tmp_path / name).write_text(f"# {text}\n")
        assert "folder of this machine" in leak_in_file(tmp_path / name, name)


@pytest.mark.parametrize("name", ["notes.md", "train.sh", "code.py", "list.txt", "config.json", "recipe.yaml"])
@pytest.mark.parametrize(
    "path",
    [
        "/mnt/runs/lr=1e-5,bs=8/ckpt",
        "/mnt/nas/alice/levir",
        "/mnt/d/x (1)/y",
        "/scratch/alice/run7",
        "/home/Alice/x/y",
        "/srv/x",
        "/tmp/a.b",
        "/var/data",
        "/opt/models/x",
        "C:/Users/bob",
        "file:///media/disk",
    ],
)
def test_usual_roots_are_found_in_every_text(tmp_path, name, path):
    for text in (path, f"python train.py --data {path}", f"--data={path}", f"see '{path}'"):
        content = f"{json.dumps({'a': text})}\n" if name.endswith(("json", "yaml")) else f"{text}\n"
        (tmp_path / name).write_text(content)
        assert "of this machine" in leak_in_file(tmp_path / name, name)


@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "log.jsonl"])
@pytest.mark.parametrize("path", ["/mnt/nas/levir", "/usr/share/x", "/data", "C:\\Users\\bob"])
def test_paths_are_found_as_keys_and_escaped(tmp_path, name, path):
    (tmp_path / name).write_text(json.dumps({"outer": {path: 1}}))
    assert "as a key of outer" in leak_in_file(tmp_path / name, name)
    (tmp_path / name).write_text(json.dumps({"outer": {"a": path}}).replace("/", "\\/"))
    assert "of this machine" in leak_in_file(tmp_path / name, name)


def test_the_folder_that_a_pushed_one_lies_in_is_found(tmp_path):
    text = tmp_path / "a.md"
    text.write_text("It lay in /groups/eo/alice/model.\n")
    assert leak_in_file(text, "a.md") is None
    assert "/groups/eo/alice/model" in leak_in_file(text, "a.md", ["/groups/eo/alice"])
    assert leak_in_file(text, "a.md", ["/groups/eo/ali", "/", "/groups"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "{out}/data/train and <out>/data/x and $HOME/work/x",
        "https://a.org/data/x and https://mnt/x or s3://data/y",
        "cats/data/dogs, ./data/x, ../tmp/x, ~/work/x, **/data/x",
        "before /after and /home alone",
        "path(x)/data/y",
    ],
)
def test_urls_and_placeholders_are_no_folders(tmp_path, text):
    for name in ("a.md", "a.py", "a.sh"):
        (tmp_path / name).write_text(text)
        assert leak_in_file(tmp_path / name, name) is None


HEX = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps({"api_key": HEX})),
        ("a.json", json.dumps({"api_key": "0123456789" * 4})),
        ("a.json", json.dumps({"tracker": {"API-Key": HEX}})),
        ("a.json", json.dumps({"db": {"db_password": "hunter2"}})),
        ("a.yaml", f"wandb:\n  secret: {HEX}\n"),
        ("a.yaml", "password: hunter2\n"),
        ("a.py", f"login(token='{HEX}')"),
        ("a.py", 'PASSWORD = "hunter2"'),
        ("a.sh", f"export COMET_API_KEY={HEX}"),
        ("a.sh", "DB_PASSWORD=hunter2 python train.py"),
        ("a.sh", f"hf auth login --token {HEX}"),
        ("a.txt", f"access token: {HEX}"),
        ("a.md", "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYzzzKEY12"),
    ],
)
def test_secrets_are_told_by_what_they_are_called(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    said = leak_in_file(tmp_path / name, name)
    assert said is not None and "holds a secret" in said and "hunter2" not in said and HEX not in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "tokenizer_config.json",
            json.dumps({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "[UNK1234567890]"}),
        ),
        ("special_tokens_map.json", json.dumps({"added_tokens": ["<|A1b2C3d4E5f6G7h8|>"], "image_token": "<image>"})),
        ("a.json", json.dumps({"token": "word", "decoder_start_token": "Ab1Cd2Ef3Gh4Ij5Kl6", "tokens": HEX})),
        (
            "a.json",
            json.dumps({"password": "", "api_key": "YOUR_API_KEY_0123456789", "secret": "<secret>", "token": None}),
        ),
        ("a.json", json.dumps({"sha": HEX, "commit_hash": HEX, "key": HEX})),
        ("a.py", "token = tokenizer.convert_ids_to_tokens(x1234)\nsecret = get_secret_value_V123(x)\n"),
        (
            "a.py",
            'password = os.environ["DB_PASSWORD"]\ntoken=None, api_key: str = "", token_type = "A1b2C3d4E5f6G7h8"',
        ),
        ("a.py", 'parser.add_argument("--password", help="token of the Hub")'),
        ("a.sh", "export API_KEY=$OTHER_KEY_12345678 PASSWORD=$PASSWORD TOKEN=${TOKEN}"),
        ("a.md", "The token embedding, the secret of attention, and a token modelling_of_Change_captions."),
        ("a.md", "Set password=<yours> or token: YOUR_TOKEN."),
    ],
)
def test_tokens_of_a_tokenizer_and_placeholders_are_no_secrets(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert leak_in_file(tmp_path / name, name) is None


@pytest.mark.parametrize("name", ["picture.png", "spiece.model", "data.bin", "notes.txt"])
@pytest.mark.parametrize("kind", ["Hugging Face", "GitHub", "OpenAI", "AWS", "key"])
def test_tokens_are_found_in_files_of_any_content(tmp_path, name, kind):
    secret, path = SECRETS[kind], tmp_path / name
    noise = bytes(range(256)) * 50
    for content in (
        secret.encode(),
        b"\x89PNG\r\n\x1a\n\0\0\0\r" + noise + b"\0" + secret.encode() + b"\0" + noise,
        f"see {secret} here".encode("utf-16"),
        f"see {secret} here".encode("utf-16-le"),
        f"see {secret} here".encode("utf-16-be"),
        noise + b"\0\0" + secret.encode("utf-16-le") + noise,
    ):
        path.write_bytes(content)
        assert "revoke it" in leak_in_file(path, name)
    path.write_bytes(noise + b"hf_short\0")
    assert leak_in_file(path, name) is None


def test_utf_16_settings_and_paths_are_read(tmp_path):
    for encoding in ("utf-16", "utf-16-le", "utf-8-sig"):
        (tmp_path / "a.json").write_text(json.dumps({"a": "/usr/share/x"}), encoding=encoding)
        assert "/usr/share/x" in leak_in_file(tmp_path / "a.json", "a.json")
        (tmp_path / "a.md").write_text("see /mnt/x/y", encoding=encoding)
        assert "/mnt/x/y" in leak_in_file(tmp_path / "a.md", "a.md")


def test_code_and_documents_of_this_package_pass():
    root = Path(__file__).parents[2]
    texts = [path for part in ("modeling", "processing", "rscc_hf") for path in (root / part).rglob("*.py")]
    assert len(texts) > 50
    for path in texts:
        assert leak_in_file(path, path.name) is None, path


def test_this_users_home_is_found_wherever_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/carol")
    (tmp_path / "a.md").write_text("I ran it in /srv/people/carol/work.")
    assert "/srv/people/carol/work" in leak_in_file(tmp_path / "a.md", "a.md")


def test_words_of_a_tokenizer_are_no_paths(tmp_path):
    words = {"model": {"vocab": {"/home/user/x": 1, "/usr/lib": 2}, "merges": ["/home/ user/x"]}, "truncation": None}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(words))
    assert leak_in_file(path, "tokenizer.json") is None
    path.write_text(json.dumps({**words, "from": "/data/words"}))
    assert "/data/words" in leak_in_file(path, "tokenizer.json")


def test_damaged_settings_are_told(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": ')
    with pytest.raises(PushError, match=r"config\.json is no JSON"):
        check_files({"config.json": path})


def test_the_remedy_for_a_recipe_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train_data: /data/levir\noutput_dir: outputs/x\nlist: [/a/b, c]\nnone: null\n")
    with pytest.raises(PushError, match=r"recipe\.yaml has the path /data/levir.*train_data.*--shorten-paths"):
        check_files({"recipe.yaml": path})
    text, keys = shortened(path)
    assert keys == ["train_data", "list"]
    path.write_text(text)
    check_files({"recipe.yaml": path})
    assert "train_data: levir" in text and "output_dir: outputs/x" in text and "none: null" in text


def test_what_a_run_leaves_for_itself_stays(tmp_path):
    names = [
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "training_log.jsonl",
        "assets/example.png",
        "checkpoints/step-00000001/optimizer.pt",
        "last/model.safetensors",
        "tracker/events.out.tfevents.1.host",
        "events.out.tfevents.2.host",
        "__pycache__/a.pyc",
        ".git/config",
        ".env",
        "sub/.DS_Store",
        ".partial-model/config.json",
        "a.json.part",
        "assets/last/x.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    contents = choose_files(tmp_path)
    assert list(contents.files) == [
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "training_log.jsonl",
        "assets/example.png",
        "assets/last/x.png",
    ]
    assert set(contents.left_out) == {
        "checkpoints/",
        "last/",
        "tracker/",
        "events.out.tfevents.2.host",
        "__pycache__/",
        ".git/",
        ".env",
        "sub/.DS_Store",
        ".partial-model/",
        "a.json.part",
    }
    assert "checkpoints/step-00000001/optimizer.pt" in choose_files(tmp_path, "dataset").files


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    (tmp_path / "config.json").symlink_to(tmp_path / "gone")
    with pytest.raises(PushError, match="leads nowhere"):
        check_files(choose_files(tmp_path).files)


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "b.txt").symlink_to("../a.txt")
    assert set(choose_files(folder).files) == {"a.txt", "sub/b.txt"}
    (tmp_path / "notes.txt").write_text("private")
    (folder / ".hidden").symlink_to(tmp_path / "notes.txt")
    assert ".hidden" in choose_files(folder).left_out
    (folder / "sub" / "c.txt").symlink_to("../../notes.txt")
    with pytest.raises(PushError, match=r"sub/c\.txt is a link to .*notes\.txt, outside .*put a copy there or remove"):
        choose_files(folder)
    (folder / "sub" / "c.txt").unlink()
    (folder / "sub" / "b.txt").unlink()
    (folder / "sub" / "b.txt").symlink_to("d.txt")  # a link to a link
    (folder / "sub" / "d.txt").symlink_to(tmp_path / "notes.txt")
    with pytest.raises(PushError, match=r"sub/b\.txt is a link to"):
        choose_files(folder, "dataset")


def test_links_of_the_hubs_cache_go(tmp_path):
    home = tmp_path / "models--org--m"
    snapshot = home / "snapshots" / "0123"
    (snapshot / "assets").mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "blobs" / "abc").write_text("a")
    (home / "secret").write_text("b")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    (snapshot / "assets" / "x.txt").symlink_to("../../../blobs/abc")
    assert set(choose_files(snapshot).files) == {"config.json", "assets/x.txt"}
    (snapshot / "y.txt").symlink_to("../../secret")
    with pytest.raises(PushError, match=r"y\.txt is a link to"):
        choose_files(snapshot)


def test_linked_folders_are_told(tmp_path):
    folder = tmp_path / "model"
    for name in ("model/sub", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside" / "notes.txt").write_text("private")
    (folder / "extra").symlink_to(tmp_path / "outside")
    (folder / "sub" / "more").symlink_to(tmp_path / "outside")
    (folder / "last").symlink_to(tmp_path / "outside")
    contents = choose_files(folder)
    assert contents.files == {}
    assert contents.left_out == {
        "extra/": "a link to a folder",
        "sub/more/": "a link to a folder",
        "last/": "the last weights of the run",
    }
    (tmp_path / "outside" / "train.parquet").write_text("x")
    with pytest.raises(PushError, match="extra is a link to a folder of shards; put a copy there"):
        choose_files(folder, "dataset")


def test_a_stage_holds_exactly_what_was_chosen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("old")
    (tmp_path / "c.txt").write_text("c")
    with staged(
        {"a/b.txt": tmp_path / "a" / "b.txt", "c.txt": tmp_path / "c.txt"}, {"c.txt": "new", "d": "d"}
    ) as stage:
        found = {path.relative_to(stage).as_posix(): path.read_text() for path in stage.rglob("*") if path.is_file()}
    assert found == {"a/b.txt": "old", "c.txt": "new", "d": "d"}
    assert (tmp_path / "c.txt").read_text() == "c" and not Path(stage).exists()
