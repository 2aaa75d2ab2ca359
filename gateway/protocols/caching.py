"""HTTP caching headers (RFC 9111, RFC 9110 section 13, RFC 5019 section 6.2) for answers that are good until a known time.

Times are UTC milliseconds since the epoch; the caller says what time it is.
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache

#: A cache asks again at least this often, so that a revocation does not wait for the end of a long validity.
MAX_AGE_S = 86_400


@lru_cache(maxsize=256)
def http_date(time_s: int) -> str:
    """IMF-fixdate of RFC 9110 section 5.6.7, in English whatever the locale."""
    return formatdate(time_s, usegmt=True)


def cache_headers(etag: str, *, this_update_ms: int, next_update_ms: int, now_ms: int) -> dict[str, str]:
    """The headers for an answer made at ``this_update_ms`` that is good until ``next_update_ms``.

    ``Date`` is given so that Expires and max-age count from the gateway's own clock, which may not be the system's.
    """
    left_s = min(max(0, (next_update_ms - now_ms) // 1000), MAX_AGE_S)
    return {
        "Date": http_date(now_ms // 1000),
        "Last-Modified": http_date(this_update_ms // 1000),
        "Expires": http_date(now_ms // 1000 + left_s),
        "ETag": f'"{etag}"',
        "Cache-Control": f"max-age={left_s}, public, no-transform, must-revalidate",
    }


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Whether an ``If-None-Match`` header names ``etag``, compared weakly (RFC 9110 section 13.1.2)."""
    if if_none_match is None:
        return False
    names = [name.strip().removeprefix("W/") for name in if_none_match.split(",")]
    return "*" in names or f'"{etag}"' in names
