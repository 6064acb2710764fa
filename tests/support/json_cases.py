"""About 300 values that are JSON (`y_`), are not (`n_`), or may be (`i_`), after the ideas of nst/JSONTestSuite."""

from __future__ import annotations

import json
from collections.abc import Iterator

_STRINGS = ["", "a", "\x7f", "é", "😀", "\u2028", "\ufeff", "\ufffe", "\\", '"', "/", "\b\f\n\r\t", "},{", "]}", "\x00"]
_NUMBERS = ["0", "-0", "1", "-1", "10", "1.5", "-0.0", "1e5", "1E5", "1e+5", "1e-5", "0e1", "0E+1", "1.25E-2", "9" * 30,
            "0." + "1" * 60, "1e-400"]  # fmt: skip
_WORDS = ["NaN", "-NaN", "Infinity", "-Infinity", "+1", "01", "-01", "00", "1.", ".5", "-.5", "1.e1", "0.e1", "1e",
          "1e+", "1E-", "0x1F", "1_000", "0b1", "1.2.3", "--1", "++1", "-", "+", "True", "FALSE", "Null",
          "None", "undefined",
          "tru", "nul", "truefalse", "nan", "inf", "1a", "-x", "e1", "1ee2", "1e1.5"]  # fmt: skip
_ESCAPES = ["\\x41", "\\a", "\\'", "\\u", "\\u1", "\\u12", "\\u123", "\\u12G4", "\\U0041", "\\é", "\\ ", "\\0",
            "\\ud800", "\\udc00", "\\ud800\\u0041", "\\ud83d x", "\\ud83d\\ud83d\\ude00", "\\uD83D\\u",
          "\\udc00\\ud800",
            "\\u{41}"]  # fmt: skip
_BYTES = [b"\xff", b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"M\xfcller", b"\xc3"]
_FAULTS = ["", "1 2", '"a" "b"', "[1,]", "[,1]", "[1,,2]", "[1 2]", "[,]", "{,}", '{"a":1,}', '{"a" 1}', '{"a"::1}',
           '{"a":}', '{"a"}', '{:1}', '{1:2}', "{null:1}", '{"a":1 "b":2}', "'a'", "{'a':1}", "/* a */ 1", "1 // a",
           "# 1", "1;2", "<a>", "&", "$", "@", "(1)", "[1}", '{"a":1]', "[[1}]", '{"a":[1}]', "::", ":", '"a":1',
           "\x0c1", "\xa01", "\u20601", "\\n", "[\\]", "`a`", "”a”", "*", "1=1", "!1", "[1:2]", "1,2", '1,"x":2,',
           "?", "~", "^", "%"]  # fmt: skip
_UNBALANCED = ["[", "]", "{", "}", '"', '"a', "[[", "]]", '{"a":1', "1}", '["a', "}}", '\\"']


def json_cases() -> Iterator[tuple[str, bytes]]:
    """Names and values; unbalanced quotes or brackets are named `n_structure`."""
    plain = [json.dumps(text, ensure_ascii=is_ascii) for text in _STRINGS for is_ascii in (True, False)]
    scalars = [*dict.fromkeys(plain), *_NUMBERS, "true", "false", "null"]
    for kind, values in (("y", scalars), ("n_word", _WORDS), ("n_fault", _FAULTS)):
        for at, value in enumerate(values):
            yield f"{kind}_{at}", value.encode()
            yield f"{kind}_list_{at}", f"[ {value} ]".encode()
    for at, value in enumerate(scalars):
        yield f"y_member_{at}", f'{{"a": {value}, "b": {{}}}}'.encode()
    for at, escape in enumerate(_ESCAPES):
        yield f"n_escape_{at}", f'"a{escape}b"'.encode()
        yield f"n_key_{at}", f'{{"a{escape}b": "{escape}"}}'.encode()
    for at, content in enumerate(_BYTES):
        yield f"i_bytes_{at}", b'"%s"' % content
        yield f"i_bytes_key_{at}", b'{"%s": 1}' % content
        yield f"n_bytes_{at}", content
    for code in range(32):
        yield f"n_control_{code}", b'"a%cb"' % code
    for name, value in (("range", "1e400"), ("range", "-1e999"), ("long", "1" * 400), ("long", "1" * 5000)):
        yield f"i_{name}_{value[:4]}_{len(value)}", value.encode()
        yield f"i_{name}_list_{value[:4]}_{len(value)}", f'{{"a": [{value}]}}'.encode()
    for depth in (70, 500, 990, 5000, 100_000):
        yield f"i_depth_{depth}", b"[" * depth + b"]" * depth
        yield f"i_depth_object_{depth}", b'{"a":' * depth + b"1" + b"}" * depth
    for at, value in enumerate(_UNBALANCED):
        yield f"n_structure_{at}", value.encode()
