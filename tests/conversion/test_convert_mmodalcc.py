"""`rscc convert mmodalcc`: the golden checkpoint and generated ones through the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import watched
from torch import nn
from toys.mmodalcc_release import (
    DECODER_HEADS,
    DEPTHS,
    ENCODER_HEADS,
    GRID,
    LAYERS,
    STAGES,
    WIDTH,
    WORD_MAP,
    make,
    saved,
    toy_content,
    write_word_map,
)
from typer.testing import CliRunner, Result

from rscc_hf import MModalCCForConditionalGeneration, MModalCCProcessor
from rscc_hf.commands.app import app
from rscc_hf.conversion import mmodalcc_release

GOLDEN = Path(__file__).resolve().parents[3] / "shared/golden/mmodalcc"

ALONE = """
import json, sys
sys.modules["rscc_hf"] = None  # any import of it fails
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor
folder, golden = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
numbers = load_file(golden + "/golden.safetensors")
images = list(numbers["images_uint8"].permute(0, 1, 3, 4, 2).numpy())
inputs = processor(
    images=[list(four[:2]) for four in images], semantic_maps=[list(four[2:]) for four in images],
    return_tensors="pt", white_to_void=False,
)
with torch.no_grad():
    logits = model(**inputs, decoder_input_ids=numbers["captions"]).logits
    found = {beams: model.generate(**inputs, num_beams=beams).tolist() for beams in (1, 3)}
    found[4] = model.generate(**inputs).tolist()  # the saved default
print(json.dumps({
    "found": found,
    "pixels": (inputs["pixel_values"] - numbers["images_uint8"][:, :2] / 255).abs().max().item(),
    "maps": (inputs["semantic_values"] - numbers["images_uint8"][:, 2:] / 255).abs().max().item(),
    "logits": (logits - numbers["logits"]).abs().max().item(),
    "scale": numbers["logits"].abs().max().item(),
}))
"""


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_MODULES_CACHE": str(cwd / "modules"), "HF_HUB_OFFLINE": "1"}
    return watched.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers in ../shared are not on this machine")
def test_the_golden_release_answers_as_its_authors_code_did(tmp_path: Path) -> None:
    (release,) = GOLDEN.glob("*.pth.tar")
    (words,) = GOLDEN.glob("WORDMAP*.json")
    done = run("-m", "rscc_hf.commands.app", "convert", "mmodalcc", release, "--word-map", words, "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Loaded in a new process, it says" in done.stdout
    assert done.stderr.startswith("33 weights dropped, which the model never uses")
    assert "  decoder.transformer.layers.0.multihead_attn2.in_proj_weight\n" in done.stderr

    alone = run("-c", ALONE, tmp_path / "out", GOLDEN, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    told = json.loads(alone.stdout.splitlines()[-1])
    assert told["pixels"] <= 1e-6 and told["maps"] <= 1e-6
    assert told["scale"] > 1 and told["logits"] <= 1e-4
    word_map = json.loads(words.read_text())
    specials = {word_map[word] for word in ("<pad>", "<start>", "<end>")}
    expected = json.loads((GOLDEN / "beam_captions.json").read_text())
    for beams, rows in told["found"].items():
        assert [[token for token in row if token not in specials] for row in rows] == expected[beams]

    provenance = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert provenance["sources"][0]["sha256"] == sha256(release.read_bytes()).hexdigest()
    assert provenance["sources"][1] == {
        "name": words.name,
        "sha256": sha256(words.read_bytes()).hexdigest(),
        "bytes": words.stat().st_size,
    }
    assert len(provenance["dropped"]) == 33
    card = (tmp_path / "out" / "README.md").read_text()
    assert provenance["sources"][0]["sha256"] in card
    written = "".join(path.read_text() for path in (tmp_path / "out").glob("*.[jm]*") if path.suffix != ".safetensors")
    assert str(tmp_path) not in written and str(GOLDEN) not in written


# --- generated releases ----------------------------------------------------------------------------------------------


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Converts these bytes in this process, without the trial in a new one."""
    monkeypatch.setattr(mmodalcc_release, "run_a_pair", lambda folder: "a trial")
    monkeypatch.chdir(tmp_path)

    def converted(data: bytes | None = None, *options: str, word_map: Any = WORD_MAP) -> Result:
        if data is not None:
            Path("release.pth.tar").write_bytes(data)
        write_word_map(Path("words.json"), word_map)
        return CliRunner().invoke(
            app, ["convert", "mmodalcc", "release.pth.tar", "--word-map", "words.json", "out", *options]
        )

    return converted


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("bottleneck", [True, False], ids=["bottleneck", "basic"])
def test_sizes_heads_and_dropouts_are_read(convert: Callable[..., Result], legacy: bool, bottleneck: bool) -> None:
    content = toy_content(bottleneck)
    result = convert(saved(content, legacy=legacy, device="cuda:1" if legacy else "mps"))
    assert result.exit_code == 0, result.stderr
    model = MModalCCForConditionalGeneration.from_pretrained("out")
    config = model.config
    assert config.feature_enhancement == "parallel" and config.modalities == "rgb_semantic"
    assert (config.num_stages, config.decoder_layers, config.grid_size, config.d_model) == (
        STAGES,
        LAYERS,
        GRID,
        WIDTH,
    )
    assert (config.encoder_attention_heads, config.decoder_attention_heads) == (ENCODER_HEADS, DECODER_HEADS)
    assert (config.dropout, config.attention_dropout, config.position_dropout) == (0.4, 0.25, 0.1)
    assert (config.encoder_ffn_dim, config.decoder_ffn_dim, config.decoder_hidden_size) == (24, 40, 2 * WIDTH)
    assert config.backbone_stages == 3 and config.image_size == 256
    for backbone in config.backbone_configs.values():
        assert backbone.layer_type == ("bottleneck" if bottleneck else "basic")
        assert (backbone.depths, backbone.hidden_sizes, backbone.embedding_size) == (list(DEPTHS), [8, 16, 16], 8)
    ids = (config.pad_token_id, config.bos_token_id, config.eos_token_id, config.vocab_size)
    assert ids == (0, WORD_MAP["<start>"], WORD_MAP["<end>"], len(WORD_MAP))
    assert (model.generation_config.num_beams, model.generation_config.length_penalty) == (4, 0.0)
    assert model.generation_config.eos_token_id == WORD_MAP["<end>"]

    layer, ours = content["decoder"].transformer.layers[1], model.decoder.layers[1]
    assert torch.equal(ours.mgca.semantic_gate.weight, layer.gate2[0].weight)
    assert torch.equal(ours.self_attention.k_proj.weight, layer.self_attn.in_proj_weight.chunk(3)[1])
    block, our_block = content["encoder_image2"].net[5][0], model.encoder.semantic_backbone.encoder.stages[1].layers[0]
    assert torch.equal(our_block.layer[-1].convolution.weight, (block.conv3 if bottleneck else block.conv2).weight)
    assert torch.equal(model.lm_head.bias, content["decoder"].wdc.bias)

    processor = MModalCCProcessor.from_pretrained("out")
    images = processor.image_processor
    assert not images.do_normalize and images.semantic_mean is None and images.white_to_void
    assert images.resample == images.semantic_resample == 2 and (images.size["height"], images.size["width"]) == (
        256,
        256,
    )
    assert processor.tokenizer.get_vocab() == WORD_MAP
    assert processor.tokenizer("Trees vanish.").input_ids == [
        WORD_MAP[w] for w in ("<start>", "trees", "vanish", "<end>")
    ]


def test_half_precision_and_shared_weights_are_read(convert: Callable[..., Result]) -> None:
    content = toy_content()
    content["decoder"].half()
    content["decoder"].position_encoding.float()
    content["encoder_feat"].projection2.weight = content["encoder_feat"].projection.weight
    content["encoder_feat"].projection.bias.data = torch.arange(2.0 * WIDTH)[::2]  # every second of a storage
    result = convert(saved(content))
    assert result.exit_code == 0, result.stderr
    model = MModalCCForConditionalGeneration.from_pretrained("out")
    assert torch.equal(model.lm_head.weight, content["decoder"].wdc.weight.float())
    assert torch.equal(model.encoder.enhancement.semantic_projection.weight, content["encoder_feat"].projection.weight)
    assert model.encoder.enhancement.rgb_projection.bias.tolist() == list(range(0, 2 * WIDTH, 2))


def test_scores_that_numpy_took_do_not_matter(convert: Callable[..., Result]) -> None:
    import numpy as np

    content = toy_content()
    content["bleu-4"] = {"CIDEr": np.float64(1.5), "ROUGE_L": np.float32(0.5)}
    assert convert(saved(content)).exit_code == 0


def test_an_existing_out_needs_overwrite(convert: Callable[..., Result]) -> None:
    Path("out").mkdir()
    Path("out/precious.txt").write_text("mine")
    data = saved(toy_content())
    assert "out exists; choose another folder or --overwrite it." in convert(data).stderr
    assert "out is no checkpoint" in convert(data, "--overwrite").stderr
    assert [path.name for path in Path("out").iterdir()] == ["precious.txt"]
    Path("out/precious.txt").unlink()
    assert convert(data).exit_code == 0
    first = Path("out/model.safetensors").read_bytes()
    assert "--overwrite" in convert(data).stderr
    other = saved(toy_content(seed=1))
    assert convert(other[:-500], "--overwrite").exit_code == 1
    assert Path("out/model.safetensors").read_bytes() == first
    assert convert(other, "--overwrite").exit_code == 0
    assert Path("out/model.safetensors").read_bytes() != first
    assert sorted(path.name for path in Path().iterdir()) == ["out", "release.pth.tar", "words.json"]


def test_what_is_read_is_not_replaced(convert: Callable[..., Result]) -> None:
    assert convert(saved(toy_content())).exit_code == 0
    Path("release.pth.tar").rename("out/release.pth.tar")
    result = CliRunner().invoke(
        app, ["convert", "mmodalcc", "out/release.pth.tar", "--word-map", "words.json", "out", "--overwrite"]
    )
    assert result.exit_code == 1 and "out holds out/release.pth.tar, which is read" in result.stderr
    assert Path("out/release.pth.tar").is_file()


def test_what_does_not_work_in_a_new_process_is_not_left(
    convert: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> str:
        assert (folder / "model.safetensors").is_file()
        raise ValueError("the new checkpoint does not work when it is loaded again: no reason")

    monkeypatch.setattr(mmodalcc_release, "run_a_pair", broken)
    result = convert(saved(toy_content()))
    assert result.exit_code == 1 and "does not work when it is loaded again" in str(result.exception or result.stderr)
    assert sorted(path.name for path in Path().iterdir()) == ["release.pth.tar", "words.json"]


def _put(module: nn.Module, **fields: Any) -> None:
    module.__dict__.update(fields)


def _renumber(modules: nn.Module) -> None:
    modules._modules["7"] = modules._modules.pop("1")


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "not-a-dict": (lambda c: list(c.values()), "it holds a list"),
    "nothing": (lambda c: {}, "it lacks encoder_image, encoder_image2, encoder_feat, decoder"),
    "no-second-encoder": (lambda c: c.pop("encoder_image2") and None, "it lacks encoder_image2"),
    "state-dicts": (lambda c: {k: v.state_dict() if isinstance(v, nn.Module) else v for k, v in c.items()},
                    "encoder_image is a dict where a pickled module belongs"),
    "text-as-module": (lambda c: c.update(decoder="decoder"), "decoder is a str where"),
    "optimizer-as-module": (lambda c: c.update(decoder=c["decoder_optimizer"]), "decoder"),
    "parts-swapped": (lambda c: c.update(decoder=c["encoder_feat"], encoder_feat=c["decoder"]),
                      "encoder_feat is a DecoderTransformer where"),
    "tensor-as-module": (lambda c: c["decoder"]._modules.update(wdc=torch.ones(2)), "decoder.wdc is a TensorRef"),
    "number-as-tensor": (lambda c: c["decoder"].wdc._parameters.update(bias=3), "decoder.wdc.bias is a int"),
    "strange-name": (lambda c: c["decoder"]._modules.update({"a.b\n": nn.Linear(1, 1)}), "with the name a.b\\n"),
    "number-as-name": (lambda c: c["decoder"]._modules.update({5: nn.Linear(1, 1)}), "with the name 5"),
    "missing-weight": (lambda c: c["decoder"].wdc._parameters.pop("bias") is None and None,
                       "1 weights are missing for this config: lm_head.bias"),
    "no-projection": (lambda c: c["encoder_feat"]._modules.pop("projection").train() and None,
                      "encoder_feat.projection.weight is missing"),
    "unexpected-weights": (lambda c: c["decoder"]._modules.update(one=nn.Linear(1, 1), two=nn.Linear(1, 1)),
                           "decoder.one.bias, decoder.one.weight, decoder.two.bias, decoder.two.weight are no"),
    "other-shape": (lambda c: c["encoder_feat"].LN.__setitem__(1, nn.LayerNorm(5)), "has shape (5,)"),
    "scalar-weight": (lambda c: c["encoder_feat"].projection._parameters.update(weight=nn.Parameter(torch.ones(()))),
                      "encoder_feat.projection.weight has shape ()"),
    "packed-in-two": (
        lambda c: c["decoder"].transformer.layers[0].self_attn._parameters.update(in_proj_bias=torch.ones(64)),
        "holds no queries, keys and values"),
    "not-a-number": (lambda c: c["decoder"].wdc.bias.data.fill_(float("nan")) is None,
                     "decoder.wdc.bias holds numbers that are not finite"),
    "whole-numbers": (lambda c: c["decoder"].wdc._parameters.update(bias=torch.ones(len(WORD_MAP)).long()),
                      "decoder.wdc.bias holds torch.int64"),
    "other-positions": (lambda c: c["decoder"].position_encoding.pe.mul_(2) is None, "is not the sine table"),
    "positions-without-shape": (
        lambda c: c["decoder"].position_encoding._buffers.update(pe=torch.ones(())), "is not the sine table"),
    "no-heads": (lambda c: c["encoder_feat"].transformer[0].attention2.__dict__.pop("num_heads") and None,
                 "encoder_feat.transformer.0.attention2 has no number num_heads"),
    "heads-of-text": (lambda c: _put(c["encoder_feat"].transformer[0].attention2, num_heads="8"), "no number num_h"),
    "heads-differ": (lambda c: _put(c["encoder_feat"].transformer[1].attention2, num_heads=8), "one value for all"),
    "heads-do-not-divide": (
        lambda c: [_put(layer.attention2, num_heads=3) for layer in c["encoder_feat"].transformer] and None,
        "d_model=16 must be a multiple of encoder_attention_heads=3"),
    "no-head-at-all": (
        lambda c: [_put(layer.attention2, num_heads=0) for layer in c["encoder_feat"].transformer] and None,
        "encoder_attention_heads=0 must be at least 1"),
    "heads-of-a-half": (
        lambda c: [_put(layer.attention2, num_heads=0.5) for layer in c["encoder_feat"].transformer] and None,
        "encoder_attention_heads"),
    "dropout-of-two": (lambda c: _put(c["decoder"].position_encoding.dropout, p=2.0), "must be in [0, 1)"),
    "dropouts-differ": (lambda c: _put(c["decoder"].dropout, p=0.1), "decoder.dropout has p=0.1"),
    "norm-first": (lambda c: _put(c["decoder"].transformer.layers[0], norm_first=True), "norm_first=True"),
    "batch-first": (lambda c: _put(c["decoder"].transformer.layers[0].self_attn, batch_first=True), "batch_first="),
    "other-epsilon": (lambda c: _put(c["encoder_feat"].LN[0], eps=1e-6), "encoder_feat.LN.0 has eps=1e-06"),
    "stride-elsewhere": (lambda c: _put(c["encoder_image"].net[5][0].conv1, stride=(2, 2)),
                         "encoder_image.net.5.0.conv1 has stride=tuple, a released MModalCC 1"),
    "no-stride": (lambda c: _put(c["encoder_image"].net[6][0].conv2, stride=(1, 1)), "conv2 has stride=tuple"),
    "padded-otherwise": (lambda c: _put(c["encoder_feat"].resblock[0].left[3], padding=(0, 0)), "padding=tuple"),
    "dilated": (lambda c: _put(c["encoder_image2"].net[5][1].conv2, dilation=(2, 2)), "dilation=tuple"),
    "other-activation": (lambda c: c["decoder"].transformer.layers[0]._modules.update(activation=nn.Sigmoid()),
                         "activation is a Sigmoid where a released MModalCC has a ReLU"),
    "other-gate": (lambda c: c["decoder"].transformer.layers[0].gate2._modules.update({"1": nn.ReLU()}),
                   "gate2.1 is a ReLU where a released MModalCC has a Sigmoid"),
    "other-grid": (lambda c: _put(c["encoder_image"].adaptive_pool, output_size=(7, 7)), "another output_size"),
    "grid-not-square": (lambda c: c["encoder_feat"]._modules.update(h_embedding=nn.Embedding(5, WIDTH // 2)),
                        "grids are square"),
    "no-layers": (lambda c: c["decoder"].transformer.layers._modules.clear(), "must have the children 0, 1, 2"),
    "layers-misnumbered": (lambda c: _renumber(c["encoder_feat"].transformer), "must have the children 0, 1, 2"),
    "thousand-layers": (
        lambda c: c["encoder_feat"].transformer._modules.update({str(n): make("resblock") for n in range(1000)}),
        "at most 200"),
    "other-vocabulary": (lambda c: c["decoder"]._modules.update(vocab_embedding=nn.Embedding(5, 2 * WIDTH)),
                         "it has 5 words, but the word map has 9"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_another_model_is_refused_in_one_line(case: str, convert: Callable[..., Result]) -> None:
    change, reason = BROKEN[case]
    content = toy_content()
    replaced = change(content)
    result = convert(saved(replaced if isinstance(replaced, dict | list) and replaced is not None else content))
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, result.exception
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: release.pth.tar cannot be converted: ") and reason in line, line
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (None, "words.json does not exist"),
        ("", "words.json cannot be read as JSON"),
        ("[" * 100_000, "words.json cannot be read as JSON"),
        ('{"a": ' + "1" * 5000 + "}", "words.json cannot be read as JSON"),
        ("[1, 2]", "words.json is no word map"),
        ('{"a": 1.5}', "words.json is no word map"),
        (
            '{"a": 0}',
            "words.json is not the word map of a release: the word map lacks <pad>, <start>, <end>, <unk>; give",
        ),
        ('{"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 9}', "the ids of the word map must be 0..3"),
        (
            '{"<pad>": 3, "<start>": 1, "<end>": 2, "<unk>": 0}',
            "gives <pad> the id 3, where in a release it is 0; give a release's.",
        ),
        ('{"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3}', "it has 9 words, but the word map has 4"),
        ("\udcff", "words.json cannot be read as JSON"),
    ],
    ids=["missing", "empty", "deep", "digits", "list", "floats", "no-specials", "gap", "pad", "few", "bytes"],
)
def test_wrong_word_maps(words: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("release.pth.tar").write_bytes(saved(toy_content()))
    if words is not None:
        Path("words.json").write_bytes(words.encode(errors="surrogateescape"))
    result = CliRunner().invoke(app, ["convert", "mmodalcc", "release.pth.tar", "--word-map", "words.json", "out"])
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, result.exception
    assert reason in result.stderr and result.stderr.count("\n") == 1
    assert not Path("out").exists()
