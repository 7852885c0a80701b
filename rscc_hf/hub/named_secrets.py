"""Secrets that are told by what they are called: `api_key: ...`, `PASSWORD=...`."""

import re

_KEY = (
    r"(?:api[_-]?(?:key|token)|access[_-]?key|secret[_-]?(?:access[_-]?)?key|client[_-]?secret"
    r"|(?:access|auth|bearer|refresh|hf|hub|github|gitlab|secret|login)[_-]?token"
    r"|(?<![A-Za-z0-9])secret|(?<![A-Za-z0-9_-])(?:--)?token)"  # but no pad_token
)
_PASSWORD = r"(?:passw(?:or)?d|passphrase)"
_IS_KEY = re.compile(rf"(?i).*?{_KEY}")
_IS_PASSWORD = re.compile(rf"(?i).*?{_PASSWORD}")
_QUOTED = re.compile(
    rf"(?i)(?P<name>{_KEY}|{_PASSWORD})[\"']?\s{{0,3}}[:=]>?\s{{0,3}}(?P<quote>[\"'])(?P<value>[^\"'\s]{{4,200}})(?P=quote)"
)
_BARE = re.compile(rf"(?i)(?P<name>{_KEY})(?:\s{{0,3}}[:=]\s{{0,3}}|[ \t]+)(?P<value>[\w+/=-]{{16,200}})(?![\w(.\[])")
_ASSIGNED = re.compile(rf"(?i)(?P<name>{_PASSWORD})=(?P<value>[^\s\"'`$<>{{}}()\[\]*;,&|]{{4,200}})")
# Where one may be, in small letters: finding that is many times faster.
_PLACE = re.compile(r"(?:key|token|secret|passw(?:or)?d|passphrase)(?:[\"']?\s{0,3}[:=]|[ \t]+[\w+/=-]{16})")
_PLACEHOLDERS = frozenset(
    {"none", "null", "true", "false", "password", "passwd", "passphrase", "secret", "token", "changeme", "example"}
    | {"str", "string", "text", "optional"}
)


def named_secret_in(text: str, is_code: bool = False) -> str | None:
    """Return what a secret in a text is called; None: none is there.

    A password is anything that is no placeholder, a key or token only what looks like made by chance.

    Args:
        text: Any text.
        is_code: It is code, where only what stands in quotes is a value.
    """
    lowered = text.lower()
    patterns = (_QUOTED,) if is_code else (_QUOTED, _BARE, _ASSIGNED)
    for place in _PLACE.finditer(lowered if len(lowered) == len(text) else text):
        around = text[max(place.start() - 30, 0) : place.end() + 220]
        for pattern in patterns:
            for found in pattern.finditer(around):
                if is_secret(found["name"], found["value"]):
                    return found["name"]
    return None


def is_secret(name: str, value: str) -> bool:
    """Tell whether something of that name and value is a secret.

    Args:
        name: As in a setting ("api_key", "DB_PASSWORD").
        value: Its value.
    """
    if _IS_PASSWORD.fullmatch(name):
        return len(value) >= 4 and not _is_placeholder(value)
    return _IS_KEY.fullmatch(name) is not None and not _is_placeholder(value) and _is_by_chance(value)


def _is_placeholder(value: str) -> bool:
    lowered = value.lower()
    return (
        lowered in _PLACEHOLDERS
        or lowered.startswith(("your", "my_", "my-", "xxx"))
        or len(set(value)) < 3
        or "..." in value
        or re.search(r"[<>{}$*%\s]", value) is not None
    )


def _is_by_chance(value: str) -> bool:
    """Tell whether letters and digits are mixed as in no word, name or path."""
    if len(value) < 16 or re.fullmatch(r"[\w+/=.-]+", value) is None:
        return False
    digits = sum(letter.isdigit() for letter in value)
    if digits < 2 or (digits == len(value) and digits < 32):
        return False
    if re.fullmatch(r"[0-9a-fA-F-]+", value):
        return True
    if digits >= 4 and value.isalnum() and len(value) >= 20:
        return True
    return digits >= 3 and value != value.lower() and value != value.upper()
