"""Finding what must not leave the machine: secrets, and paths of its folders."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rscc_hf.cards.facts import safetensors_header

# No text is to be found in these; whatever else there is, is read.
_BINARY = frozenset({".parquet", ".arrow", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".model"})
_BLOCK = 1 << 20
_OVERLAP = 4096  # a secret that lies across two blocks

# What it is, a piece that every one of its kind has (finding that is many times faster), and the whole.
_SECRETS: tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (what, pieces, re.compile(rf"(?<![A-Za-z0-9_]){pattern}"))
    for what, pieces, pattern in (
        ("a Hugging Face token", ("hf_", "api_org_"), r"(?:hf|api_org)_[A-Za-z0-9]{30,}"),
        ("a GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,}"),
        ("a GitHub token", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{50,}"),
        ("a GitLab token", ("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}"),
        ("an OpenAI or Anthropic key", ("sk-",), r"sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}"),
        ("an AWS key", ("AKIA", "ASIA"), r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Z])"),
        ("a Google key", ("AIza",), r"AIza[0-9A-Za-z_-]{35}"),
        ("a Slack token", ("xox",), r"xox[abeoprs]-[0-9A-Za-z-]{20,}"),
        ("a PyPI token", ("pypi-AgE",), r"pypi-AgE[0-9A-Za-z_-]{50,}"),
        ("an npm token", ("npm_",), r"npm_[A-Za-z0-9]{36}"),
        ("a Weights & Biases key", ("wandb", "WANDB"), r"(?i:wandb[\w.-]*key)\W{1,5}[0-9a-f]{40}(?![0-9a-f])"),
        ("a private key", ("PRIVATE KEY-----",), r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
        ("a password in an address", ("://",), r"[a-z][a-z0-9+.-]*://[^/\s:@\"'<>{}$]+:[^/\s:@\"'<>{}$]+@[A-Za-z0-9]"),
    )
)
# Home folders, in any text.
_HOME_PIECES = ("/home/", "/Users/", "/root/", "\\Users\\")
_HOME = re.compile(
    r"(?<![\w./~-])(?:file://)?(?:/home/[a-z_][\w.-]*|/Users/[A-Za-z][\w.-]*|/root)/[\w.-]+[\w./-]*"
    r"|(?<!\w)[A-Za-z]:\\{1,2}Users\\{1,2}[\w.-]+[\w.\\-]*"
)
# A whole value that is an absolute path.
_ABSOLUTE = re.compile(r"(?:file://)?/[\w.@+-]+(?:/[\w.@+ -]*)+|~[\w-]*/.*|[A-Za-z]:[\\/].+|\\\\[\w.-]+\\.+")
# Words that a tokenizer knows are no paths, even where they look like some.
_VOCABULARIES = frozenset({"vocab.json", "merges.txt", "vocab.txt", "tokenizer.json"})


def secret_in(text: str) -> str | None:
    """What kind of secret a text holds, with its beginning; None: none that is known.

    Args:
        text: Any text.
    """
    for what, pieces, pattern in _SECRETS:
        found = pattern.search(text) if any(piece in text for piece in pieces) else None
        if found:
            return f"{what} ({found[0][:7]}...)"
    return None


def local_path_in(text: str) -> str | None:
    """A path of somebody's machine in a text: a home folder, or this user's; None: there is none."""
    found = _HOME.search(text) if any(piece in text for piece in _HOME_PIECES) else None
    if found:
        return found[0]
    home = str(Path.home())
    place = text.find(f"{home}/") if home.count("/") > 1 else -1
    return re.match(r"[^\s\"']+", text[place:])[0] if place >= 0 else None  # type: ignore[index]


def leak_in_file(path: Path, name: str) -> str | None:
    """What a file must not tell, as the end of a sentence and its remedy; None: nothing was found.

    Secrets and home folders are looked for in every text, absolute paths in the values of JSON and YAML, both also in
    the header of a safetensors file.

    Args:
        path: The file.
        name: What it is called in the repository.
    """
    if path.suffix == ".safetensors":
        return _leak_in_texts([json.dumps(safetensors_header(path).get("__metadata__") or {})])
    if path.suffix.lower() in _BINARY:
        return None
    words = Path(name).name in _VOCABULARIES
    structured = path.suffix.lower() in (".json", ".jsonl", ".yaml", ".yml") and Path(name).name != "vocab.json"
    for key, value in values_of(path) if structured else ():
        if words and key.startswith(("model.", "added_tokens")):
            continue
        if _ABSOLUTE.fullmatch(value.strip()):
            return f"has the path {value.strip()} of this machine in {key or 'it'}; put a name or a Hub id there"
    return _leak_in_texts(_pieces(path), paths=not words)


def is_absolute(value: object) -> bool:
    """Whether a value is an absolute path of some machine."""
    return isinstance(value, str) and _ABSOLUTE.fullmatch(value.strip()) is not None


def values_of(path: Path) -> Iterator[tuple[str, str]]:
    """The texts in a JSON, JSONL or YAML file, with their keys (`a.b`).

    Raises:
        ValueError: It cannot be read as what it is called.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if path.suffix == ".jsonl":
            for line in text.splitlines():
                if line.strip():
                    yield from _walk(json.loads(line), "")
        elif path.suffix == ".json":
            yield from _walk(json.loads(text), "")
        else:
            for document in yaml.safe_load_all(text):
                yield from _walk(document, "")
    except (json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if path.suffix.startswith(".json") else "YAML"
        raise ValueError(f"{path.name} is no {kind} ({' '.join(str(error).split())}); mend or remove it.") from error


def leak_in_text(text: str) -> str | None:
    """As `leak_in_file`, of a text in a data set."""
    if _ABSOLUTE.fullmatch(text.strip()):
        return f"is the path {text.strip()} of this machine"
    return _leak_in_texts([text])


def _leak_in_texts(texts: Any, paths: bool = True) -> str | None:
    for text in texts:
        secret = secret_in(text)
        if secret is not None:
            return f"holds {secret}; remove it, and revoke it if it was ever published"
        path = local_path_in(text) if paths else None
        if path is not None:
            return f"names {path}, a folder of this machine; take it out"
    return None


def _pieces(path: Path) -> Iterator[str]:
    """A text file in blocks that overlap."""
    with path.open("rb") as file:
        tail = b""
        while block := file.read(_BLOCK):
            yield (tail + block).decode("utf-8", errors="replace")
            tail = block[-_OVERLAP:]


def _walk(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, key)
