"""`python -m bench.rollout [--changes 1000] [--rate 40]`: needs root, a node and some ten minutes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import story
from bench import machine
from bench.rollout import path, weights
from luthier_server.config import PORT
from servingnode.world import IMAGE, ServingNode
from standin.model import Behaviour
from waiting import until

Json = dict[str, Any]
MODELS = {"v1": Behaviour(latency_seconds=0.05), "v2": Behaviour(latency_seconds=0.05, answer='{"label": "two"}')}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rollout", description=__doc__)
    parser.add_argument("--cluster", default="luthier-bench")
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second while weights change")
    parser.add_argument("--abrupt", action="store_true", help="write each list of backends at once, for comparison")
    arguments = parser.parse_args()
    with prepared(arguments.cluster) as world:
        say("two revisions serve, half of the traffic each")
        obj, url = world.get("mdep", "support"), world.address()
        names = (obj["status"]["stable"]["name"], obj["status"]["candidate"]["name"])
        say("the way through the gateway against the way around it")
        way = path.measure(direct(world, names[0]), url)
        say(f"{arguments.changes} changes of weight, {arguments.rate:.0f} requests per second; the operator is stopped")
        scale_operator(world, 0)
        kubeconfig = world.env["KUBECONFIG"]
        changed = weights.measure(
            obj,
            names,
            url,
            kubeconfig=kubeconfig,
            changes=arguments.changes,
            rate=arguments.rate,
            abrupt=arguments.abrupt,
        )
        scale_operator(world, 1)
    print(table(way, changed))
    return 1 if changed["failed"] or any(abs(s.deviations) > 4 for s in changed["shares"]) else 0


def say(text: str) -> None:
    print(f"[bench] {text} ({machine.load()})", flush=True)


@contextmanager
def prepared(cluster: str) -> Iterator[ServingNode]:
    """A node with the operator, and a ModelDeployment whose rollout waits at 50 %."""
    story.run("hack/cluster", "up", "--name", cluster)
    story.run("hack/images", "load", "--name", cluster, "operator", "standin")
    env = story.cluster_env(cluster)
    image = f"{IMAGE}:{story.read('hack/images', 'tag', 'standin').strip()}"
    story.install(env, [*story.images_of_this_checkout(), f"--set=image.server={image}"])
    world = ServingNode(env=env, namespace=f"bench-{os.getpid()}", image=image)
    try:
        world.prepare(MODELS)
        analysis = {"intervalSeconds": 2, "metrics": [{"name": "ErrorRate"}]}
        steps = [{"setWeight": 50}, {"pause": {}}]
        rollout = {"steps": steps, "analysis": analysis, "watchAfterPromotionSeconds": 0}
        world.deploy("v1", rollout=rollout)
        until(lambda: world.has_ended(1, "Promoted"), "the first revision serves", seconds=180)
        world.deploy("v2")
        until(lambda: world.weight() == 50, "half of the traffic", seconds=180)
        yield world
    finally:
        world.clear()
        scale_operator(world, 1)


def scale_operator(world: ServingNode, replicas: int) -> None:
    words = ("-n", "luthier-system", "scale", "deploy/luthier", f"--replicas={replicas}", "--timeout=60s")
    world.kubectl(*words)
    world.kubectl("-n", "luthier-system", "rollout", "status", "deploy/luthier", "--timeout=120s")


def direct(world: ServingNode, revision: str) -> str:
    """Return the URL of one revision's Service."""
    (service,) = world.items("service", f"luthier.dev/revision={revision}")
    return f"http://{service['spec']['clusterIP']}:{PORT}"


def table(way: Json, changed: Json) -> str:
    """Return all numbers as Markdown."""
    (d50, d99), (g50, g99) = way["delays"]["direct"], way["delays"]["gateway"]
    rows = [
        ("weight changes, each confirmed by the gateway", f"{changed['changes']}", "1,000"),
        ("requests meanwhile, of them streams", f"{changed['requests']}, {changed['streams']}", ""),
        ("failed requests", str(sum(changed["failed"].values())), "0"),
        (
            "write to confirmation, p50 / p99",
            f"{1000 * changed['confirmed_p50']:.0f} / {1000 * changed['confirmed_p99']:.0f} ms",
            "",
        ),
        *(
            (
                f"share at weight {s.weight} %",
                f"{100 * s.mine / s.all:.2f} % ({s.mine}/{s.all})",
                f"{s.deviations:+.1f} standard deviations",
            )
            for s in changed["shares"]
        ),
        ("throughput through the gateway / direct", f"{way['ratio']:.3f}", "0.98"),
        ("delay direct, p50 / p99", f"{1000 * d50:.1f} / {1000 * d99:.1f} ms", ""),
        ("delay through the gateway, p50 / p99", f"{1000 * g50:.1f} / {1000 * g99:.1f} ms", ""),
    ]
    lines = [f"Machine: {machine.describe()}", "", "| what | measured | goal |", "|---|---|---|"]
    lines += [f"| {what} | {measured} | {goal} |" for what, measured, goal in rows]
    if changed["failed"]:
        lines.append(f"\nFailed: {changed['failed']}")
    return "\n".join(lines)


sys.exit(main())
