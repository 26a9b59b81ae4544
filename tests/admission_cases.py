"""What the API server must refuse, and what it must say: one table for the offline tests and the real server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from factories import make_evaluation, make_finetunejob, make_modeldeployment

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A wrong object (or a wrong update of `before`), and what the refusal must contain."""

    name: str
    object: Json
    says: tuple[str, ...]
    before: Json | None = field(default=None)
    strict: bool = False
    """Only `fieldValidation=Strict` (kubectl's default) refuses it; otherwise the field is pruned."""

    def __str__(self) -> str:
        return self.name


def _suite(**changes: Any) -> Json:
    return {
        "name": "held-out",
        "type": "HeldOut",
        "metrics": [{"name": "exact", "type": "ExactMatch"}],
        **changes,
    }


def _steps(*steps: Json) -> Json:
    return make_modeldeployment(rollout={"steps": list(steps)})


def _gate(**gate: Any) -> Json:
    return make_evaluation(gates=[{"suite": "held-out", "metric": "exact", "minPercent": 70, **gate}])


def _metric(**metric: Any) -> Json:
    return make_modeldeployment(rollout={"analysis": {"metrics": [metric]}})


def _query(**query: Any) -> Json:
    good = {"name": "Cost", "query": 'sum(cost{pod=~"$pods"})', "max": "2.5"}
    merged = {key: value for key, value in {**good, **query}.items() if value is not None}
    return make_modeldeployment(rollout={"analysis": {"queries": [merged]}})


def refuse(name: str, obj: Json, *says: str, before: Json | None = None, strict: bool = False) -> Refused:
    return Refused(name=name, object=obj, says=says, before=before, strict=strict)


NAME_SAYS = "metadata.name must start with a letter"

REFUSED = (
    # FineTuneJob
    refuse("unknown field", make_finetunejob(training={"epoch": 3}), "spec.training.epoch", strict=True),
    refuse("learning rate as a number", make_finetunejob(training={"learningRate": 2e-4}), "learningRate", "string"),
    refuse(
        "learning rate that is no decimal",
        make_finetunejob(training={"learningRate": "fast"}),
        "spec.training.learningRate",
        '"auto" or a decimal in quotes',
    ),
    refuse(
        "pull secret named twice",
        make_finetunejob(scheduling={"imagePullSecrets": [{"name": "registry"}, {"name": "registry"}]}),
        "spec.scheduling.imagePullSecrets[1]",
        "Duplicate value",
    ),
    refuse(
        "learning rate of zero", make_finetunejob(training={"learningRate": "0.0"}), "learningRate", "between 0 and 1"
    ),
    refuse(
        "a check that redacts where nothing can be redacted",
        make_finetunejob(dataset={"checks": {"refusals": "Redact"}}),
        "spec.dataset.checks.refusals",
    ),
    refuse(
        "a field that no format has",
        make_finetunejob(dataset={"sources": [{"uri": "pvc://data/a.csv", "fields": {"question": "q"}}]}),
        "fields.question",
        strict=True,
    ),
    refuse(
        "a category required twice",
        make_finetunejob(dataset={"checks": {"categories": {"required": [{"name": "a"}, {"name": "a"}]}}}),
        "required",
        "uplicate",
    ),
    refuse("learning rate of one", make_finetunejob(training={"learningRate": "1"}), "learningRate", "between 0 and 1"),
    refuse("gradients clipped to nothing", make_finetunejob(training={"maxGradNorm": "0"}), "spec.training", "above 0"),
    refuse(
        "batch that forward passes cannot share",
        make_finetunejob(training={"globalBatchSize": 10, "perDeviceBatchSize": 2}, distributed={"numProcPerNode": 2}),
        "training.globalBatchSize must be a multiple",
    ),
    refuse(
        "batch that processes cannot share",
        make_finetunejob(training={"globalBatchSize": 9}, distributed={"numProcPerNode": 2}),
        "training.globalBatchSize must be a multiple",
    ),
    refuse(
        "negative amount as a number",
        make_finetunejob(distributed={"resourcesPerNode": {"limits": {"nvidia.com/gpu": -1}}}),
        "spec.distributed.resourcesPerNode.limits",
        "0",
    ),
    refuse(
        "wrong unit of time",
        make_finetunejob(activeDeadlineSeconds="30m"),
        "spec.activeDeadlineSeconds",
        "integer",
    ),
    refuse(
        "wrong unit of memory",
        make_finetunejob(distributed={"resourcesPerNode": {"limits": {"memory": "4 gigabytes"}}}),
        "spec.distributed.resourcesPerNode.limits.memory",
        "Gi",
    ),
    refuse("negative epochs", make_finetunejob(training={"epochs": -1}), "spec.training.epochs", "1"),
    refuse("rank that no engine serves", make_finetunejob(peft={"rank": 12}), "spec.peft.rank", '"16", "32"'),
    refuse("dropout of one", make_finetunejob(peft={"dropout": "1"}), "spec.peft.dropout", "below 1"),
    refuse(
        "path that leaves the claim",
        make_finetunejob(output={"uri": "pvc://artifacts/../secrets"}),
        "spec.output.uri",
        "pvc://<claim>/<path",
        "may not contain ..",
    ),
    refuse("another scheme", make_finetunejob(model={"uri": "hf://org/model"}), "spec.model.uri", "pvc://<claim>"),
    refuse("host path", make_finetunejob(model={"uri": "/etc/passwd"}), "spec.model.uri", "pvc://<claim>"),
    refuse("no sources", make_finetunejob(dataset={"sources": []}), "spec.dataset.sources", "at least 1"),
    refuse("no model", make_finetunejob(model=None), "spec.model", "Required"),
    refuse(
        "no rows left to train on",
        make_finetunejob(dataset={"splits": {"validationPercent": 50, "testPercent": 50}}),
        "spec.dataset.splits",
        "at most 80",
    ),
    refuse("name with a dot", make_finetunejob("my.job"), NAME_SAYS),
    refuse("name that starts with a digit", make_finetunejob("7b"), NAME_SAYS),
    refuse("name of 41 characters", make_finetunejob("a" * 41), NAME_SAYS, "40 characters"),
    refuse(
        "training changed",
        make_finetunejob(training={"epochs": 4}),
        "spec",
        "training is immutable",
        "new FineTuneJob",
        before=make_finetunejob(training={"epochs": 3}),
    ),
    refuse(
        "workspace removed",
        make_finetunejob(workspace=None),
        "workspace is immutable",
        before=make_finetunejob(),
    ),
    # Evaluation
    refuse(
        "gate on a metric that no suite computes",
        _gate(metric="bleu"),
        "spec",
        "each gate must name a suite of spec.suites and one of that suite's metrics",
    ),
    refuse("gate on a missing suite", _gate(suite="unseen"), "each gate must name a suite"),
    refuse(
        "gate on another suite's metric",
        _gate(metric="f1"),
        "each gate must name a suite of spec.suites and one of that suite's metrics",
    ),
    refuse(
        "gate against a missing baseline",
        _gate(versus={"baseline": "gpt"}),
        "gates[].versus.baseline must name one of spec.baselines",
    ),
    refuse(
        "gate without a bound",
        make_evaluation(gates=[{"suite": "held-out", "metric": "exact"}]),
        "spec.gates[0]",
        "minPercent or versus",
    ),
    refuse("gate over 100", _gate(minPercent=101), "spec.gates[0].minPercent", "100"),
    refuse(
        "suite with a bad name",
        make_evaluation(suites=[_suite(name="Held_Out")], gates=None),
        "spec.suites[0].name",
        "hold only a-z, 0-9 and '-'",
    ),
    refuse("no suites", make_evaluation(suites=[]), "spec.suites", "at least 1"),
    refuse(
        "suite twice",
        make_evaluation(suites=[_suite(), _suite()]),
        "spec.suites[1]",
        "Duplicate",
    ),
    refuse(
        "target by two ways",
        make_evaluation(target={"artifactUri": "pvc://artifacts/a", "baseModelUri": "pvc://models/smol"}),
        "spec.target",
        "exactly one of fineTuneJob and artifactUri",
    ),
    refuse(
        "adapter without its base",
        make_evaluation(
            target={"fineTuneJob": None, "artifactUri": "pvc://artifacts/a"},
            suites=[_suite(datasetUri="pvc://data/t.jsonl")],
        ),
        "spec.target",
        "an adapter needs its base",
    ),
    refuse(
        "held-out rows of nobody",
        make_evaluation(
            target={"fineTuneJob": None, "artifactUri": "pvc://artifacts/a", "baseModelUri": "pvc://models/smol"}
        ),
        "a suite without datasetUri needs target.fineTuneJob",
    ),
    refuse(
        "schema metric without a schema",
        make_evaluation(suites=[_suite(metrics=[{"name": "exact", "type": "JSONSchema"}])]),
        "spec.suites[0].metrics[0]",
        "jsonSchema is required for type JSONSchema",
    ),
    refuse(
        "temperature as a number",
        make_evaluation(suites=[_suite(generation={"temperature": 0.5})]),
        "temperature",
        "string",
    ),
    refuse(
        "context of nothing",
        make_evaluation(servingProfile={"maxModelLen": 0}),
        "spec.servingProfile.maxModelLen",
        "64",
    ),
    refuse(
        "gates lowered afterwards",
        _gate(minPercent=10),
        "gates is immutable",
        "new Evaluation",
        before=_gate(minPercent=70),
    ),
    refuse(
        "attempts raised afterwards",
        make_evaluation(backoffLimit=9),
        "backoffLimit is immutable",
        before=make_evaluation(),
    ),
    refuse(
        "deadline given afterwards",
        make_evaluation(activeDeadlineSeconds=60),
        "activeDeadlineSeconds is immutable",
        before=make_evaluation(),
    ),
    refuse(
        "baseline with the target's name",
        make_evaluation(baselines=[{"name": "target"}], gates=None),
        "spec.baselines[0]",
        "'target' is what is judged",
    ),
    refuse(
        "answers that fill the context",
        make_evaluation(servingProfile={"maxModelLen": 256}),
        "generation.maxTokens must be below servingProfile.maxModelLen",
    ),
    refuse("bad name of an Evaluation", make_evaluation("e-"), "metadata.name"),
    # ModelDeployment
    refuse("weight over 100", _steps({"setWeight": 101}), "spec.rollout.steps[0].setWeight", "100"),
    refuse("negative weight", _steps({"setWeight": -1}), "spec.rollout.steps[0].setWeight", "0"),
    refuse(
        "steps that go down",
        _steps({"setWeight": 50}, {"analysis": {}}, {"setWeight": 10}),
        "spec.rollout",
        "setWeight must not go down",
    ),
    refuse(
        "two fields in one step",
        _steps({"setWeight": 10, "pause": {}}),
        "spec.rollout.steps[0]",
        "exactly one of setWeight, pause, analysis",
    ),
    refuse(
        "weight and test in one step",
        _steps({"setWeight": 10, "abTest": {"headers": [{"name": "x-cohort", "value": "beta"}]}}),
        "spec.rollout.steps[0]",
        "exactly one of setWeight, pause, analysis, abTest",
    ),
    refuse(
        "test with nobody left to compare with",
        _steps({"setWeight": 100}, {"abTest": {"headers": [{"name": "x-cohort", "value": "beta"}]}}),
        "spec.rollout",
        "abTest after setWeight 100",
    ),
    refuse(
        "test of a header twice",
        _steps({"abTest": {"headers": [{"name": "x-cohort", "value": v} for v in ("beta", "gamma")]}}),
        "spec.rollout.steps[0].abTest.headers[1]",
        "Duplicate",
    ),
    refuse("empty step", _steps({}), "spec.rollout.steps[0]", "exactly one of setWeight, pause, analysis"),
    refuse(
        "analysis without a stable to compare with",
        _steps({"setWeight": 50}, {"analysis": {}}, {"setWeight": 100}, {"pause": {}}, {"analysis": {}}),
        "spec.rollout",
        "at most 99 before it",
    ),
    refuse(
        "formats that nothing checks",
        _metric(name="FormatValidity"),
        "FormatValidity needs spec.responseSchema",
    ),
    refuse(
        "satisfaction without votes",
        _metric(name="Satisfaction"),
        "Satisfaction needs spec.feedback",
    ),
    refuse(
        "an identity header that is none",
        make_modeldeployment(feedback={"identityHeader": "x user"}),
        "spec.feedback.identityHeader",
    ),
    refuse("custom metric without a bound", _query(max=None), "a query needs a bound"),
    refuse("custom metric of both sides together", _query(query="sum(up)"), "a query must select one side"),
    refuse("custom bound as a number", _query(max=2.5), "max", "string"),
    refuse(
        "forbidden text of three letters",
        make_modeldeployment(safety={"forbiddenTexts": ["abc"]}),
        "spec.safety.forbiddenTexts[0]",
    ),
    refuse("safety without a text", make_modeldeployment(safety={}), "spec.safety.forbiddenTexts"),
    refuse(
        "another served name",
        make_modeldeployment(servedModelName="other"),
        "servedModelName is immutable",
        "new ModelDeployment",
        before=make_modeldeployment(servedModelName="support"),
    ),
    refuse(
        "a served name given later",
        make_modeldeployment(servedModelName="other"),
        "servedModelName is immutable",
        before=make_modeldeployment(),
    ),
    refuse("no steps", make_modeldeployment(rollout={"steps": []}), "spec.rollout.steps", "at least 1"),
    refuse(
        "no evaluation required",
        make_modeldeployment(requireEvaluation=None),
        "spec.requireEvaluation",
        "Required",
    ),
    refuse("no gateway", make_modeldeployment(gateway=None), "spec.gateway", "Required"),
    refuse("ceiling without seconds", _metric(name="LatencyCeiling"), "metrics[0]", "ceilingSeconds is required"),
    refuse(
        "relative ceiling",
        _metric(name="LatencyCeiling", ceilingSeconds="10", maxIncreasePercent=20),
        "LatencyCeiling is absolute",
    ),
    refuse(
        "analysis skipped by nobody",
        make_modeldeployment(rollout={"promote": {"revision": "r2-aaaaaaaa", "skipAnalysis": True, "by": "alice"}}),
        "spec.rollout.promote",
        "needs by and reason",
    ),
    refuse(
        "window without cron",
        make_modeldeployment(rollout={"windows": [{"schedule": "@daily", "durationSeconds": 3600}]}),
        "spec.rollout.windows[0].schedule",
        "five fields of cron",
    ),
    refuse(
        "hook without TLS",
        make_modeldeployment(rollout={"hooks": [{"name": "chat", "type": "Event", "url": "http://chat.example/"}]}),
        "spec.rollout.hooks[0].url",
        "must be https://<host in lower case>/<path>",
    ),
    refuse(
        "hook with a password",
        make_modeldeployment(
            rollout={"hooks": [{"name": "chat", "type": "Event", "url": "https://a:b@chat.example/"}]}
        ),
        "spec.rollout.hooks[0].url",
        "without user and password",
    ),
    refuse("metric that is not known", _metric(name="Vibes"), "metrics[0].name", '"ErrorRate"'),
    refuse(
        "floor with a unit",
        _metric(name="ErrorRate", floorPercent="1%"),
        "metrics[0].floorPercent",
        "must be a decimal in quotes",
    ),
    refuse("metric twice", make_modeldeployment(rollout={"analysis": {"metrics": [{"name": "ErrorRate"}] * 2}}), "Dup"),
    refuse("no replicas", make_modeldeployment(replicas=0), "spec.replicas", "1"),
    refuse("unknown capacity", make_modeldeployment(rollout={"capacity": "Burst"}), "capacity", "InPlace"),
    refuse("more than half in the watch", make_modeldeployment(rollout={"watchWeight": 51}), "watchWeight", "50"),
    refuse(
        "misspelt option",
        make_modeldeployment(server={"maxNumSequences": 4}),
        "spec.server.maxNumSequences",
        strict=True,
    ),
    refuse("bad name of a ModelDeployment", make_modeldeployment("1support"), NAME_SAYS),
)

ACCEPTED = (
    make_finetunejob(),
    make_finetunejob("a" * 40, workspace=None, training={"learningRate": "2e-4"}),
    make_finetunejob("a", distributed={"resourcesPerNode": {"limits": {"cpu": 2, "memory": "4Gi", "x.y/gpu": 0}}}),
    make_finetunejob("shared-batch", training={"perDeviceBatchSize": 2}, distributed={"numProcPerNode": 4}),
    make_finetunejob("no-decay", training={"maxGradNorm": "1e-1", "learningRate": "0.5"}),
    make_evaluation("small-context", servingProfile={"maxModelLen": 257}),
    make_evaluation(),
    make_evaluation("no-gates", gates=None, baselines=None),
    make_evaluation(
        "by-uri",
        target={"fineTuneJob": None, "artifactUri": "pvc://artifacts/a", "baseModelUri": "pvc://models/smol"},
        suites=[_suite(datasetUri="pvc://data/t.jsonl")],
        gates=[{"suite": "held-out", "metric": "exact", "minPercent": 70}],
    ),
    make_modeldeployment(),
    make_modeldeployment("defaults", rollout=None),
    _query(maxIncreasePercent=10, min="1"),
    make_modeldeployment("safe", safety={"forbiddenTexts": ["CANARY-7f3a"]}),
    _steps({"abTest": {"headers": [{"name": "x-cohort", "value": "beta two"}]}}, {"setWeight": 100}, {"pause": {}}),
    _steps({"setWeight": 10}, {"pause": {}}, {"setWeight": 10}, {"analysis": {}}, {"setWeight": 100}, {"pause": {}}),
    make_modeldeployment(
        "ordered",
        rollout={
            "windows": [{"schedule": "0 9 * * MON-FRI", "durationSeconds": 3600, "timeZone": "Europe/Berlin"}],
            "promote": {"revision": "r2-aaaaaaaa", "skipAnalysis": True, "by": "alice", "reason": "why"},
            "pin": {"revision": "r1-aaaaaaaa"},
            "hooks": [{"name": "chat", "type": "Event", "url": "https://chat.example:8443/say?room=42"}],
        },
    ),
    make_modeldeployment(
        "formats",
        responseSchema="{}",
        feedback={},
        rollout={"analysis": {"metrics": [{"name": "FormatValidity"}, {"name": "Satisfaction"}]}},
    ),
)

CHANGED = (
    (make_finetunejob(), make_finetunejob(suspend=True)),
    (make_evaluation(), make_evaluation(ttlSecondsAfterFinished=60, suspend=True)),
    (make_modeldeployment(), make_modeldeployment(model={"fineTuneJob": {"name": "tickets-2"}})),
)
"""(before, after): changes that must be allowed."""
