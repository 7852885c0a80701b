"""Write a whole CCExpert from LoRA adapters and the model that they were trained on.

    python training/adapters.py ADAPTERS OUT [--base BASE] [--overwrite]

`--help` explains all. The same in a program: `merge_adapters(ADAPTERS, OUT)`; `load_adapters(ADAPTERS)` only loads.
"""

from rscc_hf.training.systems.ccexpert.adapters import load_adapters, main, merge_adapters

__all__ = ["load_adapters", "main", "merge_adapters"]

if __name__ == "__main__":
    main()
