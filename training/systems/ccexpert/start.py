"""What a stage of CCExpert starts from: a checkpoint of ours, or of the LLaVA family, with its processor."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file, is_flash_attn_2_available

from rscc_hf.errors import RecipeError, input_errors
from rscc_hf.modeling.configuration_ccexpert import CCExpertConfig, qwen2_config
from rscc_hf.modeling.loading_ccexpert import translate_config
from rscc_hf.modeling.modeling_ccexpert import CCExpertForConditionalGeneration
from rscc_hf.processing.chat_templates_ccexpert import IMAGE_TOKEN, prepare_tokenizer
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.reading import reading
from rscc_hf.training.engine.run_folder import LAST
from rscc_hf.training.systems.ccexpert.recipe import MODULE_SETTINGS, CCExpertRecipe

_LLAVA = {"llava_onevision": "chatml", "llava": "vicuna"}
"""LLaVA's model types, and how a conversation is written for each."""


class StartMissing(RecipeError):
    """What training is to start from is not there, or not yet."""


class Start(NamedTuple):
    """A checkpoint to start from, and the shape of what starts.

    Attributes:
        path: Folder or Hub id.
        commit: Of a Hub id, so that all is read from one commit; None: a folder.
        kind: Its model type.
        config: The shape that training gives it.
    """

    path: str
    commit: str | None
    kind: str
    config: CCExpertConfig

    @property
    def new_parts(self) -> list[str]:
        """Parts of the model whose weights the checkpoint does not hold: they begin at random."""
        return ["integration"] if self.kind != "ccexpert" and self.config.integration else []


def start_path(recipe: CCExpertRecipe) -> str:
    """Return `init_from`, or the last weights in it.

    Raises:
        StartMissing: It is not given, or is a folder without a checkpoint.
        RecipeError: It is a folder of adapters, or `init_revision` is given with a folder.
    """
    where = recipe.init_from
    if where is None:
        raise StartMissing("init_from is not given; name a CCExpert, a LLaVA-OneVision or a LLaVA-1.5 to start from.")
    folder = Path(where).expanduser()
    if folder.is_file():
        raise RecipeError(f"init_from {where} is a file; name the folder that it lies in.")
    if not folder.is_dir():
        if folder.is_absolute() or where.startswith((".", "~")) or where.count("/") > 1:
            raise StartMissing(f"init_from {where}: there is no such folder; run the stage before, or name another.")
        return where
    if recipe.init_revision is not None:
        raise RecipeError(
            f"init_revision {recipe.init_revision} is of a checkpoint on the Hub and init_from {where} is a folder; "
            "set init_revision to null."
        )
    if recipe.init_weights == "last" and (folder / LAST / "config.json").is_file():
        folder = folder / LAST
    if (folder / "adapter_config.json").is_file():
        raise RecipeError(
            f"init_from {folder} holds adapters; write a whole model with `python training/adapters.py {folder} OUT`."
        )
    if not (folder / "config.json").is_file():
        raise StartMissing(f"init_from {folder} holds no checkpoint (config.json is missing); name a finished run.")
    return str(folder)


def find_start(recipe: CCExpertRecipe) -> Start:
    """Find what training starts with, without reading the weights.

    Raises:
        RecipeError: There is no such checkpoint, it is of another family or size, or contradicts the recipe.
    """
    path = start_path(recipe)
    commit = resolve_commit(path, recipe.init_revision)
    source = read_config(path, commit)
    if source.model_type in _LLAVA:
        with input_errors(RecipeError, f"init_from {path}"):
            config = translate_config(CCExpertConfig, source, recipe.module_settings)
    else:
        config = source
        for name, value in recipe.module_settings.items():
            if getattr(config, name) != value:
                raise RecipeError(
                    f"{name} is {value} in the recipe and {getattr(config, name)} in {path}; set it to null, or start "
                    "from a LLaVA."
                )
    idle = [name for name in MODULE_SETTINGS if not config.integration and getattr(recipe, name) is not None]
    if idle:
        raise RecipeError(f"{idle[0]} is of the module, which {path} is trained without; set it to null.")
    if not config.integration and not set(recipe.learning_parts) - {"integration"}:
        raise RecipeError(
            f"trained_parts is {recipe.trained_parts} and {path} has no module; name a part that is there."
        )
    if recipe.size is not None:
        wanted, found = qwen2_config(recipe.size), config.text
        for name in ("hidden_size", "num_hidden_layers", "intermediate_size"):
            if getattr(found, name, None) != getattr(wanted, name):
                raise RecipeError(
                    f"size is {recipe.size} and init_from {path} has a language model of {name} "
                    f"{getattr(found, name, None)}, not {getattr(wanted, name)}; set size to null or to its own."
                )
    return Start(path, commit, source.model_type, config)


def load_start(
    recipe: CCExpertRecipe, quantization_config: Any = None
) -> tuple[CCExpertForConditionalGeneration, CCExpertProcessor]:
    """Load the model (float32 master weights) and the processor that a recipe starts from.

    Args:
        recipe: `init_from` and the settings of module, prompt and labels.
        quantization_config: transformers' `BitsAndBytesConfig`; None: no quantisation.

    Raises:
        RecipeError: One sentence that names the key or the checkpoint, and the remedy.
    """
    start = find_start(recipe)
    processor = start_processor(start, recipe)
    torch.manual_seed(recipe.seed)  # the module's weights, where they are new
    model = load_model(start, len(processor.tokenizer), quantization_config, recipe.attn_implementation)
    return model, processor


def start_processor(start: Start, recipe: CCExpertRecipe) -> CCExpertProcessor:
    """Load the processor that a recipe starts from.

    Raises:
        RecipeError: There is none, or it does not belong to the model.
    """
    settings = {
        name: value
        for name, value in (("prompt", recipe.prompt), ("label_policy", recipe.label_policy))
        if value is not None
    }
    if start.kind == "ccexpert":
        if start.commit is None and not (Path(start.path) / "processor_config.json").is_file():
            raise RecipeError(
                f"init_from {start.path} holds no processor (processor_config.json is missing); save it there, too."
            )
        with reading(f"checkpoint {start.path}"):
            processor = CCExpertProcessor.from_pretrained(start.path, revision=start.commit or "main")
        if recipe.prompt is not None and recipe.prompt.count(IMAGE_TOKEN) != 2:
            raise RecipeError(
                f"prompt is {recipe.prompt!r}; it must have exactly two {IMAGE_TOKEN}, before and after."
            )
        for name, value in settings.items():
            setattr(processor, name, value)
    else:
        with reading(f"checkpoint {start.path}"):
            tokenizer = AutoTokenizer.from_pretrained(start.path, revision=start.commit)
        config = copy.deepcopy(start.config)
        with input_errors(RecipeError, f"init_from {start.path}"):
            prepare_tokenizer(tokenizer, _LLAVA[start.kind])
            config.text.vocab_size = max(config.text.vocab_size, len(tokenizer))  # as `load_model` makes it
            processor = CCExpertProcessor.for_config(config, tokenizer, **settings)
    check_processor(processor, start)
    if recipe.value_range is not None:
        with input_errors(RecipeError, "value_range"):
            processor.image_processor.set_value_range(recipe.value_range)
    return processor


def check_processor(processor: CCExpertProcessor, start: Start) -> None:
    """Check that a processor makes what a model reads.

    Raises:
        RecipeError: Its tokenizer has more words than the model, they count the tokens of an image differently, or it
            cannot write its prompt.
    """
    config = start.config
    facts = [("num_image_tokens", processor.num_image_tokens, config.tokens_per_image)]
    if start.kind == "ccexpert":  # in a LLaVA's, words and placeholder may be new
        facts.append(("the id of <image>", processor.image_token_id, config.image_token_id))
        if len(processor.tokenizer) > config.text.vocab_size:
            raise RecipeError(
                f"the tokenizer in {start.path} has {len(processor.tokenizer)} words and the model there "
                f"{config.text.vocab_size}; put the model's own processor there."
            )
    for name, found, wanted in facts:
        if found != wanted:
            raise RecipeError(
                f"the processor in {start.path} does not belong to the model there: {name} is {found} in one and "
                f"{wanted} in the other; put the model's own there."
            )
    with reading(f"the chat template in {start.path}"):
        processor(text=[None], return_tensors=None)


def load_model(
    start: Start, words: int, quantization_config: Any = None, attn_implementation: str = "sdpa"
) -> CCExpertForConditionalGeneration:
    """Load the model of `start.config` with its checkpoint's weights, float32; what these lack is drawn at random.

    Args:
        start: What to load.
        words: Size of the tokenizer; where it is larger than the vocabulary of a LLaVA, this grows.
        quantization_config: See `load_start`.
        attn_implementation: Kernel of all attention.

    Raises:
        RecipeError: Weights are missing, foreign, of another shape, or cannot be read.
    """
    path = start.path
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "revision": start.commit,
        "attn_implementation": attn_implementation,
    }
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    config = copy.deepcopy(start.config)
    if attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        raise RecipeError(
            "attn_implementation flash_attention_2 needs a GPU and `pip install flash-attn`; do so, or choose sdpa."
        )
    model: Any = CCExpertForConditionalGeneration
    if start.kind == "ccexpert":
        with reading(f"checkpoint {path}"):
            # a pickle could run whatever it likes
            loaded, info = model.from_pretrained(
                path,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
        absent = sorted(
            [*info["missing_keys"], *info["unexpected_keys"], *(key[0] for key in info["mismatched_keys"])]
        )
        if absent:
            raise RecipeError(f"init_from {path} has missing or foreign weights, first {absent[0]}; give a whole one.")
        return loaded
    config.text.vocab_size = read_config(path, start.commit).text_config.vocab_size
    load = model.from_llava_onevision if start.kind == "llava_onevision" else model.from_llava
    with reading(f"checkpoint {path}"):
        loaded = load(path, config=config, **options)
    if words > config.text.vocab_size:
        _add_words(loaded, words)
    return loaded


def _add_words(model: Any, words: int) -> None:
    """Make the vocabulary larger; a new word is the mean of all others, and so the same whenever it is made."""
    old = model.config.text.vocab_size
    model.resize_token_embeddings(words, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[old:] = layer.weight[:old].mean(dim=0, dtype=torch.float64).to(layer.weight.dtype)


def resolve_commit(path: str, revision: str | None) -> str | None:
    """Return the commit that a branch, tag or commit of a Hub id is now; None for a folder.

    Raises:
        StartMissing: There is no such checkpoint, or the Hub is out of reach.
    """
    if Path(path).is_dir():
        return None
    try:
        with reading(f"checkpoint {path}"):
            found = cached_file(path, "config.json", revision=revision)
    except RecipeError as error:
        reason = " ".join(str(error.__cause__).split())[:200].rstrip(".")
        raise StartMissing(
            f"init_from {path}: there is no such folder, and on the Hub it cannot be found now ({reason}); run the "
            "stage before, or name another."
        ) from error
    assert found is not None  # it raises otherwise
    return Path(found).parent.name  # the cache keeps the files of a commit in a folder of its name


def read_config(path: str, commit: str | None) -> Any:
    """Read the configuration of a checkpoint that training can start from.

    Raises:
        RecipeError: It cannot be read, is of another family, or was saved quantised.
    """
    with reading(f"checkpoint {path}"):
        source: Any = AutoConfig.from_pretrained(path, revision=commit)
    if source.model_type not in ("ccexpert", *_LLAVA):
        raise RecipeError(f"init_from {path} is a {source.model_type}; name a ccexpert, llava_onevision or llava.")
    if getattr(source, "quantization_config", None) is not None:
        raise RecipeError(f"init_from {path} was saved quantised; name the model that it was made of.")
    return source
