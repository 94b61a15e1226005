import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from repot.storage import retries
from repot.storage.retries import NUM_CONNECTIONS, RequestLimit, ServiceState, call_with_retries


class RefusedError(Exception):
    """The service has too many requests."""


class FailedError(Exception):
    """The service has a problem of its own."""


def call(state: ServiceState, *answers: Exception | str, retry_after: str = "") -> str:
    """Make a request that is answered like this, one answer after the other."""
    remaining = list(answers)

    def send() -> str:
        answer = remaining.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call_with_retries(
        send,
        state,
        errors=(RefusedError, FailedError),
        is_transient=lambda _: True,
        is_response=lambda _: True,
        is_throttled=lambda err: isinstance(err, RefusedError),
        retry_after=lambda _: retry_after,
    )


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_SECONDS", 0.001)


def test_refusal_halves_the_requests_in_flight_once_for_all_that_were_sent_before() -> None:
    limit = RequestLimit()
    sent = [limit.start() for _ in range(40)]
    for started in sent:
        limit.lower(started, pause_seconds=0)
    assert limit.value == 20
    for started in sent:
        limit.end(started, succeeded=False)
    again = [limit.start() for _ in range(20)]
    limit.lower(again[0], pause_seconds=0)
    assert limit.value == 10


def test_limit_never_falls_below_one() -> None:
    limit = RequestLimit()
    for _ in range(20):
        started = limit.start()
        limit.lower(started, pause_seconds=0)
        limit.end(started, succeeded=False)
    assert limit.value == 1


def test_limit_grows_by_one_per_round_of_successes_up_to_the_number_of_connections() -> None:
    limit = RequestLimit()
    limit.value = 4.0
    for _ in range(5):
        limit.end(limit.start(), succeeded=True)
    assert int(limit.value) == 5
    for _ in range(NUM_CONNECTIONS**2):
        limit.end(limit.start(), succeeded=True)
    assert limit.value == NUM_CONNECTIONS


def test_success_of_a_request_sent_before_the_refusal_does_not_raise_the_limit() -> None:
    limit = RequestLimit()
    early, refused = limit.start(), limit.start()
    limit.lower(refused, pause_seconds=0)
    limit.end(early, succeeded=True)
    assert limit.value == 1


def test_request_above_the_limit_waits_for_another_to_end() -> None:
    limit = RequestLimit()
    limit.value = 1.0
    first = limit.start()
    passed = threading.Event()

    def start() -> None:
        limit.start()
        passed.set()

    threading.Thread(target=start, daemon=True).start()
    assert not passed.wait(0.2)
    limit.end(first, succeeded=False)
    assert passed.wait(10)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_all_requests_wait_as_long_as_the_service_asks(form: str) -> None:
    state = ServiceState()
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    started = time.monotonic()
    other = threading.Timer(0.2, call, (state, "other"))
    other.start()
    value = "1" if form == "seconds" else later
    assert call(state, RefusedError(), "done", retry_after=value) == "done"
    # A date has no fraction of a second.
    assert time.monotonic() - started >= (1.0 if form == "seconds" else 0.9)
    other.join()
    assert time.monotonic() - started >= (1.0 if form == "seconds" else 0.9)


@pytest.mark.parametrize("value", ["", "soon", "-5", "0", "Wed, 21 Oct 2015 07:28:00 GMT", "nan"])
def test_invalid_or_past_retry_after_is_ignored(value: str) -> None:
    started = time.monotonic()
    assert call(ServiceState(), RefusedError(), "done", retry_after=value) == "done"
    assert time.monotonic() - started < 5


def test_refused_request_is_kept_while_others_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "DEADLINE_SECONDS", 0.0)
    state = ServiceState()
    state.has_responded = True
    with pytest.raises(RefusedError):
        call(state, RefusedError(), "done")
    # As if another request had just succeeded, however slow this machine is.
    state.limit.succeeded_at = time.monotonic() + 60
    assert call(state, RefusedError(), "done") == "done"
    state.limit.succeeded_at = time.monotonic() + 60
    with pytest.raises(FailedError):
        call(state, FailedError(), "done")


def test_request_that_is_refused_for_half_an_hour_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "DEADLINE_SECONDS", 0.0)
    monkeypatch.setattr(retries, "_MAX_REFUSED_SECONDS", 0.0)
    state = ServiceState()
    state.has_responded = True
    state.limit.succeeded_at = time.monotonic() + 60
    with pytest.raises(RefusedError):
        call(state, RefusedError(), "done")


def test_failed_request_leaves_the_limit_to_others() -> None:
    state = ServiceState()
    for _ in range(2 * NUM_CONNECTIONS):
        with pytest.raises(KeyError):
            call_with_retries(
                {}.popitem,
                state,
                errors=(RefusedError,),
                is_transient=lambda _: False,
                is_response=lambda _: False,
                is_throttled=lambda _: False,
                retry_after=lambda _: "",
            )
    assert call(state, "done") == "done"


def test_rate_limit_is_not_logged_for_each_refusal(caplog: pytest.LogCaptureFixture) -> None:
    limit = RequestLimit()
    for _ in range(10):
        started = limit.start()
        limit.lower(started, pause_seconds=0)
        limit.end(started, succeeded=False)
    assert caplog.text.count("limits the rate of requests; trying again with 1 at a time") == 1
