import json

import kfp_server_api
import pytest

from repot_pipelines.kfp_server.errors import (
    AccessDeniedError,
    MissingObjectError,
    NameTakenError,
    ServerError,
    UnreachableError,
    convert_errors,
    read_error_message,
)


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


@pytest.mark.parametrize(
    ("status", "body", "error_class", "text"),
    [
        (401, "", AccessDeniedError, "does not accept the credentials (401)"),
        (403, '{"message": "no"}', AccessDeniedError, "(403). The server reports: no. Ask"),
        (404, "", MissingObjectError, "does not serve the API of Kubeflow Pipelines (404)"),
        (
            404,
            "Run x not found",
            MissingObjectError,
            "responded with 404. The server reports: Run x",
        ),
        (
            409,
            '{"message": "exists"}',
            NameTakenError,
            "responded with 409. The server reports: exists.",
        ),
        (400, '{"message": "bad"}', ServerError, "responded with 400. The server reports: bad."),
        (502, "", UnreachableError, "responded with 502."),
        (
            503,
            '{"message": "no endpoints available for service"}',
            UnreachableError,
            "installed but not running (503)",
        ),
    ],
)
def test_status_decides_error_class_and_message(
    status: int, body: str, error_class: type[ServerError], text: str
) -> None:
    failure = kfp_server_api.ApiException(status=status, reason="")
    failure.body = body.encode()

    with (
        pytest.raises(ServerError, match="Cannot start the run") as caught,
        convert_errors("start the run", "http://kfp"),
    ):
        raise failure

    assert type(caught.value) is error_class
    assert text in str(caught.value)
