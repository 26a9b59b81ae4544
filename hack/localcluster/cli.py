"""The command line of `hack/cluster`."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable

from localcluster import checks, cluster, controlplane, deps, images, state
from localcluster.errors import ClusterError
from localcluster.progress import Progress
from localcluster.state import Cluster

DESCRIPTION = """\
A real Kubernetes on this machine, without a container engine.

  hack/cluster up                        start it (the first time: some 20 minutes and 35 GB; then: seconds)
  eval "$(hack/cluster env)"             kubectl, helm, KUBECONFIG and the registry for this shell
  hack/cluster load IMAGE...             bring images built with buildah to the node
  hack/cluster up --control-plane-only   only an API server on loopback: no root, three seconds
  hack/cluster down                      stop it; programs and images stay in the cache
"""


def main() -> int:
    arguments = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background, a shell has SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        return int(arguments.run(arguments) or 0)
    except ClusterError as error:
        print(f"hack/cluster: {error}", file=sys.stderr)
        logs = state.cache_root() / "logs" / getattr(arguments, "name", "")
        print(f"hack/cluster: logs are in {logs}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hack/cluster: interrupted; what had been started is stopped again", file=sys.stderr)
        return 130


def up(arguments: argparse.Namespace) -> None:
    if arguments.control_plane_only:
        started = controlplane.up(arguments.name, Progress(3))
    else:
        started = cluster.up(arguments.name, Progress(cluster.STEPS))
    option = "" if started.name == "luthier" else f" --name {started.name}"
    print(f'cluster {started.name} is up; for this shell: eval "$(hack/cluster env{option})"', file=sys.stderr)


def down(arguments: argparse.Namespace) -> None:
    if not cluster.down(arguments.name, delete=arguments.delete):
        print(f"there is no cluster {arguments.name!r}", file=sys.stderr)


def status(arguments: argparse.Namespace) -> int:
    found = _existing(arguments.name)
    print(cluster.describe(found))
    return 0 if cluster.is_running(found) else 1


def list_(_: argparse.Namespace) -> None:
    for found in state.known():
        kind = "control plane" if found.index is None else f"node, index {found.index}"
        print(f"{found.name:30} {kind:16} {'running' if cluster.is_running(found) else 'stopped'}")


def load(arguments: argparse.Namespace) -> None:
    target = _running(arguments.name)
    progress = Progress(len(arguments.image))
    programs = deps.kube(progress)
    for image in arguments.image:
        with progress.step(f"Loading {image}"):
            images.load(image, target, programs)


def kubeconfig(arguments: argparse.Namespace) -> None:
    print(_running(arguments.name).kubeconfig)


def env(arguments: argparse.Namespace) -> None:
    target = _running(arguments.name)
    progress = Progress(1)
    path = [str(deps.kube(progress) / "clients")]
    values = {"KUBECONFIG": str(target.kubeconfig), "LUTHIER_CLUSTER": target.name}
    if target.index is not None:
        path.append(str(deps.helm(progress).parent))
        values["LUTHIER_REGISTRY"] = target.registry
        values["LUTHIER_NODE_NETWORK"] = f"/run/netns/{target.namespace}"
        values["CONTAINERS_STORAGE_CONF"] = str(images.storage_config())
        ours = f"127.0.0.1,localhost,{target.host_ip},{target.service_cidr},{target.pod_cidr}"
        known = os.environ.get("NO_PROXY", "")
        values["NO_PROXY"] = known if ours in known else ",".join(filter(None, (known, ours)))
        values["no_proxy"] = values["NO_PROXY"]
    for key, value in values.items():
        print(f"export {key}={shlex.quote(value)}")
    print(f"export PATH={shlex.quote(':'.join(path))}:$PATH")


def fetch_dependencies(_: argparse.Namespace) -> None:
    progress = Progress(3)
    with progress.step("Debian packages"):
        checks.ensure_packages(progress)
    cluster.fetch_parts(progress)


def _existing(name: str) -> Cluster:
    found = state.find(name)
    if found is None:
        raise ClusterError(f"there is no cluster {name!r}: `hack/cluster up --name {name}`")
    return found


def _running(name: str) -> Cluster:
    found = _existing(name)
    if not cluster.is_running(found):
        raise ClusterError(f"cluster {name!r} is not running: `hack/cluster up --name {name}`")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/cluster", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        if name not in {"list", "deps"}:
            added.add_argument("--name", default="luthier", help="which cluster (default: luthier)")
        return added

    starter = command("up", up, "start a cluster, or do nothing where it runs")
    starter.add_argument(
        "--control-plane-only", action="store_true", help="no node: an API server on loopback, without root"
    )
    stopper = command("down", down, "stop a cluster; its objects are gone, images stay")
    stopper.add_argument("--delete", action="store_true", help="give up its unpacked images and its addresses too")
    command("status", status, "show the programs of a cluster; exit status 1 where it is not running")
    command("list", list_, "show all clusters of this user")
    command("load", load, "bring images to the node").add_argument("image", nargs="+", help="as named in buildah")
    command("kubeconfig", kubeconfig, "print the path of the kubeconfig")
    command("env", env, "print what a shell needs, for eval")
    command("deps", fetch_dependencies, "only install and build what a cluster is made of")
    return parser
