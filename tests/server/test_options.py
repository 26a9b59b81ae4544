"""vLLM's command line and environment, as text: no engine is started here."""

from pathlib import Path

import pytest

from luthier_server.answers import AnswerFormat
from luthier_server.config import ServerConfig
from luthier_server.options import arguments, cpu_flags, environment, whole_cpus
from luthier_server.verify import Verified

AVX2 = frozenset({"avx2"})


def _arguments(*, adapter="/adapter", is_cpu=True, flags=AVX2, template=None, **fields):
    config = ServerConfig(base_path="/base", base_digest="d", served_model_name="support", **fields)
    verified = Verified(
        base=Path("/base"),
        adapter=Path(adapter) if adapter else None,
        chat_template=Path(template) if template else None,
        generation_config=Path("/adapter"),
        lora_rank=32,
        probes=(),
        answer_format=None,
    )
    return arguments(config, verified, is_cpu=is_cpu, cpu_flags=flags)


def _after(words, option):
    at = words.index(option) + 1
    return [word for word in words[at : at + 2] if not word.startswith("--")]


def test_the_served_name_is_the_adapters_and_the_base_has_a_hidden_one():
    words = _arguments()
    assert _after(words, "--served-model-name") == ["luthier-base"]
    assert _after(words, "--lora-modules") == ["support=/adapter"]
    assert _after(words, "--max-lora-rank") == ["32"]


def test_the_base_has_its_own_name_where_an_evaluation_asks_for_it():
    assert _after(_arguments(base_model_name="base"), "--served-model-name") == ["base"]


def test_without_an_adapter_the_served_name_is_the_bases():
    words = _arguments(adapter=None, base_model_name="base")
    assert _after(words, "--served-model-name") == ["support", "base"]
    assert "--enable-lora" not in words


@pytest.mark.parametrize(
    ("dtype", "is_cpu", "flags", "told"),
    [
        ("Auto", True, AVX2, "float32"),
        ("Auto", True, frozenset({"avx512_bf16"}), "auto"),
        ("Auto", False, AVX2, "auto"),
        ("BFloat16", True, AVX2, "bfloat16"),
        ("Float16", False, AVX2, "float16"),
    ],
)
def test_auto_is_float32_on_a_cpu_that_emulates_bfloat16(dtype, is_cpu, flags, told):
    assert _after(_arguments(dtype=dtype, is_cpu=is_cpu, flags=flags), "--dtype") == [told]


def test_a_cpu_never_compiles_and_a_gpu_does_unless_told_not_to():
    assert "--enforce-eager" in _arguments(is_cpu=True)
    assert "--enforce-eager" not in _arguments(is_cpu=False)
    assert "--enforce-eager" in _arguments(is_cpu=False, enforce_eager=True)
    assert "--distributed-executor-backend" not in _arguments(is_cpu=False)


def test_only_safe_weights_and_the_artifacts_template_are_loaded():
    words = _arguments(template="/adapter/chat_template.jinja")
    assert _after(words, "--load-format") == ["safetensors"]
    assert "--no-trust-remote-code" in words
    assert _after(words, "--chat-template") == ["/adapter/chat_template.jinja"]
    assert "--chat-template" not in _arguments()


def test_the_environment_fetches_and_reports_nothing():
    config = ServerConfig(base_path="/b", base_digest="d", served_model_name="s", cpu_kv_cache_gib=3)
    given = environment(config, cpus=2)
    assert given["HF_HUB_OFFLINE"] == given["VLLM_NO_USAGE_STATS"] == "1"
    assert (given["OMP_NUM_THREADS"], given["VLLM_CPU_KVCACHE_SPACE"]) == ("2", "3")
    assert given["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("max", 8),
        ("9900000 100000", 8),
    ],
)
def test_threads_are_the_whole_cpus_of_the_limit(cpu_max, cpus):
    assert whole_cpus(cpu_max, available=8) == cpus


def test_cpu_flags_are_read_from_cpuinfo():
    assert cpu_flags("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n") == {"fpu", "avx2", "avx512_bf16"}
    assert cpu_flags("Features\t: asimd bf16") == {"asimd", "bf16"}
    assert cpu_flags("") == frozenset()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "Expecting"),
        ('{"type": "objekt"}', "objekt"),
        ('{"$ref": "https://example.com/schema.json"}', "none is fetched"),
        ('{"properties": {"a": {"$ref": "#/$defs/missing"}}}', "#/\\$defs/missing"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema, words):
    with pytest.raises(ValueError, match=words):
        AnswerFormat(schema)


def test_references_inside_the_schema_are_followed():
    schema = AnswerFormat('{"$defs": {"a": {"const": 1}}, "properties": {"x": {"$ref": "#/$defs/a"}}}')
    assert schema.accepts('{"x": 1}')
    assert not schema.accepts('{"x": 2}')
