"""One safeguard removed: what a mutant is."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """One safeguard removed: `text`, which `file` holds once, becomes `replacement`; one of `tests` must fail."""

    name: str
    safeguard: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def source(self) -> str:
        """The file without the safeguard. Raises ValueError if the text is not there exactly once."""
        before = (ROOT / self.file).read_text()
        if before.count(self.text) != 1:
            raise ValueError(f"{self.name}: {self.file} holds its text {before.count(self.text)} times, not once.")
        return before.replace(self.text, self.replacement)


def mutant(name: str, safeguard: str, file: str, text: str, replacement: str, *tests: str) -> Mutant:
    """A mutant; its tests are named below `tests/`."""
    return Mutant(name, safeguard, file, text, replacement, tuple(f"tests/{test}" for test in tests))
