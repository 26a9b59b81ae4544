"""What is read, and what is not: claims only when a Job is to be made, a pod only while it runs."""

import pytest

from factories import make_evaluation, make_finetunejob
from jobworld import MODEL_DIGEST, NOW, complete, names, pod_of, stored
from luthier.api.evaluation import EvaluationSpec
from luthier.api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from luthier.evaluation.build import build_eval_job
from luthier.evaluation.controller import EvaluationController
from luthier.evaluation.observe import observe as observe_evaluation
from luthier.evaluation.target import find_target
from luthier.finetune.build import build_train_job
from luthier.finetune.controller import FineTuneJobController
from luthier.finetune.observe import observe as observe_finetunejob
from luthier.plan import Key
from luthier.ports import Ports
from luthier.resources import FINETUNEJOB, JOB, POD, PVC
from luthier.settings import Settings

SETTINGS = Settings(_env_file=None)
OBJ = make_finetunejob()


class Cluster:
    """All ports in one: a dict of what exists, and a list of what was asked."""

    def __init__(self, *, claims=(), jobs=(), pods=(), live_jobs=(), own=None, progress=None):
        self.claims, self.jobs, self.pods_there, self.live_jobs = set(claims), list(jobs), list(pods), list(live_jobs)
        self.owned_objects = own or {}
        self.progress = progress
        self.asked: list[str] = []

    def ports(self) -> Ports:
        return Ports(reader=self, children=self, own=self, pods=self, prometheus=self, settings=SETTINGS, now=NOW)  # type: ignore[arg-type]

    def owned(self, uid, resource):
        return list({JOB: self.jobs, POD: self.pods_there}[resource])

    def get(self, first, namespace=None, name=None):
        if isinstance(first, Key):
            return self.owned_objects.get(first)
        return self._read(first, name)

    async def _read(self, resource, name):
        self.asked.append(f"{resource.kind}/{name}")
        if resource is PVC:
            return {"metadata": {"name": name}} if name in self.claims else None
        if resource is FINETUNEJOB:
            return make_finetunejob(name) if name == "late" else None
        return next((job for job in self.live_jobs if job["metadata"]["name"] == name), None)

    async def json(self, url):
        self.asked.append(url)
        return self.progress


def train_job():
    spec = FineTuneJobSpec.model_validate(OBJ["spec"])
    return stored(build_train_job(OBJ, spec, FineTuneJobStatus(), SETTINGS, number=1))


JOB_1 = train_job()
RUNNING = {"attempts": [{"number": 1, "job": JOB_1["metadata"]["name"], "outcome": "Running"}]}
PROGRESS_URL = "http://10.0.0.7:8080/progress"


async def test_missing_claims_are_found_by_name():
    seen = await observe_finetunejob(OBJ, Cluster(claims=["data", "work"]).ports())
    assert seen.missing_claims == ("artifacts", "models")


async def test_claims_are_not_read_while_a_job_runs_nor_after_the_end():
    cluster = Cluster(jobs=[JOB_1])
    await observe_finetunejob(OBJ, cluster.ports())
    ended = make_finetunejob(status={"completionTime": "2026-01-01T00:00:00Z"})
    await observe_finetunejob(ended, cluster.ports())
    assert cluster.asked == []


async def test_jobs_are_told_apart_by_role():
    seen = await observe_finetunejob(OBJ, Cluster(jobs=[JOB_1], pods=[pod_of(JOB_1, "Pending")]).ports())
    assert (seen.train_jobs, seen.prepare_jobs, seen.report_jobs) == ((JOB_1,), (), ())
    assert len(seen.pods) == 1


async def test_a_running_attempt_that_the_store_lacks_is_asked_for():
    cluster = Cluster(live_jobs=[JOB_1])
    seen = await observe_finetunejob(make_finetunejob(status=RUNNING), cluster.ports())
    assert seen.train_jobs == (JOB_1,)
    gone = await observe_finetunejob(make_finetunejob(status=RUNNING), Cluster().ports())
    assert gone.train_jobs == ()


def pod_with(**owner):
    """Return a pod with the labels of ours and an owner of its maker's choice."""
    pod = pod_of(JOB_1, name="copy")
    pod["metadata"]["ownerReferences"] = [pod["metadata"]["ownerReferences"][0] | owner] if owner else []
    return pod


COPIES = {
    "a pod that nobody controls": pod_with(),
    "a pod that names our Job as an owner, not as its controller": pod_with(controller=False),
    "a pod of a Job that somebody made": pod_with(name="copy-of-train", uid="other"),
    "a pod of another kind": pod_with(kind="ReplicaSet"),
}


@pytest.mark.parametrize("pod", COPIES.values(), ids=COPIES.keys())
async def test_our_labels_alone_make_no_pod_ours(pod):
    seen = await observe_finetunejob(OBJ, Cluster(jobs=[JOB_1], pods=[pod]).ports())
    assert seen.pods == ()


async def test_the_pods_of_a_job_of_ours_that_is_gone_still_count():
    seen = await observe_finetunejob(OBJ, Cluster(pods=[pod_of(JOB_1)]).ports())
    assert names(seen.pods) == names([pod_of(JOB_1)])


async def test_a_job_in_the_place_of_ours_is_none():
    theirs = {**JOB_1, "metadata": {**JOB_1["metadata"], "ownerReferences": []}}
    seen = await observe_finetunejob(make_finetunejob(status=RUNNING), Cluster(live_jobs=[theirs]).ports())
    assert seen.train_jobs == ()


@pytest.mark.parametrize(
    ("reply", "step"),
    [({"step": 3, "of": 9, "epoch": 0.3}, 3), (None, None), ({"step": "many"}, None)],
    ids=["an answer", "no answer", "an answer that makes no sense"],
)
async def test_progress_comes_from_the_running_pod(reply, step):
    cluster = Cluster(jobs=[JOB_1], pods=[pod_of(JOB_1)], progress=reply)
    seen = await observe_finetunejob(OBJ, cluster.ports())
    assert cluster.asked == [PROGRESS_URL]
    assert (seen.progress.step if seen.progress else None) == step


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed"])
async def test_a_pod_that_does_not_run_is_not_asked(phase):
    cluster = Cluster(jobs=[complete(JOB_1)], pods=[pod_of(JOB_1, phase)], claims=["artifacts"])
    await observe_finetunejob(OBJ, cluster.ports())
    assert PROGRESS_URL not in cluster.asked


async def test_an_ipv6_pod_is_asked_in_brackets():
    pod = pod_of(JOB_1)
    pod["status"]["podIP"] = "fd00::7"
    cluster = Cluster(jobs=[JOB_1], pods=[pod])
    await observe_finetunejob(OBJ, cluster.ports())
    assert cluster.asked == ["http://[fd00::7]:8080/progress"]


TUNED = make_finetunejob(
    status={
        "artifact": {
            "uri": "pvc://artifacts/x",
            "digest": MODEL_DIGEST,
            "baseModelUri": "pvc://models/smol",
            "baseModelDigest": "sha256:b",
        },
        "dataset": {"test": 5, "testUri": "pvc://work/test.jsonl"},
    }
)
KEY = Key(kind="FineTuneJob", namespace="team", name="tickets")


async def test_the_claims_of_an_evaluation_are_those_of_its_target_and_suites():
    cluster = Cluster(own={KEY: TUNED}, claims=["models", "work"])
    seen = await observe_evaluation(make_evaluation(), cluster.ports())
    assert seen.fine_tune_job == TUNED
    assert seen.missing_claims == ("artifacts", "data")


async def test_a_finetunejob_that_the_watch_has_not_seen_is_asked_for():
    cluster = Cluster()
    seen = await observe_evaluation(make_evaluation(target={"fineTuneJob": {"name": "late"}}), cluster.ports())
    assert seen.fine_tune_job is not None
    assert cluster.asked == ["FineTuneJob/late"]


async def test_the_last_attempt_that_the_store_lacks_is_asked_for():
    obj = make_evaluation(status={"attempts": 1})
    spec = EvaluationSpec.model_validate(obj["spec"])
    job = stored(build_eval_job(obj, spec, find_target(spec, TUNED), SETTINGS, number=1))
    seen = await observe_evaluation(obj, Cluster(own={KEY: TUNED}, live_jobs=[job]).ports())
    assert seen.eval_jobs == (job,)


async def test_nothing_is_read_after_the_end():
    cluster = Cluster()
    obj = make_evaluation(status={"attempts": 1, "completionTime": "2026-01-01T00:00:00Z"})
    seen = await observe_evaluation(obj, cluster.ports())
    assert (seen.fine_tune_job, cluster.asked) == (None, [])


def test_an_evaluation_is_woken_by_its_finetunejob():
    folders = {"fineTuneJob": None, "artifactUri": "pvc://a/b", "baseModelUri": "pvc://m"}
    assert EvaluationController().references(make_evaluation()) == (KEY,)
    assert EvaluationController().references(make_evaluation(target=folders)) == ()
    assert FineTuneJobController().references(OBJ) == ()
