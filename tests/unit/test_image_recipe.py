"""Which change makes an image be built again, and which does not."""

import pytest

from imagebuild.builder import ROOT
from imagebuild.catalog import IMAGES, Image, with_prerequisites
from imagebuild.recipe import content_hash, copied_files, dockerfile_lines

DOCKERFILE = """\
# a comment
ARG BASE_IMAGE=x
FROM ${BASE_IMAGE} AS packages
COPY locks/a.txt /opt/
RUN one && \\
    # a comment within
    two
FROM packages AS test
COPY locks/test.txt /opt/
FROM packages
COPY --from=test /wheels /wheels
COPY code /opt/code
"""
IMAGE = Image(name="thing", dockerfile="Dockerfile")


@pytest.fixture
def root(tmp_path):
    for path, text in {
        "Dockerfile": DOCKERFILE,
        "locks/a.txt": "a==1\n",
        "locks/test.txt": "pytest==9\n",
        "code/main.py": "print()\n",
        "code/__pycache__/main.pyc": "bytecode",
        "notes.md": "not copied\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_lines_are_joined_and_comments_dropped(root):
    assert "RUN one && two" in dockerfile_lines(root / "Dockerfile")


def test_copied_files_are_those_of_the_context_without_bytecode(root):
    found = copied_files(root, dockerfile_lines(root / "Dockerfile"))
    assert [str(f.relative_to(root)) for f in found] == ["code/main.py", "locks/a.txt", "locks/test.txt"]


@pytest.mark.parametrize(
    ("path", "changes_image", "changes_packages"),
    [
        pytest.param("code/main.py", True, False, id="our code rebuilds the image and not its packages"),
        pytest.param("locks/a.txt", True, True, id="a lock rebuilds both"),
        pytest.param("notes.md", False, False, id="what no COPY names rebuilds nothing"),
        pytest.param("code/__pycache__/main.pyc", False, False, id="bytecode rebuilds nothing"),
        pytest.param("Dockerfile", True, False, id="a later stage does not rebuild an earlier one"),
    ],
)
def test_a_change_rebuilds_what_it_reaches(root, path, changes_image, changes_packages):
    packages = Image(name="packages", dockerfile="Dockerfile", stage="packages")
    before = [content_hash(root, image, "base", {}) for image in (IMAGE, packages)]
    with (root / path).open("a") as file:
        file.write("RUN more\n")
    after = [content_hash(root, image, "base", {}) for image in (IMAGE, packages)]
    assert [old != new for old, new in zip(before, after, strict=True)] == [changes_image, changes_packages]


def test_another_base_or_part_is_another_image(root):
    hashes = {content_hash(root, IMAGE, base, parts) for base, parts in (("a", {}), ("b", {}), ("a", {"X": "1"}))}
    assert len(hashes) == 3


def test_a_copied_path_that_is_missing_is_named(root):
    (root / "locks/a.txt").unlink()
    with pytest.raises(ValueError, match=r"a Dockerfile copies .*locks/a\.txt, which does not exist"):
        content_hash(root, IMAGE, "base", {})


def test_an_unknown_stage_is_named(root):
    with pytest.raises(ValueError, match="no stage 'nowhere'"):
        dockerfile_lines(root / "Dockerfile", "nowhere")


def test_an_image_comes_after_what_it_is_built_from_and_only_once():
    names = [image.name for image in with_prerequisites(["demo-assets", "trainer-packages"])]
    assert names == ["trainer-packages", "demo-assets"]


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_every_dockerfile_of_the_catalog_names_files_that_exist(name):
    image = IMAGES[name]
    lines = dockerfile_lines(ROOT / image.dockerfile, image.stage)
    assert copied_files(ROOT, lines)


def test_trainer_and_server_share_the_torch_layer_word_for_word():
    trainer, server = (dockerfile_lines(ROOT / IMAGES[name].dockerfile, "torch") for name in ("trainer", "server"))
    assert trainer == server
