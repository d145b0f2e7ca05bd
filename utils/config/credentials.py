"""Finding keys and passwords in plain data, so that none lands in a config, a log or a checkpoint."""

from __future__ import annotations

import os
import re
from typing import Any

_NAMES = re.compile(
    r".*(api[_-]?key|wandb[_-]?key|access[_-]?key|private[_-]?key|token|password|passwd|pwd|secret|secret[_-]?key|credentials?)",
    re.IGNORECASE,
)
_VALUES = (
    re.compile(r"[0-9a-fA-F]{40}"),  # wandb's keys
    re.compile(r"(local-|wandb_v\d_)[A-Za-z0-9_-]{20,}"),
    re.compile(r"(AKIA|ASIA)[0-9A-Z]{16}"),
    re.compile(r"(gh[pousr]_|github_pat_|hf_|glpat-|sk-|xox[abp]-)[A-Za-z0-9_-]{20,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL),
    re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@.*"),  # scheme://user:password@host
)

_PASSWORD_IN_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s:@]*:[^/\s@]+@")
_FOLDERS = ("PWD", "OLDPWD")
"""Variables that only look like passwords."""
_SHORTEST = 6
"""Characters of a key; a shorter value would also hide other text."""


def is_credential(key: str, value: Any) -> bool:
    """True for a value under a telling key ("wandb_key"), and for one that looks like a key of a known service."""
    if isinstance(value, str) and any(pattern.fullmatch(value.strip()) for pattern in _VALUES):
        return True
    # A truth value tells nothing: class_token = true is an option of a model.
    return bool(_NAMES.fullmatch(key)) and bool(value) and not isinstance(value, (bool, dict))


def without_credentials(text: str) -> str:
    """The text with *** for passwords in addresses, and for the keys that the environment holds."""
    for name, value in os.environ.items():
        is_short_or_absent = len(value) < _SHORTEST or value not in text
        if is_short_or_absent or name in _FOLDERS or os.path.exists(value):  # noqa: PTH110 - any text is taken
            continue
        if name.endswith("_KEY") or is_credential(name, value):
            text = text.replace(value, "***")
    return _PASSWORD_IN_ADDRESS.sub(r"\1***@", text)


def credential_places(value: Any, key_path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where plain data holds a credential: ("wandb", "api_key")."""
    found: list[tuple[str | int, ...]] = []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        here = (*key_path, step)
        found += [here] if is_credential(str(step), inner) else credential_places(inner, here)
    return found
