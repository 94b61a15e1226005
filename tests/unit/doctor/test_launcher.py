import pytest

from repot_pipelines.doctor.check import OK, PROBLEM, WARNING
from repot_pipelines.doctor.launcher import Launcher, check_launcher, read_launcher

S3 = """
s3:
  default:
    endpoint: "http://seaweedfs.kubeflow:9000"
    credentials: {fromEnv: false, secretRef: {secretName: store-keys, accessKeyKey: a, secretKeyKey: b}}
  Overrides:
    - bucketName: other
      credentials: {secretRef: {secretName: other-keys}}
"""


def test_root_and_secrets_are_read() -> None:
    found = read_launcher({"defaultPipelineRoot": "s3://bucket/kfp", "providers": S3})

    assert found == Launcher(root="s3://bucket/kfp", secrets=("other-keys", "store-keys"))
    assert check_launcher("kubeflow", found).state == OK


@pytest.mark.parametrize(
    "data", [{}, {"providers": ""}, {"defaultPipelineRoot": "gs://bucket/kfp"}]
)
def test_an_empty_config_map_means_the_defaults(data: dict[str, str]) -> None:
    found = check_launcher("kubeflow", read_launcher(data))

    assert found.state == OK
    assert "the pods' own credentials" in found.finding


def test_no_config_map_is_a_warning() -> None:
    assert check_launcher("kubeflow", None).state == WARNING


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"defaultPipelineRoot": "gs://your-bucket/kfp"}, "placeholder"),
        ({"defaultPipelineRoot": "/somewhere"}, "'/somewhere', which KFP does not know"),
        ({"providers": "s3: ["}, "no valid YAML"),
    ],
)
def test_wrong_values_are_problems(data: dict[str, str], told: str) -> None:
    found = check_launcher("kubeflow", read_launcher(data))

    assert found.state == PROBLEM
    assert told in found.finding
