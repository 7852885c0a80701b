"""The files that this package leaves: for each a dataclass that writes it and reads it back, and its name.

No other module spells their names (`tests/formats/test_owners.py`). Reading is strict: what is damaged, stands twice
or is of another type is one sentence that names the file, the line and the remedy.
"""
