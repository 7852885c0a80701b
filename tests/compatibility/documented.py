"""What the README files show: command lines and imports."""

import re
from pathlib import Path

PAGES = ("README.md", "training/README.md")
_BLOCKS = re.compile(r"^```\w*\n(.*?)^```|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(rscc|accelerate launch|python training/|training/)\b")


def documented(root: Path) -> dict[str, list[str]]:
    """Lines of commands, in blocks of code and within sentences, and lines that import rscc_hf, each once."""
    commands, imports = {}, {}
    for page in PAGES:
        text = (root / page).read_text(encoding="utf-8")
        blocks = "".join("".join(found) for found in _BLOCKS.findall(text)).replace("\\\n", " ")
        for line in [*blocks.splitlines(), *_INLINE.findall(text)]:
            line = " ".join(re.sub(r"\s#\s.*", "", line).split())
            if _COMMAND.match(line):
                commands[line] = None
            elif re.match(r"(from|import) rscc_hf\b", line):
                imports[line] = None
    return {"commands": list(commands), "imports": list(imports)}
