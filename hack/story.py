"""The demo's story, step by step: what `hack/demo` tells and the end-to-end test asserts.

Every change to the cluster is a `kubectl` line that a user could type; it is printed before it runs. Waiting is on
a condition with a deadline, and says how far things are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localcluster.process import run_patiently

ROOT = Path(__file__).resolve().parent.parent
Json = dict[str, Any]


class StoryError(Exception):
    """A step failed; the message says what to do."""


@dataclass(kw_only=True)
class Story:
    """One run of the demo in one namespace."""

    folder: str
    """Below examples/: `demo` or `tiny`."""
    namespace: str
    env: dict[str, str]
    """Environment of kubectl: KUBECONFIG and PATH."""
    enter: str = ""
    """What a user types first, so that the printed lines work in a shell."""
    total: int = 9
    quiet: bool = False
    started: float = field(default_factory=time.monotonic)
    timings: dict[str, float] = field(default_factory=dict)
    _step: int = 0
    _exposed_at: float | None = None

    # -- saying -------------------------------------------------------------------------------------

    def say(self, text: str = "") -> None:
        if not self.quiet:
            print(f"{int(time.monotonic() - self.started):5d}s  {text}", flush=True)

    def step(self, title: str) -> None:
        self._step += 1
        if not self.quiet:
            print(flush=True)
        self.say(f"[{self._step}/{self.total}] {title}")

    # -- kubectl ------------------------------------------------------------------------------------

    def kubectl(self, *args: str, check: bool = True, timeout: float = 120) -> str:
        """Run kubectl. Only a machine that stands still makes it hang; then once more is right."""
        command = ["kubectl", *args]
        for last in (False, False, True):
            try:
                done = subprocess.run(
                    command, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
                )
                break
            except subprocess.TimeoutExpired as error:
                if last:
                    raise StoryError(f"kubectl {' '.join(args)}: no answer in {timeout:.0f} s, three times") from error
        if check and done.returncode:
            raise StoryError(f"kubectl {' '.join(args)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, file: str) -> None:
        path = f"examples/{self.folder}/{file}"
        self.say(f"$ kubectl apply -f {path}")
        self.kubectl("apply", "-f", str(ROOT / path))

    def delete(self, kind: str, name: str, *, namespace: str | None = None) -> None:
        """Delete what an earlier run left, and say so; nothing is said where there is nothing."""
        namespace = namespace or self.namespace
        if self.kubectl("-n", namespace, "get", kind, name, "--ignore-not-found", "-o", "name").strip():
            self.say(f"$ kubectl -n {namespace} delete {kind} {name}")
            self.kubectl("-n", namespace, "delete", kind, name, "--ignore-not-found", "--wait=true")

    def get(self, kind: str, name: str) -> Json:
        """Return the object, or an empty dict when there is none."""
        out = self.kubectl("-n", self.namespace, "get", kind, name, "-o", "json", "--ignore-not-found")
        parsed: Json = json.loads(out) if out.strip() else {}
        return parsed

    def status(self, kind: str, name: str) -> Json:
        status: Json = self.get(kind, name).get("status", {})
        return status

    # -- waiting ------------------------------------------------------------------------------------

    def wait(self, what: str, look: Callable[[], tuple[bool, str]], *, seconds: float, every: float = 2.0) -> None:
        """Call `look` until it says done; print its line when it changes."""
        deadline = time.monotonic() + seconds
        last = ""
        while True:
            done, line = look()
            if line and line != last:
                self.say(f"      {line}")
                last = line
            if done:
                return
            if time.monotonic() > deadline:
                raise StoryError(
                    f"{what}: not there after {seconds:.0f} s; last seen: {last or 'nothing'}. {self._help()}"
                )
            time.sleep(every)

    def _help(self) -> str:
        lines = (
            self.enter,
            f"kubectl -n {self.namespace} describe ftj,evl,mdep",
            f"kubectl -n {self.namespace} get pods",
            "kubectl -n luthier-system logs deploy/luthier",
        )
        return "Look at:" + "".join(f"\n  {line}" for line in lines if line)

    def _start_over(self, kind: str, name: str) -> str:
        """Say how to get out of an object that has ended badly: applying it again changes nothing."""
        return f"{self._help()}\nThen: kubectl -n {self.namespace} delete {kind} {name}, and run it again"

    def timed(self, name: str, begin: float) -> None:
        self.timings[name] = time.monotonic() - begin

    # -- the steps ----------------------------------------------------------------------------------

    def prepare_namespace(self) -> None:
        """Namespace, claim, gateway, model and data."""
        begin = time.monotonic()
        self.step("Namespace, claim, gateway; base model and tickets onto the claim")
        self.apply("00-namespace.yaml")
        self.apply("01-assets.yaml")
        self.wait("the assets Job", self._job_done("assets"), seconds=600)
        self.timed("assets", begin)

    def _job_done(self, name: str) -> Callable[[], tuple[bool, str]]:
        def look() -> tuple[bool, str]:
            status = self.status("job", name)
            if status.get("failed", 0) > 2:
                said = self.kubectl("-n", self.namespace, "logs", f"job/{name}", "--tail=5", check=False).strip()
                raise StoryError(f"Job {name} failed: {said}\n{self._start_over('job', name)}")
            return status.get("succeeded", 0) > 0, f"Job {name}: {'done' if status.get('succeeded') else 'running'}"

        return look

    def fine_tune(self, name: str = "tickets") -> Json:
        """(a) Train the adapter; return the job's status."""
        begin = time.monotonic()
        self.step("Fine-tune: check the data, then LoRA")
        self.apply("02-finetune.yaml")
        self.wait(f"FineTuneJob {name}", lambda: self._fine_tuned(name), seconds=1800)
        status = self.status("ftj", name)
        data, artifact = status["dataset"], status["artifact"]
        self.say(f"      data: {data['train']} rows, {data['trainTokens']} tokens, digest {data['digest'][:19]}")
        self.say(f"      artifact: {artifact['uri']}  {artifact['digest'][:19]}  cost {_cost(status)}")
        self.timed("finetune", begin)
        return status

    def _fine_tuned(self, name: str) -> tuple[bool, str]:
        status = self.status("ftj", name)
        summary = condition(status, "Succeeded")
        if condition(status, "Stalled").get("status") == "True":
            raise StoryError(f"FineTuneJob {name}: {summary.get('message')}\n{self._start_over('ftj', name)}")
        progress = status.get("progress") or {}
        line = summary.get("message", "")
        if progress.get("step"):
            line = (
                f"step {progress['step']}/{progress['of']}  {progress['percent']} %  loss {progress.get('loss', '-')}"
                f"  {progress.get('estimatedRemainingSeconds', '?')} s left"
            )
        return summary.get("status") == "True", line

    def evaluate(self, file: str, name: str, title: str) -> Json:
        """(b) Judge exactly these weights; return the evaluation's status."""
        begin = time.monotonic()
        self.step(title)
        self.apply(file)
        self.wait(f"Evaluation {name}", lambda: self._evaluated(name), seconds=2400)
        status = self.status("evl", name)
        for line in table(status):
            self.say(f"      {line}")
        for gate in status.get("gates", []):
            self.say(f"      gate {gate['outcome']}: {gate['message']}")
        self.timed(f"evaluation-{name}", begin)
        return status

    def _evaluated(self, name: str) -> tuple[bool, str]:
        status = self.status("evl", name)
        summary = condition(status, "Succeeded")
        if condition(status, "Stalled").get("status") == "True":
            raise StoryError(f"Evaluation {name}: {summary.get('message')}\n{self._start_over('evl', name)}")
        return bool(status.get("verdict")), summary.get("message", "")

    def deploy_first(self, name: str = "support") -> Json:
        """(c) The first revision gets all traffic after the gate and readiness."""
        begin = time.monotonic()
        self.step("First deployment: gate, readiness, 100 %")
        self.delete("mdep", name)
        self.apply("04-deployment.yaml")
        self.wait(f"ModelDeployment {name}", lambda: self._promoted(name, number=1), seconds=1500)
        self.timed("first-deployment", begin)
        return self.status("mdep", name)

    def start_clients(self) -> None:
        self.step("Clients: real tickets through the gateway")
        self.delete("deploy", "clients")
        self.apply("05-clients.yaml")
        self.wait("the first answers", self._answered, seconds=300)

    def _answered(self) -> tuple[bool, str]:
        totals = self.client_totals()
        ok = sum(counts.get("ok", 0) for counts in totals.get("revisions", {}).values())
        return ok >= 5, f"{ok} tickets answered"

    def client_totals(self) -> Json:
        """Return the clients' newest line of totals, or an empty dict."""
        out = self.kubectl("-n", self.namespace, "logs", "deploy/clients", "--tail=1", check=False).strip()
        try:
            parsed: Json = json.loads(out)
        except ValueError:
            return {}
        return parsed

    def roll_out(self, name: str = "support") -> Json:
        """(c) A second revision takes over by steps."""
        begin = time.monotonic()
        self.step("Rollout under traffic: 10 %, 50 %, 100 %")
        self.apply("06-rollout.yaml")
        self.wait(f"ModelDeployment {name}", lambda: self._promoted(name, number=2), seconds=2400)
        self.timed("rollout", begin)
        return self.status("mdep", name)

    def _promoted(self, name: str, *, number: int) -> tuple[bool, str]:
        status = self.status("mdep", name)
        stable = status.get("stable") or {}
        candidate = status.get("candidate")
        ready = condition(status, "Ready")
        newest = (status.get("history") or [{}])[0]
        if newest.get("outcome") == "RolledBack" and newest.get("revision", "").startswith(f"r{number}-"):
            raise StoryError(f"revision {number} was taken back: {newest.get('message')} {self._help()}")
        done = stable.get("number") == number and candidate is None and ready.get("status") == "True"
        return done, self.rollout_line(status)

    def rollout_line(self, status: Json) -> str:
        rollout, weights = status.get("rollout") or {}, status.get("weights") or {}
        if not rollout:
            return condition(status, "Ready").get("message", "")
        return (
            f"{(status.get('candidate') or {}).get('name')}  step {rollout.get('step')}/{len(rollout.get('steps', []))}"
            f"  weight {weights.get('candidate', 0)} %  {status.get('verdict') or ''}"
        )

    def unfit_successor(self, name: str = "support") -> Json:
        """(d) A successor that passed its Evaluation and refuses real tickets is taken back."""
        begin = time.monotonic()
        self.step("An unfit successor: passed its Evaluation, refuses real tickets")
        self.apply("08-unfit-rollout.yaml")
        self.wait(f"ModelDeployment {name}", lambda: self._rolled_back(name, number=3), seconds=2400, every=1.0)
        status = self.status("mdep", name)
        entry = status["history"][0]
        totals = self.client_totals().get("revisions", {}).get(entry["revision"], {})
        refused = sum(n for outcome, n in totals.items() if outcome != "ok")
        self.say(f"      {entry['outcome']} {entry['revision']}: {entry['message']}")
        self.say(f"      {self._exposed_seconds():.0f} s from its first share of traffic to weight 0")
        self.say(f"      clients saw {refused} refused of {sum(totals.values())} requests to {entry['revision']}")
        self.timed("rollback", begin)
        return status

    def _rolled_back(self, name: str, *, number: int) -> tuple[bool, str]:
        status = self.status("mdep", name)
        if self._exposed_at is None and (status.get("weights") or {}).get("candidate"):
            self._exposed_at = time.monotonic()
        newest = (status.get("history") or [{}])[0]
        mine = newest.get("revision", "").startswith(f"r{number}-")
        if mine and newest.get("outcome") == "Promoted":
            raise StoryError(f"the unfit revision was promoted: {newest.get('message')} {self._help()}")
        done = mine and newest.get("outcome") == "RolledBack" and (status.get("weights") or {}).get("stable") == 100
        return done, self.rollout_line(status)

    def _exposed_seconds(self) -> float:
        return time.monotonic() - self._exposed_at if self._exposed_at is not None else 0.0

    def stop_clients(self) -> None:
        self.delete("deploy", "clients")


def condition(status: Json, kind: str) -> Json:
    """Return the condition of this type, or an empty dict."""
    found: Json = next((c for c in status.get("conditions", []) if c["type"] == kind), {})
    return found


def table(status: Json) -> list[str]:
    """Return the evaluation's numbers as aligned lines."""
    rows = [("suite", "metric", "cases", "tuned", "baseline", "its value", "difference")]
    for suite in status.get("suites", []):
        for metric in suite.get("metrics", []):
            head = (suite["name"], metric["name"], str(metric["n"]), percent(metric["target"]))
            for baseline in metric.get("baselines", []) or [None]:
                tail = (
                    (baseline["name"], percent(baseline["value"]), percent(baseline["difference"]))
                    if baseline
                    else ("-", "-", "-")
                )
                rows.append(head + tail)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def percent(estimate: Json) -> str:
    return f"{float(estimate['value']):.0f} % [{float(estimate['low']):.0f}, {float(estimate['high']):.0f}]"


def _cost(status: Json) -> str:
    cost = status.get("cost") or {}
    if cost.get("gpuSeconds"):
        return f"{cost['gpuSeconds']} GPU seconds"
    return f"{cost.get('cpuSeconds', 0)} CPU seconds"


def run(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a command of the project; its own output is the progress."""
    status = run_patiently(command, env=env, cwd=ROOT)
    if status:
        raise StoryError(f"{' '.join(command)} ended with {status}; its last lines say why")


def read(*command: str) -> str:
    """Return what a command prints for a shell."""
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise StoryError(f"{' '.join(command)} ended with {done.returncode}; its last lines say why")
    return done.stdout


def cluster_env(cluster: str) -> dict[str, str]:
    """Return the environment that a shell has after `eval "$(hack/cluster env)"`."""
    lines = read("hack/cluster", "env", "--name", cluster)
    seen = subprocess.run(["bash", "-c", f"{lines}\nenv -0"], text=True, stdout=subprocess.PIPE, check=True).stdout
    return dict(entry.split("=", 1) for entry in seen.split("\0") if "=" in entry)


def install(env: dict[str, str], images: Sequence[str]) -> None:
    """Install or upgrade the chart. `images` are its options for them."""
    run(
        "helm", "upgrade", "--install", "luthier", "helm", "--namespace", "luthier-system", "--create-namespace",
        *images, "--set=ompNumThreads=1", "--wait", "--timeout=180s", env=env,
    )  # fmt: skip


def images_of_this_checkout() -> list[str]:
    """Return the chart's options that name each image by its content: a changed one restarts the operator."""
    return read("hack/images", "chart-values").split()


if __name__ == "__main__":
    sys.exit("run hack/demo")
