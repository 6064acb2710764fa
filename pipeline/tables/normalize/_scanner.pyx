# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Locate documents and the values of given keys in JSON: one pass over the bytes, without the GIL.

The cells of a document that is not JSON are undefined, but inside of it. Its end is where its structure ends: outside of
strings, brackets open and close, whatever their kinds; a document ends at a comma at depth 0.
"""

import numpy as np
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    EMPTY, STRING, ESCAPED, NUMBER, LITERAL, OBJECT, LIST  # as in normalize/json_cells.py
    MAX_DEPTH = 64  # of a value; deeper ones are irregular
    MAX_KEYS = 64  # of one object
    MAX_OTHERS = 64  # unknown members of one document; with more it is irregular
    OTHER_FIELDS = 7  # numbers per unknown member
    DOCUMENTS_PER_PASS = 64
    SKIPPED = -1

ctypedef const uint8_t* Place


cdef struct Value:
    Place start
    Place end
    uint8_t kind


cdef struct Walk:
    Place base
    Place end
    Py_ssize_t document
    int64_t* others  # unknown members, OTHER_FIELDS numbers each
    Py_ssize_t count, first, size  # of unknown members: all, those before this document, allocated


cdef class Scanner:
    """Locates the values at the ends of the paths of a tree.

    `nodes` are the objects of the tree, outermost first: for each its keys with their targets: a row number, -1 for an
    allowed key that is skipped, or -2 - n for node n. A member with a key outside the tree is an unknown member: its
    value is skipped and its place noted. Other documents are irregular: a repeated key, a key with escapes, a plain
    value in place of an object, a depth above MAX_DEPTH, or more than MAX_OTHERS unknown members.

    `scan` and `cut` return the unknown members of regular documents, in order of documents: rows of document, node,
    start and length of the key, start and length of the value, its kind.
    """

    cdef const uint8_t[::1] _names
    cdef int32_t[::1] _name_ends, _targets, _firsts

    def __init__(self, list nodes):
        keys = [key for node in nodes for key in node]
        if max(map(len, nodes)) > MAX_KEYS:
            raise ValueError(f"more than {MAX_KEYS} keys in one object")
        self._names = b"".join(name for name, _ in keys)
        self._name_ends = np.cumsum([0, *(len(name) for name, _ in keys)], dtype=np.int32)
        self._targets = np.array([target for _, target in keys], np.int32)
        self._firsts = np.cumsum([0, *map(len, nodes)], dtype=np.int32)

    def scan(self, const uint8_t[::1] text, const int64_t[:, ::1] documents, int64_t[:, ::1] starts,
             int32_t[:, ::1] lengths, uint8_t[:, ::1] kinds, uint8_t[::1] irregular):
        """Fill `starts`, `lengths` and `kinds` (rows by documents), and `irregular` (by document).

        `documents` are their starts and ends in `text`. `kinds` stays zero for an absent value.
        """
        cdef int32_t[::1] likely = np.array(self._firsts)
        cdef Walk walk
        cdef Place at
        begin(&walk)
        if text.shape[0] == 0:
            return members(&walk)
        walk.base = &text[0]
        with nogil:
            for walk.document in range(documents.shape[0]):
                walk.first = walk.count
                walk.end = walk.base + documents[walk.document, 1]
                at = walk.base + documents[walk.document, 0]
                at = self._object(&walk, spaces(at, walk.end), 0, likely, starts, lengths, kinds)
                irregular[walk.document] = at == NULL or spaces(at, walk.end) != walk.end
                if irregular[walk.document]:
                    walk.count = walk.first
        return members(&walk)

    def cut(self, const uint8_t[::1] text, int64_t[:, ::1] documents, int64_t[:, ::1] starts,
            int32_t[:, ::1] lengths, uint8_t[:, ::1] kinds, uint8_t[::1] irregular):
        """Fill the same arrays and `documents` from comma-separated documents.

        Returns the number of documents, and their unknown members. Counts only documents followed by a comma, at most
        the length of `documents`.
        """
        cdef int32_t[::1] likely = np.array(self._firsts)
        cdef Walk walk
        cdef Place start, at, comma
        begin(&walk)
        if text.shape[0] == 0:
            return 0, members(&walk)
        walk.base = &text[0]
        walk.end = walk.base + text.shape[0]
        walk.document = 0
        with nogil:
            start = spaces(walk.base, walk.end)
            while start < walk.end and walk.document < documents.shape[0]:
                walk.first = walk.count
                at = self._object(&walk, start, 0, likely, starts, lengths, kinds)
                comma = NULL
                if at != NULL:
                    comma = spaces(at, walk.end)
                if comma == walk.end:
                    walk.count = walk.first
                    break
                irregular[walk.document] = comma == NULL or comma[0] != b","
                if irregular[walk.document]:
                    walk.count = walk.first
                    comma = at = ended(start, walk.end)
                    if comma == NULL:
                        break
                    while at > start and is_space((at - 1)[0]):
                        at -= 1
                documents[walk.document, 0], documents[walk.document, 1] = start - walk.base, at - walk.base
                walk.document += 1
                start = spaces(comma + 1, walk.end)
        return walk.document, members(&walk)

    cdef Place _object(self, Walk* walk, Place at, int32_t node, int32_t[::1] likely, int64_t[:, ::1] starts,
                       int32_t[:, ::1] lengths, uint8_t[:, ::1] kinds) noexcept nogil:
        """One object from its opening brace; return the position after it, or NULL if it is irregular."""
        cdef Place end = walk.end, name
        cdef Py_ssize_t length
        cdef int32_t key, target
        cdef uint64_t seen = 0, bit
        cdef Value value
        if at >= end or at[0] != b"{":
            return NULL
        at = spaces(at + 1, end)
        if at < end and at[0] == b"}":
            return at + 1
        while at < end and at[0] == b'"':
            name = at + 1
            at = <Place> memchr(name, b'"', end - name)
            if at == NULL:
                return NULL
            length = at - name
            key = self._key(node, name, length, likely)
            if key >= 0:
                bit = (<uint64_t> 1) << (key - self._firsts[node])
                if seen & bit:
                    return NULL
                seen |= bit
            elif memchr(name, b"\\", length) != NULL or is_noted(walk, node, name, length):
                return NULL
            at = spaces(at + 1, end)
            if at >= end or at[0] != b":":
                return NULL
            at = spaces(at + 1, end)
            target = self._targets[key] if key >= 0 else SKIPPED
            if target < SKIPPED and at < end and at[0] != b"n":
                at = self._object(walk, at, -2 - target, likely, starts, lengths, kinds)
            else:
                at = valued(at, end, &value)
                if target >= 0:
                    starts[target, walk.document] = value.start - walk.base
                    lengths[target, walk.document] = <int32_t> (value.end - value.start)
                    kinds[target, walk.document] = value.kind
                elif key < 0 and at != NULL and not note(walk, node, name, length, &value):
                    return NULL
            if at == NULL:
                return NULL
            at = spaces(at, end)
            if at < end and at[0] == b"}":
                return at + 1
            if at >= end or at[0] != b",":
                return NULL
            at = spaces(at + 1, end)
        return NULL

    cdef int32_t _key(self, int32_t node, Place name, Py_ssize_t length, int32_t[::1] likely) noexcept nogil:
        """The number of a key, or -1. The next key is tried first: documents of one shape have keys in one order."""
        cdef int32_t first = self._firsts[node], end = self._firsts[node + 1]
        cdef int32_t key = likely[node]
        for _ in range(end - first):
            if key >= end:
                key = first
            if (self._name_ends[key + 1] - self._name_ends[key] == length
                    and memcmp(&self._names[self._name_ends[key]], name, length) == 0):
                likely[node] = key + 1
                return key
            key += 1
        return -1


cdef void begin(Walk* walk) noexcept:
    walk.others = NULL
    walk.count = walk.first = walk.size = 0


cdef members(Walk* walk):
    """The unknown members as an array; frees them."""
    cdef int64_t[:, ::1] rows
    try:
        rows = np.empty((walk.count, OTHER_FIELDS), np.int64)
        if walk.count:
            memcpy(&rows[0, 0], walk.others, walk.count * OTHER_FIELDS * sizeof(int64_t))
        return np.asarray(rows)
    finally:
        free(walk.others)
        walk.others = NULL


cdef bint is_noted(Walk* walk, int32_t node, Place name, Py_ssize_t length) noexcept nogil:
    """Whether the object has an unknown member of this name already. A node is at most one object of a document."""
    cdef int64_t* row = walk.others + walk.first * OTHER_FIELDS
    for _ in range(walk.count - walk.first):
        if row[1] == node and row[3] == length and memcmp(walk.base + row[2], name, length) == 0:
            return True
        row += OTHER_FIELDS
    return False


cdef bint note(Walk* walk, int32_t node, Place name, Py_ssize_t length, Value* value) noexcept nogil:
    """Add an unknown member; false if there are too many, or no memory."""
    cdef int64_t* row
    if walk.count - walk.first >= MAX_OTHERS:
        return False
    if walk.count == walk.size:
        row = <int64_t*> realloc(walk.others, (2 * walk.size + MAX_OTHERS) * OTHER_FIELDS * sizeof(int64_t))
        if row == NULL:
            return False
        walk.others = row
        walk.size = 2 * walk.size + MAX_OTHERS
    row = walk.others + walk.count * OTHER_FIELDS
    row[0], row[1], row[2], row[3] = walk.document, node, name - walk.base, length
    row[4], row[5], row[6] = value.start - walk.base, value.end - value.start, value.kind
    walk.count += 1
    return True


cdef inline Place spaces(Place at, Place end) noexcept nogil:
    """The position after white space."""
    while at < end and is_space(at[0]):
        at += 1
    return at


cdef inline bint is_space(uint8_t symbol) noexcept nogil:
    return symbol == b" " or symbol == b"\n" or symbol == b"\r" or symbol == b"\t"


cdef Place valued(Place at, Place end, Value* value) noexcept nogil:
    """One value of any kind, a plain string without quotes; return the position after it, or NULL if irregular."""
    cdef Place start = at
    value.start = value.end = at
    value.kind = EMPTY
    if at >= end:
        return NULL
    if at[0] == b'"':
        value.kind = STRING
        at = quoted(at, end, &value.kind)
        if at != NULL and value.kind == STRING:
            value.start, value.end = start + 1, at - 1
            value.kind = EMPTY if value.start == value.end else STRING
            return at
    elif at[0] == b"{" or at[0] == b"[":
        value.kind = OBJECT if at[0] == b"{" else LIST
        at = nested(at, end, MAX_DEPTH)
    else:
        at = plain(at, end)
        if start[0] != b"n":
            value.kind = LITERAL if start[0] == b"t" or start[0] == b"f" else NUMBER
    if at != NULL:
        value.end = at
    return at


cdef Place ended(Place at, Place end) noexcept nogil:
    """The comma after a document of any content and depth; NULL if the text or the list ends before."""
    cdef Py_ssize_t depth = 0
    cdef uint8_t kind
    while at < end:
        if at[0] == b'"':
            at = quoted(at, end, &kind)
            if at == NULL:
                return NULL
            continue
        if at[0] == b"," and depth == 0:
            return at
        if at[0] == b"{" or at[0] == b"[":
            depth += 1
        elif at[0] == b"}" or at[0] == b"]":
            depth -= 1
            if depth < 0:
                return NULL
        at += 1
    return NULL


cdef Place plain(Place at, Place end) noexcept nogil:
    """One number, true, false or null; return the position after it. It contains no byte of the structure."""
    while (at < end and at[0] > b" " and at[0] != b"," and at[0] != b"}" and at[0] != b"]" and at[0] != b'"'
            and at[0] != b"{" and at[0] != b"["):
        at += 1
    return at


cdef Place quoted(Place at, Place end, uint8_t* kind) noexcept nogil:
    """One string with its quotes; return the position after it, or NULL if it has no end."""
    cdef Place start = at + 1, slash
    cdef Place quote = <Place> memchr(start, b'"', end - start)
    while quote != NULL:
        slash = <Place> memchr(start, b"\\", quote - start)
        if slash == NULL:
            return quote + 1
        kind[0] = ESCAPED
        start = slash + 2
        if start > quote:
            quote = <Place> memchr(start, b'"', end - start) if start < end else NULL
    return NULL


cdef Place nested(Place at, Place end, Py_ssize_t most_depth) noexcept nogil:
    """One object or list; return the position after it, or NULL if it is too deep or has no end."""
    cdef Py_ssize_t depth = 0
    cdef uint8_t kind
    while at < end:
        if at[0] == b'"':
            at = quoted(at, end, &kind)
            if at == NULL:
                return NULL
            continue
        if at[0] == b"{" or at[0] == b"[":
            depth += 1
            if depth > most_depth:
                return NULL
        elif at[0] == b"}" or at[0] == b"]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return NULL


def gathered(const uint8_t[::1] text, const int64_t[:, ::1] starts, const int32_t[:, ::1] lengths,
             const uint8_t[:, ::1] kinds, Py_ssize_t count):
    """The values of the first `count` documents, row after row, as the buffers of one Arrow column.

    Returns the kinds (n), the validity bitmap (n bits), the offsets (n + 1) and the bytes.
    """
    cdef Py_ssize_t rows = kinds.shape[0], row, document, first = 0, cell = 0
    cdef int64_t place = 0
    cdef uint8_t[::1] flat = np.empty(rows * count, np.uint8), is_there = np.zeros((rows * count + 7) // 8, np.uint8)
    cdef int32_t[::1] ends = np.empty(rows * count + 1, np.int32)
    cdef uint8_t[::1] into
    with nogil:
        ends[0] = 0
        for row in range(rows):
            for document in range(count):
                flat[cell] = kinds[row, document]
                if flat[cell] != EMPTY:
                    place += lengths[row, document]
                    is_there[cell >> 3] |= 1 << (cell & 7)
                cell += 1
                ends[cell] = <int32_t> place
    if place > INT32_MAX:
        raise OverflowError("more than 2 GiB in one column")
    into = np.empty(max(1, place), np.uint8)
    with nogil:
        # 64 documents at a time, whose bytes stay in the CPU cache while the rows are copied.
        while first < count:
            for row in range(rows):
                for document in range(first, min(first + DOCUMENTS_PER_PASS, count)):
                    cell = row * count + document
                    if ends[cell] != ends[cell + 1]:
                        memcpy(&into[ends[cell]], &text[starts[row, document]], ends[cell + 1] - ends[cell])
            first += DOCUMENTS_PER_PASS
    return np.asarray(flat), np.asarray(is_there), np.asarray(ends), np.asarray(into[:place])
