"""Write one of everything that the installed rscc_hf leaves on a disk, small: `python write_files.py written_by_X_Y`.

Only command lines, scripts and public names are used, so that a later release can add a folder of its own. Everything
lies under relative names, which the records in the files repeat: the tests copy the folder and work inside the copy.
"""

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, Image, Sequence, Value
from PIL import Image as PILImage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

TESTS = Path(__file__).resolve().parents[1]
TRAINING = TESTS.parent / "training"
sys.path[:0] = [str(TESTS), str(Path(__file__).parent)]

import watched  # noqa: E402
from asked import ANSWERED, answers, machine  # noqa: E402
from documented import documented  # noqa: E402
from toys import mmodalcc_release  # noqa: E402

import rscc_hf  # noqa: E402

SIDE = 32
HELD_OUT = 100  # the number of the first pair of validation
SMALL = 1000  # bytes; smaller files stay although there are others like them
LEAST_GAP = 0.05  # between the first word and the second, in logits: no other processor may choose another word
SENTENCES = {
    "building": ["a building appears", "a house is built"],
    "lake": ["the lake is new", "the water is new"],
    "none": ["there is no difference", "the scenes seem identical"],
}
COLOURS = {"building": (250, (128, 0, 0)), "lake": ((10, 20, 160), (0, 0, 255))}  # in the image, in the map
FEATURES = Features(
    {
        **dict.fromkeys(("pair_id", "source"), Value("string")),
        **dict.fromkeys(("image_before", "image_after", "semantic_before", "semantic_after"), Image()),
        "change_mask": Image(),
        "captions": Sequence(Value("string")),
        "changed": Value("bool"),
    }
)
RUN = {
    "train_data": "pairs", "global_batch_size": 8, "per_device_batch_size": 4, "max_epochs": "null",
    "save_unit": "steps", "save_every": 40, "keep_checkpoints": 1, "logging_steps": 5, "torch_threads": 1,
    "tracker": "none", "progress_bar": "false", "mixed_precision": "no", "cpu": "true",
}  # fmt: skip
MMODALCC = RUN | {
    "image_size": SIDE, "embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1], "layer_type": "basic",
    "backbone_stages": 2, "frozen_stages": "none", "grid_size": 2, "d_model": 8, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "num_stages": 1, "dropout": 0.0, "semantics_optional": "true",
    "semantic_dropout": 0.25, "mirror_vertical": 0.5, "colour_jitter": 0.1, "vocabulary_min_frequency": 1,
    "captions_per_pair": 2, "max_steps": 160, "learning_rate": 5e-3, "eval_unit": "steps", "eval_every": 40,
    "max_caption_length": 12,
}  # fmt: skip
CCEXPERT = RUN | {
    "init_from": "start", "captions": "random_choice", "max_steps": 160, "learning_rate": 5e-3, "eval_unit": "never",
    "gradient_checkpointing": "false",
    "schedule": "constant", "warmup_ratio": 0.0, "colour_jitter": 0.1,
}  # fmt: skip


def rscc(*arguments: object) -> None:
    """Run a line of the command line."""
    (entry,) = entry_points(group="console_scripts", name="rscc")
    done = CliRunner().invoke(entry.load(), [str(argument) for argument in arguments])
    print("rscc", *arguments, f"\n{done.output}", flush=True)
    if done.exit_code:
        raise SystemExit(f"it ended with {done.exit_code}: {done.exception!r}")


def command(script: str, settings: dict[str, Any]) -> list[str]:
    """A training script's command line."""
    flags = [
        part
        for name, value in settings.items()
        for part in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]
    return [sys.executable, str(TRAINING / script), *flags]


def train(script: str, output: str, settings: dict[str, Any]) -> None:
    """Train to the end; the checkpoints of a finished run are not kept, for their size."""
    watched.run(command(script, settings | {"output_dir": output}), check=True)
    shutil.rmtree(Path(output, "checkpoints"), ignore_errors=True)


def train_until_interrupted(script: str, output: str, settings: dict[str, Any]) -> None:
    """Train, and interrupt the run as Ctrl-C does when it has written a checkpoint that is not its last."""
    with watched.started(command(script, settings | {"output_dir": output})) as process:
        while process.poll() is None and not list(Path(output).glob("checkpoints/step-*")):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
    (kept,) = Path(output).glob("checkpoints/step-*")
    if process.returncode != 130 or int(kept.name.removeprefix("step-")) >= settings["max_steps"]:
        raise SystemExit(f"{output} was not interrupted in time: try again")


def make_row(number: int) -> dict[str, Any]:
    """A pair in the schema: a building appears, a lake appears, or nothing does."""
    generator = np.random.default_rng(number)
    what = ("building", "none", "lake", "none")[number % 4]
    before, after = (generator.integers(96, 104, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2))
    maps = [np.full((SIDE, SIDE, 3), 128, np.uint8) for _ in range(2)]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if what != "none":
        left = int(generator.integers(2, 14))
        square = slice(8, 24), slice(left, left + 16)
        after[square], maps[1][square] = COLOURS[what]
        mask[square] = 255
    return {
        "pair_id": f"pair-{number}",
        "image_before": PILImage.fromarray(before),
        "image_after": PILImage.fromarray(after),
        "semantic_before": PILImage.fromarray(maps[0]),
        "semantic_after": PILImage.fromarray(maps[1]),
        "change_mask": PILImage.fromarray(mask),
        "captions": SENTENCES[what][: 2 if number < 4 or number >= HELD_OUT else 1],
        "changed": what != "none",
        "source": "toy",
    }


def write_data() -> None:
    """Images in folders, lists of them in two dialects, two data sets, a vocabulary."""
    rows = {split: [make_row(start + n) for n in range(size)] for split, start, size in
            (("train", 0, 16), ("validation", HELD_OUT, 4))}  # fmt: skip
    DatasetDict({name: Dataset.from_list(part, features=FEATURES) for name, part in rows.items()}).save_to_disk(
        "pairs"
    )
    listed = []
    for row in rows["validation"]:
        files = {}
        for column in ("image_before", "image_after", "semantic_before", "semantic_after"):
            name = column.removeprefix("image_")
            path = Path("images", name, f"{row['pair_id']}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            row[column].save(path)
            files[name] = path.as_posix()
        listed.append({"pair_id": row["pair_id"], **files, "references": row["captions"], "changed": row["changed"]})
    write_lines("list.jsonl", listed)
    lines = ["uid,img1_path,img2_path,semantic_before,semantic_after"]
    lines += [",".join(str(value) for value in list(row.values())[:5]) for row in listed]
    Path("list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rscc("data", "synthesize", "scenes", "--pairs", 4, "--size", 64, "--workers", 1, "--seed", 1)
    rscc("data", "vocabulary", "scenes", "vocabulary")
    rscc("data", "vocabulary", "pairs", "vocabulary_pieces", "--unigram", "--vocab-size", 60)


def write_lines(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_llava(folder: Path) -> None:
    """A LLaVA-OneVision of some thousand weights, as transformers writes one."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=marks, show_progress=False
    )
    words.train_from_iterator([text for texts in SENTENCES.values() for text in texts], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8, "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer), "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 1024,
        },
        image_token_id=marks.index("<image>"), vision_feature_layer=-1, tie_word_embeddings=False,
    )  # fmt: skip
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_models(scratch: Path) -> None:
    """Conversions, finished and interrupted runs, adapters."""
    release, words = scratch / "release.pth.tar", scratch / "words.json"
    mmodalcc_release.WIDTH, mmodalcc_release.STAGES, mmodalcc_release.LAYERS = 8, 1, 1
    mmodalcc_release.DEPTHS = (1, 1, 1)
    content = mmodalcc_release.toy_content(bottleneck=False)
    with torch.no_grad():  # random words follow the images more when they speak up; a caption is never empty
        content["decoder"].wdc.weight.mul_(20)
        content["decoder"].wdc.bias[-3:] = -50
    release.write_bytes(mmodalcc_release.saved(content))
    mmodalcc_release.write_word_map(words)
    rscc("convert", "mmodalcc", release, "--word-map", words, "converted")
    write_llava(scratch / "llava")
    rscc("convert", "llava-onevision", scratch / "llava", "start",
         "--vision-levels", "1,2", "--num-integration-layers", 1)  # fmt: skip
    train("mmodalcc.py", "mmodalcc", MMODALCC)
    train_until_interrupted("mmodalcc.py", "mmodalcc_stopped", MMODALCC)
    whole = CCEXPERT | {"vision_learning_rate_ratio": 1.0}
    train("stage2.py", "ccexpert", whole)
    train_until_interrupted("stage2.py", "ccexpert_stopped", whole)
    few = {"init_from": "ccexpert", "lora_rank": 2, "max_steps": 2, "learning_rate": 1e-3}
    train("stage3.py", "adapters", CCEXPERT | few)


def write_answers() -> None:
    """Files of captions, finished and cut off, their scores, another dialect of them, a card."""
    rscc("caption", "--pairs", "list.jsonl", "--model", "mmodalcc", "--device", "cpu", "--output", "captions.jsonl")
    rscc("caption", "--pairs", "pairs", "--split", "validation", "--without-maps", "--num-beams", 2,
         "--model", "mmodalcc", "--device", "cpu", "--output", "captions_of_data.jsonl")  # fmt: skip
    for name in ("captions", "captions_of_data"):
        content = Path(f"{name}.jsonl").read_bytes()
        ends = [place for place, letter in enumerate(content) if letter == ord("\n")]
        Path(f"{name}_stopped.jsonl").write_bytes(content[: (ends[1] + ends[2]) // 2])  # killed while it wrote a line
    rscc("evaluate", "captions.jsonl", "--json", "scores.json")
    renamed = (("uid", "pair_id"), ("pred", "prediction"), ("change_caption", "references"), ("changeflag", "changed"))
    rows = [json.loads(line) for line in Path("captions.jsonl").read_text(encoding="utf-8").splitlines()]
    others = [{new: row[old] for new, old in renamed} | {"changeflag": int(row["changed"])} for row in rows]
    others[0]["pred"], others[1]["pred"] = "a house appears", "no difference"  # not all scores are to be 100
    write_lines("captions_in_other_words.jsonl", others)
    rscc(
        "evaluate", "captions_in_other_words.jsonl", "--protocol", "rsicc_ids", "--json", "scores_in_other_words.json"
    )
    rscc("card", "mmodalcc", "--results", "scores.json", "--dataset", "toy", "--split", "validation",
         "--predictions", "captions.jsonl", "--license", "apache-2.0")  # fmt: skip
    for name in ("ccexpert", "converted", "start"):
        rscc("card", name)


def write_expected(scratch: Path) -> None:
    """What the models answer today, and where that was."""
    merged = scratch / "merged"
    watched.run([sys.executable, str(TRAINING / "adapters.py"), "adapters", str(merged)], check=True)
    models = {}
    for name in ANSWERED:
        given = answers(merged if name == "adapters" else name)
        gap = given.pop("gap")
        print(name, gap, given)
        if gap < LEAST_GAP:
            raise SystemExit(f"{name}: two words are so near to each other that a processor may take the other one")
        models[name] = given
    tokens = {
        folder: {
            text: AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
            for text in ("a house", SENTENCES["none"][0])
        }
        for folder in ("vocabulary", "vocabulary_pieces")
    }
    content = {"rscc_hf": version("rscc_hf"), "machine": machine(), "models": models, "tokens": tokens}
    write_json("expected.json", content)
    write_json("documented.json", {**documented(TESTS.parent), "names": sorted(rscc_hf.__all__)})


def write_json(path: str, content: Any) -> None:
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def fold_twins() -> None:
    """Keep one of files that are the same (code and models lie in many folders); `asked.unfolded` puts them back."""
    kept: dict[bytes, str] = {}
    twins = {}
    for path in sorted(path for path in Path().rglob("*") if path.is_file()):
        first = kept.setdefault(path.read_bytes(), path.as_posix())
        if first != path.as_posix() and path.stat().st_size > SMALL:
            twins[path.as_posix()] = first
            path.unlink()
    write_json("twins.json", twins)


def main() -> None:
    target = Path(sys.argv[1]).absolute()
    folder = Path(tempfile.gettempdir(), "rscc", target.name)  # the adapters keep the whole name of their base
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts behind it ignore SIGINT
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(folder):
        write_data()
        write_models(Path(scratch))
        write_answers()
        write_expected(Path(scratch))
        fold_twins()
    shutil.move(folder, target)


if __name__ == "__main__":
    main()
