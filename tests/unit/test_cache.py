"""Lists, events and replies to writes arrive in any order, and the cache still shows what exists."""

import itertools

import pytest

from luthier.cache import Cache


def obj(name, version, uid=None):
    return {
        "metadata": {"namespace": "team", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    }


def names(cache):
    return {kept.name: kept.version for kept in cache}


def take_list(cache, objects, version):
    """Take a whole list, in pages of one."""
    listing = cache.begin_list()
    changed = [kept for each in objects for kept in listing.add([each])]
    return listing.end(version) + changed


@pytest.mark.row(21)
def test_an_older_event_changes_nothing():
    cache = Cache()
    cache.put(obj("a", 5))
    assert cache.put(obj("a", 4)) == []
    assert cache.put(obj("a", 5)) == []
    assert names(cache) == {"a": 5}


@pytest.mark.row(17)
def test_a_list_replaces_the_whole():
    cache = Cache()
    take_list(cache, [obj("a", 1), obj("b", 2)], "2")
    changed = take_list(cache, [obj("b", 2), obj("c", 7)], "9")
    assert [kept.name for kept in changed] == ["a", "c"], "what vanished and what is new, nothing else"
    assert names(cache) == {"b": 2, "c": 7}


def test_what_was_written_after_the_list_was_taken_stays():
    cache = Cache()
    cache.put(obj("written", 12))
    take_list(cache, [], "9")
    assert names(cache) == {"written": 12}


def test_a_late_event_of_something_gone_before_the_list_is_ignored():
    cache = Cache()
    take_list(cache, [], "9")
    assert cache.put(obj("ghost", 8)) == []
    assert names(cache) == {}


def test_a_deletion_that_is_older_than_what_is_known_is_ignored():
    cache = Cache()
    cache.put(obj("a", 10, uid="second-life"))
    assert cache.remove(obj("a", 9, uid="first-life")) == []
    assert names(cache) == {"a": 10}


def test_our_own_deletion_is_not_undone_by_late_events_or_lists():
    cache = Cache()
    cache.put(obj("a", 5))
    assert cache.forget("team", "a", "uid-a")
    assert cache.put(obj("a", 6)) == []
    take_list(cache, [obj("a", 6)], "7")  # taken before the deletion, answered after it
    assert names(cache) == {}
    take_list(cache, [], "9")
    assert cache.put(obj("a", 12, uid="second-life")) != []


def test_our_own_deletion_spares_a_second_life():
    cache = Cache()
    cache.put(obj("a", 5, uid="second-life"))
    assert cache.forget("team", "a", "uid-a") == []
    assert names(cache) == {"a": 5}


HISTORY = [("put", obj("a", 3)), ("put", obj("a", 4)), ("put", obj("b", 5)), ("remove", obj("a", 6)), ("list", None)]


@pytest.mark.parametrize("order", list(itertools.permutations(HISTORY)))
@pytest.mark.row(21)
def test_every_order_with_a_list_last_or_not_ends_in_the_same_objects(order):
    cache = Cache()
    for verb, what in order:
        if verb == "list":
            take_list(cache, [obj("b", 5)], "6")
        else:
            getattr(cache, verb)(what)
    if order[-1][0] == "list" or order.index(("list", None)) == 0:
        assert names(cache) == {"b": 5}
    else:
        take_list(cache, [obj("b", 5)], "6")
        assert names(cache) == {"b": 5}


def test_a_list_that_never_ends_takes_nothing_away():
    cache = Cache()
    cache.put(obj("a", 5))
    cache.begin_list().add([obj("b", 6)])
    assert names(cache) == {"a": 5, "b": 6}


def test_what_is_kept_is_no_part_of_what_was_given_or_taken():
    cache, given = Cache(), obj("a", 5)
    cache.put(given)
    given["metadata"]["labels"] = {"changed": "later"}
    taken = cache.get("team", "a")
    assert taken == obj("a", 5)
    taken["metadata"]["labels"] = {"changed": "later"}
    assert cache.get("team", "a") == obj("a", 5)


def marked(name, version, *marks):
    return {**obj(name, version), "marks": marks}


def test_marks_follow_each_change_and_leave_nothing_behind():
    cache = Cache(marks_of=lambda o: o["marks"])

    def found(mark):
        return [o["metadata"]["name"] for o in cache.marked(mark)]

    cache.put(marked("b", 1, "x", "x"))
    cache.put(marked("a", 2, "x", "y"))
    assert (found("x"), found("y")) == (["a", "b"], ["a"])
    cache.put(marked("a", 3, "y"))
    assert (found("x"), found("y")) == (["b"], ["a"])
    cache.remove(obj("b", 4))
    cache.forget("team", "a", "uid-a")
    assert (found("x"), found("y"), cache._marked) == ([], [], {})
    cache.put(marked("c", 5, "x"))
    take_list(cache, [], "6")
    assert cache._marked == {}
