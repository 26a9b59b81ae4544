"""What FineTuneJob and Evaluation ask the API server for when they observe: reads, and chooses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from luthier.naming import controller_uid
from luthier.plan import Json
from luthier.ports import Ports
from luthier.resources import JOB, PVC


async def confirm_job(obj: Json, found: Sequence[Json], name: str, ports: Ports) -> list[Json]:
    """Return the Jobs with one that the store lacks: a late store must start no second one, nor cost a GPU hour."""
    if any(job["metadata"]["name"] == name for job in found):
        return list(found)
    live = await ports.reader.get(JOB, obj["metadata"]["namespace"], name)
    if live is None or controller_uid(live) != obj["metadata"]["uid"]:
        return list(found)
    return [*found, live]


async def find_missing_claims(obj: Json, claims: Iterable[str], ports: Ports) -> tuple[str, ...]:
    """Return the claims that do not exist."""
    namespace = obj["metadata"]["namespace"]
    return tuple([claim for claim in claims if await ports.reader.get(PVC, namespace, claim) is None])
