"""The Job of an Evaluation, whole: read the diff of the YAML files."""

from factories import make_evaluation
from luthier.api.evaluation import EvaluationSpec
from luthier.evaluation.build import build_eval_job
from luthier.evaluation.target import Target, find_target
from luthier.settings import Settings
from luthier.volumes import locate

SETTINGS = Settings(_env_file=None)


def test_evaluation_of_a_finetunejob(golden):
    obj = make_evaluation()
    target = Target(
        artifact=locate("pvc://artifacts/tickets/tickets-12345678"),
        base=locate("pvc://models/smol"),
        digest="sha256:a",
        base_digest="sha256:b",
        rank=32,
        test_uri="pvc://work/luthier/tickets-12345678/data/test.jsonl",
    )
    spec = EvaluationSpec.model_validate(obj["spec"])
    golden("evaluation", build_eval_job(obj, spec, target, SETTINGS, number=1))


def test_evaluation_of_folders_on_a_gpu(golden):
    suite = {
        "name": "general",
        "type": "Regression",
        "datasetUri": "pvc://data/general.jsonl",
        "generation": {"maxTokens": 64, "temperature": "0.7", "seed": 3},
        "metrics": [{"name": "form", "type": "JSONSchema", "jsonSchema": '{"type": "object", "required": ["$id"]}'}],
    }
    obj = make_evaluation(
        target={"fineTuneJob": None, "artifactUri": "pvc://artifacts/other", "baseModelUri": "pvc://models/smol"},
        suites=[suite],
        gates=[{"suite": "general", "metric": "form", "minPercent": 99}],
        resources={"limits": {"nvidia.com/gpu": "1", "cpu": "4"}},
        servingProfile={"maxModelLen": 4096, "dtype": "BFloat16"},
        activeDeadlineSeconds=600,
        scheduling={"nodeSelector": {"pool": "gpu"}},
    )
    spec = EvaluationSpec.model_validate(obj["spec"])
    target = find_target(spec, None)
    assert target is not None
    golden("evaluation-folders-gpu", build_eval_job(obj, spec, target, SETTINGS, number=2))
