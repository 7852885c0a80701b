"""What CCExpert is asked, and how a conversation is written for its language model.

Prompts and system message are the paper's and the release's (arXiv 2411.11360; github.com/Meize0729/CCExpert,
Apache-2.0). The templates are our own: the one of LLaVA-OneVision puts every image before the words, and so cannot
write `This is Image1 <image>. This is Image2 <image>.`
"""

from typing import Any

IMAGE_TOKEN = "<image>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

PAPER_PROMPT = (
    f"This is Image1 {IMAGE_TOKEN}. This is Image2 {IMAGE_TOKEN}. What difference happened from Image1 to Image2?"
)
RELEASE_PROMPT = (
    f"This is the Image1 {IMAGE_TOKEN}. This is the second Image2 {IMAGE_TOKEN}.\n"
    "What difference happened from Image1 to Image2?"
)
SYSTEM_MESSAGE = "You are a helpful assistant."
VICUNA_SYSTEM_MESSAGE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

_WORDS = """\
{%- macro words(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- '<image>' -}}
            {%- elif part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- else -%}
                {{- raise_exception('content of type ' + part['type'] + ': give text and image parts') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
"""

# `generation` marks what the assistant says, its end included: what is learnt.
CHATML_TEMPLATE = (
    _WORDS
    + """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}
            {{- words(message['content']) + '<|im_end|>' -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- words(message['content']) + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
)

VICUNA_TEMPLATE = (
    _WORDS
    + """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- words(message['content']) + ' ' -}}
    {%- elif message['role'] == 'user' -%}
        {{- 'USER: ' + words(message['content']) -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- ' ASSISTANT:' -}}
        {%- generation -%}
            {{- ' ' + words(message['content']) + eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- raise_exception('role ' + message['role'] + ': there are system, user and assistant') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- ' ASSISTANT:' -}}
{%- endif -%}
"""
)

CHAT_TEMPLATES = {"chatml": CHATML_TEMPLATE, "vicuna": VICUNA_TEMPLATE}


def has_token(tokenizer: Any, token: str) -> bool:
    """Tell whether a tokenizer knows a token as a whole."""
    number = tokenizer.convert_tokens_to_ids(token)  # not by get_vocab, which makes 150,000 entries each time
    return number is not None and (number != tokenizer.unk_token_id or token == tokenizer.unk_token)


def prepare_tokenizer(tokenizer: Any, chat_template: str = "chatml") -> Any:
    """Add what CCExpert needs and a tokenizer lacks: `<image>`, the marks of turns, a padding token.

    The vocabulary may grow: resize the model's embeddings to `len(tokenizer)` afterwards where they are smaller.

    Args:
        tokenizer: Changed in place. A tokenizer of LLaVA-OneVision lacks nothing.
        chat_template: "chatml": turns end with `<|im_end|>`, which becomes the end of sequence; "vicuna": they end
            with the tokenizer's own end of sequence.

    Returns:
        The same tokenizer.

    Raises:
        ValueError: The template is unknown, or "vicuna" is asked of a tokenizer without beginning and end of sequence.
    """
    if chat_template not in CHAT_TEMPLATES:
        raise ValueError(f"chat_template is {chat_template!r}; there are {', '.join(CHAT_TEMPLATES)}.")
    if chat_template == "vicuna" and (tokenizer.bos_token is None or tokenizer.eos_token is None):
        raise ValueError("the tokenizer has no bos_token or no eos_token, which Vicuna's template needs; use chatml.")
    wanted = [IMAGE_TOKEN] + ([TURN_START, TURN_END] if chat_template == "chatml" else [])
    # also where they are known: they must be special, so that no tokenizer splits or changes them
    tokenizer.add_tokens(wanted, special_tokens=True)
    if chat_template == "chatml":
        tokenizer.eos_token = TURN_END
    if tokenizer.pad_token is None:
        candidates = ("<|endoftext|>", "<pad>", tokenizer.unk_token)
        known = [token for token in candidates if token is not None and has_token(tokenizer, token)]
        tokenizer.add_special_tokens({"pad_token": known[0] if known else "<pad>"})
    return tokenizer
