"""The comment in Markdown: champion against challenger, or in one line that nothing changed, or why there is no result.

What comes from a run (labels, addresses, the words of a pod) goes through `markdown`; nothing of it is markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repot.evaluator.verdict import NO_CHAMPION, Score, Verdict
from repot_pipelines.ci.markdown import code, code_block, link, plain, table
from repot_pipelines.ci.origins import Origin, Origins, differing_settings
from repot_pipelines.watch.gate_result import PROMOTED, REJECTED, UNCHANGED, UNKNOWN, GateVerdict

MARKER = "<!-- repot ci -->"
"""First line of every comment: a workflow finds the one that it wrote before."""

_MAX_FAILURE_CHARACTERS = 20_000
"""GitHub takes comments of 65,536 characters."""

_WORDS = {PROMOTED: "promoted", REJECTED: "not promoted", UNKNOWN: "not promoted"}
_GOOGLE_BROWSER = "https://storage.cloud.google.com/"


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedRun:
    """The run that a comment is about.

    Attributes:
        run_id: Its id.
        address: Where a person looks at it; text that is no address only where the server has no page.
        version_name: The version of the pipeline that it runs; "" for none.
        model_name: The model that it trains.
    """

    run_id: str
    address: str
    version_name: str
    model_name: str


def verdict_comment(run: StartedRun, said: GateVerdict, origins: Origins) -> str:
    """Return the comment on a run that reached its end.

    Args:
        run: The run.
        said: What the gate said; its numbers are left out where they are not known.
        origins: What both versions were made from.
    """
    verdict = _read_verdict(said)
    if said.verdict == UNCHANGED:
        version = f" {code(verdict.version)}" if verdict else ""
        return _joined(
            f"**repot: unchanged.** Version{version} of {code(run.model_name)} is the champion already, so nothing "
            f"was trained or promoted. {_run_link(run)}"
        )
    parts = [f"### repot: {_WORDS.get(said.verdict, 'not promoted')} {_named(run, verdict)}"]
    if verdict is not None:
        parts += [_score_table(verdict), _paired_sentence(verdict)]
    elif not said.headline:
        parts.append(
            "The scores are not known here: the gate's log is gone, or the server does not hand logs out."
        )
    else:
        parts.append(plain(said.headline))
    parts.append("\n".join(f"- {plain(reason)}" for reason in said.reasons))
    if verdict is not None:
        parts.append(origin_section(origins))
    return _joined(*parts, _footer(run, said.report_uri))


def no_gate_comment(run: StartedRun) -> str:
    """Return the comment on a run that succeeded and has no gate."""
    return _joined(
        f"**repot: the run succeeded, but its pipeline has no gate: nothing was promoted.** {_run_link(run)}"
    )


def failure_comment(message: str, run: StartedRun | None) -> str:
    """Return the comment on what failed.

    Args:
        message: Why, in one or more lines.
        run: The run; None where none was started.
    """
    first, _, rest = message.partition("\n")
    where = _footer(run, "") if run else "No run was started on the cluster."
    block = code_block(rest, max_characters=_MAX_FAILURE_CHARACTERS) if rest.strip() else ""
    return _joined("### repot: failed", plain(first), block, where)


def stopped_comment(run: StartedRun | None) -> str:
    """Return the comment of a job that was stopped while it waited, or before there was a run."""
    if run is None:
        return _joined(
            "**repot: no result.** The job was stopped before a run was started on the cluster."
        )
    return _joined(
        f"**repot: no result yet.** The job was stopped while it waited; the run goes on. {_run_link(run)}"
    )


def unfinished_comment() -> str:
    """Return what stands in the file until there is a comment, and for ever if the job is killed."""
    return _joined(
        "**repot: no result.** The job ended before it could say what came out; its log says how far it came."
    )


def _read_verdict(said: GateVerdict) -> Verdict | None:
    """Return the gate's numbers; None where its log is gone, or an older or newer repot wrote it."""
    try:
        return Verdict.from_json(said.facts)
    except (KeyError, TypeError):
        return None


def _named(run: StartedRun, verdict: Verdict | None) -> str:
    return f"{code(run.model_name)} {code(verdict.version)}" if verdict else code(run.model_name)


def _score_table(verdict: Verdict) -> str:
    pairing, champion = verdict.pairing, verdict.champion
    if champion is None:
        rows = [["precision@1, 95 % interval", _score(verdict.challenger)]]
        return table(["", f"challenger {code(verdict.version)}"], rows)
    rows = [["precision@1, 95 % interval", _score(champion), _score(verdict.challenger)]]
    if pairing is not None:
        rows.append(
            [
                "pictures that only this one gets right",
                f"{pairing.only_champion}",
                f"{pairing.only_challenger}",
            ]
        )
    return table(
        ["", f"champion {code(verdict.champion_version)}", f"challenger {code(verdict.version)}"],
        rows,
    )


def _score(score: Score) -> str:
    low, high = score.interval
    return f"{score.precision_at_1:.4f} \\[{low:.4f}, {high:.4f}\\]"


def _paired_sentence(verdict: Verdict) -> str:
    n, pairing = verdict.challenger.num_examples, verdict.pairing
    threshold = f"the threshold is {verdict.min_precision:.4f}"
    if pairing is None:
        first = (
            "There is no champion yet"
            if verdict.champion_version == NO_CHAMPION
            else "Nothing was compared"
        )
        return f"{first}; scored on {n:,} validation pictures, {threshold}."
    low, high = pairing.interval
    return (
        f"On the same {n:,} validation pictures both are right on {pairing.both_right:,} and both wrong on "
        f"{pairing.both_wrong:,}. Challenger minus champion: {pairing.difference:+.4f} \\[{low:+.4f}, {high:+.4f}\\], "
        f"exact McNemar p = {pairing.p_value:.2g}; {threshold}."
    )


def _footer(run: StartedRun, report_uri: str) -> str:
    facts = [_run_link(run)]
    if run.version_name:
        facts.append(f"pipeline version {code(run.version_name)}")
    if report_uri:
        facts.append(f"report {_report_link(report_uri)}")
    return " · ".join(facts)


def _run_link(run: StartedRun) -> str:
    words = f"run {code(run.run_id)}"
    return link(words, run.address) if "://" in run.address and " " not in run.address else words


def _report_link(uri: str) -> str:
    """Return the report's address; as a link where a browser opens it: no page is known of an s3:// store."""
    path = uri.removeprefix("gs://")
    is_linkable = path != uri and not set(path) & set("<>\\ \n")
    return link(code(uri), f"{_GOOGLE_BROWSER}{path}") if is_linkable else code(uri)


def _joined(*parts: str) -> str:
    return "\n\n".join([MARKER + "\n" + parts[0], *filter(None, parts[1:])]) + "\n"


_MAX_LABELS = 10


def origin_section(origins: Origins) -> str:
    """Return what changed from champion to challenger; what is not known is said."""
    challenger, champion = origins.challenger, origins.champion
    if challenger is None:
        return f"What changed is not known here, for the storage cannot be read: {plain(origins.problem)}"
    if champion is None:
        return f"Made from\n\n{table(['', 'challenger'], _single_rows(challenger))}"
    rows = [
        ["data set", code(champion.dataset_id), code(challenger.dataset_id)],
        ["pictures, training + validation", _pictures(champion), _pictures(challenger)],
        *(
            _setting_row(name, old, new)
            for name, old, new in differing_settings(challenger, champion)
        ),
    ]
    parts = [_summary(challenger, champion), table(["", "champion", "challenger"], rows)]
    return "\n\n".join([*parts, *_label_lines(challenger, champion)])


def _single_rows(origin: Origin) -> list[list[str]]:
    shown = ("backbone", "recipe", "checkpoint")
    return [
        ["data set", code(origin.dataset_id)],
        ["pictures, training + validation", _pictures(origin)],
        ["labels", f"{len(origin.labels):,}"],
        *(
            [plain(name), _value(origin.settings[name])]
            for name in shown
            if name in origin.settings
        ),
    ]


def _summary(challenger: Origin, champion: Origin) -> str:
    changed = [
        *(["the data"] if challenger.dataset_id != champion.dataset_id else []),
        *(["the settings"] if any(differing_settings(challenger, champion)) else []),
    ]
    if not changed:
        return "Data and settings are those of the champion."
    return f"What changed: {' and '.join(changed)}."


def _pictures(origin: Origin) -> str:
    counts = origin.num_examples
    return f"{counts.get('train', 0):,} + {counts.get('validation', 0):,}"


def _setting_row(name: str, old: Any, new: Any) -> list[str]:
    return [plain(name.replace("_", " ")), _value(old), _value(new)]


def _value(value: Any) -> str:
    return "–" if value is None else code(str(value))


def _label_lines(challenger: Origin, champion: Origin) -> list[str]:
    added = [label for label in challenger.labels if label not in champion.labels]
    removed = [label for label in champion.labels if label not in challenger.labels]
    return [
        f"Labels {word}: {_names(labels)}"
        for word, labels in (("added", added), ("removed", removed))
        if labels
    ]


def _names(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else ""
    return ", ".join(map(code, labels[:_MAX_LABELS])) + more
