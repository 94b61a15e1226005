import json

import pytest

from repot_pipelines.kfp_server.errors import read_error_message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {
                "code": 5,
                "message": "Failed: NotFound: Run x",
                "details": [{"message": "Run x not found"}],
            },
            "Run x not found",
        ),
        (
            {
                "code": 13,
                "message": "Failed: no table",
                "details": [{"message": "Internal Server Error"}],
            },
            "Failed: no table",
        ),
        ({"error_message": "Failed to create", "error_details": "..."}, "Failed to create"),
        (
            {"kind": "Status", "message": 'services "ml-pipeline" not found', "reason": "NotFound"},
            'services "ml-pipeline" not found',
        ),
        ({}, ""),
    ],
)
def test_read_error_message_of_json_objects(body: dict[str, object], message: str) -> None:
    assert read_error_message(json.dumps(body)) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("404 page not found\n", "404 page not found"),
        ("<!DOCTYPE html><p>x", ""),
        ("", ""),
        ("[1]", "[1]"),
    ],
)
def test_read_error_message_of_other_bodies(body: str, message: str) -> None:
    assert read_error_message(body) == message
