"""A CCExpert of some ten thousand parameters with random weights, and its processor."""

from pathlib import Path

import torch

from rscc_hf import CCExpertConfig, CCExpertForConditionalGeneration, CCExpertImageProcessor, CCExpertProcessor
from toys.word_tokenizers import chatml_tokenizer

SIDE = 28


def tiny_processor(**settings) -> CCExpertProcessor:
    """For images of 28x28 in patches of 14: four tokens an image."""
    image_processor = CCExpertImageProcessor(size={"height": SIDE, "width": SIDE}, max_image_pixels=100 * 100)
    return CCExpertProcessor(image_processor, chatml_tokenizer(), num_image_tokens=4, **settings)


def tiny_model(processor: CCExpertProcessor, seed: int = 0) -> CCExpertForConditionalGeneration:
    """Answers something else for every pair and question."""
    tokenizer = processor.tokenizer
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(seed)
    config = CCExpertConfig(
        vision_config={**vision, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 14},
        text_config={
            **text,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
        },
        vision_levels=[1, 2],
        num_integration_layers=1,
        integration_attention_heads=2,
        image_token_id=processor.image_token_id,
    )
    model = CCExpertForConditionalGeneration(config).eval()
    with torch.no_grad():  # random words follow images and question more when all speak up
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


def save_tiny_ccexpert(folder: Path, seed: int = 0) -> Path:
    """Saves the model and its processor."""
    processor = tiny_processor()
    tiny_model(processor, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
