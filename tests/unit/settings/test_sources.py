"""How the settings of a run are merged from form, ConfigMap and compiled pipeline."""

from typing import Any

import pytest

from repot.settings import (
    ALL_SETTINGS,
    CLUSTER_KEYS,
    CLUSTER_VARIABLES,
    DEFAULTS,
    FORM_FIELDS,
    PARAMETERS,
    PIPELINE_SETTINGS,
    ResolvedSettings,
    cluster_default_problems,
    resolve_settings,
    run_storage_uri,
    to_arguments,
)

FORM = {name: DEFAULTS[name] for name in FORM_FIELDS if name in DEFAULTS}
FORM["pictures_uri"] = "gs://pictures"


def resolve(
    settings: dict[str, Any] | None = None,
    *,
    form: dict[str, Any] | None = None,
    compiled: dict[str, Any] | None = None,
    cluster: dict[str, str] | None = None,
) -> ResolvedSettings:
    variables = {CLUSTER_VARIABLES[key]: text for key, text in (cluster or {}).items()}
    return resolve_settings(
        {**FORM, **(form or {})},
        settings or {},
        compiled=compiled or {},
        environment={"PATH": "/bin", **variables},
    )


def test_defaults_apply_where_nothing_else_is_given() -> None:
    resolved = resolve()

    assert resolved.values == {**DEFAULTS, "pictures_uri": "gs://pictures"}
    assert resolved.origins == {"pictures_uri": "the form"}
    assert resolved.problems == ()


def test_later_sources_override_earlier_ones() -> None:
    sources: dict[str, Any] = {
        "compiled": {"trainer_cpu": "1", "builder_pods": 1, "task_cpu": "1", "seed": 1},
        "cluster": {"TRAINER_CPU": "2", "BUILDER_PODS": "2", "STORAGE_URI": "gs://cluster"},
    }
    resolved = resolve({"trainer_cpu": "3"}, **sources)

    names = ("seed", "builder_pods", "trainer_cpu", "storage_uri")
    assert {name: (resolved.values[name], resolved.origins[name]) for name in names} == {
        "seed": (1, "the compiled pipeline"),
        "builder_pods": (2, "the ConfigMap repot-settings"),
        "trainer_cpu": ("3", "the field settings"),
        "storage_uri": ("gs://cluster", "the ConfigMap repot-settings"),
    }
    assert resolve(form={"storage_uri": "gs://mine"}, **sources).values["storage_uri"] == (
        "gs://mine"
    )


@pytest.mark.parametrize("text", ["default", "", " ", "none"])
def test_storage_of_the_form_can_be_left_to_the_cluster(text: str) -> None:
    resolved = resolve(form={"storage_uri": text}, cluster={"STORAGE_URI": "s3://bucket/x"})

    assert resolved.values["storage_uri"] == "s3://bucket/x"
    variables = {"REPOT_CLUSTER_STORAGE_URI": "s3://bucket/x"}
    assert run_storage_uri(text, variables) == "s3://bucket/x"
    assert run_storage_uri("gs://mine", variables) == "gs://mine"
    assert run_storage_uri(text, {}) == ""


def test_every_kind_of_administrators_default_is_read_from_text() -> None:
    resolved = resolve(
        compiled={"settings_config_map": "team-a"},
        cluster={
            "ACCELERATOR_COUNT": "0",
            "TRAINER_NODE_SELECTOR": '{"pool": "gpu"}',
            "TASK_TOLERATIONS": '[{"operator": "Exists"}]\n',
            "TRAINER_IMAGE": "  ",
        },
    )

    assert resolved.problems == ()
    assert resolved.values["accelerator_count"] == 0
    assert resolved.values["trainer_node_selector"] == {"pool": "gpu"}
    assert resolved.values["task_tolerations"] == [{"operator": "Exists"}]
    assert resolved.values["trainer_image"] == DEFAULTS["trainer_image"]
    assert resolved.origins["accelerator_count"] == "the ConfigMap team-a"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sede": 1}, "sede must be the name of a setting; there is none of that name. Did you"),
        ({"image-size": 1}, "image-size must be the name of a setting"),
        ({"epochs": 1}, "epochs is a field of the form: set it there, and remove it from settings"),
        ({"cpu_image": "a"}, "cpu_image is part of the compiled pipeline: remove it from settings"),
        ({"seed": "3"}, 'seed in settings must be a whole number; got "3". Write "seed": 0, for'),
        ({"seed": 1.5}, "seed in settings must be a whole number; got 1.5."),
        ({"seed": True}, "seed in settings must be a whole number; got true."),
        ({"seed": None}, "seed in settings must be a whole number; got null. Remove the key"),
        ({"allow_label_removal": "true"}, "allow_label_removal in settings must be true or false"),
        ({"allow_label_removal": 1}, "allow_label_removal in settings must be true or false"),
        ({"max_rejected_fraction": "1"}, "max_rejected_fraction in settings must be a number"),
        ({"test_fraction": float("nan")}, "test_fraction in settings must be a number; got NaN"),
        ({"test_fraction": 10**400}, "test_fraction in settings must be a number; got 1000"),
        (
            {"trainer_cpu": 4},
            'trainer_cpu in settings must be text on one line; got 4. Write "trainer_cpu": "4"',
        ),
        ({"rebuild": "a\nb"}, "rebuild in settings must be text on one line; got"),
        ({"trainer_tolerations": {}}, "trainer_tolerations in settings must be a JSON list"),
        ({"trainer_node_selector": "a=b"}, "trainer_node_selector in settings must be a JSON obj"),
    ],
)
def test_wrong_key_or_type_in_settings_is_one_problem(
    settings: dict[str, Any], problem: str
) -> None:
    resolved = resolve(settings)

    (only,) = resolved.problems
    assert only.startswith(problem)
    assert resolved.values == {**DEFAULTS, "pictures_uri": "gs://pictures"}


def test_all_problems_are_found_at_once() -> None:
    resolved = resolve({"sede": 1, "epochs": 2, "seed": "x"}, cluster={"TRAINER_TOLERATIONS": "{"})

    assert len(resolved.problems) == 4


def test_numbers_of_kfp_become_whole_numbers() -> None:
    value = resolve({"builder_pods": 3.0}).values["builder_pods"]

    assert (value, type(value)) == (3, int)


def test_problem_of_a_value_that_is_not_in_the_form_names_its_source() -> None:
    resolved = resolve({"seed": -1}, cluster={"TRAINER_CPU": "much"}, compiled={"task_memory": "1"})

    found = list(
        resolved.with_origins(["seed must x.", "trainer_cpu must x.", "task_memory must x.", "a"])
    )

    assert found == [
        "seed must x.",
        "trainer_cpu must x. The value is from the ConfigMap repot-settings.",
        "task_memory must x. The value is from the compiled pipeline.",
        "a",
    ]


def test_table_shows_what_was_chosen_first() -> None:
    rows = resolve({"seed": 3}, cluster={"JOB_QUEUE": "a|b"}).table().splitlines()

    assert len(rows) == 2 + len(PARAMETERS)
    assert rows[2:5] == [
        '| job_queue | `"a\\|b"` | the ConfigMap repot-settings |',
        '| pictures_uri | `"gs://pictures"` | the form |',
        "| seed | `3` | the field settings |",
    ]
    assert rows[5].endswith(" | default |")


def test_arguments_have_the_form_and_one_object_with_the_rest() -> None:
    assert to_arguments({"epochs": 3}) == {"epochs": 3}
    assert to_arguments({"epochs": 3, "seed": 1, "task_cpu": "1", "cpu_image": "a"}) == {
        "epochs": 3,
        "settings": {"seed": 1, "task_cpu": "1"},
    }


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ({"STORAGE_URI": "s3://b", "S3_ENDPOINT": "http://s", "GPU_QUOTA": "8"}, []),
        ({"TRAINER_CPUS": "4"}, ["The ConfigMap c must not have the key TRAINER_CPUS, which"]),
        ({"S3_ENDPONT": "x"}, ["The ConfigMap c must not have the key S3_ENDPONT, which nothing"]),
        ({"CPU_IMAGE": "x"}, ["The ConfigMap c must not have the key CPU_IMAGE, which nothing"]),
        ({"EPOCHS": "3"}, ["The ConfigMap c must not have the key EPOCHS, which nothing reads. E"]),
        ({"ACCELERATOR_COUNT": "one"}, ["ACCELERATOR_COUNT in the ConfigMap c: accelerator_count"]),
        (
            {"ACCELERATOR_COUNT": "65", "TASK_TOLERATIONS": "[1]"},
            ["task_tolerations[0] must ", "accelerator_count must lie in 0..64"],
        ),
    ],
)
def test_content_of_a_config_map_is_checked(data: dict[str, str], problems: list[str]) -> None:
    found = cluster_default_problems(data, "c")

    assert len(found) == len(problems)
    assert all(each.startswith(start) for each, start in zip(found, problems, strict=True))


def test_wrong_keys_get_the_nearest_name() -> None:
    found = cluster_default_problems({"TRAINER_CPUS": "4", "S3_ENDPONT": "x"}, "c")

    assert found[0].endswith("Did you mean S3_ENDPOINT?")
    assert found[1].endswith("Did you mean TRAINER_CPU?")


def test_every_setting_has_one_place() -> None:
    for name, field in PARAMETERS.items():
        place = field.metadata["place"]
        assert (place == "form") == (name in FORM_FIELDS)
        assert place != "pipeline" or name in PIPELINE_SETTINGS
        assert not (place == "pipeline" and name in CLUSTER_KEYS.values())
    assert {*CLUSTER_KEYS.values()} <= {
        name for settings in ALL_SETTINGS for name in settings.__dataclass_fields__
    }
