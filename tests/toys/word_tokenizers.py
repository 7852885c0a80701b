"""Small tokenizers of the kinds that language models come with, trained on a few sentences."""

import io
from collections.abc import Iterable

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rscc_hf.processing.chat_templates_ccexpert import PAPER_PROMPT, SYSTEM_MESSAGE, prepare_tokenizer

SENTENCES = (
    *(PAPER_PROMPT.replace("<image>", ""), SYSTEM_MESSAGE, "USER: how many houses are there? ASSISTANT: two houses"),
    *("two houses appear along the road", "a lake replaces the trees", "no change has occurred", "system user"),
)


def byte_level_tokenizer(sentences: Iterable[str] = SENTENCES) -> PreTrainedTokenizerFast:
    """As Qwen's before anything is added: byte-level BPE, no beginning of sequence, `<|endoftext|>` ends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def sentencepiece_tokenizer(sentences: Iterable[str] = SENTENCES) -> PreTrainedTokenizerFast:
    """As Llama's: sentencepiece (here a unigram), a beginning of sequence that the tokenizer adds by itself."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, model_type="unigram", vocab_size=360,
        hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="identity",
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, byte_fallback=True, num_threads=1, minloglevel=2,
    )  # fmt: skip
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(trained.id_to_piece(number), trained.get_score(number)) for number in range(trained.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """As LLaVA-OneVision's."""
    return prepare_tokenizer(byte_level_tokenizer())


def vicuna_tokenizer() -> PreTrainedTokenizerFast:
    """As LLaVA-1.5's."""
    return prepare_tokenizer(sentencepiece_tokenizer(), "vicuna")
