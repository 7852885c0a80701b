"""What pyproject.toml and setup.cfg cannot say; everything about the package stands there."""

import logging
import runpy
import sys
import warnings
from pathlib import Path

from setuptools import setup

try:
    runpy.run_path(str(Path(__file__).with_name("rscc_hf") / "links.py"))
except ImportError as error:
    sys.exit(f"error: {error}")

# General advice about editable installations: here no folder is taken for the package, and its data is found.
warnings.filterwarnings("ignore", "Editable installation")
logging.getLogger("setuptools.command.editable_wheel").setLevel(logging.ERROR)

setup()
