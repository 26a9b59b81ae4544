"""The Jobs of a FineTuneJob, whole: read the diff of the YAML files."""

from factories import make_finetunejob
from luthier.api.finetunejob import DataChecks, FineTuneJobSpec, FineTuneJobStatus
from luthier.finetune.build import build_prepare_job, build_train_job, find_places
from luthier.report import build_report_job
from luthier.settings import Settings
from luthier_trainer.config import CONFIG_ENV, PrepareConfig

SETTINGS = Settings(_env_file=None)
STATUS = FineTuneJobStatus.model_validate(
    {"lineage": {"datasetDigest": "sha256:d", "baseModelDigest": "sha256:b", "configDigest": "sha256:c"}}
)
FULL = make_finetunejob(
    peft={"rank": 8, "targetModules": ["q_proj", "v_proj"]},
    training={"learningRate": "1e-3", "maxSteps": 20, "maxLength": 512},
    distributed={
        "numProcPerNode": 2,
        "resourcesPerNode": {"limits": {"cpu": "8", "nvidia.com/gpu": "2"}},
        "deepspeed": {"zeroStage": 2},
    },
    scheduling={
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "registry"}],
    },
    activeDeadlineSeconds=3600,
    workspace=None,
)


def spec(obj):
    return FineTuneJobSpec.model_validate(obj["spec"])


def report_job(obj, step):
    result = find_places(obj, spec(obj)).result(step)
    return build_report_job(obj, step=step, result=result, settings=SETTINGS, scheduling=None)


def test_data_job(golden):
    obj = make_finetunejob()
    golden("finetune-data", build_prepare_job(obj, spec(obj), SETTINGS, number=1))


def test_training_job_with_defaults(golden):
    obj = make_finetunejob()
    golden("finetune-train", build_train_job(obj, spec(obj), STATUS, SETTINGS, number=1))


def test_training_job_on_gpus_with_deepspeed(golden):
    golden("finetune-train-gpu", build_train_job(FULL, spec(FULL), STATUS, SETTINGS, number=3))


def test_report_job(golden):
    obj = make_finetunejob()
    golden("finetune-report", report_job(obj, "train-2"))


def test_two_builds_share_nothing():
    obj = make_finetunejob()
    first = build_train_job(obj, spec(obj), STATUS, SETTINGS, number=1)
    second = build_train_job(obj, spec(obj), STATUS, SETTINGS, number=1)
    first["spec"]["template"]["spec"]["containers"][0]["env"].clear()
    first["metadata"]["labels"].clear()
    assert second["spec"]["template"]["spec"]["containers"][0]["env"]
    assert second["metadata"]["labels"]
    assert second["spec"]["template"]["metadata"]["labels"]


def test_names_fit_in_a_pods_host_name():
    obj = make_finetunejob("a" * 40)
    job = build_train_job(obj, spec(obj), STATUS, SETTINGS, number=128)
    assert len(job["metadata"]["name"] + "-0") <= 63
    report = report_job(obj, "train-128")
    assert len(report["metadata"]["name"]) <= 63


def test_every_check_that_a_user_sets_reaches_the_data_step():
    checks = {
        "minExamples": 7, "tooLong": "Fail", "maxDroppedPercent": 9, "exactDuplicates": "Fail", "invalidRows": "Drop",
        "secrets": "Redact", "personalData": "Drop", "emptyPrompts": "Fail", "minAnswerCharacters": 3,
        "boilerplate": "Drop", "refusals": "Off", "formatConsistency": "Fail", "conflictingAnswers": "Off",
        "leakage": "Drop", "lengthOutliers": "Fail",
        "categories": {"required": [{"name": "billing", "minRows": 5}], "maxPercent": 60},
    }  # fmt: skip
    obj = make_finetunejob(dataset={"sources": [{"uri": "pvc://data/a.jsonl"}], "checks": checks})
    assert {f.alias for f in DataChecks.model_fields.values()} == set(checks), "a check that this test does not know"
    container = build_prepare_job(obj, spec(obj), SETTINGS, number=1)["spec"]["template"]["spec"]["containers"][0]
    config = PrepareConfig.model_validate_json(next(e["value"] for e in container["env"] if e["name"] == CONFIG_ENV))
    outer = {"min_examples", "too_long", "max_dropped_percent", "exact_duplicates"}
    told = config.model_dump(include=outer) | config.checks.model_dump()
    assert DataChecks.model_validate(told).model_dump(by_alias=True) == checks


def test_a_sources_format_and_fields_reach_the_data_step():
    fields = {"prompt": "question", "completion": "reply", "category": "topic"}
    source = {"uri": "pvc://data/a.csv.gz", "format": "Completion", "fields": fields}
    obj = make_finetunejob(dataset={"sources": [source]})
    container = build_prepare_job(obj, spec(obj), SETTINGS, number=1)["spec"]["template"]["spec"]["containers"][0]
    config = PrepareConfig.model_validate_json(next(e["value"] for e in container["env"] if e["name"] == CONFIG_ENV))
    assert (config.sources[0].format, config.sources[0].fields) == ("Completion", fields)
