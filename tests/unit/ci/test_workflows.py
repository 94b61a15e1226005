"""The example workflows: valid for their CI systems, with command lines that `repot` accepts."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from repot.settings import PARAMETERS
from repot_pipelines.ci.comment import MARKER
from repot_pipelines.ci.provider import COMMIT_VARIABLES
from repot_pipelines.cli import repot
from repot_pipelines.parameters import read_parameter_file
from repot_pipelines.run_request import read_request

FOLDER = Path(__file__).parents[3] / "examples" / "ci"
SCHEMAS = {
    "github-actions.yml": "vendor.github-workflows",
    "gitlab-ci.yml": "vendor.gitlab-ci",
    "cloudbuild.yaml": "vendor.cloudbuild",
}


def read_yaml(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def scripts(name: str) -> list[str]:
    """Return every shell script in a workflow."""
    workflow = read_yaml(name)
    if name == "github-actions.yml":
        return [
            step["run"]
            for job in workflow["jobs"].values()
            for step in job["steps"]
            if "run" in step
        ]
    if name == "gitlab-ci.yml":
        parts = ("before_script", "script", "after_script")
        jobs = [job for job in workflow.values() if isinstance(job, dict) and "script" in job]
        return ["\n".join(line for part in parts for line in job.get(part, ())) for job in jobs]
    return [step["args"][-1].replace("$$", "$") for step in workflow["steps"]]


def repot_lines(name: str) -> list[list[str]]:
    lines = "\n".join(scripts(name)).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.split()[:1] == [".venv/bin/repot"]]


@pytest.mark.parametrize("name", SCHEMAS)
def test_workflow_is_valid_for_its_ci_system(name: str) -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        SCHEMAS[name],
        str(FOLDER / name),
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SCHEMAS)
def test_command_lines_are_accepted(name: str) -> None:
    lines = repot_lines(name)

    assert "ci" in [arguments[0] for arguments in lines]
    for name_of_command, *arguments in lines:
        command = repot.commands[name_of_command]
        assert isinstance(command, click.Command)
        values = [re.sub(r"\$\w+|\$\{[^}]*\}", "value", argument) for argument in arguments]
        command.make_context(name_of_command, values)


@pytest.mark.parametrize("name", SCHEMAS)
def test_scripts_are_valid_shell(name: str) -> None:
    for script in scripts(name):
        done = subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stderr}"


def test_github_scripts_do_not_interpolate_expressions() -> None:
    # ${{ }} in a script would let a branch name or an input inject shell commands.
    assert "${{" not in "".join(scripts("github-actions.yml"))


def test_pull_requests_have_no_access_to_the_cluster() -> None:
    jobs = read_yaml("github-actions.yml")["jobs"]

    assert "permissions" not in jobs["sample"]
    assert "secrets." not in json.dumps(jobs["sample"])
    assert jobs["retrain"]["if"] == "github.event_name != 'pull_request'"


@pytest.mark.parametrize("name", SCHEMAS)
def test_workflow_posts_the_comment_file(name: str) -> None:
    text = "\n".join(scripts(name))

    assert "--comment-file repot-comment.md" in text
    assert re.search(r'(body=?@|open\(")repot-comment\.md', text)


@pytest.mark.parametrize("name", ["github-actions.yml", "cloudbuild.yaml"])
def test_earlier_comment_is_found_by_its_marker(name: str) -> None:
    assert f'startswith("{MARKER}")' in "".join(scripts(name))


def test_cloud_build_overwrites_its_earlier_comment(tmp_path: Path) -> None:
    _, comment, _ = scripts("cloudbuild.yaml")
    (tmp_path / "repot-comment.md").write_text(f"{MARKER}\nnew")
    curl = tmp_path / "bin" / "curl"
    curl.parent.mkdir()
    stored = [
        {"url": "https://c/1", "body": "of a person"},
        {"url": "https://c/2", "body": f"{MARKER}\nold"},
    ]
    for comments, expected in ((stored, "PATCH"), (stored[:1], "--data")):
        (tmp_path / "stored.json").write_text(json.dumps(comments))
        curl.write_text(
            '#!/bin/sh\ncase "$*" in *per_page*) cat stored.json;; *) echo "$*" > sent;; esac\n'
        )
        curl.chmod(0o755)

        path = f"{curl.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
        subprocess.run(
            ["bash", "-c", comment],
            cwd=tmp_path,
            env={"PATH": path, "COMMENT_TOKEN": "t"},
            check=True,
        )

        sent = (tmp_path / "sent").read_text()
        assert expected in sent
        assert ("https://c/2" in sent) == (expected == "PATCH")
    assert json.loads((tmp_path / "repot-comment.json").read_text()) == {"body": f"{MARKER}\nnew"}


@pytest.mark.parametrize(
    "provider", ["", "projects/1/locations/global/workloadIdentityPools/p/providers/x"]
)
def test_gitlab_writes_google_credentials_only_with_a_provider(
    provider: str, tmp_path: Path
) -> None:
    (_, authenticate) = read_yaml("gitlab-ci.yml")["retrain"]["before_script"]
    environment = {
        "PATH": "/usr/bin:/bin",
        "CI_PROJECT_DIR": str(tmp_path),
        "GOOGLE_OIDC_TOKEN": "t",
        "REPOT_WORKLOAD_IDENTITY_PROVIDER": provider,
        "REPOT_SERVICE_ACCOUNT": "robot@p.iam.gserviceaccount.com",
    }

    done = subprocess.run(
        ["bash", "-c", f'{authenticate}\necho "$GOOGLE_APPLICATION_CREDENTIALS"'],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    path = tmp_path / ".google-credentials.json"
    assert done.stdout.strip() == (str(path) if provider else "")
    assert path.exists() == bool(provider)
    if provider:
        credentials = json.loads(path.read_text())
        assert credentials["audience"] == f"//iam.googleapis.com/{provider}"
        assert Path(credentials["credential_source"]["file"]).read_text() == "t"


@pytest.mark.parametrize("name", SCHEMAS)
def test_runs_use_the_service_account_of_the_manifests(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")

    assert re.search(r"RUN_ACCOUNT.*repot-runner", text)
    assert all("--service-account" in line for line in repot_lines(name) if line[0] == "ci")


def test_cloud_build_passes_the_commit_on() -> None:
    (step,) = [step for step in read_yaml("cloudbuild.yaml")["steps"] if step["id"] == "retrain"]

    assert f"{COMMIT_VARIABLES[-1]}=$COMMIT_SHA" in step["env"]


def test_cloud_build_ends_with_the_exit_code_of_repot(tmp_path: Path) -> None:
    retrain, comment, result = scripts("cloudbuild.yaml")
    assert "curl" in comment
    for name, code in (("make", 0), ("repot", 3)):
        program = tmp_path / (".venv/bin" if name == "repot" else "bin") / name
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "NAMESPACE": "", "REBUILD": ""}

    codes = [
        subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, check=False
        ).returncode
        for script in (retrain, result)
    ]

    assert codes == [3, 3]


def test_parameter_file_is_valid_for_a_cluster() -> None:
    path = FOLDER / "repot.yaml"

    request = read_request(preset="cluster", parameter_file=path, options={}, assignments=())

    assert set(read_parameter_file(path)) <= set(PARAMETERS)
    assert request.sent["min_precision"] == 0.8
