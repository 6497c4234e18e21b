"""Credentials out of text, for every error, log line, tag and artifact: the one place that knows what they look like.

What people write keeps working (`https://user:secret@host/x.tar` is fetched with its password); what is shown
or kept of it goes through `scrub`. Where a rule cannot tell a secret from a word, it hides, unless the word is one
that this software's own texts are full of (tokens of language models, types, placeholders).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

__all__ = ["HIDDEN", "has_password", "has_signature", "is_secret_name", "scrub", "scrub_all"]

HIDDEN = "***"
SHORTEST = 6  # an environment value below this is no secret, but a word that would be cut out of every text
WORDS = 16  # and one below this that is all letters is hidden as a whole word only: "postgres" is in postgresql://

# Between "://" and the host, up to the last "@": passwords hold "@", "/", "?" and "'" where people did not quote
# them, and single spaces. Bounded, and never into the next address: a list of addresses is read in one go.
_INSIDE = r"(?:(?!://)(?:[^\s\"'<>`]|'(?![,:;)\]}\s]))){0,2000}"
_AUTHORITY = re.compile(
    rf"(?P<scheme>\b[a-z][a-z0-9+.-]{{0,30}}://)"
    rf"(?P<user>{_INSIDE}|[^\s/:@\"'<>`]*:(?!\d+\b)[^\s/@\"'<>`]+(?: [^\s/@\"'<>`]+){{1,3}})@(?=[\w.\[-])",
    re.IGNORECASE,
)
# An address within another's query, and `user:secret@host` without a scheme, as proxies and drivers take it.
_QUOTED_ADDRESS = re.compile(r"(%3A%2F%2F)(?:(?!%2F|%40)[^\s&\"'<>]){1,2000}(?=%40)", re.IGNORECASE)
_BARE_ADDRESS = re.compile(
    r"(?<![\w/.:@%+-])(?!(?:mailto|sips?|acct|xmpp|https?|s3|gs|file):)[\w.+-]{1,100}:[^\s:/@\"'<>]{1,200}"
    r"(?=@(?:tcp\(|(?!sha256:)[\w.-]+:\d{2,5}\b|(?:[\w-]+\.)+[a-z]{2,}/))",
    re.IGNORECASE,
)
_NAMES = (
    r"(?:x-amz-|x-goog-|x-ms-)?(?:signature|credential|security-token)|sig|awsaccesskeyid|googleaccessid"
    r"|[\w-]*(?:api|access|auth|secret|private|account|aws|session|client|shared|storage|encryption|signing|fernet)"
    r"[_-]?(?:access[_-]?)?(?:key|secret|token|signature)(?:[_-]?(?:id|data))?s?"
    r"|(?:[\w-]*[_-])?(?:secret|passw(?:or)?d|passphrase|pwd|credentials?)|(?:php|j)sess(?:ion)?id"
    # Language models have tokens too: pad_token and its like are no credentials.
    r"|(?!(?:[\w-]+[_-])?(?:bos|eos|pad|unk|sep|cls|mask|image|video|audio|label|new|first|last|next|per|a|in|out)[_-]"
    r"token)(?:[\w-]*[_-])?token"
)
# What goes on after "credentials:" in a sentence, and names of variables that hold what is secret.
_PROSE = (
    r"(?<=\s)(?:set|see|use|give|take|check|run|put|write|ask|name|where|which|the|its|it|an?|and|or|not?|is|are|must)"
    r"(?=\s)|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w/+=-])"
)
# What stands for a value: a type, a variable, nothing.
_STANDIN = (
    r"(?:(?:str|int|bool|bytes|float|none|null|true|false)(?![\w-])|\$\{\w+\}|\$[A-Z]\w*(?![\w/+=-])|\{\w*\}|%\(\w+\)s"
    r"|\*\*\*(?!\w))"
)
_QUOTE = r"\\{0,8}(?:\"\"\"|'''|[\"'])|&quot;|&#39;"
# name=value, name: value, "name": "value"; a value ends at a separator or, in quotes, at the quote.
_VALUE = (
    rf"(?:[bru]?(?P<quote>{_QUOTE})(?!{_STANDIN}(?P=quote))(?P<quoted>(?:(?!(?P=quote))(?:\\.|.))+)(?P=quote)"
    rf"|(?!{_PROSE}|{_STANDIN}|\[?(?:{_QUOTE}))(?P<bare>[^\s\"'&;,)}}\]<(]+))"
)
_ASSIGNED = re.compile(
    rf"(?P<name>(?<![\w-])(?:{_QUOTE})?(?P<word>{_NAMES})(?:{_QUOTE})?[^\S\n]*(?:=|:(?!//))[^\S\n]*\[?){_VALUE}",
    re.IGNORECASE,
)
# --password value, also in a list of words; ("SECRET_NAME", "value"); <password>value<; netrc's login and password.
_FOLLOWS = re.compile(
    rf"(?P<name>(?<![\w-])--(?P<word>{_NAMES})[\"']?(?:,\s*|[^\S\n]+)(?!-)"
    rf"|(?-i:[\"'][A-Z0-9_]*(?:SECRET|TOKEN|PASSWORD|PASSWD|KEY)[\"'],[^\S\n]*(?=[\"'])(?![\"'][A-Z0-9_]+[\"'])))"
    rf"{_VALUE}",
    re.IGNORECASE,
)
_TAGGED = re.compile(rf"(<(?P<word>{_NAMES})>)[^<]+(?=</)", re.IGNORECASE)
_COMMANDS = re.compile(
    r"(\blogin\s+\S+\s+(?:account\s+\S+\s+)?password\s+|\bmachine\s+\S+\s+password\s+"
    r"|(?<!\S)(?:-u|-U|--(?:proxy-)?user)[= ]?[\"']?(?!\d+:\d+\b)[^\s:/\"']+:(?!//)"
    r"|\b(?:mysql|mysqldump|mariadb|sshpass)\b[^\n|;&]{0,200}?\s-p\s?"
    r"|\bmc (?:alias set|config host add) \S+ \S+ \S+ )[^\s\"']+",
)
# A block of YAML below a telling name.
_BLOCK = re.compile(
    rf"^(?P<indent>[ ]*)(?P<head>(?:- )?[\"']?(?:{_NAMES})[\"']?:[ ]*[|>][-+0-9]*[ ]*\n)"
    r"(?:(?P=indent)[ ]+\S[^\n]*(?:\n|\Z)|[ ]*\n)+",
    re.IGNORECASE | re.MULTILINE,
)
_HEADER = re.compile(
    r"(?P<kind>\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|token)\s+)?"
    # A bearer of tokens, and not of a flag.
    r"|\bbearer\s+(?=[^\s\"']*[\d_=+/]|[^\s\"']*[.-]\w|[^\s\"']{20}))"
    r"(?!(?:basic|bearer|digest|token)\b)(?P<value>[A-Za-z0-9._~+/=-]{6,})",
    re.IGNORECASE,
)
_WHOLE_HEADER = re.compile(
    r"(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:digest|aws4-hmac-sha256|negotiate)\s"
    r"|\bcookie[\"']?\s*:\s*[\"']?(?=[^\s\"'=;]+=))[^\n]+",
    re.IGNORECASE,
)
_PEM = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?:[^-]{0,20000}-----END (?P=kind)-----|[A-Za-z0-9+/=\s\\]*)"
)
_SHAPES = re.compile(
    r"\b(?:hf_(?!(?:transformers|checkpoints?|tokenizers?|accelerate|diffusers|evaluation|pretrained)(?![A-Za-z0-9]))"
    r"[A-Za-z0-9]{10,}|sk-(?:proj|ant|or|svcacct|admin|lf)-[\w-]{10,}|sk-(?=[\w-]*\d)(?!learn)[\w-]{10,}"
    r"|[rs]k_(?:live|test)_\w{10,}|gh[pousr]_[A-Za-z0-9]{10,}|github_pat_\w{10,}|glpat-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|xox[abprs]-[\w-]{8,}|xapp-[\w-]{20,}|pnu_\w{10,}|npm_[A-Za-z0-9]{30,}"
    r"|pypi-[\w-]{30,}|dapi[0-9a-f]{32}|nvapi-[\w-]{20,}|gsk_[A-Za-z0-9]{20,}|AIza[\w-]{30,}|ya29\.[\w-]{10,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)|(?<=hooks\.slack\.com/services/)[\w/]+"
)
_DOCKER = re.compile(r"(\"auth\"\s*:\s*\")[A-Za-z0-9+/=]{8,}(?=\")")
_FIGURE = re.compile(r"\d{1,7}(?:\.\d+)?")
_VARIABLE = re.compile(r"\$\{\w+\}")
_SECRET_NAME = re.compile(rf"(?:^|_)(?:{_NAMES}|key|pass|auth_string|webhook(?:_url)?)$", re.IGNORECASE)


def scrub(text: str) -> str:
    """`text` with `***` in the place of credentials, and everything else as it is.

    Passwords and tokens in addresses (also where their characters are not quoted), signatures of presigned
    addresses, `name=value` of telling names, options of commands, headers, private keys, tokens of known shape,
    and the values of environment variables whose names say that they are secret.
    """
    for secret in _environment_secrets():
        text = _without(text, secret)
    if "PRIVATE KEY" in text:
        text = _PEM.sub(HIDDEN, text)
    if "@" in text:
        text = _AUTHORITY.sub(_hide_user, text)
        text = _BARE_ADDRESS.sub(HIDDEN, text)
    text = _QUOTED_ADDRESS.sub(rf"\1{HIDDEN}", text)
    text = _BLOCK.sub(rf"\g<indent>\g<head>\g<indent>  {HIDDEN}\n", text)
    for rule in (_WHOLE_HEADER, _COMMANDS, _TAGGED, _DOCKER):
        text = rule.sub(rf"\1{HIDDEN}", text)
    text = _FOLLOWS.sub(_hide_value, text)
    text = _ASSIGNED.sub(_hide_value, text)
    text = _HEADER.sub(lambda found: f"{found['kind']}{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def scrub_all(value: Any, name: str = "") -> Any:
    """Every text in a nested value scrubbed, and those under a telling name hidden whole (`name`: its own)."""
    if isinstance(value, str):
        return HIDDEN if value and _hides(name, value) else scrub(value)
    if isinstance(value, Mapping):
        return {key: scrub_all(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_all(item, name) for item in value]
    return value


def has_password(address: str) -> bool:
    """Whether an address holds a password or a token itself before its host, not just the name of a variable
    (`https://user:${NAME}@host`).
    """
    user, at, _ = address.partition("://")[2].rpartition("@")
    head, slash, _ = user.partition("/")
    if slash and (":" not in head or head.rpartition(":")[2].isdigit()):
        user, at, _ = head.rpartition("@")  # the other @ is part of a path
    name, colon, password = user.partition(":")
    return bool(at) and bool(_VARIABLE.sub("", password if colon else name))


def has_signature(address: str) -> bool:
    """Whether an address holds a token or a presigned signature itself, not just the name of a variable."""
    query = _VARIABLE.sub("", address).partition("?")[2]
    return scrub(query) != query


@lru_cache(maxsize=1024)  # asked for each variable with each text
def is_secret_name(name: str) -> bool:
    """Whether a variable or field of this name holds a credential."""
    return bool(_SECRET_NAME.search(name))


def _hides(name: str, value: str) -> bool:
    """Whether a field of this name hides this value whole: a file's own rules, so those of `name: value`."""
    return bool(re.fullmatch(_NAMES, name, re.IGNORECASE)) and not (
        re.fullmatch(rf"{_STANDIN}|{_PROSE}", value, re.IGNORECASE) or _is_figure(name, value)
    )


def _is_figure(name: str, value: str) -> bool:
    """A language model's token, or how many: no credential is so short a number."""
    return name.lower().endswith("token") and bool(_FIGURE.fullmatch(value))


def _hide_user(found: re.Match[str]) -> str:
    user = found["user"]
    # "https://host/path and me@host": the part before a slash is a host, unless a password went on behind it.
    head, slash, _ = user.partition("/")
    if slash and (":" not in head or head.rpartition(":")[2].isdigit()):
        return found.group()
    if ":" not in user and "ssh" in found["scheme"]:
        return found.group()  # an account's name, not a token
    return f"{found['scheme']}{HIDDEN}@"


def _hide_value(found: re.Match[str]) -> str:
    if found["bare"] and _is_figure(found["word"] or "", found["bare"]):
        return found.group()
    mark = found["quote"] or ""
    return f"{found['name']}{mark}{HIDDEN}{mark}"


def _without(text: str, secret: str) -> str:
    if secret not in text:
        return text
    if len(secret) < WORDS and secret.isalpha():
        return re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", HIDDEN, text)
    return text.replace(secret, HIDDEN)


def _environment_secrets() -> Iterator[str]:
    """Values of secret variables, and as they stand in addresses; longer ones first."""
    # PWD is where a shell is, and no password; some name the file that holds what is secret.
    values = {value.strip() for name, value in os.environ.items() if is_secret_name(name) and name != "PWD"}
    values |= {
        word for value in values if "://" in value for word in re.split(r"[\s,]+", value)
    }  # a list of them
    secret = {value for value in values if len(value) >= SHORTEST and not _is_place(value)}
    found = {form for value in secret for form in _forms(value)}
    return iter(sorted(found, key=len, reverse=True))


def _is_place(value: str) -> bool:
    return value.startswith(("/", "~/")) and os.path.exists(os.path.expanduser(value))


def _forms(value: str) -> set[str]:
    return {value, repr(value)[1:-1], quote(value, safe=""), quote_plus(value), unquote(value)}
