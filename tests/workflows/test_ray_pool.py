"""How rows are dealt to workers. The pool itself is shown by tests/benchmarks/ray_rows.py: Ray is too large for CI."""

import pytest

from comfyui_unclip.workflows.places.ray_pool import Segments, worker_plan


@pytest.mark.parametrize(
    ("resources", "wanted", "plan"),
    [
        ({"CPU": 16, "GPU": 2}, None, (2, {"num_gpus": 1, "num_cpus": 1})),
        ({"CPU": 16, "GPU": 4}, 2, (2, {"num_gpus": 1, "num_cpus": 1})),
        ({"CPU": 16}, None, (4, {"num_cpus": 4})),
        ({"CPU": 2}, None, (1, {"num_cpus": 2})),
        ({"CPU": 2}, 2, (2, {"num_cpus": 1})),
        ({"CPU": 2}, 9, (2, {"num_cpus": 1})),
        ({}, None, (1, {"num_cpus": 1})),
    ],
)
def test_a_worker_per_gpu_or_group_of_cores(resources, wanted, plan):
    assert worker_plan(resources, wanted) == plan


def test_neighbours_go_to_one_worker_and_nobody_idles():
    rows = Segments([5, 6, 7, 8, 9, 10], 2)
    assert [rows.take("a"), rows.take("b"), rows.take("a"), rows.take("b")] == [5, 8, 6, 9]
    assert rows.take("a") == 7 and rows.take("a") == 10 and rows.take("a") is None and rows.take("b") is None
    assert len(rows) == 0


def test_a_lost_row_comes_next_and_a_new_worker_helps_the_slowest():
    rows = Segments([1, 2, 3, 4], 2)
    assert [rows.take("a"), rows.take("b")] == [1, 3]
    rows.put_back(3)
    assert len(rows) == 3 and rows.take("c") == 3
    assert sorted([rows.take("c"), rows.take("a")]) == [2, 4]


def test_more_workers_than_rows():
    rows = Segments([1], 8)
    assert rows.take("a") == 1 and rows.take("b") is None
    assert Segments([], 3).take("a") is None
