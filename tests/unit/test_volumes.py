"""URIs become volumes, mounts and paths; quantities become numbers."""

from decimal import Decimal

import pytest

from luthier.api.base import Resources, Scheduling
from luthier.podspec import build_pod_spec, choose_resources, parse_quantity, requested, whole_cpus
from luthier.volumes import claim_mounts, claim_volumes, container_path, locate, scratch_mounts, scratch_volumes, uri_of


@pytest.mark.parametrize(
    ("uri", "claim", "path", "inside"),
    [
        ("pvc://models/base/smol", "models", "base/smol", "/mnt/claims/models/base/smol"),
        ("pvc://models", "models", "", "/mnt/claims/models"),
        ("pvc://a.b/c", "a.b", "c", "/mnt/claims/a.b/c"),
    ],
)
def test_a_uri_is_split_into_claim_and_path(uri, claim, path, inside):
    location = locate(uri)
    assert (location.claim, location.path, location.uri) == (claim, path, uri)
    assert container_path(uri) == inside
    assert uri_of(inside) == uri


@pytest.mark.row(71)
def test_another_scheme_is_refused():
    with pytest.raises(ValueError, match="s3://bucket"):
        locate("s3://bucket/x")


def test_a_child_of_the_claims_root_has_no_double_slash():
    assert locate("pvc://out").child("runs", "x").uri == "pvc://out/runs/x"
    assert locate("pvc://out/a").child("b").container_path == "/mnt/claims/out/a/b"


def test_a_claim_used_twice_is_one_volume():
    assert [v["persistentVolumeClaim"]["claimName"] for v in claim_volumes(["b", "a", "b"])] == ["a", "b"]


def test_only_written_claims_are_mounted_writable():
    mounts = {m["mountPath"]: m.get("readOnly", False) for m in claim_mounts(["a", "b"], writable=["b", "c"])}
    assert mounts == {"/mnt/claims/a": True, "/mnt/claims/b": False, "/mnt/claims/c": False}


def test_mounts_name_the_volumes_and_names_are_dns_labels():
    claim = "a." + "x" * 200
    (volume,) = claim_volumes([claim])
    (mount,) = claim_mounts([claim])
    assert volume["name"] == mount["name"]
    assert len(volume["name"]) <= 63
    assert "." not in volume["name"]


def test_shared_memory_is_asked_for_by_name():
    assert [v["name"] for v in scratch_volumes()] == ["tmp"]
    assert [m["mountPath"] for m in scratch_mounts(shm=True)] == ["/tmp", "/dev/shm"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("1.5", "1.5"),
        ("4Gi", str(4 * 2**30)),
        ("3k", "3000"),
        ("10M", "10000000"),
        ("1Pi", str(2**50)),
        ("2e3", "2000"),
    ],
)
def test_quantities_are_numbers(text, value):
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "latest", "Gi", "NaN", "1e999999999"])
def test_what_is_no_quantity_is_an_error(text):
    with pytest.raises(ValueError, match="not a quantity"):
        parse_quantity(text)


def test_the_objects_resources_win_whole():
    default = Resources(requests={"cpu": "1"}, limits={"cpu": "2"})
    wanted = Resources(limits={"cpu": "4", "nvidia.com/gpu": "2"})
    assert choose_resources(None, default) is default
    assert choose_resources(Resources(), default) is default
    assert choose_resources(wanted, default) is wanted
    assert requested(wanted, "nvidia.com/gpu") == 2
    assert requested(default, "nvidia.com/gpu") == 0
    assert requested(default, "cpu") == 1


@pytest.mark.parametrize(
    ("resources", "cpus"),
    [
        (Resources(limits={"cpu": "3500m"}), 3),
        (Resources(requests={"cpu": "200m"}), 1),
        (Resources(), 1),
    ],
)
def test_threads_are_whole_cpus_and_at_least_one(resources, cpus):
    assert whole_cpus(resources) == cpus


def test_scheduling_is_spelled_as_in_a_pod():
    scheduling = Scheduling(node_selector={"pool": "gpu"}, priority_class_name="high")
    spec = build_pod_spec(containers=[], volumes=[], scheduling=scheduling, grace_seconds=30)
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["priorityClassName"] == "high"
    assert "initContainers" not in spec
