"""The small Hub answers huggingface_hub as huggingface.co does; what follows from it is tested elsewhere."""

import json
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationDelete, HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from toys.repos import CLIENT_RESUMES

WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def api(local_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # it reads the environment at import
    return HfApi(endpoint=local_hub.url, token=local_hub.token)


@pytest.fixture
def download(local_hub, tmp_path):
    def run(repo_id="org/tiny", filename="model.safetensors", **settings):
        settings = {"endpoint": local_hub.url, "token": local_hub.token, "cache_dir": tmp_path / "cache"} | settings
        return Path(hf_hub_download(repo_id, filename, **settings)).read_bytes()

    return run


@pytest.fixture
def tiny(local_hub):
    files = {"config.json": b"{}", "model.safetensors": WEIGHTS, "sub/notes.txt": b"text"}
    return local_hub.add_repo("org/tiny", files=files)


def test_model_info_and_tree(api, local_hub, tiny):
    local_hub.add_commit(
        "org/tiny", {"README.md": b"---\nlicense: mit\ntags: [a]\npipeline_tag: image-to-text\n---\n"}
    )
    info = api.model_info("org/tiny", files_metadata=True)
    assert info.id == "org/tiny" and info.sha == local_hub.commit("org/tiny").sha != tiny
    assert info.card_data["license"] == "mit" and info.tags == ["a"] and info.pipeline_tag == "image-to-text"
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes["model.safetensors"] == len(WEIGHTS) and sizes["sub/notes.txt"] == 4
    assert {entry.path for entry in api.list_repo_tree("org/tiny")} == {
        *("README.md", "config.json", "model.safetensors", "sub"),
    }
    assert {entry.path for entry in api.list_repo_tree("org/tiny", "sub")} == {"sub/notes.txt"}
    assert "sub/notes.txt" in api.list_repo_files("org/tiny", revision=tiny)
    assert [entry.path for entry in api.get_paths_info("org/tiny", ["sub", "model.safetensors", "no"])] == [
        *("sub", "model.safetensors"),
    ]
    assert api.whoami()["name"] == "tester"


def test_revisions(api, local_hub, tiny, download):
    local_hub.add_tag("org/tiny", "v1")
    local_hub.add_commit("org/tiny", {"config.json": b'{"a": 1}'}, revision="next")
    api.create_branch("org/tiny", branch="more/next", revision="next")
    refs = api.list_repo_refs("org/tiny")
    assert {ref.name for ref in refs.branches} == {"main", "next", "more/next"}
    assert [ref.name for ref in refs.tags] == ["v1"]
    for revision, content in (("v1", b"{}"), ("next", b'{"a": 1}'), (tiny, b"{}"), ("more/next", b'{"a": 1}')):
        assert download(filename="config.json", revision=revision) == content
    assert len(api.list_repo_commits("org/tiny", revision="next")) == 2


def test_errors_have_their_own_types(api, local_hub, tiny, download):
    local_hub.add_repo("org/gated", files={"config.json": b"{}"}, gated=True)
    local_hub.add_repo("org/private", files={"config.json": b"{}"}, private=True)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/missing")
    with pytest.raises(RepositoryNotFoundError):
        download("org/tiny", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        download("org/private", "config.json", token=False)
    assert download("org/private", "config.json") == b"{}"
    with pytest.raises(RevisionNotFoundError):
        download(revision="v2")
    with pytest.raises(EntryNotFoundError):
        download(filename="none.txt")
    with pytest.raises(GatedRepoError, match="403") as refused:
        download("org/gated", "config.json")
    assert "not in the authorized list" in str(refused.value)
    local_hub.grant("org/gated")
    assert download("org/gated", "config.json") == b"{}"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")


def test_a_broken_download_goes_on_where_it_broke(local_hub, download):
    step = constants.DOWNLOAD_CHUNK_SIZE  # the client writes by this much, and loses what is less
    content = WEIGHTS * (step // len(WEIGHTS) + 2)
    local_hub.add_repo("org/large", files={"model.safetensors": content})
    local_hub.break_downloads("model.safetensors", after=step + 5000)
    if not CLIENT_RESUMES:
        with pytest.raises(HTTPError):
            download("org/large")
    assert download("org/large") == content
    gets = [r for r in local_hub.requests if r.method == "GET" and r.host == "store"]
    assert [r.range for r in gets] == [None, f"bytes={step}-"]
    assert [r.status for r in gets] == [200, 206]
    assert all(r.token is None for r in gets)  # the store is another host: the token stays at home


def test_a_snapshot_is_the_repository(local_hub, tiny, tmp_path):
    folder = snapshot_download("org/tiny", endpoint=local_hub.url, token=False, cache_dir=tmp_path / "cache")
    read = {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    assert read == local_hub.files("org/tiny")


@pytest.mark.parametrize("part_bytes", [None, 3000])
def test_an_upload_arrives(api, local_hub, tmp_path, part_bytes):
    local_hub.part_bytes = part_bytes
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out/model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "out/sub/config.json").write_bytes(b"{}")
    (tmp_path / "out/README.md").write_bytes(b"---\nlicense: mit\n---\n# Card\n")
    url = api.create_repo("org/new", private=True)
    assert url == f"{local_hub.url}/org/new" and local_hub.repo("org/new").private
    api.upload_folder(repo_id="org/new", folder_path=tmp_path / "out", commit_message="Push")
    files = local_hub.files("org/new")
    assert files.pop(".gitattributes").startswith(b"*.safetensors")
    assert files == {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in tmp_path.glob("out/**/*") if p.is_file()
    }
    commit = local_hub.commit("org/new")
    assert commit.message == "Push"
    # the same again changes nothing, and deleting does
    api.upload_folder(repo_id="org/new", folder_path=tmp_path / "out")
    assert local_hub.commit("org/new").sha == commit.sha
    api.create_commit("org/new", [CommitOperationDelete("sub/")], commit_message="Less")
    assert "sub/config.json" not in local_hub.files("org/new")


def test_a_broken_upload_is_sent_again_and_what_arrived_is_not(api, local_hub, tmp_path):
    for number in range(3):
        (tmp_path / f"part-{number}.parquet").write_bytes(WEIGHTS + bytes([number]))
    api.create_repo("org/data", repo_type="dataset")
    push = {"repo_id": "org/data", "repo_type": "dataset", "folder_path": tmp_path, "allow_patterns": "*.parquet"}
    local_hub.break_uploads(after=100)
    local_hub.fail("PUT", "", 503)
    if not CLIENT_RESUMES:
        with pytest.raises(RuntimeError, match="Error while uploading"):
            api.upload_folder(
                repo_id="org/data", repo_type="dataset", folder_path=tmp_path, allow_patterns="*.parquet"
            )
    api.upload_folder(**push)
    puts = [r.status for r in local_hub.requests if r.method == "PUT"]
    assert sorted(puts) == [0, 200, 200, 200, 503]  # nothing arrives twice
    del local_hub.requests[:]
    (tmp_path / "part-3.parquet").write_bytes(WEIGHTS + b"new")
    api.upload_folder(**push)
    assert len([r for r in local_hub.requests if r.method == "PUT"]) == 1
    assert len(local_hub.files("org/data")) == 5


def test_who_may_not_write_is_refused(api, local_hub, tiny):
    reader = HfApi(endpoint=local_hub.url, token=local_hub.read_token)
    for do in (lambda: reader.create_repo("org/other"), lambda: api.create_repo("stranger/other")):
        with pytest.raises(HfHubHTTPError, match="403"):
            do()
    with pytest.raises(HfHubHTTPError, match="403"):
        reader.upload_file(repo_id="org/tiny", path_or_fileobj=b"x", path_in_repo="x.txt")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("org/tiny")
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(repo_id="org/tiny", path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md")
    assert json.loads(local_hub.files("org/tiny")["config.json"]) == {}
