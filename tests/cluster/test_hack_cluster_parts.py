"""The parts of hack/cluster that need no cluster: records of processes, places, the cache, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from localcluster import checks, deps, images, process, recycler, state
from localcluster.errors import ClusterError
from localcluster.progress import Progress


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "luthier"


@pytest.fixture
def sleeper(tmp_path):
    started = process.spawn("sleeper", ["sleep", "60"], pids=tmp_path / "pids", logs=tmp_path / "logs")
    yield started
    process.stop([started], grace_seconds=0.1)


class TestProcess:
    def test_a_record_finds_its_process_again(self, sleeper, tmp_path):
        assert process.records(tmp_path / "pids") == [sleeper]
        assert sleeper.is_alive()

    def test_stopping_ends_it(self, sleeper):
        process.stop([sleeper])
        assert not sleeper.is_alive()

    def test_one_that_ignores_the_request_is_killed(self, tmp_path):
        command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"]
        stubborn = process.spawn("stubborn", command, pids=tmp_path / "pids", logs=tmp_path / "logs")
        process.wait_until(lambda: _ignores(stubborn.pid, signal.SIGTERM), seconds=10, what="the handler")
        process.stop([stubborn], grace_seconds=0.1)
        assert not stubborn.is_alive()

    def test_a_pid_that_came_back_for_another_process_is_left_alone(self, sleeper):
        earlier = process.Process(name="etcd", pid=sleeper.pid, started="1")
        process.stop([earlier])
        assert sleeper.is_alive()

    def test_an_interrupted_program_may_put_its_things_away(self, tmp_path):
        child = "import time\ntry: print('up', flush=True); time.sleep(60)\nfinally: time.sleep(1); open('tidy', 'w')"
        code = (
            f"from localcluster.process import run_patiently as run; import sys; run([sys.executable, '-c', {child!r}])"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        parent = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert parent.stdout.readline() == b"up\n"
        os.killpg(parent.pid, signal.SIGINT)
        parent.communicate(timeout=30)
        assert (tmp_path / "tidy").exists()

    def test_a_record_of_an_earlier_boot_counts_as_none(self, sleeper, tmp_path):
        record = tmp_path / "pids" / "sleeper"
        record.write_text(record.read_text().splitlines()[0] + "\n00000000-0000-0000-0000-000000000000\n")
        assert process.read_record(record) is None

    def test_a_torn_record_counts_as_none(self, tmp_path):
        (tmp_path / "etcd").write_text("4711 (etc")
        assert process.read_record(tmp_path / "etcd") is None

    def test_a_program_that_ends_while_starting_is_reported_with_its_last_words(self, tmp_path):
        failing = process.spawn(
            "failing", ["sh", "-c", "echo out of cheese; exit 3"], pids=tmp_path, logs=tmp_path / "logs"
        )
        with pytest.raises(ClusterError, match=r"(?s)failing ended while starting.*out of cheese"):
            process.wait_for_service(failing, lambda: False, seconds=10, what="cheese", logs=tmp_path / "logs")


class TestPlaces:
    def test_clusters_get_places_of_their_own(self):
        first, second = state.claim("first", with_node=True), state.claim("second", with_node=True)
        assert first.host_ip != second.host_ip
        assert first.pod_cidr != second.pod_cidr
        assert first.service_cidr != second.service_cidr

    def test_a_name_keeps_its_place(self):
        first = state.claim("first", with_node=True)
        state.claim("second", with_node=True)
        assert state.claim("first", with_node=True) == first

    def test_a_deleted_cluster_gives_its_place_back(self):
        first = state.claim("first", with_node=True)
        first.forget(keep_images=False)
        assert state.claim("second", with_node=True).index == first.index
        assert state.find("first") is None

    def test_forgetting_keeps_what_the_node_has_unpacked(self):
        cluster = state.claim("first", with_node=True)
        for folder in ("containerd", "etcd"):
            (cluster.directory / folder).mkdir()
        cluster.forget(keep_images=True)
        assert {path.name for path in cluster.directory.iterdir()} == {"cluster.json", "containerd"}

    def test_one_name_is_not_both_kinds(self):
        state.claim("first", with_node=False)
        with pytest.raises(ClusterError, match="'first' is a control plane only"):
            state.claim("first", with_node=True)

    def test_addresses_that_the_machine_routes_elsewhere_are_left_alone(self):
        routes = "default via 192.0.2.1 dev eth0\n10.244.1.0/24 dev flannel0\n10.96.8.0/21 via 10.1.1.1 dev tun0\n"
        assert [index for index in range(5) if state.is_free(index, routes)] == [0, 4]
        assert not state.is_free(0, "unreachable 10.0.0.0/8\n10.240.0.0/30 dev luthier0")

    @pytest.mark.parametrize("name", ["", "../x", "Upper", "-a", "a" * 41])
    def test_a_name_that_is_no_file_name_is_refused(self, name):
        with pytest.raises(ClusterError, match="cluster name"):
            state.claim(name, with_node=False)

    def test_an_owner_is_dead_when_its_pid_belongs_to_another(self):
        assert state.Owner.current().is_alive()
        assert not state.Owner(pid=os.getpid(), started="1").is_alive()


class TestCache:
    def test_a_build_appears_whole(self, cache):
        def build(folder: Path) -> None:
            assert not (cache / "tool").exists()
            (folder / "tool").write_text("binary")

        assert (deps.build_once(cache / "tool", build) / "tool").read_text() == "binary"

    def test_a_failed_build_leaves_nothing_that_looks_finished(self, cache):
        def build(folder: Path) -> None:
            (folder / "half").touch()
            raise RuntimeError

        with pytest.raises(RuntimeError):
            deps.build_once(cache / "tool", build)
        assert [path.name for path in cache.iterdir()] == [".tool.lock"]

    def test_what_a_killed_build_left_is_not_taken_over(self, cache):
        killed = cache / ".tool.unfinished"
        killed.mkdir(parents=True)
        (killed / "half").touch()
        built = deps.build_once(cache / "tool", lambda folder: (folder / "whole").touch())
        assert [path.name for path in built.iterdir()] == ["whole"]

    def test_a_finished_build_is_not_repeated(self, cache):
        (cache / "tool").mkdir(parents=True)
        deps.build_once(cache / "tool", lambda _: pytest.fail("built again"))


class TestRefusals:
    def test_a_node_without_root(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(ClusterError, match=r"needs root.*--control-plane-only"):
            checks.check_machine()

    def test_too_little_disk(self, monkeypatch):
        monkeypatch.setattr(checks, "COLD_DISK", 2**60)
        with pytest.raises(ClusterError, match=r"GiB free on the disk of .* needed"):
            checks.check_disk()

    def test_what_the_cache_holds_already_is_not_asked_for_again(self, cache, monkeypatch):
        cache.mkdir(parents=True)
        (cache / "programs").write_bytes(b"x" * 4_000_000)
        free = shutil.disk_usage(cache).free
        monkeypatch.setattr(checks, "WARM_DISK", 0)
        monkeypatch.setattr(checks, "COLD_DISK", free + 2_000_000)
        checks.check_disk()

    def test_too_little_memory(self):
        with pytest.raises(ClusterError, match=r"GiB of memory available, .* needed for the demo"):
            checks.check_memory(2**60, purpose="the demo")

    def test_an_old_go_that_may_fetch_no_newer_one(self, tmp_path, monkeypatch):
        go = tmp_path / "go"
        go.write_text("#!/bin/sh\nprintf 'go1.24.2\\nlocal\\n'\n")
        go.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        with pytest.raises(ClusterError, match=r"is go1\.24\.2: install Go 1\.26"):
            deps._go()

    def test_the_services_ban_of_a_killed_start_is_lifted_by_the_next(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checks, "_POLICY", tmp_path / "policy-rc.d")
        assert checks._forbid_services()
        assert checks._forbid_services(), "ours, left over"
        checks._POLICY.write_text("#!/bin/sh\nexit 0\n")
        assert not checks._forbid_services(), "somebody else's stays"

    def test_missing_programs_where_there_is_no_apt(self, monkeypatch):
        monkeypatch.setattr(checks.shutil, "which", lambda *_, **__: None)
        with pytest.raises(ClusterError, match=r"install \(by their Debian names\) .*buildah"):
            checks.ensure_packages(Progress(1, quiet=True))

    def test_an_unknown_command_line_is_no_traceback(self):
        done = subprocess.run([_script(), "status", "--name", "nobody"], capture_output=True, text=True)
        assert done.returncode == 1
        assert "there is no cluster 'nobody'" in done.stderr
        assert "Traceback" not in done.stderr


class TestRecycler:
    def test_empties_and_frees_released_volumes_only(self, tmp_path):
        root = tmp_path / "volumes"
        for number in ("00", "01"):
            (root / number / "sub").mkdir(parents=True)
        api = FakeApi([_volume("00", root, "Released"), _volume("01", root, "Bound")])
        assert recycler.recycle(api, root) == 1
        assert list((root / "00").iterdir()) == []
        assert (root / "00").stat().st_mode & 0o777 == 0o777
        assert (root / "01" / "sub").exists()
        assert api.patched == {"/api/v1/persistentvolumes/local-00": {"spec": {"claimRef": None}}}

    def test_never_empties_a_folder_outside_of_its_own(self, tmp_path):
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "file").touch()
        with pytest.raises(ValueError, match="not directly in"):
            recycler.recycle(FakeApi([_volume("precious", tmp_path, "Released")]), tmp_path / "volumes")
        assert (precious / "file").exists()


@pytest.mark.parametrize(
    "image",
    ["luthier/operator:dev", "localhost/luthier/operator:dev", "registry.luthier.local:5000/luthier/operator:dev"],
)
def test_an_image_has_one_place_in_the_registry_whatever_it_is_called_by(image):
    assert images.path_in_registry(image) == "luthier/operator:dev"


class FakeApi:
    def __init__(self, volumes):
        self._volumes = volumes
        self.patched = {}

    def get(self, _):
        return {"items": json.loads(json.dumps(self._volumes))}

    def patch(self, path, body):
        self.patched[path] = body


def _volume(name, root, phase):
    return {
        "metadata": {"name": f"local-{name}"},
        "spec": {"local": {"path": str(root / name)}},
        "status": {"phase": phase},
    }


def _ignores(pid, number):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line.split()[1] for line in status if line.startswith("SigIgn:"))
    return int(mask, 16) >> (number - 1) & 1


def _script():
    return Path(__file__).parents[2] / "hack" / "cluster"
