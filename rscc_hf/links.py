"""Its import looks whether the sub-packages that a checkout holds as links are there.

git without symbolic links (as on Windows) and some unpackers write a link as a file with its target in it, or leave it
out. `rscc_hf/__init__.py` imports this first and `setup.py` runs it alone, so it needs nothing but Python's own.
"""

from pathlib import Path

PACKAGE = Path(__file__).absolute().parent
LINKS = ("hub_cards", "modeling", "processing", "training")

_lost = [name for name in LINKS if not (PACKAGE / name / "__init__.py").is_file()]
if _lost:
    _gone = [f"{PACKAGE.name}/{name}" for name in _lost] + [n for n in _lost if not (PACKAGE.parent / n).is_dir()]
    raise ImportError(
        f"{PACKAGE / _lost[0]} leads to no folder: a checkout has a symbolic link there, which git on Windows "
        "and some unpackers do not write; run `git config core.symlinks true` and "
        f"`git checkout -- {' '.join(_gone)}` in the checkout (on Windows in developer mode), or install rscc_hf from "
        "its wheel, which has no links."
    )
