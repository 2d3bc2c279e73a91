"""The page on which a person tries the runs."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path


@cache
def page() -> tuple[bytes, dict[str, str]]:
    """Returns the page and its headers.

    A browser runs the page's own script alone, and it talks to this server alone.
    """
    text = Path(__file__).with_name("page.html").read_text("utf-8")
    script, style = (
        _digest(re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)[0])
        for tag in ("script", "style")
    )
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return text.encode("utf-8"), headers


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
