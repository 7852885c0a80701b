"""Type-check the package: `python tests/tools/check_types.py`.

The package is checked as it lies, by the links of `rscc_hf/`. Then a wrong call across packages is planted beside it:
if that is not found, the check itself is broken, and this says so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mypy import api

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "rscc_hf"
PLANTED_FILE = ROOT / "build" / "types" / "planted_wrong_call.py"
PLANTED = """\
from rscc_hf.modeling.modeling_mmodalcc import MModalCCForConditionalGeneration

MModalCCForConditionalGeneration.load_nothing_of_this_name()
"""


def run_mypy(*paths: Path) -> tuple[str, str, int]:
    """Check these files and folders; returns mypy's report, its complaints about itself and its exit status."""
    settings = [f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache'}", "--pretty"]
    return api.run([*map(str, paths), *settings])


def main() -> int:
    """Exit status 0 only if the package is clean and the planted mistake is found."""
    os.chdir(ROOT)  # where mypy finds `rscc_hf`
    report, complaints, status = run_mypy(PACKAGE)
    print(report + complaints, end="")
    if status:
        return status
    PLANTED_FILE.parent.mkdir(parents=True, exist_ok=True)
    PLANTED_FILE.write_text(PLANTED)
    report, complaints, status = run_mypy(PACKAGE, PLANTED_FILE)
    if status != 1 or "load_nothing_of_this_name" not in report:
        print(f"A planted wrong call across packages was not found:\n{report}{complaints}")
        return 1
    print("A planted wrong call across packages was found, as it should be.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
