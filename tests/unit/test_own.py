"""Our own objects: what changes is enqueued, together with whoever waits for it."""

import pytest

from luthier.own import OwnCache, References, key_of
from luthier.plan import Key


def obj(kind, name, version, namespace="team"):
    metadata = {"namespace": namespace, "name": name, "uid": f"{kind}-{name}", "resourceVersion": str(version)}
    return {"kind": kind, "metadata": metadata}


JOB = obj("FineTuneJob", "tune", 1)
EVALUATION = Key(kind="Evaluation", namespace="team", name="judge")


@pytest.fixture
def queue():
    return []


@pytest.fixture
def own(queue):
    return OwnCache(enqueue=queue.append)


def test_an_object_that_changes_wakes_itself_and_those_that_refer_to_it(own, queue):
    own.references.set(EVALUATION, [key_of(JOB)])
    own.saw("ADDED", JOB)
    assert queue == [key_of(JOB), EVALUATION]
    assert own.get(key_of(JOB)) == JOB


def test_an_event_that_says_nothing_new_wakes_nobody(own, queue):
    own.saw(None, JOB)
    own.wrote(obj("FineTuneJob", "tune", 5))
    queue.clear()
    own.saw("MODIFIED", obj("FineTuneJob", "tune", 5))
    own.saw("MODIFIED", obj("FineTuneJob", "tune", 3))
    assert queue == []


def test_a_deletion_wakes_those_who_refer_to_it(own, queue):
    own.saw("ADDED", JOB)
    own.references.set(EVALUATION, [key_of(JOB)])
    queue.clear()
    own.saw("DELETED", obj("FineTuneJob", "tune", 2))
    assert queue == [key_of(JOB), EVALUATION]
    assert own.get(key_of(JOB)) is None


def test_each_namespace_has_its_own_list(queue):
    own = OwnCache(enqueue=queue.append, namespaces=["team", "other"])
    own.saw("ADDED", JOB)
    own.saw("ADDED", obj("FineTuneJob", "tune", 2, namespace="other"))
    assert {str(key) for key in own.all_keys()} == {"FineTuneJob/team/tune", "FineTuneJob/other/tune"}


def test_references_follow_the_newest_pass_and_leave_nothing_behind():
    references = References()
    a, b, c = (Key(kind="FineTuneJob", namespace="team", name=name) for name in "abc")
    references.set(EVALUATION, [a, b])
    references.set(EVALUATION, [b, c])
    assert references.of(a) == ()
    assert references.of(b) == references.of(c) == (EVALUATION,)
    references.set(EVALUATION, [])
    assert references.of(b) == ()
    assert references._backward == {}
    assert references._forward == {}


def test_what_nobody_reads_and_is_half_of_an_object_is_not_kept(own):
    seen = obj("FineTuneJob", "tune", 1)
    seen["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    own.saw("ADDED", seen)
    assert own.get(key_of(JOB)) == JOB
    assert "managedFields" in seen["metadata"], "the watch goes on with the whole object"
