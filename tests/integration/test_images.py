"""Container images: locked packages, minimal rights, and the names that the pipeline uses."""

import json
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from repot import __version__
from repot.container_images import CPU_IMAGE, TRAINER_IMAGE

ROOT = Path(__file__).parent.parent.parent
IMAGES = ["cpu", "trainer"]
LOCKS = ["build.txt", "cpu/requirements.txt", "trainer/requirements.txt"]
TENSORFLOW = {"cpu": "tensorflow-cpu", "trainer": "tensorflow"}
# Packages of the extras litert and onnx that repot does not need otherwise.
EXPORT_PACKAGES = ("ai-edge-litert", "backports-strenum", "onnx", "onnxruntime", "tf2onnx")
SIGNING_PACKAGES = (
    *("annotated-types", "asn1crypto", "blake3", "dnspython", "email-validator", "id"),
    *("in-toto-attestation", "model-signing", "platformdirs", "pydantic", "pydantic-core"),
    *("pyjwt", "pyopenssl", "rfc3161-client", "rfc8785", "securesystemslib", "sigstore"),
    *("sigstore-models", "sigstore-rekor-types", "tuf", "typing-inspection"),
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / "images" / name).read_text("utf-8")


def instructions(image: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, e.g. ("FROM", "${BASE_IMAGE}"), with joined lines."""
    text = re.sub(r"(?m)^#.*\n", "", read(f"{image}/Dockerfile")).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line]
    return [(name, " ".join(rest.split())) for name, rest in pairs]


def last_stage(image: str) -> list[tuple[str, str]]:
    found = instructions(image)
    (start,) = [
        position
        for position, (name, rest) in enumerate(found)
        if (name, rest) == ("FROM", "${BASE_IMAGE}")
    ]
    return found[start:]


def locked(lock: str) -> dict[str, str]:
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+) \\$", read(lock))
    }


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_every_package_with_hashes(lock: str) -> None:
    lines = [line for line in read(lock).splitlines() if not line.startswith("#")]

    assert all(
        re.fullmatch(r"[\w.-]+==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        for line in lines
    )
    assert len(locked(lock)) == len([line for line in lines if not line.startswith(" ")]) > 5


@pytest.mark.parametrize("image", IMAGES)
def test_lock_meets_the_requirements_of_repot(image: str) -> None:
    versions = locked(f"{image}/requirements.txt")

    for requirement in map(Requirement, PROJECT["dependencies"]):
        name = (
            TENSORFLOW[image]
            if requirement.name == "tensorflow"
            else canonicalize_name(requirement.name)
        )
        assert requirement.specifier.contains(versions[name]), str(requirement)


@pytest.mark.parametrize("image", IMAGES)
def test_lock_contains_no_build_test_or_lint_tools(image: str) -> None:
    extras = PROJECT["optional-dependencies"]
    tools = {
        canonicalize_name(Requirement(tool).name)
        for name in ("test", "lint")
        for tool in extras[name]
    }
    excluded = set(read(f"{image}/excludes.txt").split()) & {"libclang", "setuptools", "wheel"}

    assert len(excluded) == 3
    unwanted = {"pip", *tools, *excluded} - {"packaging"}
    assert unwanted.isdisjoint(locked(f"{image}/requirements.txt"))


def test_images_differ_only_in_tensorflow_gpu_libraries_exports_and_signing() -> None:
    cpu, trainer = locked("cpu/requirements.txt"), locked("trainer/requirements.txt")
    for name in (*EXPORT_PACKAGES, *SIGNING_PACKAGES):
        assert cpu.pop(name)

    assert cpu.pop("tensorflow-cpu") == trainer.pop("tensorflow")
    gpu = {name for name in trainer if name.startswith("nvidia-")}
    assert {name: version for name, version in trainer.items() if name not in gpu} == cpu
    assert {"nvidia-cudnn-cu12", "nvidia-nccl-cu12", "nvidia-cuda-nvcc-cu12"} <= gpu


def test_lock_of_the_cpu_image_meets_the_extras_of_evaluate() -> None:
    versions = locked("cpu/requirements.txt")

    for extra in ("litert", "onnx", "signing"):
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            assert requirement.specifier.contains(versions[requirement.name]), str(requirement)


def test_build_lock_meets_the_build_requirements() -> None:
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]

    for requirement in map(Requirement, build_system["requires"]):
        assert requirement.specifier.contains(
            locked("build.txt")[canonicalize_name(requirement.name)]
        )


@pytest.mark.parametrize("image", IMAGES)
def test_image_runs_as_a_numeric_user_with_its_home_in_tmp(image: str) -> None:
    found = last_stage(image)

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", dict(found)["USER"])
    assert dict(found)["WORKDIR"] == "/tmp"
    assert " HOME=/tmp " in "".join(f" {rest} " for name, rest in found if name == "ENV")
    after_user = [name for name, _ in found[[name for name, _ in found].index("USER") :]]
    assert "COPY" not in after_user


@pytest.mark.parametrize("image", IMAGES)
def test_image_has_no_entrypoint(image: str) -> None:
    assert "ENTRYPOINT" not in dict(instructions(image))
    assert json.loads(dict(last_stage(image))["CMD"]) == ["repot", "--help"]


@pytest.mark.parametrize("image", IMAGES)
def test_last_stage_only_copies_the_built_environments(image: str) -> None:
    found = last_stage(image)

    assert [rest for name, rest in found if name == "COPY"] == [
        "--from=packages /opt/venv /opt/venv",
        "--from=repot /opt/repot /opt/venv",
    ]
    assert [name for name, _ in found if name == "ADD"] == []
    assert not [
        rest
        for name, rest in found
        if name == "RUN" and re.search(r"\b(install|apt|apt-get|curl|wget)\b", rest)
    ]


@pytest.mark.parametrize("image", IMAGES)
def test_image_build_checks_repot_and_sets_version_labels(image: str) -> None:
    found = last_stage(image)
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', dict(found)["LABEL"]))

    assert ("ARG", f"VERSION={__version__}") in found
    assert labels["version"] == "${VERSION}"
    assert labels["revision"] == "${REVISION}"
    assert labels["title"] == f"repot-{image}"
    assert "repot --version" in dict(found)["RUN"]
    modules = re.findall(r"repot[\w.]*\.component", dict(found)["RUN"])
    assert modules
    for module in modules:
        assert (ROOT / "components" / Path(*module.split("."))).with_suffix(".py").exists()


def test_dockerfiles_differ_only_in_packages_labels_and_checks() -> None:
    cpu, trainer = instructions("cpu"), instructions("trainer")
    trainer.remove(("ENV", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"))

    different = [
        name for (name, mine), (_, other) in zip(cpu, trainer, strict=True) if mine != other
    ]
    assert different == ["COPY", "LABEL", "RUN"]


def test_make_images_builds_the_default_images_of_the_pipeline() -> None:
    dry = ["make", "--dry-run", "images", "IMAGE_BUILD=docker build"]
    lines = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert re.findall(r"--tag (\S+)", lines) == [CPU_IMAGE, TRAINER_IMAGE]
    assert f"VERSION={__version__} " in lines


def test_dockerignore_allows_exactly_what_the_dockerfiles_copy() -> None:
    allowed = set(re.findall(r"(?m)^!(\S+)", (ROOT / ".dockerignore").read_text("utf-8")))
    copied = {
        source.split("/")[0]
        for image in IMAGES
        for name, rest in instructions(image)
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }

    assert allowed == copied


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_passes(image: str) -> None:
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not linter.exists():
        pytest.skip("make lint-images installs hadolint")

    found = subprocess.run(
        [linter, ROOT / "images" / image / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.stdout + found.stderr == ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("image", IMAGES)
def test_image_builds_and_runs_with_minimal_rights(image: str) -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs a Docker daemon; BUILD_FLAGS in the environment are passed to the build")
    subprocess.run(
        ["make", f"image-{image}", "IMAGE_PREFIX=repot-test/repot"], cwd=ROOT, check=True
    )

    restrictions = [
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "--network",
        "none",
        "--user",
        "12345:0",
    ]
    command = [
        "docker",
        "run",
        "--rm",
        *restrictions,
        f"repot-test/repot-{image}:{__version__}",
        "repot",
        "--version",
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert output == f"repot, version {__version__}\n"
