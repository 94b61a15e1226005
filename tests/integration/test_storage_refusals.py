"""What a user reads when a service refuses a request: the cause and its remedy, not one for all."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from repot import storage
from repot.errors import StorageError
from repot.storage.s3 import client, objects
from tests.conftest import free_port
from tests.integration.faulty_proxy import Fault, FaultyProxy, run_proxy

GCS_ROLE = "Grant that account the role Storage Object User (roles/storage.objectUser) on {bucket}."
GCS_PAYER = "set GOOGLE_CLOUD_QUOTA_PROJECT to the id of the project that pays for the requests."
GCS_BILLING = "Link an open billing account to the project of {bucket}"
GCS_LOGIN = "Run `gcloud auth application-default login`"


class Refusal(NamedTuple):
    """A response of a service, and what the error must say.

    Attributes:
        status: HTTP status.
        code: Reason code of gs://, error code of s3://.
        message: The message of the service, as in bug reports and in its documentation.
        problem: Part of the error.
        advice: Part of the error.
    """

    status: int
    code: str
    message: str
    problem: str
    advice: str


GCS_REFUSALS = [
    Refusal(
        403,
        "forbidden",
        (
            "robot@p.iam.gserviceaccount.com does not have storage.objects.create access to the "
            "Google Cloud Storage object. Permission 'storage.objects.create' denied on resource "
            "(or it may not exist)."
        ),
        "access is denied",
        GCS_ROLE,
    ),
    Refusal(403, "insufficientPermissions", "No.", "access is denied", GCS_ROLE),
    Refusal(
        403,
        "insufficientPermissions",
        "Insufficient Permission",
        "lacks the scope",
        "workload identity",
    ),
    Refusal(
        403,
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "Request had insufficient authentication scopes.",
        "lacks the scope",
        "the scope cloud-platform",
    ),
    Refusal(
        403,
        "retentionPolicyNotMet",
        (
            "Object 'b/x' is subject to bucket's retention policy or object retention and cannot "
            "be deleted or overwritten until 2027-01-01T00:00:00Z"
        ),
        "a retention policy protects it",
        "a bucket without a retention policy",
    ),
    Refusal(
        403,
        "objectUnderActiveHold",
        "Object 'b/x' is under active Temporary hold and cannot be deleted or overwritten",
        "a hold protects it",
        "Release the hold",
    ),
    Refusal(
        403,
        "accountDisabled",
        "The billing account for the owning project is disabled in state closed",
        "the project or its billing account is closed or disabled",
        GCS_BILLING,
    ),
    Refusal(
        403,
        "accountDisabled",
        "The project to be billed is associated with an absent billing account.",
        "the project or its billing account is closed or disabled",
        GCS_BILLING,
    ),
    Refusal(403, "UserProjectAccountProblem", "No.", "billing account is closed", GCS_BILLING),
    Refusal(
        403, "CONSUMER_SUSPENDED", "Permission denied.", "billing account is closed", GCS_BILLING
    ),
    Refusal(
        403, "forbidden", "Project p has been deleted.", "billing account is closed", GCS_BILLING
    ),
    Refusal(
        400,
        "required",
        "Bucket is requester pays bucket but no user project provided.",
        "{bucket} is a requester-pays bucket",
        GCS_PAYER,
    ),
    Refusal(400, "UserProjectMissing", "No.", "{bucket} is a requester-pays bucket", GCS_PAYER),
    Refusal(
        401,
        "AuthenticationRequiredRequesterPays",
        "Access to a Requester Pays bucket requires authentication.",
        "{bucket} is a requester-pays bucket",
        GCS_PAYER,
    ),
    Refusal(
        403,
        "forbidden",
        "robot does not have serviceusage.services.use access to the Google Cloud project.",
        "the project that should pay for the requests cannot be used",
        "Service Usage Consumer",
    ),
    Refusal(403, "UserProjectAccessDenied", "No.", "should pay", "GOOGLE_CLOUD_QUOTA_PROJECT"),
    Refusal(
        400,
        "UserProjectInvalid",
        "User project specified in the request is invalid.",
        "should pay",
        "",
    ),
    Refusal(
        403,
        "vpcServiceControls",
        "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: 1",
        "a network policy of the organization",
        "ask the administrator",
    ),
    Refusal(
        403,
        "SERVICE_DISABLED",
        "Cloud Storage JSON API has not been used in project 1 before or it is disabled.",
        "Cloud Storage API is disabled",
        "gcloud services enable storage.googleapis.com",
    ),
    Refusal(
        403,
        "forbidden",
        (
            "Permission denied on Cloud KMS key. Please ensure that your Cloud Storage service "
            "account has been authorized to use this key."
        ),
        "the encryption key of {bucket} cannot be used",
        "CryptoKey Encrypter/Decrypter",
    ),
    Refusal(
        401,
        "required",
        (
            "Anonymous caller does not have storage.objects.list access to the Google Cloud "
            "Storage bucket."
        ),
        "no Google credentials were found, and {bucket} does not allow this to everyone",
        GCS_LOGIN,
    ),
    Refusal(401, "authError", "Invalid Credentials", "have expired or are not valid", GCS_LOGIN),
]

S3_ACCESS = "Allow s3:GetObject, s3:PutObject, s3:DeleteObject, "
S3_REFUSALS = [
    Refusal(403, "AccessDenied", "Access Denied", "access is denied", S3_ACCESS),
    Refusal(
        403,
        "AccessDenied",
        "Access Denied",
        "access is denied",
        "set AWS_REQUEST_PAYER to requester.",
    ),
    Refusal(
        403,
        "InvalidAccessKeyId",
        "No.",
        "does not know the access key",
        "Correct AWS_ACCESS_KEY_ID",
    ),
    Refusal(
        403,
        "SignatureDoesNotMatch",
        "No.",
        "the secret key does not belong to the access key",
        "Correct AWS_SECRET_ACCESS_KEY",
    ),
    Refusal(400, "ExpiredToken", "No.", "the S3 credentials have expired", "`aws sso login`"),
    Refusal(
        400, "TokenRefreshRequired", "No.", "the S3 credentials have expired", "AWS_SESSION_TOKEN"
    ),
    Refusal(
        400, "InvalidToken", "No.", "the session token does not belong to the keys", "unset it"
    ),
    Refusal(403, "RequestTimeTooSkewed", "No.", "this machine's clock differs", "Set the clock"),
    Refusal(
        403,
        "AccessDenied",
        "Request has expired",
        "this machine's clock differs",
        "Set the clock",
    ),
    Refusal(
        403,
        "AllAccessDisabled",
        "All access to this object has been disabled",
        "the account or the bucket is disabled",
        "The owner of {bucket} must reactivate the account.",
    ),
    Refusal(
        403,
        "AccountProblem",
        "No.",
        "the account or the bucket is disabled",
        "The owner of {bucket}",
    ),
    Refusal(
        403,
        "InvalidPayer",
        "No.",
        "{bucket} is a requester-pays bucket",
        "Set AWS_REQUEST_PAYER to requester",
    ),
    Refusal(403, "InvalidObjectState", "No.", "it is archived", "Restore it"),
    Refusal(
        403,
        "AccessDenied",
        "Access Denied because object protected by object lock.",
        "object lock protects it",
        "a bucket without a default retention",
    ),
    Refusal(
        400,
        "ObjectLocked",
        "Object is WORM protected and cannot be overwritten",
        "object lock protects it",
        "wait until retention and legal hold end",
    ),
    Refusal(
        403,
        "AccessDenied",
        (
            "User: arn:aws:iam::1:user/x is not authorized to perform: kms:GenerateDataKey on "
            "resource: arn:aws:kms:eu-west-1:1:key/2 because no identity-based policy allows it"
        ),
        "the encryption key of {bucket} cannot be used",
        "allow kms:Decrypt and kms:GenerateDataKey on it",
    ),
    Refusal(
        403,
        "AccessDenied",
        (
            "User: arn:aws:iam::1:user/x is not authorized to perform: s3:PutObject on resource: y "
            "with an explicit deny in a resource-based policy"
        ),
        "a policy forbids it explicitly",
        "the owner of {bucket} must change that policy",
    ),
    Refusal(
        301,
        "PermanentRedirect",
        "The bucket must be addressed using the specified endpoint.",
        "the bucket is in another region",
        "Set AWS_DEFAULT_REGION to eu-west-1, the region of {bucket}.",
    ),
    Refusal(
        400,
        "AuthorizationHeaderMalformed",
        "the region 'us-east-1' is wrong; expecting 'eu-west-1'",
        "the bucket is in another region",
        "Set AWS_DEFAULT_REGION to eu-west-1, the region of {bucket}.",
    ),
]

OPERATIONS: list[Callable[[str], object]] = [
    storage.read_bytes,
    storage.list_objects,
    storage.stat,
    storage.check_writable,
    storage.delete,
    lambda uri: storage.write_bytes(uri, b"", if_absent=True),
]


def refuse_gcs(refusal: Refusal) -> Fault:
    status, reason, message = refusal[:3]
    details = {"errors": [{"domain": "global", "reason": reason, "message": message}]}
    body = json.dumps({"error": {"code": status, "message": message, **details}}).encode()
    return lambda _forward: (status, [("Content-Type", "application/json")], body)


def refuse_s3(refusal: Refusal) -> Fault:
    status, code, message = refusal[:3]
    headers = [("Content-Type", "application/xml"), ("x-amz-bucket-region", "eu-west-1")]
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = f"<?xml version='1.0'?>{error}".encode()
    return lambda _forward: (status, headers, body)


# One proxy for all tests: each address has a client of its own, which takes a second to build.
@pytest.fixture(scope="module")
def running_gcs_proxy(gcs_endpoint: str) -> Iterator[FaultyProxy]:
    with run_proxy(gcs_endpoint) as server:
        yield server


@pytest.fixture(scope="module")
def running_s3_proxy(s3_endpoint: str) -> Iterator[FaultyProxy]:
    with run_proxy(s3_endpoint) as server:
        yield server


@pytest.fixture
def gcs_proxy(
    gcs: str, running_gcs_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> FaultyProxy:
    assert gcs
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", running_gcs_proxy.url)
    running_gcs_proxy.requests, running_gcs_proxy.faults = [], {}
    return running_gcs_proxy


@pytest.fixture
def s3_proxy(
    s3: str, running_s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> FaultyProxy:
    assert s3
    monkeypatch.setattr(objects, "SETTLE_SECONDS", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", running_s3_proxy.url)
    running_s3_proxy.requests, running_s3_proxy.faults = [], {}
    return running_s3_proxy


def check_message(operation: Callable[[str], object], bucket: str, refusal: Refusal) -> None:
    with pytest.raises(StorageError) as caught:
        operation(f"{bucket}/folder")
    text = str(caught.value)
    assert refusal.problem.format(bucket=bucket) in text
    assert refusal.advice.format(bucket=bucket) in text
    assert refusal.message.strip(" .") in text
    assert re.fullmatch(r"\S.*\.", text)


@pytest.mark.parametrize("refusal", GCS_REFUSALS, ids=lambda refusal: f"{refusal.message[:40]}")
def test_refusal_of_gcs_names_its_cause_and_remedy(
    refusal: Refusal, gcs_proxy: FaultyProxy, gcs: str
) -> None:
    for operation in OPERATIONS:
        gcs_proxy.requests.clear()
        fault = refuse_gcs(refusal)
        gcs_proxy.faults = {method: [fault] * 3 for method in ("GET", "POST", "DELETE")}
        check_message(operation, gcs, refusal)
        assert len(gcs_proxy.requests) == 1  # Nothing is retried.


def test_refused_download_without_a_reason_code_is_told_by_its_sentence(
    gcs_proxy: FaultyProxy, gcs: str
) -> None:
    text = "Anonymous caller does not have storage.objects.get access to the object."
    headers = [("Content-Type", "text/html")]
    gcs_proxy.faults["GET"] = [lambda _forward: (401, headers, text.encode())]
    refusal = Refusal(401, "", text, "no Google credentials were found", GCS_LOGIN)
    check_message(storage.read_bytes, gcs, refusal)


@pytest.mark.parametrize("refusal", S3_REFUSALS, ids=lambda refusal: f"{refusal.code}")
def test_refusal_of_s3_names_its_cause_and_remedy(
    refusal: Refusal, s3_proxy: FaultyProxy, s3: str
) -> None:
    for operation in OPERATIONS:
        # The client looks up a region with HEAD; an error response to HEAD has no body.
        fault = refuse_s3(refusal)
        s3_proxy.faults = {method: [fault] * 9 for method in ("GET", "PUT", "DELETE", "HEAD")}
        check_message(operation, s3, refusal)


ON_MACHINES_ONLY = re.compile(
    r"\baws (configure|sso)|gcloud auth|profile|AWS_\w+|"
    r"GOOGLE_(APPLICATION_CREDENTIALS|CLOUD_QUOTA_PROJECT)|Log in|pip install"
)
S3_SECRET = "of the Secret repot-s3 in the namespace research"
SETTINGS = "of the ConfigMap repot-settings in the namespace research"
IN_POD_ADVICE = {
    "InvalidAccessKeyId": f"Correct the key accesskey {S3_SECRET}",
    "SignatureDoesNotMatch": f"Correct the key secretkey {S3_SECRET}",
    "ExpiredToken": f"put permanent keys into the keys accesskey and secretkey {S3_SECRET}",
    "InvalidToken": f"Put permanent keys into the keys accesskey and secretkey {S3_SECRET}",
    "InvalidPayer": f"Set the key S3_REQUEST_PAYER {SETTINGS} to requester",
    "PermanentRedirect": f"Set the key S3_REGION {SETTINGS} to",
    "UserProjectMissing": f"set the key GOOGLE_USER_PROJECT {SETTINGS} to the id",
    "authError": "the key key.json of the Secret repot-google-key in the namespace research",
}


@pytest.mark.usefixtures("task_pod")
@pytest.mark.parametrize("refusal", S3_REFUSALS, ids=lambda refusal: f"{refusal.code}")
def test_advice_about_s3_in_a_pod_names_objects_of_the_cluster(
    refusal: Refusal, s3_proxy: FaultyProxy, s3: str
) -> None:
    s3_proxy.faults = {method: [refuse_s3(refusal)] * 9 for method in ("GET", "HEAD")}
    with pytest.raises(StorageError) as caught:
        storage.read_bytes(f"{s3}/x")
    assert not ON_MACHINES_ONLY.search(str(caught.value))
    assert IN_POD_ADVICE.get(refusal.code, "") in str(caught.value)


@pytest.mark.usefixtures("task_pod")
@pytest.mark.parametrize("refusal", GCS_REFUSALS, ids=lambda refusal: f"{refusal.message[:40]}")
def test_advice_about_gcs_in_a_pod_names_objects_of_the_cluster(
    refusal: Refusal, gcs_proxy: FaultyProxy, gcs: str
) -> None:
    gcs_proxy.faults = {"GET": [refuse_gcs(refusal)] * 3}
    with pytest.raises(StorageError) as caught:
        storage.read_bytes(f"{gcs}/x")
    assert not ON_MACHINES_ONLY.search(str(caught.value))
    assert IN_POD_ADVICE.get(refusal.code, "") in str(caught.value)


@pytest.mark.usefixtures("task_pod")
def test_invalid_endpoint_in_a_pod_names_the_config_map(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "store without scheme")
    with pytest.raises(StorageError) as caught:
        storage.read_bytes(f"{s3}/x")
    assert f"Set the key S3_ENDPOINT {SETTINGS} to the service's address" in str(caught.value)


def test_gcs_requests_name_the_project_that_pays(
    gcs_proxy: FaultyProxy, gcs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    info = storage.write_bytes(f"{gcs}/x", b"1", if_absent=True)
    storage.write_bytes(f"{gcs}/large", bytes((8 << 20) + 1))
    storage.swap_bytes(info.uri, b"2", expected_version=info.version)
    storage.copy(info.uri, f"{gcs}/y")
    storage.check_writable(gcs)
    storage.list_objects(gcs)
    assert storage.read_bytes(f"{gcs}/y") == b"2"
    storage.delete(f"{gcs}/y")
    first_requests = [request for request in gcs_proxy.requests if request.method != "PUT"]
    assert len(first_requests) > 10
    assert [
        request.path for request in first_requests if "userProject=payer" not in request.path
    ] == []


def test_s3_requests_agree_to_pay(
    s3_proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    storage.write_bytes(f"{s3}/x", b"1", if_absent=True)
    storage.copy(f"{s3}/x", f"{s3}/y")
    storage.list_objects(s3)
    assert storage.read_bytes(f"{s3}/y") == b"1"
    storage.delete(f"{s3}/y")
    payers = [request.headers.get("x-amz-request-payer") for request in s3_proxy.requests]
    assert len(payers) >= 6
    assert set(payers) == {"requester"}
    s3_proxy.faults["GET"] = [refuse_s3(S3_REFUSALS[0])]
    with pytest.raises(StorageError, match="access is denied") as caught:
        storage.read_bytes(f"{s3}/x")
    assert "AWS_REQUEST_PAYER" not in str(caught.value)


def test_s3_object_is_read_anonymously_without_credentials(
    s3_proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{s3}/x", b"1")
    bucket = s3.removeprefix("s3://")
    client.client().put_bucket_acl(Bucket=bucket, ACL="public-read")
    client.client().put_object_acl(Bucket=bucket, Key="x", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with run_proxy(s3_proxy.url) as server:  # A new address has a new client.
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        assert storage.read_bytes(f"{s3}/x") == b"1"
        assert [info.uri for info in storage.list_objects(s3)] == [f"{s3}/x"]
        assert all("Authorization" not in request.headers for request in server.requests)
        refusal = S3_REFUSALS[0]._replace(
            problem="no S3 credentials were found, and {bucket} does not allow this to everyone",
            advice="Set AWS_ACCESS_KEY_ID",
        )
        for operation in (storage.read_bytes, storage.stat, storage.check_writable):
            fault = refuse_s3(refusal)
            server.faults = {method: [fault] * 9 for method in ("GET", "PUT", "HEAD")}
            check_message(operation, s3, refusal)


def test_gcs_object_is_read_anonymously_without_credentials(gcs: str, gcs_endpoint: str) -> None:
    """An endpoint that is not the emulator's variable makes the client look for credentials."""
    storage.write_bytes(f"{gcs}/x", b"1")
    program = """
import sys
from repot import storage
from repot.errors import StorageError
print(storage.read_bytes(sys.argv[1]), [info.uri for info in storage.list_objects(sys.argv[2])])
try:
    storage.write_bytes(sys.argv[2] + "/y", b"")
except StorageError as err:
    print(err)
"""
    with run_proxy(gcs_endpoint) as server:
        text = "Anonymous caller does not have storage.objects.create access to the object."
        refusal = Refusal(401, "required", text, "", "")
        server.faults["POST"] = [refuse_gcs(refusal)]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "API_ENDPOINT_OVERRIDE": server.url,
            "GCE_METADATA_HOST": f"127.0.0.1:{free_port()}",
            "GCE_METADATA_TIMEOUT": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, f"{gcs}/x", gcs],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert all("Authorization" not in request.headers for request in server.requests)
    read, refused = done.stdout.splitlines()
    assert read == f"b'1' ['{gcs}/x']"
    assert "no Google credentials were found, and" in refused
    assert GCS_LOGIN in refused
    assert "No Google credentials were found; only public buckets can be read." in done.stderr
