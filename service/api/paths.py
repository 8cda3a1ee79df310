"""The methods of each path: whether a request is a 405, and its `Allow`.

A literal path hides the templates that it would fit: `GET /samples/batch` is a wrong method of `/samples/batch`, not a
malformed id of `/samples/{sample_id}`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Scope

OF_FILES = ["GET", "HEAD"]


class Paths:
    """The methods of all routes, and of the folders of files that are mounted beside them."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._templates: list[Route] = []
        self._literal: dict[str, set[str]] = defaultdict(set)
        self._folders: list[Mount] = []
        for route in routes:
            if isinstance(route, Mount):
                self._folders.append(route)
            elif isinstance(route, Route) and route.methods is not None:
                if route.param_convertors:
                    self._templates.append(route)
                else:
                    self._literal[route.path] |= route.methods

    def methods(self, path: str) -> list[str]:
        """Methods of a path in alphabetical order; [] if no route has it."""
        if path in self._literal:
            return sorted(self._literal[path])
        if any(folder.path_regex.match(path) for folder in self._folders):
            return OF_FILES
        fitting = (route for route in self._templates if route.path_regex.match(path))
        return sorted({method for route in fitting for method in route.methods or ()})

    def is_hidden(self, path: str, method: str) -> bool:
        """Whether a literal path, without this method, stands before a template that has it."""
        return path in self._literal and method not in self._literal[path]


def path_of(scope: Scope) -> str:
    """A request's path, without what a proxy shows the service under."""
    path: str = scope["path"]
    root: str = scope.get(
        "app_root_path", scope.get("root_path", "")
    )  # the latter names a mounted folder too, once in it
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
