"""Filters, order and pages of the list methods."""

import base64
import json
import urllib.parse
from typing import Any

from tests.integration.kfp_api.answers import Refusal

DEFAULT_PAGE, MAX_PAGE = 20, 200
_OPERATIONS = {1: "EQUALS", 2: "NOT_EQUALS", 9: "IS_SUBSTRING"}

Query = dict[str, str]


def page_of(
    objects: list[dict[str, Any]], query: Query, *, field: str, keys: tuple[str, ...]
) -> dict[str, Any]:
    """Return one page as the API has it.

    Args:
        objects: Everything that there is.
        query: page_token, page_size, sort_by and filter.
        field: Name of the list in the answer.
        keys: Fields that one may filter and sort by.
    """
    criteria = [query.get("sort_by", ""), query.get("filter", "")]
    start = _read_token(query.get("page_token", ""), criteria)
    found = [thing for thing in objects if _matches(thing, query.get("filter", ""), keys)]
    found = _sorted(found, query.get("sort_by", ""), keys)
    size = int(query.get("page_size") or 0)
    if size < 0:
        raise Refusal("invalid", "The page size should be greater than 0")
    end = start + min(size or DEFAULT_PAGE, MAX_PAGE)
    token = _write_token(end, criteria) if end < len(found) else ""
    return {field: found[start:end], "total_size": len(found), "next_page_token": token}


def _matches(thing: dict[str, Any], encoded: str, keys: tuple[str, ...]) -> bool:
    if not encoded:
        return True
    # HTTP has decoded it once; the server decodes it once more.
    text = urllib.parse.unquote_plus(encoded).replace('"stringValue":', '"string_value":')
    try:
        predicates = json.loads(text)["predicates"]
    except (ValueError, KeyError) as err:
        raise Refusal("invalid", f"failed to parse valid filter from {encoded!r}: {err}") from err
    for predicate in predicates:
        if predicate["key"] not in keys:
            raise Refusal(
                "invalid", f"no support for filtering on unrecognized field {predicate['key']!r}"
            )
        operation = _OPERATIONS.get(predicate["operation"], predicate["operation"])
        value, wanted = str(thing.get(predicate["key"], "")), predicate["string_value"]
        # The usual data base compares without case.
        is_equal = value.lower() == wanted.lower()
        answers = {
            "EQUALS": is_equal,
            "NOT_EQUALS": not is_equal,
            "IS_SUBSTRING": wanted.lower() in value.lower(),
        }
        if not answers[operation]:
            return False
    return True


def _sorted(
    things: list[dict[str, Any]], sort_by: str, keys: tuple[str, ...]
) -> list[dict[str, Any]]:
    words = sort_by.lower().split() or ["created_at"]
    if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
        raise Refusal("invalid", f"Received invalid sort by format {sort_by!r}")
    if words[0] not in keys:
        raise Refusal("invalid", f"Invalid sorting field: {words[0]!r}")
    return sorted(
        things, key=lambda thing: str(thing.get(words[0], "")), reverse=words[-1] == "desc"
    )


def _write_token(offset: int, criteria: list[str]) -> str:
    return base64.b64encode(json.dumps([offset, criteria]).encode()).decode()


def _read_token(token: str, criteria: list[str]) -> int:
    if not token:
        return 0
    try:
        offset, of_token = json.loads(base64.b64decode(token))
    except ValueError as err:
        raise Refusal("invalid", "Invalid page token") from err
    if of_token != criteria:
        raise Refusal(
            "invalid", "page token does not match the supplied sort by and/or filtering criteria"
        )
    return int(offset)
