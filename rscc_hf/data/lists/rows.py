"""The rows of a list of pairs, as they stand in a CSV, TSV or JSONL file: text and cells, not what they mean.

A row is `(line, cells, few)`; a cell is `(column, value)` with None where nothing stands, in the order of the file. A
column may come twice: what that means is for the reader of the cells to say, as what to do with a row that ends before
the last column: `few` says so ("2 cells for the 3 columns of the header"), and is None of every other row.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rscc_hf.errors import InputError
from rscc_hf.text import JsonObject, count

Cells = list[tuple[str, Any]]
Row = tuple[int, Cells, str | None]

DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
# Excel's own word on the separator, before the header
_SEP = re.compile(r'"?sep=(.)"?[ \t]*(\r\n|\n|\r)', re.IGNORECASE)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a list; blank ones, as spreadsheets leave at the end, are left out.

    Args:
        path: The file, UTF-8 or (with its mark) UTF-16; what it is, its suffix says.

    Raises:
        ValueError: The file is of another kind, or a line is broken; the sentence names the file and the line.
    """
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _jsonl_rows(path)
    if kind in DELIMITERS:
        return _csv_rows(path, DELIMITERS[kind])
    raise InputError(f"{path} is no list of pairs; give a .csv, .tsv or .jsonl file, or a folder.")


def _text(path: Path) -> str:
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    if "\0" in text:
        raise InputError(f"{path} holds null characters, as no UTF-8 text does; save it as UTF-8.")
    return text


def _jsonl_rows(path: Path) -> Iterator[Row]:
    text = _text(path)
    hint = "; write an object a line, without a list around them" if text.lstrip().startswith("[") else "; mend it"
    # Only "\n" ends a line: a caption may hold the other characters that str.splitlines splits at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=JsonObject)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: no JSON ({error}){hint}.") from error
        if not isinstance(row, JsonObject):
            raise InputError(f"{path}, line {number}: an object with before and after is needed{hint}.")
        yield number, row.fields, None


def _csv_rows(path: Path, delimiters: str) -> Iterator[Row]:
    text = _text(path)
    said = _SEP.match(text)
    skipped = 0
    if said:
        text, skipped = text[said.end() :], 1
    header = text.lstrip().split("\n", 1)[0]
    delimiter = said.group(1) if said else max(delimiters, key=header.count)
    ended = text.endswith(("\n", "\r"))
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: list[str] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = [name.strip() for name in row]
                continue
            line = reader.line_num + skipped
            if any(cell.strip() for cell in row[len(columns) :]):
                raise InputError(
                    f"{path}, line {line}: more cells than the header has columns; quote text with separators."
                )
            few = None
            if len(row) < len(columns):
                few = f"{count(len(row), 'cell')} for the {len(columns)} columns of the header"
                if not ended and stream.tell() == len(text):
                    raise InputError(
                        f"{path}, line {line}: {few}, and no end of the line: the file may be cut off; write it again."
                    )
            # blank cells behind the last column are none; spreadsheets leave out the empty ones at the end of a row
            cells = itertools.zip_longest(columns, row[: len(columns)], fillvalue="")
            yield line, [(name, cell if cell.strip() else None) for name, cell in cells], few
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num + skipped}: {error}; mend it.") from error
