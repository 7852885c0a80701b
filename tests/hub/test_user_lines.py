"""The exact lines that users type, in new processes, against the small Hub.

A process that imports transformers takes seconds, so each of them goes through many lines.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import watched
from toys.repos import CLIENT_RESUMES, save_ccexpert_of_many_words, second_cc_mini, write_images
from transformers import AutoModel, AutoProcessor

# what the processes share: nothing of the package but what a line imports
START = """
import json, sys
before, after, before2, after2 = images = sys.argv[1:5]
FEW = {"max_new_tokens": 5}

def refusal(do, *arguments, **settings):
    try:
        do(*arguments, **settings)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("that should have been refused")
"""

# transformers before 5.18 hides the class at its top level where torchvision is absent, though it needs none
IMAGES_ALONE = """
try:
    from_pretrained = AutoImageProcessor.from_pretrained
except ImportError:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
"""

ELSEWHERE = (
    START
    + """
sys.modules["rscc_hf"] = None  # any import of it fails
from datasets import load_dataset
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers import pipeline
"""
    + IMAGES_ALONE
    + """
said = {}
for name in ("org/ccexpert-tiny", "org/mmodalcc-tiny"):
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    inputs = processor(images=[[before, after]], return_tensors="pt")
    captions = processor.batch_decode(model.generate(**inputs, **FEW), skip_special_tokens=True)
    said[name] = captions
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    again = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True)
    assert processor.batch_decode(again.generate(**inputs, **FEW), skip_special_tokens=True) == captions
    images_alone = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
    assert (images_alone([[before, after]], return_tensors="pt")["pixel_values"] == inputs["pixel_values"]).all()
    captioner = pipeline("change-captioning", model=name, trust_remote_code=True)
    assert captioner((before, after), **FEW) == [{"generated_text": captions[0].strip()}]
    assert len(captioner([(before, after), (before2, after2)], batch_size=2, **FEW)) == 2
    assert type(captioner).__module__.startswith("transformers_modules."), type(captioner)
    assert pipeline(model=name, trust_remote_code=True).task == "change-captioning"
    for load in (AutoModel.from_pretrained, lambda name: pipeline("change-captioning", model=name)):
        assert "trust_remote_code" in refusal(load, name), name
inputs = processor(images=[[before, after]], semantic_maps=[[before2, after2]], return_tensors="pt")
said["maps"] = processor.batch_decode(model.generate(**inputs, **FEW), skip_special_tokens=True)
model = AutoModel.from_pretrained("org/mmodalcc-tiny", revision="v1", trust_remote_code=True)
said["v1"] = processor.batch_decode(model.generate(**inputs, **FEW), skip_special_tokens=True)
configuration = AutoConfig.from_pretrained("org/mmodalcc-tiny", trust_remote_code=True)
said["kept"] = getattr(configuration, "custom_pipelines", None)
dataset = load_dataset("org/second-cc-mini", streaming=True)
said["splits"] = sorted(dataset)
row = next(iter(dataset["train"]))
said["row"] = [row["pair_id"], row["captions"], row["image_before"].size, row["change_mask"]]
said["rows"] = sum(1 for _ in dataset["train"])
print("\\n" + json.dumps(said))
"""
)

INSTALLED = (
    START
    + """
import rscc_hf
from datasets import load_dataset
from rscc_hf import ChangeCaptioner
from rscc_hf.data.loading import load_pairs
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline
"""
    + IMAGES_ALONE
    + """
said = {}
for name in ("org/ccexpert-tiny", "org/mmodalcc-tiny"):
    model = AutoModel.from_pretrained(name)
    processor = AutoProcessor.from_pretrained(name)
    inputs = processor(images=[[before, after]], return_tensors="pt")
    said[name] = processor.batch_decode(model.generate(**inputs, **FEW), skip_special_tokens=True)
    parts = [model, processor, AutoModelForImageTextToText.from_pretrained(name)]
    parts += [AutoImageProcessor.from_pretrained(name), pipeline("change-captioning", model=name)]
    parts += [pipeline("change-captioning", model=name, trust_remote_code=True)]
    assert all(type(part).__module__.startswith("rscc_hf.") for part in parts), parts
    assert parts[-1]((before, after), **FEW) == [{"generated_text": said[name][0].strip()}]
    captioner = ChangeCaptioner.from_pretrained(name)
    assert captioner(before, after, **FEW) == said[name][0].strip()
said["fingerprint"] = captioner.fingerprint
said["v1"] = ChangeCaptioner.from_pretrained("org/mmodalcc-tiny", revision="v1")(before, after, before2, after2, **FEW)
for name, revision in (("org/missing", None), ("org/gated", None), ("org/mmodalcc-tiny", "v9")):
    said[f"AutoModel {name}"] = refusal(AutoModel.from_pretrained, name, revision=revision)
    said[f"captioner {name}"] = refusal(ChangeCaptioner.from_pretrained, name, revision=revision)
# first: the old datasets 4.4 takes what it has in its cache for a revision that is missing
for name, split, revision in (
    ("org/no-pairs", "train", None), ("org/gated-pairs", "train", None), ("org/second-cc-mini", "val", None),
    ("org/second-cc-mini", "test", "v9"),
):
    said[f"pairs {name} {split} {revision}"] = refusal(load_pairs, name, split, streaming=True, revision=revision)
said["old rows"] = load_dataset("org/second-cc-mini", split="train", revision="v1").num_rows
said["rows"] = load_dataset("org/second-cc-mini", split="train").num_rows
stream = load_pairs("org/second-cc-mini", "test", streaming=True)
said["pairs"] = [row["pair_id"] for row in stream]
print("\\n" + json.dumps(said))
"""
)


@pytest.fixture(scope="module")
def checkpoints(tiny_checkpoints, tmp_path_factory):
    """Folders by repository."""
    folder = save_ccexpert_of_many_words(tmp_path_factory.mktemp("hub") / "ccexpert")
    return {"org/ccexpert-tiny": folder, "org/mmodalcc-tiny": tiny_checkpoints["optional"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 4)


@pytest.fixture
def repos(local_hub, checkpoints, tiny_checkpoints, tmp_path):
    """The Hub with everything that the lines ask for; `v1` is what was there before."""
    local_hub.add_repo("org/ccexpert-tiny", files=checkpoints["org/ccexpert-tiny"])
    local_hub.add_repo("org/mmodalcc-tiny", files=tiny_checkpoints["required"])
    local_hub.add_tag("org/mmodalcc-tiny", "v1")
    local_hub.add_commit("org/mmodalcc-tiny", checkpoints["org/mmodalcc-tiny"])
    local_hub.add_repo("org/gated", files=checkpoints["org/mmodalcc-tiny"], gated=True)
    files = second_cc_mini(tmp_path)
    old = {path: content for path, content in files.items() if "train-00001" not in path}
    local_hub.add_repo("org/second-cc-mini", "dataset", old)
    local_hub.add_tag("org/second-cc-mini", "v1", kind="dataset")
    local_hub.add_commit("org/second-cc-mini", files, kind="dataset")
    local_hub.add_repo("org/gated-pairs", "dataset", files, gated=True)
    return local_hub


def captions_of(folder, images, maps=None):
    """What the folder answers in this process."""
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    more = {} if maps is None else {"semantic_maps": [maps]}
    inputs = processor(images=[images], return_tensors="pt", **more)
    return processor.batch_decode(model.generate(**inputs, max_new_tokens=5), skip_special_tokens=True)


def answer(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_where_the_package_is_missing(repos, run_python, checkpoints, tiny_checkpoints, images):
    if CLIENT_RESUMES:
        repos.break_downloads("model.safetensors", after=11_000_000)
    said = answer(run_python(ELSEWHERE, *images))
    for name, folder in checkpoints.items():
        assert said[name] == captions_of(folder, images[:2]), name
    assert said["maps"] == captions_of(checkpoints["org/mmodalcc-tiny"], images[:2], images[2:])
    assert said["v1"] == captions_of(tiny_checkpoints["required"], images[:2], images[2:]) != said["maps"]
    assert set(said["kept"]) == {"change-captioning"}
    assert said["splits"] == ["test", "train"]
    assert said["row"] == ["train-0-0", ["a lake replaces the trees"], [32, 32], None] and said["rows"] == 12
    weights = [r for r in repos.requests if r.host == "store" and r.path.endswith("model.safetensors")]
    # the broken download went on where it was, and what was there once was not fetched again
    resumed = ["bytes=10485760-"] if CLIENT_RESUMES else []
    assert [r.range for r in weights if r.method == "GET"] == [None, *resumed, None, None]


def test_where_the_package_is_installed(repos, run_python, checkpoints, tiny_checkpoints, images):
    said = answer(run_python(INSTALLED, *images))
    for name, folder in checkpoints.items():
        assert said[name] == captions_of(folder, images[:2]), name
    assert said["fingerprint"] == repos.commit("org/mmodalcc-tiny").sha[:12]
    assert [said["v1"]] == captions_of(tiny_checkpoints["required"], images[:2], images[2:])
    assert "org/missing is not a local folder and is not a valid model identifier" in said["AutoModel org/missing"]
    assert "gated repo" in said["AutoModel org/gated"]
    assert "v9 is not a valid git identifier" in said["AutoModel org/mmodalcc-tiny"]
    assert said["captioner org/missing"] == (
        "InputError: there is neither a folder org/missing nor a model of that name on the Hub that you may see; give "
        "one of both."
    )
    assert said["captioner org/mmodalcc-tiny"] == (
        "InputError: org/mmodalcc-tiny has no revision v9 on the Hub; give one of its branches, tags or commits."
    )
    assert said["captioner org/gated"] == (
        "InputError: org/gated is gated; ask for access on its page on the Hub, then log in (hf auth login)."
    )
    assert (said["old rows"], said["rows"]) == (6, 12)
    assert said["pairs"] == [f"test-0-{row}" for row in range(6)]
    for name, reason in {
        "org/no-pairs train None": "org/no-pairs is neither a folder on this machine nor a data set that the Hub",
        "org/gated-pairs train None": "gated",
        "org/second-cc-mini val None": "org/second-cc-mini has no split 'val'; there are train, test",
        "org/second-cc-mini test v9": "v9",
    }.items():
        assert reason in said[f"pairs {name}"] and "\n" not in said[f"pairs {name}"], said[f"pairs {name}"]


@pytest.mark.slow
def test_rscc_caption_takes_a_name_on_the_hub_and_then_needs_none(repos, checkpoints, images):
    line = [Path(sys.executable).with_name("rscc"), "caption", "--model", "org/mmodalcc-tiny", *images[:2]]
    expected = captions_of(checkpoints["org/mmodalcc-tiny"], images[:2])
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        done = watched.run(
            [*line, "--max-new-tokens", "5"],
            capture_output=True, text=True, check=False, env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [done.stdout.strip()] == expected
        repos.stop()


@pytest.mark.slow
def test_rscc_caption_says_in_one_line_what_it_may_not_have(repos, images):
    rscc = Path(sys.executable).with_name("rscc")
    for name, reason in (
        (["org/gated"], "is gated; ask for access"),
        (["org/none"], "nor a model of that name"),
        (["org/mmodalcc-tiny", "--revision", "v9"], "v9"),
    ):
        done = watched.run(
            [rscc, "caption", "--model", *name, *images[:2]], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and not done.stdout
        assert reason in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
