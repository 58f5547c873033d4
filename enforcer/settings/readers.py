# SPDX-License-Identifier: GPL-2.0-or-later
"""How the value of a key is read, by the kind of its setting; what is wrong is named with file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from enforcer.lost.options import Pauses
from enforcer.policy.fields import Fields
from enforcer.settings.sections import OnConflict, Setting, StoreKind, ViewKind

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")  # it becomes part of a key in the store
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/?")


def _read_name(table: Fields, setting: Setting) -> str:
    value = table.string(setting.key)
    if isinstance(table.data[setting.key], str) and not _NAME.fullmatch(value):
        remedy = "Use letters, digits, dots, dashes and underscores, a letter or digit first and last"
        table.problem(setting.key, f"{value!r} is not a name", remedy)
    return value


def path_problem(value: str) -> str:
    if not value.startswith("/"):
        return "is not an absolute path"
    if value != os.path.normpath(value) or not value.isprintable():
        return "is not a normalized path"
    return ""


def _read_path(table: Fields, setting: Setting) -> str:
    value = table.string(setting.key)
    if isinstance(table.data[setting.key], str) and (what := path_problem(value)):
        named = "its value" if setting.key == "password_file" else f'"{value}"'  # perhaps it is the password itself
        table.problem(setting.key, f"{named} {what}", "Write it from / on, without //, ./ and ../")
    return value


def _read_paths(table: Fields, setting: Setting) -> tuple[str, ...]:
    values = table.strings(setting.key, one=False)
    for index, value in enumerate(values):
        if what := path_problem(value):
            table.problem((setting.key, index), f'"{value}" {what}', "Write it from / on, without //, ./ and ../")
    return values


def _read_strings(table: Fields, setting: Setting) -> tuple[str, ...]:
    values = table.strings(setting.key, one=False)
    for index, value in enumerate(values):
        if setting.key == "endpoints" and "@" in value:
            what, remedy = "an endpoint names a user", "Write them as username and password_file"
            table.problem((setting.key, index), what, remedy)
        elif setting.key == "endpoints" and not _ENDPOINT.fullmatch(value):
            table.problem((setting.key, index), f'"{value}" is not an endpoint', 'Write "https://192.0.2.1:2379"')
        elif not value or "\0" in value:
            table.problem((setting.key, index), f'"{setting.key}" holds an empty word', "Remove it")
    return values


def _read_word(table: Fields, setting: Setting) -> str:
    value = table.string(setting.key)
    if isinstance(table.data[setting.key], str) and (not value.strip() or not value.isprintable()):
        table.problem(setting.key, f'"{setting.key}" is empty or not printable', "Write it out, or leave it out")
    return value


def _read_duration(table: Fields, setting: Setting) -> float:
    return table.duration(setting.key, 1.0, least=0.1, most=3600.0)


def _read_budget(table: Fields, setting: Setting) -> float:
    return table.duration(setting.key, 0.0, most=3600.0)


def _read_pauses(table: Fields, setting: Setting) -> Pauses:
    return table.choice(setting.key, Pauses, Pauses.AUTO)


def _read_number(table: Fields, setting: Setting) -> int:
    value = table.data[setting.key]
    if type(value) is not int:
        table.problem(setting.key, f'"{setting.key}" is no whole number', "Write it without quotes")
        return 0
    return value


def _read_boolean(table: Fields, setting: Setting) -> bool:
    return table.boolean(setting.key) is True


def _read_store(table: Fields, setting: Setting) -> StoreKind:
    return table.choice(setting.key, StoreKind, StoreKind.SQLITE)


def _read_conflict(table: Fields, setting: Setting) -> OnConflict:
    return table.choice(setting.key, OnConflict, OnConflict.ALERT)


def _read_view(table: Fields, setting: Setting) -> ViewKind:
    return table.choice(setting.key, ViewKind, ViewKind.NONE)


READERS: dict[str, Callable[[Fields, Setting], object]] = {
    "name": _read_name,
    "word": _read_word,
    "path": _read_path,
    "paths": _read_paths,
    "strings": _read_strings,
    "number": _read_number,
    "boolean": _read_boolean,
    "duration": _read_duration,
    "budget": _read_budget,
    "pauses": _read_pauses,
    "store": _read_store,
    "conflict": _read_conflict,
    "view": _read_view,
}
