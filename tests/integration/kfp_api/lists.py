"""Filters, sorting and pages of the list methods."""

import base64
import json
import urllib.parse
from typing import Any

from tests.integration.kfp_api.answers import ApiError

DEFAULT_PAGE, MAX_PAGE = 20, 200
_OPERATIONS = {1: "EQUALS", 2: "NOT_EQUALS", 9: "IS_SUBSTRING"}

Query = dict[str, str]


def page_of(
    objects: list[dict[str, Any]], query: Query, *, field: str, keys: tuple[str, ...]
) -> dict[str, Any]:
    """Return one page as the API does.

    Args:
        objects: All objects.
        query: page_token, page_size, sort_by and filter.
        field: Name of the list in the answer.
        keys: Fields to filter and sort by.
    """
    criteria = [query.get("sort_by", ""), query.get("filter", "")]
    start = _read_token(query.get("page_token", ""), criteria)
    found = [each for each in objects if _matches(each, query.get("filter", ""), keys)]
    found = _sorted(found, query.get("sort_by", ""), keys)
    size = int(query.get("page_size") or 0)
    if size < 0:
        raise ApiError("invalid", "The page size should be greater than 0")
    end = start + min(size or DEFAULT_PAGE, MAX_PAGE)
    token = _write_token(end, criteria) if end < len(found) else ""
    return {field: found[start:end], "total_size": len(found), "next_page_token": token}


def _matches(candidate: dict[str, Any], encoded: str, keys: tuple[str, ...]) -> bool:
    if not encoded:
        return True
    # HTTP has decoded the filter once; the real server decodes it once more.
    text = urllib.parse.unquote_plus(encoded).replace('"stringValue":', '"string_value":')
    try:
        predicates = json.loads(text)["predicates"]
    except (ValueError, KeyError) as err:
        raise ApiError("invalid", f"failed to parse valid filter from {encoded!r}: {err}") from err
    for predicate in predicates:
        if predicate["key"] not in keys:
            raise ApiError(
                "invalid", f"no support for filtering on unrecognized field {predicate['key']!r}"
            )
        operation = _OPERATIONS.get(predicate["operation"], predicate["operation"])
        value, operand = str(candidate.get(predicate["key"], "")), predicate["string_value"]
        # KFP's usual database, MySQL, compares without case.
        is_equal = value.lower() == operand.lower()
        results = {
            "EQUALS": is_equal,
            "NOT_EQUALS": not is_equal,
            "IS_SUBSTRING": operand.lower() in value.lower(),
        }
        if not results[operation]:
            return False
    return True


def _sorted(
    objects: list[dict[str, Any]], sort_by: str, keys: tuple[str, ...]
) -> list[dict[str, Any]]:
    key, *order = sort_by.lower().split() or ["created_at"]
    if order not in ([], ["asc"], ["desc"]):
        raise ApiError("invalid", f"Received invalid sort by format {sort_by!r}")
    if key not in keys:
        raise ApiError("invalid", f"Invalid sorting field: {key!r}")
    return sorted(objects, key=lambda each: str(each.get(key, "")), reverse=order == ["desc"])


def _write_token(offset: int, criteria: list[str]) -> str:
    return base64.b64encode(json.dumps([offset, criteria]).encode()).decode()


def _read_token(token: str, criteria: list[str]) -> int:
    if not token:
        return 0
    try:
        offset, token_criteria = json.loads(base64.b64decode(token))
    except ValueError as err:
        raise ApiError("invalid", "Invalid page token") from err
    if token_criteria != criteria:
        raise ApiError(
            "invalid", "page token does not match the supplied sort by and/or filtering criteria"
        )
    return int(offset)
