"""Finding what must not leave the machine: secrets, and paths of its folders."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from rscc_hf.errors import InputError
from rscc_hf.hub.cards.facts import safetensors_header
from rscc_hf.hub.named_secrets import is_secret, named_secret_in

_HEAD = 8192  # bytes that tell whether a file is text
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
        ("a Weights & Biases key", ("wandb", "WANDB"), r"(?i:wandb[\w.-]* ?key)\W{1,5}[0-9a-f]{40}(?![0-9a-f])"),
        ("a private key", ("PRIVATE KEY-----",), r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
        ("a password in an address", ("://",), r"[a-z][a-z0-9+.-]*://[^/\s:@\"'<>{}$]+:[^/\s:@\"'<>{}$]+@[A-Za-z0-9]"),
    )
)
# Folders of somebody's machine, in any text. What stands before the first slash tells it from a URL, a placeholder
# ("<out>/data/x", "{out}/data/x") and a relative path.
_ROOTS = "home|Users|root|mnt|scratch|data|work|srv|media|opt|tmp|var"
_LOCAL = re.compile(
    rf"(?<![\w./~*>)}}\]-])(?:file://)?/(?:{_ROOTS})/[\w.@+-][\w.@+=,~/-]*"
    r"|(?<!\w)[A-Za-z]:[\\/]{1,2}Users[\\/]{1,2}[\w.-]+[\w.\\/-]*"
)
# A whole value that is an absolute path.
_ABSOLUTE = re.compile(
    rf"(?:file://)?/[\w.@+-]+(?:/[\w.@+ =,()\[\]#%'&~:-]*)+|/(?:{_ROOTS})|~[\w-]*/.*|[A-Za-z]:[\\/].+|\\\\[\w.-]+\\.+"
)
# Words that a tokenizer knows are no paths, even where they look like some.
_VOCABULARIES = frozenset({"vocab.json", "merges.txt", "vocab.txt", "tokenizer.json"})


def secret_in(text: str) -> str | None:
    """Return what kind of secret a text holds, with its beginning; None: none that is known.

    Args:
        text: Any text.
    """
    for what, pieces, pattern in _SECRETS:
        found = pattern.search(text) if any(piece in text for piece in pieces) else None
        if found:
            return f"{what} ({found[0][:7]}...)"
    return None


def local_path_in(text: str, parents: Sequence[str] = ()) -> str | None:
    """Return a path of somebody's machine in a text: of a usual root, of this user's home, or in one of `parents`."""
    if "/" not in text and "\\" not in text:
        return None
    found = _LOCAL.search(text)
    if found:
        return found[0]
    for parent in (str(Path.home()), *parents):
        if len(Path(parent).parts) > 2 and parent in text:  # "/" and "/model" are too little to tell
            inside = re.search(rf"(?<![\w.-]){re.escape(parent)}(?![\w-])[^\s\"']*", text)
            if inside:
                return inside[0]
    return None


def leak_in_file(path: Path, name: str, parents: Sequence[str] = ()) -> str | None:
    """Return what a file must not tell, as the end of a sentence and its remedy; None: nothing was found.

    Secrets and folders of a machine are looked for in every text, absolute paths in the keys and values of JSON and
    YAML, all of it also in the header of a safetensors file. In what is no text (told by what it holds) secrets with
    a beginning of their own are looked for.

    Args:
        path: The file.
        name: What it is called in the repository.
        parents: Further folders of this machine that must not be named.
    """
    if path.suffix == ".safetensors":
        return _leak_in_texts([json.dumps(safetensors_header(path))], parents)
    encoding = _encoding(path)
    if encoding is None:
        return _leak_in_bytes(path)
    words = Path(name).name in _VOCABULARIES
    structured = path.suffix.lower() in (".json", ".jsonl", ".yaml", ".yml") and Path(name).name != "vocab.json"
    for key, value, is_key in _entries(path, encoding) if structured else ():
        if words and key.startswith(("model.", "added_tokens")):
            continue
        found = value.strip() if _ABSOLUTE.fullmatch(value.strip()) else local_path_in(value, parents)
        if found:
            place = f"as a key of {key or 'it'}" if is_key else f"in {key or 'it'}"
            return f"has the path {found} of this machine {place}; put a name or a Hub id there"
        if not is_key and is_secret(key.rpartition(".")[2], value.strip()):
            return f"holds a secret in {key}; remove it, and revoke it if it was ever published"
    texts = _pieces(path, encoding)
    return _leak_in_texts(texts, parents, words=words, is_code=path.suffix == ".py")


def is_absolute(value: object) -> bool:
    """Tell whether a value is an absolute path of some machine."""
    return isinstance(value, str) and _ABSOLUTE.fullmatch(value.strip()) is not None


def _entries(path: Path, encoding: str) -> Iterator[tuple[str, str, bool]]:
    """Return the texts in a JSON, JSONL or YAML file with the keys they lie under (`a.b`), and whether they are keys.

    Raises:
        ValueError: It cannot be read as what it is called.
    """
    text = path.read_text(encoding=encoding, errors="replace").removeprefix("\ufeff")
    suffix = path.suffix.lower()
    try:
        if suffix == ".jsonl":
            for line in text.splitlines():
                if line.strip():
                    yield from _walk(json.loads(line), "")
        elif suffix == ".json":
            yield from _walk(json.loads(text), "")
        else:
            for document in yaml.safe_load_all(text):
                yield from _walk(document, "")
    except (json.JSONDecodeError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if suffix.startswith(".json") else "YAML"
        raise InputError(f"{path.name} is no {kind} ({' '.join(str(error).split())}); mend or remove it.") from error


def leak_in_text(text: str) -> str | None:
    """Look as `leak_in_file` does, at a text in a data set."""
    if _ABSOLUTE.fullmatch(text.strip()):
        return f"is the path {text.strip()} of this machine"
    return _leak_in_texts([text])


def _leak_in_texts(
    texts: Iterable[str], parents: Sequence[str] = (), *, words: bool = False, is_code: bool = False
) -> str | None:
    """Find secrets and paths; in the words of a tokenizer only secrets with a beginning of their own."""
    for text in texts:
        secret = secret_in(text)
        if secret is not None:
            return f"holds {secret}; remove it, and revoke it if it was ever published"
        if words:
            continue
        named = named_secret_in(text, is_code)
        if named is not None:
            return f"holds a secret ({named}); remove it, and revoke it if it was ever published"
        path = local_path_in(text, parents)
        if path is not None:
            return f"names {path}, a folder of this machine; take it out"
    return None


def _leak_in_bytes(path: Path) -> str | None:
    """Find secrets in what is no text, also where two bytes stand for a letter."""
    for text in _pieces(path, "latin-1"):
        for form in (text, text.replace("\0", "")):
            secret = secret_in(form.replace("://", ""))  # addresses in it are of no text
            if secret is not None:
                return f"holds {secret}; remove it, and revoke it if it was ever published"
    return None


def _encoding(path: Path) -> str | None:
    """Tell how a text is written, by its beginning; None: it is no text."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16-le" if head.startswith(b"\xff\xfe") else "utf-16-be"
    if b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        if 5 * min(even, odd) < max(even, odd) and 6 * max(even, odd) > len(head):
            return "utf-16-le" if odd > even else "utf-16-be"
        return None
    controls = len(head) - len(head.translate(None, bytes([*range(9), *range(14, 32)])))
    return None if 50 * controls > len(head) else "utf-8"


def _pieces(path: Path, encoding: str) -> Iterator[str]:
    """Read a file in blocks that overlap."""
    with path.open("rb") as file:
        tail = b""
        while block := file.read(_BLOCK):
            yield (tail + block).decode(encoding, errors="replace")
            tail = block[-_OVERLAP:]


def _walk(value: Any, key: str) -> Iterator[tuple[str, str, bool]]:
    if isinstance(value, str):
        yield key, value, False
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, str(name), True
            yield from _walk(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, key)
