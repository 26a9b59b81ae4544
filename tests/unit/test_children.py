"""When is a live child what the manifest asks for? Defaults are no difference; edits are."""

import copy

import pytest

from luthier.children import APPLIED, Children, says, stamped, verify
from luthier.errors import NameConflict

MANIFEST = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "serve",
        "namespace": "team",
        "labels": {"app": "x"},
        "ownerReferences": [{"uid": "u-1", "controller": True}],
    },
    "spec": {
        "replicas": 2,
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "server",
                        "image": "i:1",
                        "env": [{"name": "A", "value": "1"}, {"name": "EMPTY", "value": ""}],
                        "args": ["--port", "8000"],
                        "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
                    }
                ],
                "volumes": [],
                "hostNetwork": False,
            }
        },
    },
}


def live(change=None):
    """Return the child as the API server shows it, with defaults, other managers' fields and its own spelling."""
    obj = stamped(copy.deepcopy(MANIFEST))
    obj = copy.deepcopy(obj)
    obj["metadata"] |= {"uid": "c-1", "resourceVersion": "7", "generation": 1}
    obj["spec"]["strategy"] = {"type": "RollingUpdate"}
    pod = obj["spec"]["template"]["spec"]
    pod["restartPolicy"] = "Always"
    del pod["volumes"], pod["hostNetwork"]
    container = pod["containers"][0]
    container["imagePullPolicy"] = "IfNotPresent"
    container["resources"]["limits"] = {"cpu": "500m", "memory": "1Gi"}
    del container["env"][1]["value"]
    pod["containers"].insert(0, {"name": "injected", "image": "mesh"})
    if change:
        change(obj)
    return obj


def test_defaults_spelling_and_what_others_added_are_no_difference():
    assert says(live(), stamped(MANIFEST))


def server(obj):
    return obj["spec"]["template"]["spec"]["containers"][1]


@pytest.mark.parametrize(
    "edit",
    [
        lambda o: o["spec"].update(replicas=3),
        lambda o: o["metadata"]["labels"].clear(),
        lambda o: server(o).update(image="i:2"),
        lambda o: server(o)["env"].pop(0),
        lambda o: server(o)["args"].reverse(),
        lambda o: server(o)["args"].append("--debug"),
        lambda o: server(o)["resources"]["limits"].update(memory="2Gi"),
        lambda o: o["spec"]["template"]["spec"]["containers"].pop(1),
        lambda o: o["spec"]["template"]["spec"].update(hostNetwork=True),
        lambda o: o["metadata"].pop("annotations"),
        lambda o: o["metadata"]["annotations"].update({APPLIED: "sha256:another manifest"}),
    ],
)
def test_every_edit_of_what_we_wrote_is_a_difference(edit):
    assert not says(live(edit), stamped(MANIFEST))


def test_a_dropped_field_is_seen_by_the_digest_alone():
    without = copy.deepcopy(MANIFEST)
    del without["spec"]["replicas"]
    assert not says(live(), stamped(without))


def test_atomic_lists_may_hold_nothing_else():
    wanted = {"backendRefs": [{"name": "a", "weight": 90}]}
    seen = {"backendRefs": [{"name": "a", "weight": 90, "kind": "Service"}, {"name": "b", "weight": 10}]}
    assert says(seen, wanted)
    assert not says(seen, wanted, whole_lists=True)
    assert says({"backendRefs": seen["backendRefs"][:1]}, wanted, whole_lists=True)


@pytest.mark.parametrize(
    ("seen", "wanted", "equal"),
    [
        ("500m", "0.5", True),
        ("1Gi", "1024Mi", True),
        ("1", 1, True),
        ("2", "1999m", False),
        ("latest", "1", False),
        ("NaN", "NaN2", False),
        (True, "1", False),
    ],
)
def test_quantities_compare_as_numbers(seen, wanted, equal):
    assert says(seen, wanted) is equal


def test_stamping_is_deterministic_and_leaves_its_argument_alone():
    before = copy.deepcopy(MANIFEST)
    assert stamped(MANIFEST) == stamped(copy.deepcopy(MANIFEST))
    assert before == MANIFEST


@pytest.mark.parametrize("references", [[], [{"uid": "u-2", "controller": True}], [{"uid": "u-1"}]])
def test_an_object_that_the_owner_does_not_control_is_a_conflict_that_names_it(references):
    with pytest.raises(NameConflict, match="Deployment named serve"):
        verify(MANIFEST, {"metadata": {"ownerReferences": references}})


def test_our_own_child_is_none():
    verify(MANIFEST, live())


class Api:
    """An API server and a store that have one child, or none; notes what is applied."""

    def __init__(self, child=None):
        self.child = child
        self.applied = []

    def find(self, resource, namespace, name):
        return self.child

    async def get(self, resource, namespace, name):
        return self.child

    async def apply(self, manifest, *, force=True):
        self.applied.append((manifest["metadata"].get("uid"), force))
        return manifest

    def wrote(self, obj):
        pass


@pytest.mark.parametrize(
    ("child", "applied"),
    [
        pytest.param(None, [(None, False)], id="a new child takes nothing from one that was made in between"),
        pytest.param(live(lambda o: o["spec"].update(replicas=3)), [("c-1", True)], id="an edited child is put right"),
        pytest.param(live(), [], id="a child that is as it should be is left alone"),
    ],
)
async def test_our_fields_win_over_others_only_in_our_own_child(child, applied):
    api = Api(child)
    await Children(api, api).ensure(MANIFEST)
    assert api.applied == applied
