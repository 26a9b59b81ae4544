"""The configuration of one serving process. No engine here: the operator imports this module.

JSON in the environment variable `LUTHIER_SERVER_CONFIG`. Paths are inside the container.
Endpoints that this package adds to vLLM's: `/luthier/ready` (200 after a real one-token generation and the
template probe), `/luthier/live`, `/luthier/counters`; `/metrics` carries both.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CONFIG_ENV = "LUTHIER_SERVER_CONFIG"
PORT = 8000
REVISION_HEADER = "x-luthier-revision"
RESPONSE_ID_HEADER = "x-luthier-response-id"
"""On good answers, where votes are taken: what a vote names. The engine's own `id` in the body stays as it is."""
EXIT_REFUSED = 11
"""The weights are not what the configuration says (digest, base, template): trying again cannot help."""


class FeedbackConfig(BaseModel):
    """Whose votes on answers count, and what their ids are signed with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_folder: str
    """Of a mounted Secret: the file `key` signs ids, all files verify them."""
    identity_header: str | None = None
    """By which the gateway says who votes; None: the body may."""


class ServerConfig(BaseModel):
    """What to serve and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_path: str
    base_digest: str
    """Empty: the one that the adapter's luthier.json names (an Evaluation of folders); verified in either case."""
    adapter_path: str | None = None
    """The artifact's folder (with luthier.json)."""
    model_digest: str | None = None
    """The artifact's digest; verified before it is loaded."""
    served_model_name: str
    base_model_name: str | None = None
    """Also serve the base under this name (an Evaluation's baseline)."""
    revision: str = ""
    """Goes into the `revision` label of every counter and into the reply's header."""
    max_model_len: int = 1024
    dtype: Literal["Auto", "Float32", "BFloat16", "Float16"] = "Auto"
    max_num_seqs: int = 16
    enforce_eager: bool = False
    response_schema: str | None = None
    """JSON Schema text that every answer should meet: format validity is counted against it."""
    forbidden_texts: tuple[str, ...] = ()
    """No answer may contain one of these: each answer that does is a critical safety incident."""
    feedback: FeedbackConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Take votes on answers; None: `/v1/feedback` is not offered, and answers carry no id."""
    max_lora_rank: int = 16
    host: str = "0.0.0.0"
    port: int = PORT
    cpu_kv_cache_gib: int = 1
    linger_seconds: int = 3
    """After SIGTERM: still accept requests so long, while gateways learn that the pod is going."""
    drain_seconds: int = 20
    """After that: let requests in flight end, as long as a gateway waits for one. The pod's grace period must be longer
    than both together."""
