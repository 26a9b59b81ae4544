"""hack/cluster as people use it: its command line, with a control plane alone and with a whole node.

The clusters here have names of their own and are deleted afterwards; one named `luthier` is never touched.
"""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster import ControlPlane, cgroups, images, process, state
from localcluster.state import REGISTRY, Cluster

SCRIPT = Path(__file__).parents[2] / "hack" / "cluster"
EXAMPLES = Path(__file__).parent / "hack_cluster"
Kubectl = Callable[..., str]


def hack_cluster(*arguments: str, check: bool = True, timeout: int = 600) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0 or not check, f"hack/cluster {' '.join(arguments)}: {done.stderr}"
    return done


def exports(name: str) -> dict[str, str]:
    """What a shell would get by eval."""
    lines = hack_cluster("env", "--name", name).stdout
    done = subprocess.run(["bash", "-c", f"{lines}\nenv -0"], capture_output=True, text=True, check=True)
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


def kubectl_of(name: str) -> Kubectl:
    env = exports(name)

    def run(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=180, env=env
        )
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


def eventually(condition: Callable[[], object], *, seconds: float = 60) -> None:
    process.wait_until(condition, seconds=seconds, what="the condition of the test", every=0.2)


@pytest.fixture
def name() -> Iterator[str]:
    yield (chosen := f"test-{os.getpid()}")
    hack_cluster("down", "--delete", "--name", chosen)


@pytest.mark.cluster
class TestControlPlaneOnly:
    def test_serves_the_api_and_is_gone_afterwards(self, name):
        hack_cluster("up", "--control-plane-only", "--name", name)
        assert "default" in kubectl_of(name)("get", "namespaces", "-o", "name")
        cluster = state.find(name)
        running = process.records(cluster.pids)
        assert {found.name for found in running} == {"etcd", "kube-apiserver", "kube-controller-manager"}

        hack_cluster("down", "--name", name)
        assert not any(found.is_alive() for found in running)
        assert not cluster.directory.exists()
        assert hack_cluster("status", "--name", name, check=False).returncode == 1

    def test_a_second_start_changes_nothing(self, name):
        hack_cluster("up", "--control-plane-only", "--name", name)
        before = process.records(state.find(name).pids)
        kubectl_of(name)("create", "namespace", "kept")
        hack_cluster("up", "--control-plane-only", "--name", name)
        assert process.records(state.find(name).pids) == before
        assert kubectl_of(name)("get", "namespace", "kept", "-o", "name")

    def test_a_killed_part_is_healed_by_the_next_start(self, name):
        hack_cluster("up", "--control-plane-only", "--name", name)
        cluster = state.find(name)
        next(found for found in process.records(cluster.pids) if found.name == "etcd").signal(signal.SIGKILL)
        eventually(lambda: hack_cluster("status", "--name", name, check=False).returncode == 1)
        hack_cluster("up", "--control-plane-only", "--name", name)
        assert kubectl_of(name)("get", "namespaces")

    def test_controllers_collect_orphans(self, name):
        hack_cluster("up", "--control-plane-only", "--name", name)
        kubectl = kubectl_of(name)
        kubectl("create", "configmap", "owner")
        uid = kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
        child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences": [owner]}}
        kubectl("apply", "-f", "-", stdin=json.dumps(child))
        kubectl("delete", "configmap", "owner")
        eventually(lambda: "child" not in kubectl("get", "configmaps", "-o", "name"))

    def test_two_side_by_side_do_not_meet(self, name):
        with ControlPlane(f"{name}-a") as first, ControlPlane(f"{name}-b") as second:
            run = [str(first.kubectl), "create", "configmap", "only-in-first", f"--kubeconfig={first.kubeconfig}"]
            subprocess.run(run, check=True, capture_output=True)
            listed = subprocess.run(
                [second.kubectl, "get", "configmaps", "-o", "name", f"--kubeconfig={second.kubeconfig}"],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            assert "only-in-first" not in listed
        assert state.find(f"{name}-a") is None

    def test_what_a_killed_test_run_left_is_cleared_by_the_next(self, name):
        program = (
            f"from localcluster import ControlPlane\nwith ControlPlane('{name}'): print('up', flush=True); input()"
        )
        with subprocess.Popen(
            ["python3", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)},
        ) as owner:
            assert owner.stdout.readline() == b"up\n"
            left = process.records(state.find(name).pids)
            owner.kill()
        assert all(found.is_alive() for found in left)
        with ControlPlane(f"{name}-next"):
            assert not any(found.is_alive() for found in left)
            assert state.find(name) is None

    def test_a_failed_start_leaves_nothing_and_names_its_logs(self, name, monkeypatch):
        monkeypatch.setattr("localcluster.controlplane._start_etcd", lambda *_: None)
        monkeypatch.setattr("localcluster.process.wait_for_service", _give_up)
        with pytest.raises(RuntimeError), ControlPlane(name):
            pass
        assert state.find(name) is None
        assert list((state.cache_root() / "logs" / name).iterdir())


def _give_up(*_: object, **__: object) -> None:
    raise RuntimeError


@pytest.fixture(scope="module")
def node() -> Iterator[Cluster]:
    """A whole cluster, for all tests of this file that need one."""
    name = f"test-{os.getpid()}-node"
    hack_cluster("up", "--name", name, timeout=3600)
    started = state.find(name)
    yield started
    hack_cluster("down", "--delete", "--name", name)
    assert not traces_of(started)


@pytest.fixture(scope="module")
def kubectl(node: Cluster) -> Kubectl:
    kubectl = kubectl_of(node.name)
    hack_cluster("load", "--name", node.name, BASE)
    kubectl("apply", "-f", str(EXAMPLES / "servers.yaml"), "-f", str(EXAMPLES / "gateway.yaml"))
    kubectl("wait", "pod/blue", "pod/green", "--for=condition=Ready", "--timeout=120s")
    return kubectl


BASE = f"{REGISTRY}/luthier/base:bookworm-1"


def traces_of(cluster: Cluster) -> list[str]:
    """Everything on this machine that belongs to a cluster's node: mounts, interface, routes, control groups, sockets.

    Control groups lie below a controller's folder (v1) or at the top (v2).
    """
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    routes = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line for line in mounts if f"/{cluster.name}/" in line]
    found += [line for line in routes if line.startswith((cluster.pod_cidr, cluster.service_cidr))]
    found += [str(path) for depth in ("", "*/") for path in cgroups.ROOT.glob(f"{depth}{cluster.namespace}")]
    places = (Path("/run/netns") / cluster.namespace, cluster.runtime, Path(f"/sys/class/net/luthier{cluster.number}"))
    return found + [str(path) for path in places if path.exists()]


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as response:
        return response.read().decode()


def run_python(kubectl: Kubectl, program: str) -> str:
    """Run a program in the pod `blue`."""
    return kubectl("exec", "blue", "--", "python3", "-c", program).strip()


@pytest.mark.node
@pytest.mark.slow
class TestNode:
    def test_a_second_start_finds_it_running(self, node, kubectl):
        before = process.records(node.pids)
        started = time.monotonic()
        hack_cluster("up", "--name", node.name)
        assert time.monotonic() - started < 10
        assert process.records(node.pids) == before

    def test_logs_and_exec_and_port_forward(self, kubectl, node):
        assert "serving" in kubectl("logs", "blue")
        assert kubectl("exec", "blue", "--", "id", "-u").strip() == "65532"
        forward = subprocess.Popen(
            ["kubectl", "port-forward", "pod/blue", ":8000"], stdout=subprocess.PIPE, text=True, env=exports(node.name)
        )
        with forward:
            port = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline()).group(1)
            assert get(f"http://127.0.0.1:{port}") == "blue"
            forward.terminate()

    def test_pods_find_services_and_the_api(self, kubectl):
        read = "import urllib.request; print(urllib.request.urlopen('http://green.default.svc').read().decode())"
        assert run_python(kubectl, read) == "green"
        connect = "import socket; print(socket.create_connection(('kubernetes.default', 443), 5).getpeername()[1])"
        assert run_python(kubectl, connect) == "443"

    def test_pods_have_no_way_out(self, kubectl, node):
        """Neither to the host's own ports nor beyond; 192.0.2.1 is an address that belongs to nobody."""
        for address in (f"('{node.host_ip}', 5000)", "('192.0.2.1', 80)"):
            attempt = f"import socket\ntry: socket.create_connection({address}, 5)\nexcept OSError: print('shut')"
            assert run_python(kubectl, attempt) == "shut"

    def test_a_limit_is_a_limit(self, kubectl):
        command = ["python3", "-c", "bytearray(300 * 2**20)"]
        container = {"name": "main", "image": BASE, "command": command, "resources": {"limits": {"memory": "64Mi"}}}
        spec = {"restartPolicy": "Never", "containers": [container]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "greedy"}, "spec": spec}
        kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        path = "jsonpath={.status.containerStatuses[0].state.terminated.reason}"
        eventually(lambda: kubectl("get", "pod", "greedy", "-o", path) == "OOMKilled")

    def test_a_route_splits_by_weight_and_turns_at_once(self, kubectl):
        kubectl("wait", "gateway/gateway", "--for=condition=Programmed", "--timeout=120s")
        address = kubectl("get", "gateway", "gateway", "-o", "jsonpath={.status.addresses[0].value}")
        eventually(lambda: _answers(address))
        answers = [get(f"http://{address}") for _ in range(200)]
        # Of 200 at 10 %: fewer than 5 or more than 40 comes once in 100,000 runs.
        assert 5 <= answers.count("green") <= 40
        weights = [
            {"op": "replace", "path": f"/spec/rules/0/backendRefs/{i}/weight", "value": w}
            for i, w in ((0, 0), (1, 100))
        ]
        kubectl("patch", "httproute", "route", "--type=json", "-p", json.dumps(weights))
        eventually(lambda: get(f"http://{address}") == "green", seconds=5)
        assert {get(f"http://{address}") for _ in range(50)} == {"green"}

    def test_a_claim_binds_and_its_volume_comes_back_empty(self, kubectl):
        claim = str(EXAMPLES / "claim.yaml")
        for _ in range(2):
            kubectl("apply", "-f", claim)
            kubectl("wait", "pod/writer", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
            assert kubectl("logs", "writer").strip() == "0"
            volume = kubectl("get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}")
            kubectl("delete", "-f", claim)
            phase = ("get", "pv", volume, "-o", "jsonpath={.status.phase}")
            eventually(lambda phase=phase: kubectl(*phase) == "Available", seconds=20)

    def test_prometheus_scrapes_what_asks_for_it(self, kubectl):
        uid = kubectl("get", "pod", "blue", "-o", "jsonpath={.metadata.uid}")
        address = kubectl("get", "service", "prometheus", "-n", "monitoring", "-o", "jsonpath={.spec.clusterIP}")
        query = f"http://{address}:9090/api/v1/query?query=answers_total"
        eventually(lambda: json.loads(get(query))["data"]["result"])
        (series,) = json.loads(get(query))["data"]["result"]
        expected = {"namespace": "default", "pod": "blue", "pod_uid": uid, "luthier_dev_revision": "r1"}
        assert expected.items() <= series["metric"].items()

    def test_a_tag_with_new_content_reaches_the_next_pod(self, kubectl, node):
        image = f"{REGISTRY}/luthier/test-moving:dev"
        for content in ("first", "second"):
            _build(image, content)
            hack_cluster("load", "--name", node.name, image)
            kubectl("run", content, "--restart=Never", f"--image={image}", "--command", "--", "cat", "/content")
            kubectl("wait", f"pod/{content}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
            assert kubectl("logs", content) == content

    def test_killed_with_all_it_has_it_starts_again(self, kubectl, node):
        """Last, since every object is gone afterwards."""
        group = cgroups.Cgroup(node.namespace)
        left = [found.pid for found in process.records(node.pids)]
        for pid in {*left, *group.processes()}:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not group.processes())
        assert traces_of(node), "nothing was left behind: this test shows nothing"

        hack_cluster("up", "--name", node.name)
        kubectl("run", "again", "--restart=Never", f"--image={BASE}", "--command", "--", "true")
        kubectl("wait", "pod/again", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")

    def test_stopped_it_leaves_no_trace(self, node):
        hack_cluster("down", "--name", node.name)
        assert traces_of(node) == []


def _answers(address: str) -> bool:
    try:
        return bool(get(f"http://{address}"))
    except OSError:
        return False


def _build(image: str, content: str) -> None:
    container = images.buildah("from", "--pull-never", images.BASE)
    file = state.cache_root() / "buildah" / f"test-{os.getpid()}"
    file.write_text(content)
    images.buildah("add", "--quiet", container, file, "/content")
    images.buildah("commit", "--quiet", container, image)
    images.buildah("rm", container)
    file.unlink()
