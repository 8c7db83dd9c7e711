"""Rows and their places, from well-formed files and from all that people have instead."""

import csv
import io
import json
import re

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mpt_jax.errors import UserError
from mpt_jax.tasks.table_files import read_rows

COLUMNS = ("text", "label")


@pytest.fixture
def table(tmp_path):
    """Writes a file and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def values(path, columns=COLUMNS):
    return [tuple(row.values[c] for c in columns) for row in read_rows(path, columns)]


def places(path):
    return [row.place.removeprefix(f"{path}, ") for row in read_rows(path, COLUMNS)]


def error_of(path, columns=COLUMNS):
    with pytest.raises(UserError) as error:
        read_rows(path, columns)
    message = str(error.value)
    assert path.name in message
    return message


def write_parquet(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


# What is read.


def test_csv(table):
    path = table(
        "a.csv",
        'label, text,other\r\n1,"a, ""b""",x\r\n\r\n2,"two\r\nlines",\r\n3,  plain  ,x\r\n',
    )
    assert values(path) == [('a, "b"', "1"), ("two\r\nlines", "2"), ("plain", "3")]
    assert places(path) == ["line 2", "line 4", "line 6"]


def test_tsv_has_no_quotes(table):
    path = table("a.tsv", 'text\tlabel\n"so" he said\t1\n"\t2\na,b\t3')
    assert values(path) == [('"so" he said', "1"), ('"', "2"), ("a,b", "3")]
    assert places(path) == ["line 2", "line 3", "line 4"]


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "JSONL"])
def test_json_lines(table, suffix):
    lines = [
        '{"text": "a\\nb", "label": 1, "more": [1]}',
        "",
        '{"label": 1.0, "text": "\u2028 c\u2028d"}',
        '{"label": true, "text": 12345678901234567890123}',
        '{"label": null, "text": "x"}',
    ]
    path = table(f"a.{suffix}", "\r\n".join(lines))
    assert values(path) == [
        ("a\nb", "1"),
        ("c\u2028d", "1.0"),
        ("12345678901234567890123", "true"),
        ("x", ""),
    ]
    assert places(path) == ["line 1", "line 3", "line 4", "line 5"]


def test_parquet(tmp_path):
    path = write_parquet(
        tmp_path / "a.parquet",
        text=pa.array([" a ", "b", None]).dictionary_encode(),
        label=pa.array([0, 1, 2], pa.int64()),
        more=[[1], [2], [3]],
    )
    assert values(path) == [("a", "0"), ("b", "1"), ("", "2")]
    assert places(path) == ["row 1", "row 2", "row 3"]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array([0.1, 2.5], pa.float32()), ["0.1", "2.5"]),
        (pa.array([None, None], pa.null()), ["", ""]),
    ],
)
def test_parquet_types(tmp_path, column, texts):
    path = write_parquet(tmp_path / "a.parquet", **{"a.b": column})
    assert values(path, ("a.b",)) == [(text,) for text in texts]


def test_several_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": list("abcde"), "label": [1] * 5}), path, row_group_size=2)
    assert "".join(text for text, _ in values(path)) == "abcde"
    assert places(path)[-1] == "row 5"


def test_a_byte_order_mark_is_no_text(table):
    assert values(table("a.csv", b"\xef\xbb\xbftext,label\nx,1\n")) == [("x", "1")]
    assert values(table("a.jsonl", b'\xef\xbb\xbf{"text": "x", "label": "1"}')) == [("x", "1")]


def test_a_field_longer_than_csvs_limit(table):
    limit = csv.field_size_limit()
    long = "a" * (limit + 1)
    assert values(table("a.csv", f"text,label\n{long},1\n")) == [(long, "1")]
    assert csv.field_size_limit() == limit


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)] * 2
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_csv_and_json_write_is_read_back(tmp_path, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    (tmp_path / "a.csv").write_bytes(text.getvalue().encode())
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    stripped = [tuple(value.strip() for value in row) for row in rows]
    assert values(tmp_path / "a.csv") == values(tmp_path / "a.jsonl") == stripped


# What is refused.


def test_names_of_files(tmp_path, table):
    (tmp_path / "reviews.csv").touch()
    assert "did you mean 'reviews.csv'" in error_of(tmp_path / "review.csv")
    assert "no files in" in error_of(tmp_path / "none" / "a.csv")
    assert ".csv, .tsv, .jsonl, .ndjson, .parquet" in error_of(table("a.xlsx", "x"))
    (tmp_path / "folder.csv").mkdir()
    assert "There is no table" in error_of(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_and_32_are_named(table, name, encoding):
    text = '{"text": "größe", "label": "1"}\n'
    error = error_of(table(name, text.encode(encoding)))
    assert ("UTF-16" if "16" in encoding else "UTF-32") in error
    assert "iconv" in error or "line 1 (byte offset" in error


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bytes_that_are_no_utf_8(table, mark):
    content = mark + b"text,label\nok,1\n" + "größe,2\n".encode("latin-1")
    error = error_of(table("a.csv", content))
    assert f"line 3 (byte offset {content.index(0xF6)}): the byte 0xf6" in error
    assert "WINDOWS-1252" in error


def test_an_utf_8_character_cut_off_at_the_end(table):
    assert "line 2" in error_of(table("a.csv", "text,label\nx,é".encode()[:-1]))


def test_a_column_that_is_not_there(table, tmp_path):
    error = error_of(table("a.csv", "txet,label\nx,1\n"))
    assert "line 1" in error and "did you mean 'txet'" in error and "'label'" in error
    error = error_of(table("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n'))
    assert "line 2" in error and "unknown column 'label'" in error
    path = write_parquet(tmp_path / "a.parquet", Text=["x"], label=["1"])
    assert "unknown column 'text'; did you mean 'Text'" in error_of(path)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator(table, separator):
    error = error_of(table("a.csv", f"text{separator}label\nx{separator}1\n"))
    assert repr(separator) in error and "commas between" in error
    assert repr(",") in error_of(table("a.tsv", "text,label\nx,1\n"))


def test_two_columns_of_one_name(table, tmp_path):
    assert "two columns are called 'text'" in error_of(table("a.csv", "text,label,text\na,b,c\n"))
    assert values(table("b.csv", "text,label,,\na,b,c,d\n")) == [("a", "b")]
    assert "the name 'text' is there twice" in error_of(
        table("a.jsonl", '{"text": "a", "text": "b", "label": "1"}')
    )


@pytest.mark.parametrize("row", ["only", "a,1,", "a, b,1", '"a",1,2,3'])
def test_ragged_rows(table, row):
    error = error_of(table("a.csv", f"text,label\nok,1\n\n{row}\n"))
    assert "line 4" in error and "2 columns" in error


def test_ragged_rows_after_one_of_many_lines(table):
    assert "line 5" in error_of(table("a.csv", 'text,label\n"a\n\nb",1\nx\n'))
    assert "line 2" in error_of(table("a.tsv", "text\tlabel\nx\t1\t\n"))


@pytest.mark.parametrize("row", ['"a" b,1', '"never closed,1\nx,2\n'])
def test_quotes_that_are_wrong(table, row):
    error = error_of(table("a.csv", f"text,label\nok,1\n{row}"))
    assert "line 3: this is not CSV" in error and "doubled" in error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a", "label": }', "not JSON"),
        ('{"text": "a"', "one whole object on each line"),
        ('{"text": "a", "label": NaN}', "NaN is not a JSON value"),
        ('{"text": "a"} {"text": "b"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('"text"', "expected an object"),
        ("3", "expected an object"),
        ('[{"text": "a"}]', "one a line"),
        ('{"text": ["a"], "label": 1}', "holds a list"),
        ('{"text": {}, "label": 1}', "holds an object"),
        ('{"text": "\\ud800", "label": 1}', "half a character"),
        ("text,label", "not JSON"),
    ],
)
def test_lines_that_are_no_json_objects(table, line, said):
    error = error_of(table("a.jsonl", '{"text": "ok", "label": 1}\n' + line + "\n"))
    assert "line 2" in error and said in error
    assert len(error) < 1000


def test_empty_files(table, tmp_path):
    assert "is empty" in error_of(table("a.csv", ""))
    assert "is empty" in error_of(table("a.tsv", b"\xef\xbb\xbf\n\n"))
    assert values(table("a.jsonl", "\n")) == []
    assert values(write_parquet(tmp_path / "a.parquet", text=[], label=[])) == []


def test_a_parquet_file_that_is_none(table, tmp_path):
    assert "no Parquet file" in error_of(table("a.parquet", "text,label\nx,1\n"))
    assert "no Parquet file" in error_of(table("a.parquet", b""))
    whole = write_parquet(tmp_path / "b.parquet", text=["x"], label=["1"]).read_bytes()
    assert "no Parquet file" in error_of(table("b.parquet", whole[:-3]))
    assert "damaged" in error_of(table("c.parquet", b"PAR1" + b"\x07" * 40 + b"PAR1"))
    broken = bytearray(whole)
    broken[-20:-8] = b"\xff" * 12
    assert "damaged" in error_of(table("d.parquet", bytes(broken)))


@pytest.mark.parametrize(
    "column", [[["a"]], [{"a": 1}], pa.array([b"\xff"]), pa.array([b"a"], pa.large_binary())]
)
def test_parquet_columns_that_are_no_text(tmp_path, column):
    path = write_parquet(tmp_path / "a.parquet", text=column, label=["1"])
    assert re.search("column 'text' is of the type .*; expected text", error_of(path))
