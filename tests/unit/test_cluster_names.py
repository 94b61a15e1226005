"""Messages about the objects of a cluster name those of the run."""

import pytest

from repot.cluster_names import (
    GOOGLE_SECRET,
    S3_SECRET,
    SETTINGS_CONFIG_MAP,
    name_sources,
    name_variables,
)

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def test_variables_are_named_themselves_on_a_machine() -> None:
    assert name_sources(*KEYS) == "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@pytest.mark.usefixtures("task_pod")
@pytest.mark.parametrize(
    ("variables", "source"),
    [
        (KEYS, "the keys accesskey and secretkey of the Secret repot-s3"),
        (("AWS_ENDPOINT_URL_S3",), "the key S3_ENDPOINT of the ConfigMap repot-settings"),
        (("REPOT_GOOGLE_KEY",), "the key key.json of the Secret repot-google-key"),
        (("REPOT_NOTIFY_URL",), "the key notify_url of the Secret repot-integrations"),
    ],
)
def test_variables_of_a_pod_are_keys_of_its_objects(
    variables: tuple[str, ...], source: str
) -> None:
    assert name_sources(*variables) == f"{source} in the namespace research"
    assert name_sources("PATH") == "PATH"


@pytest.mark.usefixtures("task_pod")
def test_objects_with_other_names_are_named_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = name_variables(config_map="store", s3_secret="team-s3", google_secret=GOOGLE_SECRET)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert "of the Secret team-s3 in" in name_sources(*KEYS)
    assert "of the ConfigMap store in" in name_sources("AWS_REGION")
    assert "of the Secret repot-google-key in" in name_sources("REPOT_GOOGLE_KEY")


def test_usual_names_need_no_variables() -> None:
    assert (
        name_variables(
            config_map=SETTINGS_CONFIG_MAP, s3_secret=S3_SECRET, google_secret=GOOGLE_SECRET
        )
        == {}
    )
