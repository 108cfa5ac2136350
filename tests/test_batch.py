"""A function over many items: what is kept, what is tried again, and the same by workers."""

import itertools
import json
import os
import tracemalloc

import numpy as np
import pytest

from nbhelpers.core.batch import (
    THREAD_VARIABLES,
    JsonStore,
    ResultStore,
    apart,
    available_cores,
    local_client,
    map_items,
    progress_bar,
    sign,
)
from nbhelpers.core.errors import NbHelpersError

SIGNATURE = {"format": "test 1", "model": "square"}


class Square:
    """Squares numbers, counts its calls, and cannot do some of them."""

    def __init__(self, *refused):
        self.refused, self.calls = refused, []

    def __call__(self, number):
        self.calls.append(number)
        if number in self.refused:
            raise NbHelpersError("not this one", given=number)
        return {"square": number**2}


def numbered(count):
    return [(f"item {number}", number) for number in range(count)]


def test_results_are_files_and_a_second_run_computes_what_is_missing(tmp_path):
    function = Square(2)
    results = list(map_items(function, numbered(4), tmp_path, SIGNATURE))
    assert [result.value for result in results] == [{"square": 0}, {"square": 1}, None, {"square": 9}]
    assert [result.key for result in results if result.error] == ["item 2"]
    assert results[2].error == "not this one given: 2", "one line"
    files = [json.loads(path.read_text()) for path in (tmp_path / "items").iterdir()]
    assert {file["key"]: file.get("value", file.get("error")) for file in files} == {
        result.key: result.value or result.error for result in results
    }
    again = Square()
    results = list(map_items(again, numbered(5), tmp_path, SIGNATURE))
    assert again.calls == [2, 4] and [result.kept for result in results] == [True, True, False, True, False]
    assert [result.value["square"] for result in results] == [0, 1, 4, 9, 16]
    JsonStore(tmp_path / "items").path("item 3").write_text("{")
    assert [result.kept for result in map_items(again, numbered(5), tmp_path, SIGNATURE)] == [True] * 3 + [False, True]


def test_another_signature_is_refused_before_anything_is_computed(tmp_path):
    list(map_items(Square(), numbered(1), tmp_path, SIGNATURE))
    function = Square()
    with pytest.raises(NbHelpersError, match=r"another run[\s\S]*model"):
        map_items(function, numbered(1), tmp_path, {**SIGNATURE, "model": "cube"})
    with pytest.raises(NbHelpersError, match="needs a signature"):
        map_items(function, numbered(1), tmp_path)
    assert function.calls == []


def test_an_interrupted_run_keeps_what_is_done(tmp_path):
    function = Square()
    results = map_items(function, ((f"{n}", n) for n in itertools.count()), tmp_path, SIGNATURE)
    assert [next(results).key, next(results).key] == ["0", "1"]
    results.close()
    assert function.calls == [0, 1], "items are taken when they are needed"

    def stopped(number):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_items(stopped, [("0", 0), ("1", 1), ("2", 2)], tmp_path, SIGNATURE))
    results = map_items(function, [("0", 0), ("1", 1), ("2", 2)], tmp_path, SIGNATURE)
    assert [result.kept for result in results] == [True, True, False]


def test_a_fault_of_the_program_ends_the_run_and_names_the_item(tmp_path):
    with pytest.raises(ZeroDivisionError) as told:
        list(map_items(lambda number: 1 / number, numbered(1), tmp_path, SIGNATURE))
    assert told.value.__notes__ == ["in item 'item 0'"]
    for value, message in ((np.zeros(2), "cannot be written as JSON"), (None, "is None")):
        with pytest.raises(NbHelpersError, match=message):
            list(map_items(lambda _, value=value: value, numbered(1), tmp_path, SIGNATURE))
    (tmp_path / "file").write_text("")
    with pytest.raises(NbHelpersError, match="cannot be written"):
        list(map_items(Square(), numbered(1), store=JsonStore(tmp_path / "file" / "folder")))


def test_a_key_is_that_of_one_item_and_may_be_no_file_name(tmp_path):
    with pytest.raises(NbHelpersError, match="same key"):
        list(map_items(Square(), [("a", 1), ("a", 2)], tmp_path, SIGNATURE))
    store = JsonStore(tmp_path / "names")
    keys = ["davis/bear", "davis-bear", "../bear", "x" * 300, "猫", "DSC_1", "run"]
    assert len({store.path(key) for key in keys}) == len(keys)
    assert {store.path(key).parent for key in keys} == {tmp_path / "names"}
    for key in keys:
        store.save(key, None, key)
    assert [store.load(key, None) for key in keys] == keys
    store.path("a").write_bytes(store.path("run").read_bytes())
    assert store.load("a", None) is None, "a file of another key, as where A and a are one name"


def test_progress_tells_the_mean_score_and_the_time_left(tmp_path, monkeypatch):
    list(map_items(Square(), numbered(2), tmp_path, SIGNATURE))
    seconds = itertools.count(step=2)
    monkeypatch.setattr("nbhelpers.core.batch.time.monotonic", lambda: next(seconds))
    states = []
    options = {"progress": states.append, "score": lambda value: value["square"]}
    list(map_items(Square(3), numbered(5), tmp_path, SIGNATURE, **options))
    assert [(s.done, s.kept, s.failed, s.total) for s in states] == [
        (1, 1, 0, 5), (2, 2, 0, 5), (3, 2, 0, 5), (4, 2, 1, 5), (5, 2, 1, 5),
    ]  # fmt: skip
    assert [s.score for s in states] == [0, 0.5, 5 / 3, 5 / 3, 21 / 4]
    assert [s.seconds_left for s in states] == [None, None, 12, 4, 0], "kept results take no time"
    states.clear()
    list(map_items(Square(), iter(numbered(2)), progress=states.append))
    assert [(s.total, s.seconds_left, s.score) for s in states] == [(None, None, None)] * 2


def test_a_bar_shows_it(capsys):
    with progress_bar("squares", "number") as bar:
        list(map_items(Square(1), numbered(3), progress=bar, score=lambda value: value["square"]))
    shown = capsys.readouterr().err
    assert "squares" in shown and "3/3" in shown and "mean 2.000, 1 failed" in shown


def test_memory_does_not_grow_with_the_number_of_items(tmp_path):
    def peak(count):
        tracemalloc.start()
        for _ in map_items(lambda number: [number] * 10_000, numbered(count), tmp_path / str(count), SIGNATURE):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(60) < 1.5 * peak(6)


class Large(ResultStore):
    """Hands on the length of its values alone."""

    def save(self, key, item, value):
        return len(value)


def test_a_store_decides_what_is_kept_and_handed_on():
    values = [result.value for result in map_items(lambda number: "x" * number, numbered(3), store=Large())]
    assert values == [0, 1, 2]


@pytest.mark.filterwarnings("ignore")  # Dask's own
def test_workers_compute_the_same_and_the_rest_of_a_run(tmp_path):
    distributed = pytest.importorskip("distributed")
    alone = list(map_items(Square(7), numbered(20), tmp_path / "alone", SIGNATURE))
    local = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**local) as cluster, distributed.Client(cluster) as client:
        list(map_items(Square(), numbered(3), tmp_path / "together", SIGNATURE))
        items = iter(numbered(20))
        results = map_items(Square(7), items, tmp_path / "together", SIGNATURE, client=client)
        first = [next(results) for _ in range(3)]
        assert [result.kept for result in first] == [True] * 3
        fourth = next(results)
        assert len(list(items)) > 10, "few items are on their way at once"
        results.close()
        states = []
        results = list(
            map_items(Square(7), numbered(20), tmp_path / "together", SIGNATURE, client=client, progress=states.append)
        )
        assert fourth.key in {result.key for result in results if result.kept} or fourth.error
        assert [state.done for state in states] == list(range(1, 21)) and states[-1].failed == 1
        with pytest.raises(ZeroDivisionError):
            list(map_items(lambda number: 1 / number, numbered(3), client=client))
    by_key = {result.key: (result.value, result.error) for result in results}
    assert by_key == {result.key: (result.value, result.error) for result in alone}
    kept = {path.name: path.read_bytes() for path in (tmp_path / "alone" / "items").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "together" / "items").iterdir()}


def test_one_worker_needs_no_client():
    with local_client(1) as client:
        assert client is None


def test_a_signature_is_written_once_and_compared_afterwards(tmp_path):
    sign(tmp_path / "run.json", {"size": (1, 2), "name": "a"})
    sign(tmp_path / "run.json", {"size": (1, 2), "name": "a"})
    assert json.loads((tmp_path / "run.json").read_text()) == {"size": [1, 2], "name": "a"}
    with pytest.raises(NbHelpersError, match=r"another run[\s\S]*different: name"):
        sign(tmp_path / "run.json", {"size": (1, 2), "name": "b"})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(NbHelpersError, match="another run"):
        sign(tmp_path / "run.json", {"size": (1, 2), "name": "a"})


def test_results_among_the_photos_are_refused(tmp_path):
    (tmp_path / "out").mkdir()
    apart(tmp_path / "out", tmp_path)
    apart(tmp_path / "new", tmp_path / "new")
    apart(tmp_path, [tmp_path / "a.png"])
    with pytest.raises(NbHelpersError, match="among the photos") as told:
        apart(tmp_path / "out" / "..", str(tmp_path))
    assert "results" in told.value.do


def test_workers_share_the_cores():
    pytest.importorskip("distributed")
    with local_client(2) as client:
        found = client.run(lambda: {name: os.environ.get(name) for name in THREAD_VARIABLES})
    wanted = str(max(1, available_cores() // 2))
    assert len(found) == 2 and all(set(each.values()) == {wanted} for each in found.values())
