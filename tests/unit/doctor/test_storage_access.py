from pathlib import Path

from repot_pipelines.doctor.check import NOT_CHECKED, OK, PROBLEM
from repot_pipelines.doctor.storage_access import check_access, check_credentials


def test_a_folder_is_checked_and_left_as_it_was(tmp_path: Path) -> None:
    found = check_access(str(tmp_path))

    assert found.state == OK
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = check_access(str(tmp_path / "later" / "on"))

    assert found.state == OK
    assert "made when it is needed" in found.finding
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    found = check_access(str(tmp_path / "file" / "below"))

    assert found.state == PROBLEM
    assert found.fix


def test_credentials_are_told_for_pods_too(tmp_path: Path) -> None:
    assert check_credentials(str(tmp_path), {}).finding == "the rights of this user"
    assert (
        "service account" in check_credentials("gs://bucket/x", {"REPOT_GOOGLE_KEY": "x"}).finding
    )
    assert (
        check_credentials("gs://bucket/x", {"CLOUDSDK_CONFIG": str(tmp_path)}).state == NOT_CHECKED
    )
