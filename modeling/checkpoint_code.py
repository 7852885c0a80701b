"""What both models do so that a checkpoint stands alone: its Auto classes, its pipeline, and how it is quantised."""

import copy
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, cached_file, find_adapter_config_file

# The pipeline, as `transformers.pipeline` looks for it in config.json; its file comes with the processor.
CUSTOM_PIPELINES = {
    "change-captioning": {
        "impl": "pipeline_change_captioning.ChangeCaptioningPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}
# where the configurations of transformers' quantisers keep the modules that they leave alone
_SKIPPED = ("llm_int8_skip_modules", "modules_to_not_convert")

_WHERE = ("revision", "token", "cache_dir", "subfolder", "local_files_only")
_MISSING = ("gated_repo", "missing_entries", "connection_errors")
_WHOLE = ("model.safetensors", "model.safetensors.index.json")


def leave_out_installed(config: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Leave the checkpoint's pipeline out of the fields of a config.json where the package itself is installed.

    transformers would otherwise ask for `trust_remote_code` before it looks at the pipelines that it knows.

    Args:
        config: Whose fields they are; code of a checkpoint lies in a module of transformers' own.
        fields: Those that the configuration does not declare.
    """
    if type(config).__module__.split(".")[0] == TRANSFORMERS_DYNAMIC_MODULE_NAME:
        return fields
    return {name: value for name, value in fields.items() if name != "custom_pipelines"}


def refuse_adapters(path_or_id: Any, options: Mapping[str, Any]) -> None:
    """Refuse what transformers would take for a whole model and put adapters on, whether they belong to it or not.

    A folder of peft's alone, without a config.json, is left to transformers, which looks for the model that it names.

    Args:
        path_or_id: Folder or repository.
        options: Of `from_pretrained`; those that say where on the Hub are used.

    Raises:
        ValueError: There are adapters beside a model's configuration.
    """
    if path_or_id is None:
        return
    where = {name: options[name] for name in _WHERE if options.get(name) is not None}
    path = os.fspath(path_or_id)
    found = find_adapter_config_file(path, **where)
    quiet = dict.fromkeys((f"_raise_exceptions_for_{what}" for what in _MISSING), False)
    if found is None or cached_file(path, "config.json", **where, **quiet) is None:
        return
    whole = any(cached_file(path, name, **where, **quiet) is not None for name in _WHOLE)
    if whole:
        raise ValueError(
            f"{path} holds a whole model and adapters (adapter_config.json), one left by an older run; remove it."
        )
    raise ValueError(
        f"{path} holds adapters (adapter_config.json) and no whole model; write one with `python training/adapters.py "
        f"{path} OUT`, or load them with `load_adapters`."
    )


class StandaloneCheckpoint:
    """Loading and saving of a model whose folder loads where the package is not installed.

    Attributes:
        full_precision_modules: What no quantiser may touch; `from_pretrained` names it to those (bitsandbytes, quanto,
            HQQ, AWQ, ...) whose configuration does not name modules of its own.
    """

    full_precision_modules: ClassVar[list[str]] = []

    @classmethod
    def from_pretrained(cls, *args: Any, quantization_config: Any = None, **kwargs: Any) -> Any:
        """Load as transformers does, with `full_precision_modules` left out of any quantisation.

        Args:
            *args: Folder or repository, and what else transformers takes.
            quantization_config: How to quantise; see `full_precision_modules`.
            **kwargs: For transformers.

        Raises:
            ValueError: The folder holds adapters; see `refuse_adapters`.
        """
        refuse_adapters(args[0] if args else kwargs.get("pretrained_model_name_or_path"), kwargs)
        if quantization_config is not None:
            kwargs["quantization_config"] = cls.name_full_precision(quantization_config)
        return super().from_pretrained(*args, **kwargs)  # type: ignore[misc]

    @classmethod
    def name_full_precision(cls, quantization_config: Any) -> Any:
        """Copy a quantiser's configuration and name `full_precision_modules` in it, unless it names modules."""
        named = copy.deepcopy(quantization_config)
        if isinstance(named, dict):
            is_bitsandbytes = named.get("quant_method") == "bitsandbytes" or {"load_in_4bit", "load_in_8bit"} & set(
                named
            )
            field = _SKIPPED[0 if is_bitsandbytes else 1]
            return named if named.get(field) is not None else {**named, field: list(cls.full_precision_modules)}
        for field in _SKIPPED:
            if getattr(named, field, ...) is None:
                setattr(named, field, list(cls.full_precision_modules))
        return named

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Write weights, config and code, so that the folder also loads where this package is not installed."""
        config: Any = self.config  # type: ignore[attr-defined]
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        # a class registers for one Auto class only: it is AutoModel, so the other one is named here
        config.auto_map = {**(getattr(config, "auto_map", None) or {}), "AutoModelForImageTextToText": name}
        before = getattr(config, "custom_pipelines", None)
        config.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        try:
            super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        finally:
            if before is None:
                del config.custom_pipelines
            else:
                config.custom_pipelines = before


__all__ = ["CUSTOM_PIPELINES", "StandaloneCheckpoint", "leave_out_installed"]
