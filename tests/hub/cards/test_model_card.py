"""A model's card: what the Hub reads, what a user runs, and that nothing in it was made up."""

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
from toys.report import SCORES, toy_report, write_toy_report

from rscc_hf.checkpoint import fingerprint_of
from rscc_hf.data.catalog import known_data
from rscc_hf.evaluation.report import Report
from rscc_hf.formats.cards import MARKER
from rscc_hf.formats.records import Evaluation
from rscc_hf.hub.cards import render_model_card, write_model_card
from rscc_hf.hub.cards.rendering import hub_id
from rscc_hf.hub.cards.results import add_evaluation, read_evaluations
from rscc_hf.locks import exclusive

ALONE = "import sys; sys.modules['rscc_hf'] = None\n"  # any import of it fails


@pytest.fixture(scope="module")
def ccexpert(tmp_path_factory):
    return save_tiny_ccexpert(tmp_path_factory.mktemp("ccexpert") / "tiny-ccexpert")


@pytest.fixture
def folder(tiny_checkpoints, tmp_path):
    """A checkpoint that takes maps where there are any, to write into."""
    return shutil.copytree(tiny_checkpoints["optional"], tmp_path / "change-model")


def python_of(card):
    """The four lines, and the one of the pipeline."""
    lines, pipeline = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return lines, pipeline


def run_snippet(code, folder, write_image):
    """Runs a card's lines beside its folder, as a stranger who put two images there."""
    place = folder.parent
    for seed, name in enumerate(("before", "after", "map_before", "map_after")):
        write_image(place / f"{name}.png", seed)
    environment = {**os.environ, "HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"}
    done = watched.run(
        [sys.executable, "-c", ALONE + code + "\nimport json; print(json.dumps(captions))"],
        capture_output=True, text=True, check=False, cwd=place, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["optional", "required", "none", "ccexpert"])
def test_the_lines_of_a_card_caption_a_pair(kind, tiny_checkpoints, ccexpert, tmp_path, write_image):
    source = ccexpert if kind == "ccexpert" else tiny_checkpoints[kind]
    folder = shutil.copytree(source, tmp_path / "change-model")
    card = write_model_card(folder).read_text()
    code, pipeline = python_of(card)
    assert ("semantic" in code) == ("semantic" in pipeline) == (kind == "required")
    assert sum(bool(line) and not line.startswith(("from", "import")) for line in code.splitlines()) == 4
    *captions, answer = run_snippet(f"{code}\n{pipeline}\ncaptions.append(answer)", folder, write_image)
    (caption,) = captions
    assert isinstance(caption, str) and caption
    assert answer == [{"generated_text": caption}]


def test_the_hub_reads_the_metadata(folder):
    card = ModelCard(render_model_card(folder, repo_id="org/change-model", license="cc-by-4.0"))
    data = card.data.to_dict()
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "image-to-text"
    assert {"remote-sensing", "change-captioning", "mmodalcc", "custom_code"} <= set(data["tags"])
    assert data["license"] == "cc-by-4.0"
    assert 'from_pretrained("org/change-model", trust_remote_code=True)' in card.text


def test_what_was_not_measured_does_not_appear(folder):
    card = render_model_card(folder)
    data = ModelCard(card).data.to_dict()
    assert not {"model-index", "metrics", "datasets", "base_model", "license", "language"} & data.keys()
    assert "## Training" not in card and "None have been measured" in card
    for name in ("BLEU", "CIDEr", "S\\*m", "accuracy", "None |", "nan", "| None"):
        assert name not in card


def test_scores_stand_in_the_card_as_they_were_measured(folder, tmp_path):
    report = write_toy_report(tmp_path / "report.json", bootstrap=True)
    add_evaluation(folder, report, "LEVIR-CC", "test", dataset_id="org/levir-cc")
    card = render_model_card(folder)
    ((result,),) = [entry["results"] for entry in ModelCard(card).data.to_dict()["model-index"]]
    assert result["task"]["type"] == "image-to-text"
    assert result["dataset"] == {"name": "LEVIR-CC", "type": "org/levir-cc", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert all("(protocol words)" in name for name in values)
    assert values["BLEU-4 (protocol words)"] == round(SCORES["bleu_4"], 3)
    assert values["S*m (protocol words)"] == round(SCORES["s_m"], 3)
    assert values["says changed of changed pairs (protocol words)"] == 91.5
    assert len(values) == len(SCORES) + 1, "the accuracy that was not measured is not there"
    assert all(metric["args"] == {"protocol": "words"} for metric in result["metrics"])
    text = ModelCard(card).text
    assert "10 pairs: 7 changed, 3 unchanged" in text and "Protocol `words`" in text
    assert "| all pairs | 81.23 |" in text and "| changed pairs | 71.23 |" in text and "| unchanged pairs" not in text
    assert "80.2\u201382.2" in text, "the interval"
    assert "the scene is \\| the same" in text, "a caption cannot break the table"


def test_scores_of_other_weights_are_left_out(folder, tmp_path, tiny_checkpoints):
    add_evaluation(folder, write_toy_report(tmp_path / "report.json"), "toy", "test")
    assert "57.12" in render_model_card(folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "num_beams": 1}))
    assert "57.12" not in render_model_card(folder) and read_evaluations(folder) == ([], 1)
    add_evaluation(folder, write_toy_report(tmp_path / "report.json", shift=1.0), "toy", "test")
    assert "58.12" in render_model_card(folder)
    assert len((folder / Evaluation.NAME).read_text().splitlines()) == 1


def test_a_repeated_evaluation_replaces_the_earlier_one(folder, tmp_path):
    kinds = (("test", "words"), ("test", "words"), ("val", "words"), ("test", "rsicc_ids"))
    for shift, (split, protocol) in enumerate(kinds):
        report = write_toy_report(tmp_path / "report.json", shift=shift, protocol=protocol)
        add_evaluation(folder, report, "toy", split)
    found, _ = read_evaluations(folder)
    assert [one.report["all"]["bleu_2"] for one in found] == [73.5, 74.5, 75.5]
    card = render_model_card(folder)
    assert "58.12" in card and "59.12" in card and "60.12" in card and "57.12" not in card


def test_one_writer_at_a_time_adds_results(folder, tmp_path):
    report = write_toy_report(tmp_path / "report.json")
    with (
        exclusive(folder / Evaluation.NAME),
        pytest.raises(ValueError, match=r"by another run .* choose another checkpoint"),
    ):
        add_evaluation(folder, report, "toy", "test")
    assert not (folder / Evaluation.NAME).exists()
    before = set(folder.iterdir())
    add_evaluation(folder, report, "toy", "test")
    assert set(folder.iterdir()) - before == {folder / Evaluation.NAME}


def test_who_wrote_the_captions_is_checked(folder, tmp_path):
    report = write_toy_report(tmp_path / "report.json")
    row = {"pair_id": "1", "prediction": "x", "model": f"elsewhere@{fingerprint_of(folder)}",
           "settings": {"dtype": "float32", "semantic_maps": True, "num_beams": 2}}  # fmt: skip
    predictions = tmp_path / "captions.jsonl"
    predictions.write_text(json.dumps(row) + "\n")
    one = add_evaluation(folder, report, "toy", "test", predictions=predictions)
    assert one.maps is True and one.settings == {"dtype": "float32", "num_beams": 2}
    card = render_model_card(folder)
    assert "`num_beams` 2" in card and "true semantic maps" in card
    for change, said in (({"model": "m@000000000000"}, "caption with"), ({"settings": None}, "rscc caption")):
        predictions.write_text(json.dumps({**row, **change}) + "\n")
        with pytest.raises(ValueError, match=said):
            add_evaluation(folder, report, "toy", "test", predictions=predictions)
    predictions.write_text("")
    with pytest.raises(ValueError, match="empty"):
        add_evaluation(folder, report, "toy", "test", predictions=predictions)


def toy_text(**changes):
    return json.dumps({**toy_report().to_dict(), **changes})


def test_a_report_is_read_as_it_was_written():
    report = toy_report(bootstrap=True)
    content = json.loads(json.dumps(report.to_dict()))
    assert Report.parse(content, "here", "") == report
    assert Report.parse({**content, "of a later version": 1}, "here", "") == report


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "no JSON object"),
        ("{", "no JSON"),
        ('{"all": {}, "protocol": "words", "n": 1, "accuracy": {}}', "bleu_1 in all"),
        ('{"all": [], "protocol": "words", "n": 1, "accuracy": {}}', "bleu_1 in all"),
        (toy_text(accuracy=3), r"report.json: `accuracy` must be an object; give what `rscc evaluate --json` wrote\."),
        (toy_text(accuracy={"changed": "much"}), "has no numbers in accuracy; give"),
        (toy_text(n="10"), "`n` must be a whole number"),
        (toy_text(baseline={"caption": "a"}), "has no bleu_1 in baseline"),
        (toy_text(bootstrap={"all": {"s_m": 3}}), "has no intervals in bootstrap"),
    ],
)
def test_what_is_no_report_is_refused(folder, tmp_path, content, said):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        add_evaluation(folder, path, "toy", "test")
    assert not (folder / Evaluation.NAME).exists()


def write_run(folder, recorded=None, **changes):
    """What a run leaves beside its weights; `recorded` is added to its summary."""
    recipe = {
        "train_data": "/home/alice/scenes", "train_split": "train", "validation_split": "validation",
        "eval_unit": "epochs", "metric_for_best": "s_m", "learning_rate": 0.002, "global_batch_size": 16,
        "backbone_weights_rgb": "microsoft/resnet-101", "vocabulary_splits": ["train"], **changes,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in recipe.items()))
    summary = {"trained_on": "synthetic", "data": recipe["train_data"], "split": "train", **(recorded or {})}
    (folder / "training_summary.json").write_text(json.dumps(summary))
    scores = {"bleu_4": 61.5, "s_m": 77.25}
    log = [
        {"step": 20, "epoch": 0, "loss": 1.5, "seconds": 100.0},
        {"step": 40, "epoch": 1, "improved": True, "validation": scores},
        {"step": 60, "epoch": 2, "improved": False, "validation": {"bleu_4": 1.0, "s_m": 2.0}},
    ]
    (folder / "training_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))


def test_a_run_is_told_with_its_command_and_without_paths(folder):
    write_run(folder, {"data_is_local": True, "backbone_weights_rgb_is_local": False})
    card = render_model_card(folder)
    assert "alice" not in card and "/home" not in card
    assert "accelerate launch training/mmodalcc.py --config recipe.yaml --train_data YOUR_DATA" in card
    assert "step 40, the best on the validation split: BLEU-4 61.50, S\\*m 77.25" in card
    assert "60 steps" in card and "2 minutes" in card and "2.00" not in card
    data = ModelCard(card).data.to_dict()
    assert data["base_model"] == "microsoft/resnet-101" and "datasets" not in data and data["language"] == "en"
    assert "no photograph" in card and "chosen by S\\*m on the validation split" in card
    assert "`learning_rate` | 0.002" in card


def test_data_on_the_hub_are_named(folder):
    write_run(folder, {"data_is_local": False, "data_revision": "v1.0"}, train_data="org/second-cc-mini",
              validation_split="test", semantic_coverage="changed", vocabulary_splits=["all"])  # fmt: skip
    card = render_model_card(folder)
    assert ModelCard(card).data.to_dict()["datasets"] == ["org/second-cc-mini"]
    assert "--train_data org/second-cc-mini" in card and "(`org/second-cc-mini` at `v1.0`, train split)" in card
    assert "no untouched split left" in card and "maps that show changed pixels only" in card
    assert "captions of these splits: all" in card
    assert "terms of SECOND's images are not known" in card


def test_the_command_of_a_card_is_one_that_the_script_takes(folder, tmp_path):
    """The recipe in the card's folder, with the flags of the card's command, is a recipe of that script."""
    import shlex

    from rscc_hf.training.engine.recipe import parse_recipe, recipe_to_yaml
    from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe

    write_run(folder)
    (folder / "recipe.yaml").write_text(recipe_to_yaml(MModalCCRecipe(train_data="org/pairs")))
    (command,) = re.findall(r"```bash\n(.*?)\n```", render_model_card(folder))
    launcher, launch, script, *arguments = shlex.split(command)
    assert (launcher, launch) == ("accelerate", "launch")
    assert (Path(__file__).parents[3] / script).is_file()
    arguments[arguments.index("recipe.yaml")] = str(folder / "recipe.yaml")
    assert parse_recipe(MModalCCRecipe, arguments).train_data == "YOUR_DATA"


@pytest.mark.parametrize(
    ("changes", "script"),
    [
        ({"trained_parts": ["integration"]}, "stage1"),
        ({"trained_parts": ["integration", "language_model"], "captions": "flatten"}, "stage2"),
        ({"trained_parts": ["integration", "language_model"], "captions": "random_choice"}, "stage3"),
    ],
)
def test_a_stage_of_ccexpert_names_its_script_and_its_contamination(ccexpert, tmp_path, changes, script):
    folder = shutil.copytree(ccexpert, tmp_path / "stage")
    write_run(folder, {"init_from_is_local": False}, init_from="org/ccexpert-stage", **changes)
    card = render_model_card(folder)
    assert f"training/{script}.py" in card and "scores on SECOND-CC are contaminated" in card
    assert ModelCard(card).data.to_dict()["pipeline_tag"] == "image-text-to-text"
    assert "org/ccexpert-stage" in ModelCard(card).data.to_dict()["base_model"]


def test_a_converted_release_tells_where_it_comes_from(ccexpert, tmp_path):
    folder = shutil.copytree(ccexpert, tmp_path / "released")
    sha256 = "ab" * 32
    (folder / "conversion.json").write_text(json.dumps({
        "converter": "rscc convert ccexpert", "dropped": ["model.image_newline"], "versions": {"rscc_hf": "0.1.0"},
        "sources": [{"name": "model-00001.safetensors", "sha256": sha256, "bytes": 1234567}],
    }))  # fmt: skip
    add_evaluation(folder, write_toy_report(tmp_path / "report.json"), "SECOND-CC", "test")
    card = render_model_card(folder)
    assert f"| model-00001.safetensors | 1,234,567 | `{sha256}` |" in card and "`model.image_newline`" in card
    data = ModelCard(card).data.to_dict()
    assert data["license"] == "other" and data["license_link"] == "https://github.com/Meize0729/CCExpert"
    assert "Contaminated: images of SECOND" in card and "LEVIR-CC's test split" in card
    assert "states no licence of its own for the weights" in card


def test_a_start_from_onevision_says_that_it_is_untrained(ccexpert, tmp_path):
    folder = shutil.copytree(ccexpert, tmp_path / "start")
    (folder / "conversion.json").write_text(json.dumps({
        "converter": "rscc convert llava-onevision", "base_model": "org/onevision", "new_weights": "integration.*",
        "seed": 7, "sources": [],
    }))  # fmt: skip
    card = render_model_card(folder)
    assert "captions mean nothing" in card and "(seed 7)" in card and "authors' release" not in card
    data = ModelCard(card).data.to_dict()
    assert data["base_model"] == "org/onevision" and "license" not in data


def test_what_a_user_added_stays(folder):
    path = write_model_card(folder, license="mit")
    text = path.read_text()
    text = text.replace("license: mit\n", "license: mit\nthumbnail: a.png\n").replace("tags:\n", "tags:\n- mine\n")
    path.write_text(text + "## My notes\n\nSeen on a Tuesday.\n")
    again = write_model_card(folder, repo_id="org/x").read_text()
    data = ModelCard(again).data.to_dict()
    assert data["license"] == "mit" and data["thumbnail"] == "a.png" and "mine" in data["tags"]
    assert again.endswith("Seen on a Tuesday.\n") and again.count(MARKER) == 1
    assert write_model_card(folder, repo_id="org/x").read_text() == again, "written twice it is the same"


def test_somebody_elses_card_stays(folder):
    (folder / "README.md").write_text("# Mine\n")
    with pytest.raises(ValueError, match="not written by rscc_hf"):
        write_model_card(folder)
    assert (folder / "README.md").read_text() == "# Mine\n"
    write_model_card(folder, overwrite=True)
    assert MARKER in (folder / "README.md").read_text()


def test_damaged_folders_are_refused_in_a_sentence(folder, tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        render_model_card(tmp_path)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(ValueError, match="cut off"):
        render_model_card(folder)
    weights.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="no safetensors file"):
        render_model_card(folder)
    weights.write_bytes(content)
    for name, text, said in (
        ("recipe.yaml", "a: [", "no YAML"), ("training_summary.json", "[1]", "no JSON object"),
        ("training_log.jsonl", "{}\n", "line 1"), (Evaluation.NAME, "{}\n", "line 1"),
    ):  # fmt: skip
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=said):
            render_model_card(folder)
        (folder / name).unlink()


def test_text_from_elsewhere_cannot_break_the_card(folder):
    write_run(folder, prompt="<script>|`x`\n# heading", optimizer="[a](http://b)")
    card = render_model_card(folder)
    assert "<script>" not in card and "\n# heading" not in card and "\\[a\\](http://b)" in card


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LEVIR-CC", "levir-cc"),
        ("org/second_cc_mini", "second-cc"),
        ("synthetic", "synthetic"),
        ("levir_mci", "levir-mci"),
        ("Levir CC", "levir-cc"),
        ("second", "second"),
        ("org/SECOND", "second"),
        ("acme/synthetic_changes_cc_by_nc", None),
        ("acme/synthetic", None),
        ("org/my-second-dataset", None),
        ("outputs/second-try", None),
        ("outputs/second", None),
        ("levir-cc-plus", None),
        ("", None),
        ("data/SECOND-CC-AUG", "second-cc"),
        ("CC-Foundation/", "cc-foundation"),
        ("seconds", None),
        ("my-pairs", None),
    ],
)
def test_known_data_are_found_by_their_names(name, expected):
    found = known_data(name)
    assert (found and found.key) == expected


def test_only_what_is_recorded_to_be_on_the_hub_is_an_id():
    for name in ("org/pairs", "gpt2"):
        assert hub_id(name, False) == name
        assert hub_id(name, True) is None and hub_id(name, None) is None
    for name in ("/a/b", "a/b/c", "./a", None, "../a", "~/a", "a b/c"):
        assert hub_id(name, False) is None


@pytest.mark.parametrize("recorded", [{}, {"data_is_local": True, "backbone_weights_rgb_is_local": True}])
@pytest.mark.parametrize("data", ["demo_output_ccexpert/data", "exp1/levir", "org/pairs"])
def test_what_may_be_a_folder_is_no_data_set_of_the_hub(folder, recorded, data):
    write_run(folder, recorded, train_data=data, backbone_weights_rgb="exp1/resnet")
    card = render_model_card(folder)
    assert not {"datasets", "base_model"} & ModelCard(card).data.to_dict().keys()
    assert f"`{data}`" not in card and "--train_data YOUR_DATA" in card
    assert not recorded or "exp1" not in card


def test_an_id_that_an_earlier_card_guessed_goes_and_a_users_own_stays(folder):
    write_run(folder, {"data_is_local": False}, train_data="exp1/levir")
    path = write_model_card(folder)
    path.write_text(path.read_text().replace("- exp1/levir\n", "- exp1/levir\n- org/mine\n", 1))
    assert ModelCard(path.read_text()).data.to_dict()["datasets"] == ["exp1/levir", "org/mine"]
    write_run(folder, {"data_is_local": True}, train_data="exp1/levir")
    assert ModelCard(write_model_card(folder).read_text()).data.to_dict()["datasets"] == ["org/mine"]


def test_a_start_that_is_a_folder_has_to_be_named_by_who_trains(ccexpert, tmp_path):
    folder = shutil.copytree(ccexpert, tmp_path / "stage")
    write_run(folder, {"init_from_is_local": True}, init_from="outputs/stage1", trained_parts=["integration"])
    card = render_model_card(folder)
    assert "--init_from YOUR_START" in card and "outputs/stage1" not in card and "starts from stage1" in card
    assert "base_model" not in ModelCard(card).data.to_dict() or "outputs" not in str(ModelCard(card).data.base_model)


def test_unknown_sources_are_named_beside_the_known_ones(folder):
    write_run(folder, {"trained_on": "LEVIR-CC, my_private", "data_is_local": True})
    card = render_model_card(folder)
    assert "It was trained on LEVIR-CC (" in card and "; my\\_private (data that rscc_hf does not know)." in card
    assert "Trained by rscc_hf on LEVIR-CC, my\\_private, train split." in card
    assert "| data: my\\_private | not known to rscc_hf |" in card
    assert "language" not in ModelCard(card).data.to_dict()


def test_synthetic_scenes_among_other_data_do_not_hide_these(folder):
    write_run(folder, {"trained_on": "synthetic, photographs"})
    card = render_model_card(folder)
    assert "seen no photograph" not in card and "photographs (data that rscc_hf does not know)" in card


def test_synthetic_pairs_of_somebody_else_are_unknown(folder):
    write_run(folder, {"synthesized": True})
    assert "drawn scenes" in render_model_card(folder)
    write_run(folder, {"synthesized": False})
    card = render_model_card(folder)
    assert "drawn scenes" not in card and "Apache-2.0 where" not in card and "seen no photograph" not in card
    assert "It was trained on synthetic (data that rscc_hf does not know)" in card


@pytest.mark.parametrize("data", ["/home/alice/outputs/second-try", "org/pairs"])
def test_a_stream_of_unknown_data_is_named_without_its_path(folder, data):
    write_run(folder, {"trained_on": data, "data_is_local": data.startswith("/")}, train_data=data)
    card = render_model_card(folder)
    assert "alice" not in card and "SECOND's" not in card.partition("## Limits")[2]
    shown = "second-try" if data.startswith("/") else data
    assert f"It was trained on {shown} (data that rscc_hf does not know)" in card


@pytest.mark.parametrize(("dataset", "optimistic"), [("scenes", True), ("elsewhere", False)])
def test_scores_on_unknown_data_are_told_from_those_that_chose_the_weights(folder, tmp_path, dataset, optimistic):
    write_run(folder, {"trained_on": "mine", "data_is_local": True})
    add_evaluation(folder, write_toy_report(tmp_path / "report.json"), dataset, "validation")
    assert ("on this very split" in render_model_card(folder)) == optimistic


@pytest.mark.parametrize(("seconds", "said"), [(61, "in 1 minute,"), (89, "in 1 minute,"), (100, "in 2 minutes,")])
def test_minutes_are_counted_in_words(folder, seconds, said):
    write_run(folder)
    (folder / "training_log.jsonl").write_text(json.dumps({"step": 9, "epoch": 0, "seconds": seconds}) + "\n")
    assert said in render_model_card(folder)
