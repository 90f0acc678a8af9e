"""Tables, files and sweeps as rows: which values, in which order, and what is wrong with them in one line."""

import json

import pytest

from comfyui_unclip.workflows.document.graph import WorkflowError
from comfyui_unclip.workflows.rows.jobs import MAX_ROWS, build, from_values


def values(word):
    return list(build([], None, [word]).axes[0].values)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=0..3", ["0", "1", "2", "3"]),
        ("seed=3..0", ["3", "2", "1", "0"]),
        ("seed=-1..1", ["-1", "0", "1"]),
        ("x=0..1..0.25", ["0", "0.25", "0.5", "0.75", "1"]),
        ("x=0.1..0.3..0.1", ["0.1", "0.2", "0.3"]),  # exact: no 0.30000000000000004
        ("x=0..10..4", ["0", "4", "8"]),
        ("x=1,2,4", ["1", "2", "4"]),
        ("x=0..2,10", ["0", "1", "2", "10"]),
        ("prompt=a star,a boat", ["a star", "a boat"]),
        ("prompt=well..,then..now", ["well..", "then..now"]),  # no number beside the dots
        ('prompt=["a, b", "c"]', ["a, b", "c"]),
        ("on=[true, 2, 0.5]", [True, 2, 0.5]),
        ("prompt=@@home", ["@home"]),
        ("seed=18446744073709551614..18446744073709551615", ["18446744073709551614", "18446744073709551615"]),
    ],
)
def test_a_sweep_says_its_values(word, expected):
    assert values(word) == expected


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed", "has no '='"),
        ("=1,2", "has no '='"),
        ("seed=", "has an empty value"),
        ("seed=1,,2", "has an empty value"),
        ("seed=0..", "is not a range"),
        ("seed=..9", "is not a range"),
        ("seed=0..9..0", "a step of 0"),
        ("seed=0..9..1..1", "is not a range"),
        ("seed=0..x", "is not a range"),
        ("seed=0..nan", "is not a range"),
        ("seed=0..1e300", "is not a range"),
        ("seed=0..99999999", f"more than {MAX_ROWS}"),
        ("x=[1, 2", "not a JSON list"),
        ("x=[]", "at least one"),
        ("x=[[1]]", "takes a list of numbers"),
        pytest.param("x=" + "[" * 100_000, "not a JSON list", id="deep"),
        pytest.param("x=[" + "1" * 5000 + "]", "not a JSON list", id="long"),
        ("prompt=@nowhere.txt", "there is no file nowhere.txt"),
    ],
)
def test_a_bad_sweep_is_one_line(word, said):
    with pytest.raises(WorkflowError) as caught:
        build([], None, [word])
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"--sweep {word[:90]}") and said in str(caught.value)


def test_all_problems_come_at_once_and_too_many_rows_are_refused():
    with pytest.raises(WorkflowError) as caught:
        build(["a", "b=@none"], None, ["c=0..x"])
    assert len(caught.value.problems) == 3
    with pytest.raises(WorkflowError, match="rows are more than"):
        build([], None, ["a=1..2000", "b=1..2000"])


def test_rows_are_numbered_from_1_the_last_sweep_fastest_the_table_slowest(tmp_path):
    table = tmp_path / "jobs.csv"
    table.write_text("prompt,steps\nstar,2\nboat,\n")
    lines = tmp_path / "words.txt"
    lines.write_text("red\n\nblue\n")
    jobs = build(["seed=1", f"colour=@{lines}"], table, ["x=0..1"])
    assert jobs.fixed == (("seed", "1"),) and len(jobs) == 8 and jobs.many
    rows = {row.number: row.values for row in jobs}
    assert list(rows) == list(range(1, 9))
    assert rows[1] == {"prompt": "star", "steps": "2", "colour": "red", "x": "0"}
    assert rows[2]["x"] == "1" and rows[3] == {"prompt": "star", "steps": "2", "colour": "blue", "x": "0"}
    assert rows[8] == {"prompt": "boat", "colour": "blue", "x": "1"}  # an empty cell leaves the graph's value
    assert jobs.columns() == ["prompt", "steps", "colour", "x"]


def test_a_name_is_given_once():
    with pytest.raises(WorkflowError, match="seed is given twice"):
        build(["seed=1"], None, ["seed=0..3"])
    assert not build(["seed=1", "seed=2"]).many  # the later -s counts, as ever
    assert [row.values for row in build(["seed=1"])] == [{}]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("t.csv", 'prompt,seed\n"a, b",1\n', [{"prompt": "a, b", "seed": "1"}]),
        ("t.csv", "\ufeffprompt\r\n夜空\r\n", [{"prompt": "夜空"}]),
        ("t.tsv", "prompt\tseed\na, b\t1\n", [{"prompt": "a, b", "seed": "1"}]),
        ("t.json", '[{"prompt": "a", "seed": 1, "on": true, "x": null}]', [{"prompt": "a", "seed": 1, "on": True}]),
        ("t.jsonl", '{"seed": 1}\n\n{"seed": 2}\n', [{"seed": 1}, {"seed": 2}]),
        ("t.jsonl", '{"prompt": "a\u2028b"}\r\n{"prompt": "c"}', [{"prompt": "a\u2028b"}, {"prompt": "c"}]),
    ],
)
def test_tables_are_read(tmp_path, name, content, rows):
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert list(build([], path).table) == rows


def test_a_table_of_a_spreadsheet_in_utf_16_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("prompt\nété\n".encode("utf-16"))
    assert list(build([], path).table) == [{"prompt": "été"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "has no header"),
        ("t.csv", b"prompt\n", "has no rows"),
        ("t.csv", b"a,a\n1,2\n", "two columns named 'a'"),
        ("t.csv", b"a,\n1,2\n", "a column named ''"),
        ("t.csv", b"a,b\n1\n", "line 2 has 1 cells, the header 2"),
        ("t.csv", b'a\n"open\n', "not valid CSV"),
        ("t.csv", "a\nok\nété\n".encode("latin-1"), "is not UTF-8 text (line 3)"),
        ("t.json", b"{", "not valid JSON"),
        ("t.json", b"[" * 100_000, "not valid JSON"),
        ("t.json", b'{"a": 1}', "is not a list of rows"),
        ("t.json", b'[{"a": 1}, 2]', "row 2 is not an object"),
        ("t.json", b'[{"a": [1]}]', "row 1, a: is a list"),
        ("t.json", b"[]", "has no rows"),
        ("t.jsonl", b'{"a": 1}\n{', "line 2 is not valid JSON"),
        ("t.xlsx", b"PK", "a table is .csv, .tsv, .json or .jsonl, not .xlsx"),
    ],
)
def test_a_broken_table_is_one_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WorkflowError) as caught:
        build([], path)
    assert len(caught.value.problems) == 1 and said in str(caught.value) and str(path) in str(caught.value)


def test_the_fingerprint_is_of_graph_and_rows_and_nothing_else(tmp_path):
    prompt = {"1": {"class_type": "A", "inputs": {"x": 1}, "_meta": {"title": "t"}}}
    one = build([], None, ["seed=0..3"]).fingerprint(prompt)
    assert one == build([], None, ["seed=0,1,2,3"]).fingerprint({"1": {"inputs": {"x": 1}, "class_type": "A"}})
    assert one != build([], None, ["seed=0..4"]).fingerprint(prompt)
    assert one != build([], None, ["sead=0..3"]).fingerprint(prompt)
    assert one != build([], None, ["seed=0..3"]).fingerprint(json.loads(json.dumps(prompt).replace("1}", "2}")))


def test_rows_from_python():
    jobs = from_values({"prompt": "a"}, [{"seed": 1}, {"seed": 2}], {"x": (n / 2 for n in range(2))})
    assert [row.values for row in jobs][1] == {"seed": 1, "x": 0.5} and jobs.fixed == (("prompt", "a"),)
    assert not from_values({"prompt": "a"}, [], {}).many
    with pytest.raises(ValueError, match="sweep of x: has no values"):
        from_values({}, [], {"x": []})
