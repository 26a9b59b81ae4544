"""The command line of `hack/images`."""

from __future__ import annotations

import argparse
import os
import sys

from imagebuild import assets, builder
from imagebuild.builder import BuildError
from imagebuild.catalog import ALIASES, IMAGES, SHIPPED
from localcluster import process
from localcluster.errors import ClusterError

DESCRIPTION = """\
The container images, built without a container engine. What has not changed is not built again.

  hack/images build all                     operator, trainer, server and demo (the first time: some 10 minutes)
  hack/images load --name luthier           bring all four to a running cluster (`hack/cluster up`)
  hack/images chart-values                  print the chart's options for exactly these images
  hack/images tag standin                   print the tag of one image
  hack/images push --registry HOST:PORT     send them to a registry of your own
  hack/images test trainer -k resume        run tests/trainer inside the trainer's image; the rest goes to pytest
  hack/images assets                        print the folder that holds the demo's and the tests' models
"""

TESTED = ("pyproject.toml", "trainer_image", "server_image", "tests", "examples/data")
"""What a test run sees of the checkout. The rest may hold what only root can read, a link to a virtualenv say."""


def main() -> int:
    arguments, rest = _parser().parse_known_args()
    if rest and arguments.run is not test:
        _parser().error(f"unknown arguments: {' '.join(rest)}")
    try:
        return int(arguments.run(arguments, rest) or 0)
    except (BuildError, ClusterError, ValueError) as error:
        print(f"hack/images: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hack/images: interrupted; what is built stays, run it again to go on", file=sys.stderr)
        return 130


def build(arguments: argparse.Namespace, _: list[str]) -> None:
    builder.build(_names(arguments.image))


def push(arguments: argparse.Namespace, _: list[str]) -> None:
    if not arguments.registry:
        raise BuildError('which registry? --registry HOST:PORT, or eval "$(hack/cluster env)", which sets one')
    names = _names(arguments.image)
    hashes = builder.build(names)
    for name in names:
        is_local = arguments.registry == os.environ.get("LUTHIER_REGISTRY")
        builder.push(IMAGES[name], hashes[name], arguments.registry, insecure=arguments.insecure or is_local)
        print(f"{arguments.registry}/luthier/{name}:{hashes[name]}", flush=True)


def load(arguments: argparse.Namespace, _: list[str]) -> int:
    names = _names(arguments.image)
    hashes = builder.build(names)
    script = str(builder.ROOT / "hack" / "cluster")
    references = [IMAGES[name].reference(tag) for name in names for tag in (hashes[name], "dev")]
    return process.run_patiently([script, "load", "--name", arguments.name, *references])


def chart_values(_: argparse.Namespace, __: list[str]) -> None:
    """Name images by what is in them: a changed one is another Deployment, and the operator is restarted."""
    names = ["operator", "trainer", "server"]
    hashes = builder.build(names)
    for name in names:
        print(f"--set=image.{name}={IMAGES[name].reference(hashes[name])}")


def tag(arguments: argparse.Namespace, _: list[str]) -> None:
    print(builder.build([arguments.image])[arguments.image])


def list_(_: argparse.Namespace, __: list[str]) -> None:
    for name in SHIPPED:
        reference = IMAGES[name].reference("dev")
        fields = builder.buildah(
            "images", "--format", "{{.Size}}  {{.CreatedAt}}", "--filter", f"reference={reference}"
        )
        print(f"{reference:55} {fields.splitlines()[0] if fields else 'not built: hack/images build ' + name}")


def test(arguments: argparse.Namespace, rest: list[str]) -> int:
    image = IMAGES[f"{arguments.image}-test"]
    builder.build([image.name])
    models = assets.unpack()
    folder = f"tests/{arguments.image}"
    paths = [] if any(word.startswith("tests/") for word in rest) else [folder]
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths, *rest]
    env = {
        "LUTHIER_TEST_MODELS": "/models",
        "PYTHONPATH": "/src/trainer_image:/src/server_image:/src/tests",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    mounts = [*(f"{builder.ROOT / part}:/src/{part}:ro" for part in TESTED), f"{models}:/models:ro"]
    return builder.run_in(image, ["sh", "-c", 'cd /src && exec "$@"', "sh", *command], mounts, env)


def show_assets(_: argparse.Namespace, __: list[str]) -> None:
    print(assets.unpack())


def _names(given: list[str]) -> list[str]:
    names = [name for word in given for name in ALIASES.get(word, [word])]
    unknown = [name for name in names if name not in IMAGES]
    if unknown:
        raise BuildError(f"there is no image {unknown[0]!r}; there are {', '.join([*SHIPPED, *ALIASES])}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hack/images", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("build", build, "build images that are not there yet"),
        ("push", push, "build and send to a registry"),
        ("load", load, "build and bring to the node of a running cluster"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("image", nargs="*", default=["all"], help=f"{', '.join(ALIASES)} or {', '.join(SHIPPED)}")
        if run is push:
            command.add_argument("--registry", default=os.environ.get("LUTHIER_REGISTRY"), help="HOST:PORT")
            command.add_argument("--insecure", action="store_true", help="it speaks plain HTTP")
        if run is load:
            command.add_argument("--name", default="luthier", help="which cluster (default: luthier)")
    commands.add_parser("list", help="show what is built").set_defaults(run=list_)
    commands.add_parser("chart-values", help="print helm's options for these images").set_defaults(run=chart_values)
    tagger = commands.add_parser("tag", help="print an image's tag, which is the hash of what is in it")
    tagger.set_defaults(run=tag)
    tagger.add_argument("image", choices=sorted(IMAGES))
    tester = commands.add_parser("test", help="run the tests of an image inside it")
    tester.set_defaults(run=test)
    tester.add_argument("image", choices=["trainer", "server"])
    commands.add_parser("assets", help="print the folder of the demo's models").set_defaults(run=show_assets)
    return parser
