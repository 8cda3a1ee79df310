"""Reading the settings, and describing each of them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from service.errors import Misconfigured
from service.settings.group import Group
from service.settings.whole import Settings
from service.variables import PREFIX, no_such, unknown


def describe() -> list[tuple[str, str, str]]:
    """Every setting: its environment variable, its default, what it does. docs/reference/settings.md is made of it."""
    rows = []
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            for inner, setting in group.model_fields.items():
                variable = f"OUBLI_{name}__{inner}".upper()
                default = "" if setting.default is None else str(setting.default)
                rows.append((variable, default, setting.description or ""))
        else:
            default = "" if field.default is None else str(field.default)
            rows.append((f"OUBLI_{name}".upper(), default, field.description or ""))
    return rows


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with overrides from the command line. Raises Misconfigured, in words."""
    path = os.environ.get("OUBLI_CONFIG")
    if path and not Path(path).is_file():
        raise Misconfigured(f"OUBLI_CONFIG names {path}, which is not a file.")
    if lines := list(unknown(os.environ, _variables())):
        raise _unusable(lines)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise _unusable([_line(item) for item in error.errors()]) from None
    except SettingsError as error:  # a group as JSON; without its value, which may be a secret
        raise _unusable([f"{error}: it must be JSON, or set each of the group by its own variable."]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not a TOML file: {error}.") from None
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read ({error.strerror}).") from None


def _variables() -> list[str]:
    """Every variable that sets something: one setting, or a group of them as JSON."""
    groups = [f"{PREFIX}{name}".upper() for name in Settings.model_fields]
    return [*groups, *(variable for variable, _, _ in describe())]


def _unusable(lines: Sequence[str]) -> Misconfigured:
    return Misconfigured("These settings cannot be used.\n  " + "\n  ".join(lines))


def _line(item: ErrorDetails) -> str:
    """What pydantic says of one setting, without its value."""
    name = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"{name}: {item['msg']}"
    dotted = [variable.removeprefix(PREFIX).lower().replace("__", ".") for variable in _variables()]
    return f"{name}: {no_such(name, dotted)}"
