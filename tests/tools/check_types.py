"""Type-check the package as its users import it: `python tests/tools/check_types.py`.

`modeling/` is `rscc_hf.modeling`, which no type checker sees through an editable install. So a tree of links is made
under `build/types/rscc_hf`, checked, and then a wrong call across packages is planted there: if that is not found, the
check itself is broken, and this says so.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / "build" / "types"
SUBPACKAGES = ("modeling", "processing", "training", "hub_cards")
PLANTED = """\
from rscc_hf.modeling.modeling_mmodalcc import MModalCCForConditionalGeneration

MModalCCForConditionalGeneration.load_nothing_of_this_name()
"""


def link_tree() -> None:
    """Rebuild `build/types/rscc_hf` out of links to the folders of the checkout."""
    shutil.rmtree(TREE, ignore_errors=True)
    package = TREE / "rscc_hf"
    package.mkdir(parents=True)
    for source in sorted((ROOT / "rscc_hf").iterdir()):
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    for name in SUBPACKAGES:
        (package / name).symlink_to(ROOT / name)


def run_mypy() -> tuple[str, str, int]:
    """Check the tree; returns mypy's report, its complaints about itself and its exit status."""
    cache = ROOT / ".mypy_cache"
    config = ROOT / "pyproject.toml"
    return api.run([str(TREE / "rscc_hf"), f"--config-file={config}", f"--cache-dir={cache}", "--pretty"])


def main() -> int:
    """Exit status 0 only if the package is clean and the planted mistake is found."""
    link_tree()
    report, complaints, status = run_mypy()
    print(report + complaints, end="")
    if status:
        return status
    planted = TREE / "rscc_hf" / "planted_wrong_call.py"
    planted.write_text(PLANTED)
    report, complaints, status = run_mypy()
    planted.unlink()
    if status != 1 or "load_nothing_of_this_name" not in report:
        print(f"A planted wrong call across packages was not found:\n{report}{complaints}")
        return 1
    print("A planted wrong call across packages was found, as it should be.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
