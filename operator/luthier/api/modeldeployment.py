"""The ModelDeployment API: serve evaluated weights and move traffic to them step by step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from luthier.api.acts import ActStatus, Approve, Promote, RevisionAct, Window
from luthier.api.base import (
    Condition,
    Decimal,
    ErrorStatus,
    KubeModel,
    ObjectName,
    Resources,
    Scheduling,
    ServingProfile,
    Timestamp,
    cel,
    list_map,
)
from luthier.api.evaluation import ModelSource
from luthier.api.hooks import Hook, Notice


class RequireEvaluation(KubeModel):
    """The judgement that admits a revision: same weights, same way of serving, verdict Passed."""

    name: Annotated[ObjectName, Field(description="An Evaluation of this namespace, with at least one gate.")]
    max_age_seconds: Annotated[
        int | None, Field(default=None, ge=60, le=315_360_000, description="Older judgements do not count.")
    ]
    profile_match: Annotated[
        Literal["Strict", "Warn"],
        Field(
            default="Strict",
            description="Strict: serving options must be those that were judged. Warn: an event says so.",
        ),
    ]


class Server(KubeModel):
    """The engine's options; the profile is what an Evaluation must have judged."""

    profile: Annotated[ServingProfile, Field(default_factory=ServingProfile, description="What shapes the answers.")]
    max_num_seqs: Annotated[int, Field(default=16, ge=1, le=4096, description="Requests generated at once.")]
    enforce_eager: Annotated[bool, Field(default=False, description="Skip compilation: a faster start, slower tokens.")]


class ParentRef(KubeModel):
    """A Gateway; the only reference that may leave the namespace (its allowedRoutes is the grant)."""

    name: Annotated[ObjectName, Field(description="The Gateway's name.")]
    namespace: Annotated[ObjectName | None, Field(default=None, description="Its namespace; absent: this one.")]
    section_name: Annotated[ObjectName | None, Field(default=None, description="One listener; absent: all.")]


class GatewayOptions(KubeModel):
    """Where clients come in."""

    parent_refs: Annotated[list[ParentRef], Field(min_length=1, max_length=4, description="Gateways.")]
    hostnames: Annotated[
        list[Annotated[str, Field(max_length=253, pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]] | None,
        Field(default=None, max_length=8, description="Host names that are routed here; absent: all of the listener."),
    ]
    path_prefix: Annotated[
        str, Field(default="/", max_length=128, pattern=r"^/[A-Za-z0-9/_.-]*$", description="Requests below this path.")
    ]
    request_timeout_seconds: Annotated[
        int,
        Field(
            default=600,
            ge=1,
            le=86_400,
            description="The longest answer: the gateway cuts later ones off, and a pod that goes lets them end.",
        ),
    ]


class Pause(KubeModel):
    """Wait; without a duration, until rollout.approve names this step."""

    duration_seconds: Annotated[int | None, Field(default=None, ge=1, le=31_536_000, description="Wait this long.")]


class AnalysisStep(KubeModel):
    """Stay until the analysis passes at this weight."""

    min_samples: Annotated[
        int | None,
        Field(default=None, ge=1, le=10_000_000, description="Candidate requests needed; absent: the analysis' own."),
    ]


class HeaderMatch(KubeModel):
    """A request header and its exact value."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="The header's name."),
    ]
    value: Annotated[
        str,
        Field(
            min_length=1,
            max_length=256,
            pattern=r"^[!-~]([ -~]*[!-~])?$",
            description="Its whole value, as it is written.",
        ),
    ]


class AbTest(KubeModel):
    """Send requests with a header to the candidate, others by the weights; stay until the analysis passes."""

    headers: Annotated[
        list[HeaderMatch],
        Field(
            min_length=1,
            max_length=4,
            description="A request with all of them goes to the candidate.",
            json_schema_extra=list_map("name"),
        ),
    ]
    expected_percent: Annotated[
        int,
        Field(
            default=10,
            ge=1,
            le=100,
            description="Which part of all requests has the headers, at most: the candidate has pods for so much more.",
        ),
    ]
    min_samples: Annotated[
        int | None,
        Field(default=None, ge=1, le=10_000_000, description="Candidate requests needed; absent: the analysis' own."),
    ]


class Step(KubeModel):
    """One step of a rollout: exactly one of its fields."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "(has(self.setWeight) ? 1 : 0) + (has(self.pause) ? 1 : 0) + (has(self.analysis) ? 1 : 0)"
                " + (has(self.abTest) ? 1 : 0) == 1",
                "a step has exactly one of setWeight, pause, analysis, abTest",
            )
        ),
    )

    set_weight: Annotated[
        int | None, Field(default=None, ge=0, le=100, description="The candidate's share in percent.")
    ]
    pause: Annotated[Pause | None, Field(default=None, description="Wait for time or approval.")]
    analysis: Annotated[AnalysisStep | None, Field(default=None, description="Wait for the analysis to pass.")]
    ab_test: Annotated[
        AbTest | None,
        Field(default=None, description="Send requests with a header to the candidate until the analysis passes."),
    ]


class AnalysisMetric(KubeModel):
    """One gating metric. Each is a count of bad requests out of started ones (docs/analysis.md)."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "(self.name == 'LatencyCeiling') == has(self.ceilingSeconds)",
                "ceilingSeconds is required for LatencyCeiling and for no other metric",
            ),
            (
                "self.name != 'LatencyCeiling' || !has(self.maxIncreasePercent)",
                "LatencyCeiling is absolute: remove maxIncreasePercent",
            ),
        ),
    )

    name: Annotated[
        Literal["ErrorRate", "FormatValidity", "Latency", "LatencyCeiling", "RefusalRate", "Satisfaction"],
        Field(
            description=(
                "ErrorRate: refused, failed or broken requests. FormatValidity: answers that break responseSchema. "
                "Latency: above the stable's p95 plus maxIncreasePercent. LatencyCeiling: above ceilingSeconds. "
                "RefusalRate: answers in which the model declines. Satisfaction: down votes out of all votes; only "
                "shown until both sides have 50."
            )
        ),
    ]
    max_increase_percent: Annotated[
        int | None,
        Field(
            default=None,
            ge=0,
            le=10_000,
            description="Allowed rise relative to the stable; absent: 10, Latency and Satisfaction 20.",
        ),
    ]
    floor_percent: Annotated[
        Decimal,
        Field(default="1", description="A bad rate up to this is never a failure, in percent. Latency has no floor."),
    ]
    ceiling_seconds: Annotated[Decimal | None, Field(default=None, description='LatencyCeiling\'s bound: "10".')]


class AnalysisQuery(KubeModel):
    """A metric of one's own, in PromQL: one number for each side, held against bounds."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "has(self.min) || has(self.max) || has(self.maxIncreasePercent) || has(self.maxDecreasePercent)",
                "a query needs a bound: min, max, maxIncreasePercent or maxDecreasePercent",
            ),
            ("self.query.contains('$pods')", 'a query must select one side: pod=~"$pods"'),
        ),
    )

    name: Annotated[str, Field(max_length=40, pattern=r"^[A-Za-z][A-Za-z0-9]*$", description="For status and people.")]
    query: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            description="$pods (a regular expression), $namespace and $window (60s) are put in.",
        ),
    ]
    min: Annotated[Decimal | None, Field(default=None, description='The candidate\'s value is at least this: "0.8".')]
    max: Annotated[Decimal | None, Field(default=None, description='The candidate\'s value is at most this: "2.5".')]
    max_increase_percent: Annotated[
        int | None, Field(default=None, ge=0, le=10_000, description="Allowed rise over the stable's value.")
    ]
    max_decrease_percent: Annotated[
        int | None, Field(default=None, ge=0, le=100, description="Allowed fall below the stable's value.")
    ]
    failure_limit: Annotated[
        int, Field(default=2, ge=0, le=1000, description="Measurements out of bounds that are allowed at one weight.")
    ]
    interval_seconds: Annotated[int, Field(default=30, ge=5, le=3600, description="Between two measurements.")]
    window_seconds: Annotated[
        int,
        Field(default=60, ge=5, le=3600, description="$window; the first measurement comes so long after a weight."),
    ]


class Analysis(KubeModel):
    """When a candidate is worse than the stable: a sequential test that may be looked at every second."""

    interval_seconds: Annotated[int, Field(default=5, ge=1, le=3600, description="Time between two looks.")]
    min_samples: Annotated[
        int,
        Field(default=100, ge=1, le=10_000_000, description="Candidate requests that an analysis step needs to pass."),
    ]
    min_step_seconds: Annotated[
        int, Field(default=0, ge=0, le=86_400, description="An analysis step takes at least this long.")
    ]
    max_step_seconds: Annotated[
        int,
        Field(
            default=21_600,
            ge=10,
            le=2_592_000,
            description="Then the step is Inconclusive and onInconclusive decides; without time suspended or blind.",
        ),
    ]
    on_inconclusive: Annotated[
        Literal["Hold", "Rollback"], Field(default="Hold", description="What an undecided step does.")
    ]
    false_rollback_permille: Annotated[
        int,
        Field(
            default=10, ge=1, le=100, description="Bound on the chance that a healthy rollout is taken back, in 1/1000."
        ),
    ]
    metrics: Annotated[
        list[AnalysisMetric] | None,
        Field(
            default=None,
            min_length=1,
            max_length=8,
            description="Absent: ErrorRate and Latency, FormatValidity when responseSchema is set, and Satisfaction "
            "when feedback.identityHeader is.",
            json_schema_extra=list_map("name"),
        ),
    ]
    queries: Annotated[
        list[AnalysisQuery] | None,
        Field(
            default=None,
            min_length=1,
            max_length=8,
            description="Metrics of one's own, beside those above; without statistics.",
            json_schema_extra=list_map("name"),
        ),
    ]


class Affinity(KubeModel):
    """Keep a conversation on one revision while traffic moves. Needs Envoy Gateway 1.9 or newer."""

    header: Annotated[
        str,
        Field(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
            description="The request header that names the conversation. Requests without it go to either revision.",
        ),
    ]
    requests_per_conversation: Annotated[
        int,
        Field(
            default=10,
            ge=1,
            le=1000,
            description="How many requests count as one sample: a conversation's all meet the same revision, and may "
            "fail together (docs/analysis.md).",
        ),
    ]


class Rollout(KubeModel):
    """How traffic moves."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "!has(self.steps) || self.steps.filter(s, has(s.setWeight)).map(s, s.setWeight).isSorted()",
                "setWeight must not go down from one step to the next",
            ),
            (
                "!has(self.steps) || self.steps.filter(s, has(s.analysis) || has(s.abTest) || "
                "(has(s.setWeight) && s.setWeight == 100)).map(s, has(s.setWeight) ? 1 : 0).isSorted()",
                "an analysis or abTest after setWeight 100 has no stable to compare with: use at most 99 before it",
            ),
        ),
    )

    steps: Annotated[
        list[Step] | None,
        Field(
            default=None,
            min_length=1,
            max_length=64,
            description="In order; 100 percent follows the last. Absent: 1, 5, 10, 25, 50, each with an analysis, "
            "without those that the traffic cannot decide in analysis.maxStepSeconds.",
        ),
    ]
    analysis: Annotated[Analysis, Field(default_factory=Analysis, description="When the candidate is worse.")]
    affinity: Annotated[
        Affinity | None,
        Field(default=None, description="Keep a conversation on one revision; absent: each request for itself."),
    ]
    approve: Annotated[Approve | None, Field(default=None, description="Let a paused step go on.")]
    abort: Annotated[RevisionAct | None, Field(default=None, description="Take this candidate back.")]
    promote: Annotated[Promote | None, Field(default=None, description="Send this candidate on to 100 percent.")]
    pin: Annotated[
        RevisionAct | None,
        Field(
            default=None,
            description="While set, serve this revision, which was promoted before, and try no other one.",
        ),
    ]
    retry: Annotated[RevisionAct | None, Field(default=None, description="Let this rejected revision start again.")]
    windows: Annotated[
        list[Window] | None,
        Field(
            default=None,
            min_length=1,
            max_length=16,
            description="When rollouts may start and advance; absent: always. Rollback waits for none.",
        ),
    ]
    hooks: Annotated[
        list[Hook] | None,
        Field(
            default=None,
            max_length=8,
            description="Whom the rollout asks and tells; none of them is asked for a rollback.",
            json_schema_extra=list_map("name"),
        ),
    ]
    abort_scale_down_delay_seconds: Annotated[
        int, Field(default=600, ge=0, le=86_400, description="A rejected candidate's pods stay so long for diagnosis.")
    ]
    capacity: Annotated[
        Literal["Surge", "InPlace"],
        Field(
            default="Surge",
            description="Surge: the old revision keeps all its pods to the end. InPlace: at most replicas + 1 pods "
            "together, for clusters without spare GPUs; a rollback then waits for pods.",
        ),
    ]
    watch_after_promotion_seconds: Annotated[
        int,
        Field(
            default=1800,
            ge=0,
            le=604_800,
            description="After the last step the old revision stays warm so long, and the new one can be taken back.",
        ),
    ]
    watch_weight: Annotated[
        int,
        Field(
            default=5,
            ge=0,
            le=50,
            description="The old revision's share during the watch, in percent, to compare with. 0: only crashes, and "
            "errors above what the old one had, are judged.",
        ),
    ]


class Safety(KubeModel):
    """What must never happen, found by the server without a model's opinion: one case takes a candidate back."""

    forbidden_texts: Annotated[
        list[Annotated[str, Field(min_length=4, max_length=256)]],
        Field(
            min_length=1,
            max_length=16,
            description="Exact texts that no answer may contain: a planted marker, one of the system prompt.",
        ),
    ]


class Feedback(KubeModel):
    """Take votes on answers at /v1/feedback; there for `feedback: {}` too. A change is a new revision."""

    identity_header: Annotated[
        str | None,
        Field(
            default=None,
            max_length=64,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$",
            description="The header by which the gateway says who votes, and which clients cannot set. Absent: `user` "
            "of the vote, which clients choose, and no limit for votes without it.",
        ),
    ]


class ModelDeploymentSpec(KubeModel):
    """What is served, on whose judgement, and how traffic gets there."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        json_schema_extra=cel(
            (
                "has(self.servedModelName) == has(oldSelf.servedModelName) && "
                "(!has(self.servedModelName) || self.servedModelName == oldSelf.servedModelName)",
                "servedModelName is immutable: running revisions answer to it; another name is a new ModelDeployment",
            ),
            (
                "has(self.responseSchema) || !has(self.rollout) || !has(self.rollout.analysis) || "
                "!has(self.rollout.analysis.metrics) || "
                "self.rollout.analysis.metrics.all(m, m.name != 'FormatValidity')",
                "FormatValidity needs spec.responseSchema: without it no answer is checked",
            ),
            (
                "has(self.feedback) || !has(self.rollout) || !has(self.rollout.analysis) || "
                "!has(self.rollout.analysis.metrics) || "
                "self.rollout.analysis.metrics.all(m, m.name != 'Satisfaction')",
                "Satisfaction needs spec.feedback: without it no votes are taken",
            ),
        ),
    )

    model: Annotated[ModelSource, Field(description="The weights.")]
    served_model_name: Annotated[
        str | None,
        Field(
            default=None,
            max_length=128,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$",
            description="`model` in requests; absent: our name. Immutable.",
        ),
    ]
    require_evaluation: Annotated[RequireEvaluation, Field(description="Without it nothing is served.")]
    replicas: Annotated[int, Field(default=1, ge=1, le=1000, description="Pods of each revision.")]
    server: Annotated[Server, Field(default_factory=Server, description="The engine's options.")]
    resources: Annotated[
        Resources | None, Field(default=None, description="A serving pod's resources; absent: the platform's default.")
    ]
    scheduling: Annotated[Scheduling | None, Field(default=None, description="Where the pods may run.")]
    gateway: Annotated[GatewayOptions, Field(description="Where clients come in.")]
    response_schema: Annotated[
        str | None,
        Field(
            default=None,
            min_length=2,
            max_length=16_384,
            description="A JSON Schema, as JSON text, that each answer should meet.",
        ),
    ]
    safety: Annotated[
        Safety | None, Field(default=None, description="Critical safety incidents; a change is a new revision.")
    ]
    feedback: Annotated[Feedback | None, Field(default=None, description="Votes on answers; absent: none are taken.")]
    rollout: Annotated[Rollout, Field(default_factory=Rollout, description="How traffic moves.")]
    progress_deadline_seconds: Annotated[
        int, Field(default=900, ge=30, le=86_400, description="A candidate that is not ready by then is rejected.")
    ]
    revision_history_limit: Annotated[
        int, Field(default=10, ge=1, le=50, description="Old revision records that are kept.")
    ]
    suspend: Annotated[
        bool, Field(default=False, description="True freezes the rollout where it is; rollback still works.")
    ]


class RevisionStatus(KubeModel):
    """One immutable revision."""

    name: Annotated[str, Field(max_length=63, description="r<number>-<hash>; acts name it.")]
    number: Annotated[int, Field(description="Counts from 1.")]
    model_digest: Annotated[str, Field(max_length=80, description="The weights.")]
    evaluation: Annotated[str, Field(max_length=253, description="The Evaluation that admitted it.")]
    ready_replicas: Annotated[int, Field(default=0, description="Pods that answer.")]


class Weights(KubeModel):
    """Traffic in percent, as read from the route."""

    stable: Annotated[int, Field(ge=0, le=100, description="The stable revision's share.")]
    candidate: Annotated[int, Field(ge=0, le=100, description="The candidate's share.")]


class MetricStatus(KubeModel):
    """One gating metric at the newest look; bad out of started, since the weight last changed."""

    name: Annotated[str, Field(max_length=40, description="The metric.")]
    outcome: Annotated[
        Literal["Pass", "Fail", "Inconclusive", "Error"], Field(description="Only Pass counts for an advance.")
    ]
    candidate_bad: Annotated[int, Field(default=0, description="Bad candidate requests.")]
    candidate_started: Annotated[int, Field(default=0, description="Candidate requests.")]
    stable_bad: Annotated[int, Field(default=0, description="Bad stable requests.")]
    stable_started: Annotated[int, Field(default=0, description="Stable requests.")]
    evidence: Annotated[
        str, Field(default="0", max_length=16, description="The e-value: a fail needs threshold or more.")
    ]
    threshold: Annotated[
        str, Field(default="0", max_length=16, description="Metrics over the allowed chance of a false rollback.")
    ]
    candidate_interval: Annotated[
        str,
        Field(
            default="",
            max_length=32,
            description="95 % interval of the candidate's rate, to read by; it decides nothing.",
        ),
    ]
    stable_interval: Annotated[str, Field(default="", max_length=32, description="Likewise of the stable's.")]
    bound: Annotated[str, Field(default="", max_length=64, description="What it may be at most, in words.")]
    detectable: Annotated[
        str | None,
        Field(
            default=None,
            max_length=16,
            description="The smallest bad rate of the candidate that so many requests would show in nine of ten runs.",
        ),
    ]
    message: Annotated[str, Field(default="", max_length=512, description="The numbers, in a sentence.")]
    query: Annotated[str, Field(default="", max_length=512, description="PromQL of the raw counters.")]


class QueryStatus(KubeModel):
    """One custom metric at its newest measurement, at this weight."""

    name: Annotated[str, Field(max_length=40, description="The query.")]
    outcome: Annotated[Literal["Pass", "Fail", "Inconclusive"], Field(description="Only Pass counts for an advance.")]
    failures: Annotated[int, Field(default=0, description="Measurements out of bounds.")]
    measured_at: Annotated[Timestamp, Field(description="When.")]
    message: Annotated[str, Field(default="", max_length=300, description="The numbers, or why there are none.")]


class AbArm(KubeModel):
    """One side of an A/B test, by one metric."""

    requests: Annotated[int, Field(description="Requests, or votes, that it was judged by.")]
    bad: Annotated[int, Field(description="Bad ones among them.")]
    rate: Annotated[str, Field(max_length=16, description="Bad out of all.")]
    interval: Annotated[str, Field(max_length=32, description="95 % interval of the rate, to read by.")]


class AbMetric(KubeModel):
    """One metric of an A/B test."""

    name: Annotated[str, Field(max_length=40, description="The metric.")]
    candidate: Annotated[AbArm, Field(description="Requests to the candidate: with the header, and by its weight.")]
    stable: Annotated[AbArm, Field(description="All others.")]
    statement: Annotated[str, Field(max_length=400, description="Whether they differ, in words, with numbers.")]


class AbTestResult(KubeModel):
    """What an A/B test has shown, up to the newest look that was written."""

    step: Annotated[int, Field(ge=1, description="Which step it is.")]
    header: Annotated[str, Field(max_length=1400, description="What sends a request to the candidate.")]
    weight: Annotated[int, Field(ge=0, le=100, description="The candidate's share of the other requests, in percent.")]
    metrics: Annotated[
        list[AbMetric],
        Field(default_factory=list, max_length=8, description="Metric by metric.", json_schema_extra=list_map("name")),
    ]


class AnalysisStatus(KubeModel):
    """The analysis at the newest look that was written."""

    outcome: Annotated[Literal["Pass", "Fail", "Inconclusive", "Error"], Field(description="All metrics together.")]
    message: Annotated[str, Field(default="", max_length=512, description="Why.")]
    measured_at: Annotated[Timestamp | None, Field(default=None, description="When.")]
    requests_exposed: Annotated[
        int, Field(default=0, description="Requests that the candidate got in this rollout, over all steps.")
    ]
    bad_served: Annotated[int, Field(default=0, description="Of these, refused, failed or broken ones.")]
    metrics: Annotated[
        list[MetricStatus],
        Field(default_factory=list, max_length=8, description="Metric by metric.", json_schema_extra=list_map("name")),
    ]
    queries: Annotated[
        list[QueryStatus],
        Field(default_factory=list, max_length=8, description="Custom ones.", json_schema_extra=list_map("name")),
    ]
    state: Annotated[
        str | None,
        Field(default=None, max_length=65_536, description="The test's own memory, JSON; survives a restart."),
    ]


class WatchStatus(KubeModel):
    """The watch after the last step; its plan was copied at the start of the rollout."""

    seconds: Annotated[int, Field(ge=1, description="How long it takes.")]
    weight: Annotated[int, Field(ge=0, le=50, description="The stable's share during it, in percent.")]
    ends_at: Annotated[Timestamp | None, Field(default=None, description="When it is over; absent: not begun.")]
    error_bound_percent: Annotated[
        str | None,
        Field(
            default=None,
            max_length=16,
            description="Without a share for the stable: errors are judged against this. 100: not at all.",
        ),
    ]


class InterruptionStatus(KubeModel):
    """Pods that the platform took from the candidate, in this rollout."""

    count: Annotated[int, Field(ge=1, description="How often.")]
    at: Annotated[Timestamp | None, Field(default=None, description="Since when it has no traffic; absent: resumed.")]
    resumed_at: Annotated[Timestamp | None, Field(default=None, description="When it last went on.")]
    held: Annotated[bool, Field(default=False, description="It waits for rollout.approve with the step that it is at.")]
    message: Annotated[str, Field(default="", max_length=512, description="What was lost.")]


class RolloutStatus(KubeModel):
    """The rollout in progress; its plan was copied at the start and is used to the end."""

    steps: Annotated[list[Step], Field(max_length=64, description="The plan.")]
    step: Annotated[int, Field(ge=0, description="The step it is at, counted from 1; 0 before the candidate is ready.")]
    weight: Annotated[int, Field(ge=0, le=100, description="The candidate's share that this step wants.")]
    started_at: Annotated[Timestamp, Field(description="When the candidate was admitted.")]
    step_started_at: Annotated[Timestamp, Field(description="When this step began.")]
    weight_in_force_at: Annotated[
        Timestamp | None, Field(default=None, description="When the gateway confirmed the weight.")
    ]
    held_at: Annotated[
        Timestamp | None, Field(default=None, description="Since when it is suspended or without metrics.")
    ]
    held_seconds: Annotated[
        int, Field(default=0, description="How long it was, in this step: no part of maxStepSeconds.")
    ]
    analysis: Annotated[AnalysisStatus | None, Field(default=None, description="The newest look.")]
    ab_tests: Annotated[
        list[AbTestResult] | None,
        Field(
            default=None, max_length=4, description="Its A/B tests, newest last.", json_schema_extra=list_map("step")
        ),
    ]
    analysis_options: Annotated[
        Analysis | None, Field(default=None, description="spec.rollout.analysis as it was at the start.")
    ]
    act: Annotated[ActStatus | None, Field(default=None, description="What a person ordered for this candidate.")]
    interruption: Annotated[
        InterruptionStatus | None, Field(default=None, description="The newest interruption; absent: none.")
    ]
    capacity: Annotated[
        Literal["Surge", "InPlace"] | None,
        Field(default=None, description="spec.rollout.capacity as it was at the start."),
    ]
    watch: Annotated[WatchStatus | None, Field(default=None, description="The watch that follows; absent: none.")]
    affinity: Annotated[
        Affinity | None, Field(default=None, description="spec.rollout.affinity as it was at the start.")
    ]
    plan: Annotated[
        PlanStatus | None,
        Field(default=None, description="Set when steps of the default plan were left out, for lack of traffic."),
    ]


class PlanStatus(KubeModel):
    """Why the plan is not the whole default one: how much traffic there was when the rollout started."""

    requests_last_day: Annotated[int, Field(ge=0, description="Requests of the 24 h before the start.")]
    dropped_weights: Annotated[
        list[int],
        Field(max_length=64, description="Shares, in percent, too small to be decided in maxStepSeconds: left out."),
    ]
    expected_end_at: Annotated[
        Timestamp | None,
        Field(
            default=None,
            description="Set when no step could be decided in time: when the one step should have its requests.",
        ),
    ]
    max_step_seconds: Annotated[
        int | None,
        Field(default=None, description="That step is undecided after so long, instead of after maxStepSeconds."),
    ]


class HistoryEntry(KubeModel):
    """How one revision's rollout ended."""

    revision: Annotated[str, Field(max_length=63, description="Which.")]
    outcome: Annotated[
        Literal["Promoted", "RolledBack", "Aborted", "Superseded", "Interrupted"],
        Field(description="How it ended; Interrupted has not, and resumes."),
    ]
    reason: Annotated[str, Field(max_length=128, description="A documented constant.")]
    by: Annotated[str | None, Field(default=None, max_length=128, description="Who ordered it, as the act says.")]
    message: Annotated[str, Field(max_length=1024, description="The numbers, in a sentence.")]
    step: Annotated[int, Field(default=0, description="At which step.")]
    weight: Annotated[int, Field(default=0, description="At which share of traffic.")]
    model_digest: Annotated[str, Field(max_length=80, description="The weights.")]
    evaluation: Annotated[str, Field(max_length=253, description="The Evaluation that admitted it.")]
    started_at: Annotated[Timestamp, Field(description="When it was admitted.")]
    ended_at: Annotated[Timestamp, Field(description="When it was decided.")]
    breach_seen_at: Annotated[Timestamp | None, Field(default=None, description="First look with evidence against it.")]
    weight_written_at: Annotated[Timestamp | None, Field(default=None, description="When its weight became 0.")]
    requests_exposed: Annotated[
        int | None, Field(default=None, description="Requests that it got in this rollout, by the last look.")
    ]
    bad_served: Annotated[int | None, Field(default=None, description="Of these, refused, failed or broken ones.")]
    last_candidate_request_at: Annotated[
        Timestamp | None,
        Field(default=None, description="When a request to it was last seen by a scrape; absent: not known."),
    ]
    late_requests: Annotated[
        int, Field(default=0, description="Requests to it later than 30 s after its weight became 0.")
    ]
    metrics: Annotated[
        list[MetricStatus],
        Field(default_factory=list, max_length=8, description="Counts at the end.", json_schema_extra=list_map("name")),
    ]
    ab_tests: Annotated[
        list[AbTestResult] | None,
        Field(
            default=None, max_length=4, description="Its A/B tests, newest last.", json_schema_extra=list_map("step")
        ),
    ]


class DisplayStatus(KubeModel):
    """The columns of `kubectl get`. Made for people: programs read the fields that they are made from."""

    stable: Annotated[str, Field(max_length=16, description="The stable revision's number: r7.")]
    candidate: Annotated[str, Field(max_length=16, description="The candidate's: r8; - while none is tried.")]
    step: Annotated[str, Field(max_length=8, description="The step it is at, of how many: 3/6.")]
    weight: Annotated[str, Field(max_length=8, description="The candidate's share, as read from the route: 10%.")]


class ModelDeploymentStatus(KubeModel):
    """What is served; conditions Serving, Ready, and Reconciling, Stalled when True."""

    observed_generation: Annotated[int, Field(default=-1, description="The spec's generation that this describes.")]
    conditions: Annotated[
        list[Condition],
        Field(
            default_factory=list,
            max_length=16,
            description="See docs/conditions.md.",
            json_schema_extra=list_map("type"),
        ),
    ]
    stable: Annotated[RevisionStatus | None, Field(default=None, description="What serves.")]
    candidate: Annotated[RevisionStatus | None, Field(default=None, description="What is being tried.")]
    rejected: Annotated[
        str | None, Field(default=None, max_length=63, description="The spec's revision, when it was taken back.")
    ]
    weights: Annotated[Weights | None, Field(default=None, description="Traffic, as read from the route.")]
    rollout: Annotated[RolloutStatus | None, Field(default=None, description="The rollout in progress.")]
    verdict: Annotated[
        str | None, Field(default=None, max_length=160, description="The newest judgement in a few words.")
    ]
    display: Annotated[DisplayStatus | None, Field(default=None, description="What `kubectl get` shows.")]
    history: Annotated[
        list[HistoryEntry], Field(default_factory=list, max_length=20, description="Ended rollouts, newest first.")
    ]
    notices: Annotated[
        list[Notice], Field(default_factory=list, max_length=32, description="What hooks have still to be told.")
    ]
    url: Annotated[str | None, Field(default=None, max_length=512, description="Where clients reach it.")]
    error: Annotated[ErrorStatus | None, Field(default=None, description="What went wrong.")]
