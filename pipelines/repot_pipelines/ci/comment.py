"""The text of the comment: champion against challenger, or why there is no result.

Everything that comes from a run (labels, URIs, pod logs) is escaped by `markdown`.
"""

from dataclasses import dataclass

from repot.evaluator.verdict import NO_CHAMPION, Score, Verdict
from repot.metrics import Interval
from repot_pipelines.ci.lineage import Lineage, lineage_section
from repot_pipelines.ci.markdown import code, code_block, escape, link, table
from repot_pipelines.watch.gate_result import (
    PROMOTED,
    REJECTED,
    UNCHANGED,
    UNDECIDED,
    GateResult,
)

MARKER = "<!-- repot ci -->"
"""First line of every comment; a workflow uses it to find and update its earlier comment."""

_MAX_FAILURE_CHARACTERS = 20_000
"""Well below GitHub's limit of 65,536 characters per comment."""

_OUTCOMES = {PROMOTED: "promoted", REJECTED: "not promoted", UNDECIDED: "undecided about"}
_GOOGLE_BROWSER = "https://storage.cloud.google.com/"


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedRun:
    """The run that a comment is about.

    Attributes:
        run_id: Its id.
        url: Its page in the UI, or text that is not a URL if the server has no such page.
        version_name: The pipeline version that it runs; "" for none.
        model_name: The model that it trains.
    """

    run_id: str
    url: str
    version_name: str
    model_name: str


def verdict_comment(run: StartedRun, result: GateResult, lineage: Lineage) -> str:
    """Return the comment on a run that reached its end.

    Args:
        run: The run.
        result: The gate's result; unknown numbers are left out.
        lineage: What both versions were trained from.
    """
    verdict = result.record
    if result.verdict == UNCHANGED:
        version = f" {code(verdict.version)}" if verdict else ""
        return _join(
            f"**repot: unchanged.** Version{version} of {code(run.model_name)} "
            f"is already the champion, so nothing was trained or promoted. {_run_link(run)}"
        )
    outcome = _OUTCOMES.get(result.verdict, "verdict unknown:")
    model = code(run.model_name) + (f" {code(verdict.version)}" if verdict else "")
    parts = [f"### repot: {outcome} {model}"]
    if verdict is not None:
        parts += [f"**{escape(verdict.headline)}**", _score_table(verdict), _comparison(verdict)]
    elif result.headline:
        parts.append(escape(result.headline))
    else:
        parts.append(
            "The scores are unknown: the gate's log was deleted, or the server does not return "
            "logs. The report of *Evaluate and gate* in the UI has them."
        )
    parts.append("\n".join(f"- {escape(reason)}" for reason in result.reasons))
    if verdict is not None:
        parts.append(lineage_section(lineage))
    return _join(*parts, _footer(run, result.report_uri))


def no_gate_comment(run: StartedRun) -> str:
    """Return the comment on a run that succeeded and has no gate."""
    return _join(
        "**repot: the run succeeded, but its pipeline has no gate, so nothing was promoted.** "
        f"{_run_link(run)}"
    )


def failure_comment(message: str, run: StartedRun | None) -> str:
    """Return the comment on a failed job.

    Args:
        message: The error; lines after the first become a code block.
        run: The run; None if none was started.
    """
    first, _, rest = message.partition("\n")
    footer = _footer(run, "") if run else "No run was started on the cluster."
    block = code_block(rest, max_characters=_MAX_FAILURE_CHARACTERS) if rest.strip() else ""
    return _join("### repot: failed", escape(first), block, footer)


def stopped_comment(run: StartedRun | None) -> str:
    """Return the comment of a job that was stopped; run is None if none was started."""
    if run is None:
        return _join(
            "**repot: no result.** The job was stopped before it started a run on the cluster."
        )
    return _join(
        "**repot: no result yet.** The job was stopped while it waited; the run continues. "
        f"{_run_link(run)}"
    )


def unfinished_comment() -> str:
    """Return the comment that is written first, and remains if the job is killed."""
    return _join(
        "**repot: no result.** The job ended before it had a result; its log shows how far it got."
    )


def _score_table(verdict: Verdict) -> str:
    challenger, champion, comparison = verdict.challenger, verdict.champion, verdict.comparison
    challenger_head = f"challenger {code(verdict.version)}"
    if champion is None:
        rows = [[name, text] for name, text, _ in _scores(challenger, challenger)]
        return table(["", challenger_head], rows)
    rows = [[name, old, new] for name, old, new in _scores(champion, challenger)]
    if comparison is not None:
        wins = (str(comparison.only_champion), str(comparison.only_challenger))
        rows.append(["pictures that only this version classifies correctly", *wins])
    return table(["", f"champion {code(verdict.champion_version)}", challenger_head], rows)


def _scores(champion: Score, challenger: Score) -> list[tuple[str, str, str]]:
    """Return the name of each score, and both versions' values with their 95 % intervals."""
    rows = []
    for name, value, interval in (
        ("precision@1, 95 % interval", "precision_at_1", "interval"),
        ("mean recall of the labels", "macro_recall", "macro_recall_interval"),
        ("mean F1 of the labels", "macro_f1", "macro_f1_interval"),
    ):
        old, new = (
            _score(getattr(each, value), getattr(each, interval)) for each in (champion, challenger)
        )
        if old and new:
            rows.append((name, old, new))
    return rows


def _score(value: float | None, interval: Interval | None) -> str:
    """Return a score; "" if an earlier version of repot did not compute it."""
    if value is None or interval is None:
        return ""
    return f"{value:.4f} \\[{interval[0]:.4f}, {interval[1]:.4f}\\]"


def _comparison(verdict: Verdict) -> str:
    num_pictures, comparison = verdict.challenger.num_examples, verdict.comparison
    # 0 is the default and means no threshold.
    threshold = f"the threshold is {verdict.min_precision:.4f}" if verdict.min_precision else ""
    if comparison is None:
        has_champion = verdict.champion_version != NO_CHAMPION
        reason = "Nothing was compared" if has_champion else "There is no champion yet"
        parts = [f"scored on {num_pictures:,} {verdict.subset} pictures", threshold]
        return f"{reason}; {', '.join(filter(None, parts))}."
    low, high = comparison.interval
    return (
        f"On the same {num_pictures:,} {verdict.subset} pictures, both versions are right on "
        f"{comparison.both_right:,} and both are wrong on {comparison.both_wrong:,}. "
        f"Challenger minus champion: {comparison.difference:+.4f} \\[{low:+.4f}, {high:+.4f}\\], "
        f"exact McNemar p = {comparison.p_value:.2g}{threshold and f'; {threshold}'}."
    )


def _footer(run: StartedRun, report_uri: str) -> str:
    parts = [_run_link(run)]
    if run.version_name:
        parts.append(f"pipeline version {code(run.version_name)}")
    if report_uri:
        parts.append(f"report {_report_link(report_uri)}")
    return " · ".join(parts)


def _run_link(run: StartedRun) -> str:
    text = f"run {code(run.run_id)}"
    return link(text, run.url) if "://" in run.url and " " not in run.url else text


def _report_link(uri: str) -> str:
    """Return the report's URI, as a link if a browser can open it: s3:// has no such page."""
    path = uri.removeprefix("gs://")
    is_linkable = path != uri and not set(path) & set("<>\\ \n")
    return link(code(uri), f"{_GOOGLE_BROWSER}{path}") if is_linkable else code(uri)


def _join(first: str, *others: str) -> str:
    return "\n\n".join([f"{MARKER}\n{first}", *filter(None, others)]) + "\n"
