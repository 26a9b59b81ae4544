"""The node's network: a namespace of its own, joined to the host by one veth pair.

Nothing of the host's network or firewall is changed but for that pair and two routes through it, which vanish with it.
Pods reach the API server and nothing else outside of the cluster.
"""

import subprocess
from pathlib import Path

from localcluster.state import Cluster

BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def inside(cluster: Cluster) -> list[str]:
    """Give the words in front of a command that let it run in the node's network.

    nsenter, since `ip netns exec` would mount a fresh /sys, in which kubelet finds no control groups.
    """
    return ["nsenter", f"--net=/run/netns/{cluster.namespace}"]


def create(cluster: Cluster) -> None:
    host_end, node_end = _ends(cluster)
    _run("ip", "netns", "add", cluster.namespace)
    _run("ip", "link", "add", host_end, "type", "veth", "peer", "name", node_end, "netns", cluster.namespace)
    _run("ip", "address", "add", f"{cluster.host_ip}/30", "dev", host_end)
    _run("ip", "link", "set", host_end, "up")
    # The API server reaches pods (`kubectl proxy`, services/proxy), and people pods and Services, by their addresses.
    _run("ip", "route", "add", cluster.pod_cidr, "via", cluster.node_ip)
    _run("ip", "route", "add", cluster.service_cidr, "via", cluster.node_ip)
    node = inside(cluster)
    _run(*node, "ip", "link", "set", "lo", "up")
    _run(*node, "ip", "address", "add", f"{cluster.node_ip}/30", "dev", node_end)
    _run(*node, "ip", "link", "set", node_end, "up")
    # Only so that a connection to a Service has a route to be looked up before kube-proxy's rules turn it elsewhere.
    _run(*node, "ip", "route", "add", cluster.service_cidr, "via", cluster.host_ip)
    _run(*node, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    _run(*node, "sh", "-c", f"echo 1 > {BRIDGE_FILTER}")
    _shut_the_way_out(cluster, node_end)


def remove(cluster: Cluster) -> None:
    """Delete what is there of it; fine on a machine that has none of it."""
    host_end, _ = _ends(cluster)
    _try("ip", "link", "delete", host_end)
    if (Path("/run/netns") / cluster.namespace).exists():
        _try("ip", "netns", "delete", cluster.namespace)


def _ends(cluster: Cluster) -> tuple[str, str]:
    return f"luthier{cluster.number}", "node0"


def _shut_the_way_out(cluster: Cluster, node_end: str) -> None:
    def forward(*rule: str) -> None:
        _run(*inside(cluster), "iptables", "-w", "-A", "FORWARD", "-o", node_end, *rule)

    forward("-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
    forward("-d", cluster.host_ip, "-p", "tcp", "--dport", "6443", "-j", "ACCEPT")
    forward("-j", "REJECT")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _try(*command: str) -> None:
    subprocess.run(command, check=False, capture_output=True)
