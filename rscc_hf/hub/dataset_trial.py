"""Run as a script before a data set is pushed: loads it as a stranger would, by `datasets` alone.

Arguments: the folder, and the columns that it must have. The first pair of every shard is decoded, images and all. The
last line of an error says what is wrong.
"""

import json
import os
import sys
from pathlib import Path


def _try(folder: Path, required: list[str]) -> dict[str, int]:
    from datasets import load_dataset

    numbers = {}
    for split, pairs in load_dataset(str(folder), streaming=True).items():
        missing = [name for name in required if name not in (pairs.column_names or required)]
        if missing:
            raise ValueError(f"{split} has no column {missing[0]}")
        shards = pairs.num_shards
        for number in range(shards):
            first = next(iter(pairs.shard(shards, number)), None)
            if first is None:
                raise ValueError(f"shard {number} of {split} is empty")
            for name in (name for name in required if name.startswith("image_")):
                if first[name] is None or not hasattr(first[name], "size"):
                    raise ValueError(f"{name} of pair {first['pair_id']} in {split} is no image")
        numbers[split] = shards
    return numbers


if __name__ == "__main__":
    code = 0
    try:
        print(json.dumps(_try(Path(sys.argv[1]), sys.argv[2:])), flush=True)
    except Exception as error:  # noqa: BLE001  (this process has nobody else to tell)
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr, flush=True)
        code = 1
    os._exit(code)  # threads that still read ahead in a stream abort an orderly end
