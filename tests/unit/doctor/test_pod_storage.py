import pytest

from repot_pipelines.doctor.pod_storage import (
    LauncherConfig,
    check_launcher_config,
    read_launcher_config,
)
from repot_pipelines.doctor.results import OK, PROBLEM, WARNING

S3 = """
s3:
  default:
    endpoint: "http://seaweedfs.kubeflow:9000"
    credentials:
      fromEnv: false
      secretRef: {secretName: store-keys, accessKeyKey: a, secretKeyKey: b}
  Overrides:
    - bucketName: other
      credentials: {secretRef: {secretName: other-keys}}
"""


def test_launcher_root_and_secrets_are_read() -> None:
    config = read_launcher_config({"defaultPipelineRoot": "s3://bucket/kfp", "providers": S3})

    assert config == LauncherConfig(root="s3://bucket/kfp", secrets=("other-keys", "store-keys"))
    assert check_launcher_config("kubeflow", config).state == OK


@pytest.mark.parametrize(
    "data", [{}, {"providers": ""}, {"defaultPipelineRoot": "gs://bucket/kfp"}]
)
def test_launcher_without_providers_uses_the_credentials_of_the_pods(data: dict[str, str]) -> None:
    result = check_launcher_config("kubeflow", read_launcher_config(data))

    assert result.state == OK
    assert "the credentials of the pods" in result.finding


def test_missing_launcher_config_map_is_a_warning() -> None:
    assert check_launcher_config("kubeflow", None).state == WARNING


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        ({"defaultPipelineRoot": "gs://your-bucket/kfp"}, "placeholder"),
        ({"defaultPipelineRoot": "/somewhere"}, "'/somewhere', which KFP does not support"),
        ({"providers": "s3: ["}, "not valid YAML"),
    ],
)
def test_wrong_launcher_values_are_problems(data: dict[str, str], finding: str) -> None:
    result = check_launcher_config("kubeflow", read_launcher_config(data))

    assert result.state == PROBLEM
    assert finding in result.finding
