"""`recipe.yaml`, the settings of a run: read without YAML's surprises, by the engine and by the cards."""

import re
from pathlib import Path
from typing import Any

import yaml

from rscc_hf.errors import InputError

RECIPE = "recipe.yaml"
"""Every setting of a run, as it was used; written beside its weights."""

# What YAML 1.1 reads in base 8 or 60 although most people mean a decimal number, or a time.
_SURPRISING_NUMBER = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which of a key that stands twice would take the last one without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """See `yaml.SafeLoader`; a merged key (`<<`) may be overridden, one that is written twice may not.

        Raises:
            ConstructorError: A key stands twice.
        """
        lines: dict[Any, int] = {}
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if not isinstance(name, yaml.ScalarNode) or name.tag == "tag:yaml.org,2002:merge":
                    continue
                line = name.start_mark.line + 1
                key = self.construct_object(name)
                if key in lines:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{name.value} stands in line {lines[key]} and in line {line}; keep one of them"
                    )
                lines[key] = line
                self._check_number(name, value)
        return super().construct_mapping(node, deep)

    def _check_number(self, name: yaml.ScalarNode, node: Any) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._check_number(name, item)
        elif isinstance(node, yaml.ScalarNode) and node.style is None and _SURPRISING_NUMBER.fullmatch(node.value):
            if not node.tag.endswith((":int", ":float")) or not node.value.strip("+-0_"):
                return
            raise yaml.constructor.ConstructorError(
                None, None, f"{name.value} is {node.value}, which YAML reads as {self.construct_object(node)}; write "
                "it as a decimal number, or in quotes",
            )  # fmt: skip


def load_yaml(text: str) -> Any:
    """Return what a YAML text holds.

    Raises:
        ValueError: It is no YAML, has a key twice, or a number that YAML 1.1 reads in another base; the words say
            what, in one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise InputError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise InputError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number of 5,000 digits
        raise InputError(" ".join(str(error).split())) from error


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a run as they stand in its recipe; none where it has no recipe.

    Raises:
        InputError: It is no YAML, or holds something else than settings.
    """
    path = folder / RECIPE
    if not path.is_file():
        return {}
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no YAML ({error}); write it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no list of `key: value` lines; write it again.")
    return content
