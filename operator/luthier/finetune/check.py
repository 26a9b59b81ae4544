"""What is wrong with a FineTuneJob: what the API server's rules cannot see, or let pass before they were made. Pure."""

from __future__ import annotations

from luthier.api.finetunejob import FineTuneJobSpec
from luthier.errors import InvalidSpec
from luthier.finetune.build import find_places, training_resources
from luthier.plan import Json
from luthier.podspec import requested
from luthier.settings import Settings
from luthier.volumes import Location


def check_spec(job: Json, spec: FineTuneJobSpec, settings: Settings) -> None:
    """Refuse what can never work.

    Raises:
        InvalidSpec: With the field and the way out.
    """
    _check_numbers(spec)
    _check_batches(spec)
    _check_devices(spec, settings)
    _check_output(job, spec)


def _check_numbers(spec: FineTuneJobSpec) -> None:
    rate = spec.training.learning_rate
    if rate != "auto" and not 0 < float(rate) < 1:
        raise InvalidSpec(
            "spec.training.learningRate", f'{rate} is not between 0 and 1; use "auto" or for example "2e-4"'
        )
    if float(spec.training.max_grad_norm) == 0:
        raise InvalidSpec("spec.training.maxGradNorm", 'with 0 no weight ever moves; use for example "1.0"')


def _check_batches(spec: FineTuneJobSpec) -> None:
    micro = (spec.training.per_device_batch_size or 1) * spec.distributed.num_proc_per_node
    total = spec.training.global_batch_size
    if total % micro:
        fitting = -(-total // micro) * micro
        raise InvalidSpec(
            "spec.training.globalBatchSize",
            f"{total} is no multiple of {micro} (perDeviceBatchSize times numProcPerNode); use {fitting}",
        )


def _check_devices(spec: FineTuneJobSpec, settings: Settings) -> None:
    gpus = int(requested(training_resources(spec, settings), settings.gpu_resource_name))
    processes = spec.distributed.num_proc_per_node
    if gpus and processes != gpus:
        raise InvalidSpec(
            "spec.distributed.numProcPerNode",
            f"{processes} processes on {gpus} GPUs; set it to {gpus}, one process per GPU",
        )


def _check_output(job: Json, spec: FineTuneJobSpec) -> None:
    places = find_places(job, spec)
    for field, place in (("spec.model.uri", places.model), *_sources(places.sources)):
        if _is_within(places.artifact, place):
            raise InvalidSpec(
                "spec.output.uri",
                f"{spec.output.uri} is inside {field} ({place.uri}), and would change it; use another folder",
            )


def _sources(places: tuple[Location, ...]) -> list[tuple[str, Location]]:
    return [(f"spec.dataset.sources[{i}].uri", place) for i, place in enumerate(places)]


def _is_within(inner: Location, outer: Location) -> bool:
    """Say whether one place lies in a folder. A claim's root holds everything: many keep all in one claim."""
    return inner.claim == outer.claim and bool(outer.path) and f"{inner.path}/".startswith(f"{outer.path}/")
