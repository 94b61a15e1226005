import io
import re
import sys
from pathlib import Path

import pytest

from repot.errors import RepotError
from repot.progress import EVENTS_VARIABLE, TaskFailed, parse_event
from repot_pipelines.compiled import pipeline_for, read_pipeline
from repot_pipelines.local import child
from repot_pipelines.local.child import (
    ChildRequest,
    _insert_container_images,
    _mask_output,
    _PlainStream,
)
from repot_pipelines.parameters import with_defaults


@pytest.mark.parametrize(("mode", "image"), [("pod", "trainer:1"), ("job", "cpu:1")])
def test_image_placeholders_are_replaced_by_image_references(mode: str, image: str) -> None:
    arguments = {"cpu_image": "cpu:1", "trainer_image": "trainer:1", "trainer_mode": mode}
    path = pipeline_for(arguments)
    values = with_defaults(arguments, read_pipeline(path))

    text = _insert_container_images(path.read_text(encoding="utf-8"), values)

    images = re.findall(r"(?m)^ *image: (.*)$", text)
    assert set(images) <= {"cpu:1", '"cpu:1"', '"trainer:1"'}
    assert "cpu:1" in images
    (trainer,) = re.findall(r"(?s)exec-train:.*?image: (\S+)", text)[:1]
    assert trainer == f'"{image}"'


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[96m'plan'\x1b[0m ended\n", "'plan' ended\n"),
        ("\x1b]0;title\x07a\x1b]8;;uri\x1b\\b", "ab"),
        ("10%\b\b\b20%\x1b[K\x1b(B\x00", "10%20%"),
        ("Grün\t花\n", "Grün\t花\n"),
    ],
)
def test_output_for_the_log_has_no_terminal_codes(text: str, plain: str) -> None:
    stream = io.StringIO()

    _PlainStream(stream).write(text)

    assert stream.getvalue() == plain


def test_kfp_without_a_function_that_is_replaced_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp.local import graph_utils

    def run(*_: object, **__: object) -> None:
        child._replace_in_kfp(graph_utils, "sort_of_a_later_release", lambda sort: sort)

    request = ChildRequest(
        pipeline="p.yaml", arguments={}, work_folder=str(tmp_path), runner="subprocess"
    )
    (tmp_path / "request.json").write_text(request.to_text())
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    monkeypatch.setattr(child, "_run", run)
    monkeypatch.setattr(child, "_exit_with_parent", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["child", str(tmp_path / "request.json")])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))

    with pytest.raises(SystemExit) as ended:
        child.main()

    assert ended.value.code == RepotError.exit_code
    failure = parse_event((tmp_path / "events.jsonl").read_bytes())
    assert isinstance(failure, TaskFailed)
    assert re.search(
        r"must have kfp\.local\.graph_utils\.sort_of_a_later_release; the installed kfp 2\.\d+\S* "
        r"does not\. `repot doctor` prints",
        failure.message,
    )


def test_credentials_of_arguments_are_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    _mask_output({"checkpoint": "https://me:p4ss@host/w.h5?sig=t0ken", "epochs": 2})

    print("fetch https://me:p4ss@host/w.h5?sig=t0ken")
    print({"token": "t0ken", "epochs": 2}, file=sys.stderr)

    output = capsys.readouterr()
    assert output.out == "fetch https://***@host/w.h5?***\n"
    assert output.err == "{'token': '***', 'epochs': 2}\n"
