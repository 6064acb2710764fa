"""CSV files that people open in a spreadsheet: plain decimals, and text that no spreadsheet runs (pure).

Text is quoted, numbers, days and flags are not; null is an empty cell, the empty text is `""`. Lines end with LF.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.settings.sections import BillingCsv
from pipeline.tables.normalize.arrow_ops import Column, mask, unscaled

_TEXT = pa.large_string()  # a month of lines can be more than 2 GiB of text

_SIGNS = r"=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}\x{FE66}\x{FE62}\x{FE63}\x{FE6B}"
RUNS = rf"^(?:[\t\r\n]|[\p{{Z}}\p{{Cc}}\p{{Cf}}]*[{_SIGNS}])"
"""RE2: text that a spreadsheet may run or strip to a formula. It begins with a tab or line break, or, after white space
and invisible characters, with = + - @ or their full-width or small forms, which East Asian locales convert."""

_MARKS = {"point": ".", "comma": ","}


def csv_bytes(rows: pa.Table, form: BillingCsv) -> bytes:
    """The rows as a CSV file with a header, in UTF-8; same order.

    Decimals have all places of their type, never an exponent. With `form.neutralise`, text that matches `RUNS` is
    preceded by an apostrophe, which spreadsheets do not show.
    """
    separator = "\t" if form.separator == "tab" else form.separator
    header = separator.join(_quoted(name) for name in rows.schema.names) + "\n"
    begin = header.encode("utf-8-sig" if form.bom else "utf-8")
    if not rows.num_rows:
        return begin
    cells = [_cells(column, form) for column in rows.columns]
    lines = pc.binary_join_element_wise(*cells, pa.scalar(separator, _TEXT))
    ended = pc.binary_join_element_wise(lines, pa.scalar("\n", _TEXT), pa.scalar("", _TEXT))
    return begin + _joined(ended)


def _cells(column: Column, form: BillingCsv) -> Column:
    """The cells of a column as they stand in the file."""
    column, kind = column.combine_chunks(), column.type
    if pa.types.is_dictionary(kind):
        cells = _cells(pa.chunked_array([column.dictionary]), form).take(column.indices)
    elif pa.types.is_decimal(kind):
        cells = _decimal_text(column, kind.scale, _MARKS[form.decimal])
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        encoded = column.dictionary_encode()  # most texts occur in many lines
        cells = _quoted_texts(encoded.dictionary.cast(_TEXT), form).take(encoded.indices)
    else:
        cells = column.cast(_TEXT)
    return pc.fill_null(cells, pa.scalar("", _TEXT))


def _quoted_texts(texts: Column, form: BillingCsv) -> Column:
    if form.neutralise:
        texts = pc.replace_substring_regex(texts, f"({RUNS})", r"'\1")
    texts, quote = pc.replace_substring(texts, '"', '""'), pa.scalar('"', _TEXT)
    return pc.binary_join_element_wise(quote, texts, quote, pa.scalar("", _TEXT))


def _decimal_text(column: Column, scale: int, mark: str) -> pa.Array:
    """Decimals below 2**63 smallest units, with `scale` places."""
    units = pa.array(unscaled(column), mask=~mask(pc.is_valid(column)))
    digits = pc.utf8_lpad(pc.cast(pc.abs(units), _TEXT), scale + 1, "0")
    if scale:
        whole, places = (pc.utf8_slice_codeunits(digits, *ends) for ends in ((0, -scale), (-scale, None)))
        digits = pc.binary_join_element_wise(whole, places, pa.scalar(mark, _TEXT))
    sign = pc.if_else(pc.less(units, 0), pa.scalar("-", _TEXT), pa.scalar("", _TEXT))
    return pc.binary_join_element_wise(sign, digits, pa.scalar("", _TEXT))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _joined(texts: pa.LargeStringArray) -> bytes:
    """All texts of an array without nulls, one after the other."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return bytes(content[int(ends[0]) : int(ends[-1])])
