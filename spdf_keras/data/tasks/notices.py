"""Texts that stand where an article should: errors of scrapers, notices of pages."""

import re

# Only shorter texts are searched for notices: articles may quote them.
_NOTICE_WORDS = 40
_ERROR = re.compile(
    r"""
    (?:an?\ )?(?:\w+\ ){0,2}
      (?:exception|errors?|failure|failed|time-?out|timed\ out)
    | (?:exception|error|failure|failed)(?:\ code)?(?:\ \d+|:.{1,100})
    | failed\ to\ \w+(?:\ \w+){0,3}
    | .{0,20}connection\ (?:refused|reset|closed).{0,20}
    | none | null | nil | nan | n/?a | undefined | empty | missing | unavailable
    | (?:http\ )?(?:error\ )?(?:code\ )?[345]\d\d(?::.{1,60}|\W{0,3}
      (?:error|client|server|not|forbidden|bad|un\w+|gone|service|gateway|too|internal
      |moved|temporar).{0,40})?
    | (?:page\ |file\ |article\ |content\ )?not\ (?:found|available)
    | bad\ (?:request|gateway) | forbidden | unauthori[sz]ed | access\ denied
    | service\ unavailable | too\ many\ requests | moved\ permanently
    | article\ `?download\(\)`?\ failed.*
    """,
    re.VERBOSE | re.IGNORECASE,
)
# `ConnectionError: ...`, `requests.exceptions.ReadTimeout(...)`.
_RAISED = re.compile(r"[\w.]*[a-z_.](?:Error|Exception|Timeout|TimedOut)\b(?:\W.*)?")
_NOTICE = re.compile(
    r"""
    subscri(?:be|ption)\b.*\b(?:to\ (?:read|continue|view|access|unlock)|required)
    | (?:to|and)\ continue\ reading | continue\ reading\ (?:with|by|this)
    | already\ (?:a\ )?(?:subscrib|member|registered|have\ an\ account)
    | (?:register|sign\ (?:in|up)|log\ ?in)\b.*
      \bto\ (?:read|view|access|continue\ reading)
    | (?:sign\ in|log\ in|register|subscribe)\ to\ continue$
    | (?:subscribers|members)[-\ ]only | (?:your|of)\ (?:\w+\ )?free\ (?:article|stor)
    | this\ (?:content|article|story|page)\ is\ (?:only\ )?(?:for|available|reserved)
    | become\ a\ (?:member|subscriber)(?:\ to\b|$) | create\ (?:a\ free|an)\ account
    | start\ your\ (?:free\ )?trial | unlock\ (?:this|unlimited|full) | paywall
    | (?:only\ )?(?:available|for)\ (?:to\ )?subscribers
    | (?:enable|turn\ on|requires?)\ (?:javascript|cookies)
    | javascript\ (?:is|and)\b
    | not\ a\ robot | are\ you\ (?:a\ robot|human) | verify\ (?:that\ )?you
    | access\ (?:to\ .*\ )?(?:is\ |was\ |has\ been\ )?denied | permission\ to\ access
    | (?:page|article)\b.*
      \b(?:not\ found|not\ available|cannot\ be\ found|no\ longer)
    | not\ available\ in\ your\ (?:region|country)
    | (?:accept|we\ use|uses)\ cookies
    | checking\ your\ browser | unusual\ traffic | captcha
    """,
    re.VERBOSE | re.IGNORECASE,
)


def is_error(article: str) -> bool:
    """Whether a text is an error of a scraper or a notice of a page, and no article.

    Example:
        >>> [is_error(t) for t in ("Exception", "Error 404.", "Error rates fell.")]
        [True, True, False]
    """
    words = article.split()
    text = " ".join(words).strip(" .!*-_<>[](){}\"'")
    if not any(c.isalnum() for c in text):
        return True
    if len(words) > _NOTICE_WORDS:
        return False
    whole = _ERROR.fullmatch(text) or _RAISED.fullmatch(text)
    return bool(whole or _NOTICE.search(text))
