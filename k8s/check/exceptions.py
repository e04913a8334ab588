"""What checkov and trivy find and we leave as it is: `exceptions.yaml`, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

FILE: Final = Path(__file__).with_name("exceptions.yaml")


@dataclass(frozen=True)
class Finding:
    """Something that a policy tool does not like.

    Attributes:
        where: The object, and what else the tool says of the place.
        rendered: Of which combination.
    """

    tool: str
    check: str
    title: str
    where: str
    rendered: str


class Explained(BaseModel):
    """An exception of `exceptions.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: Literal["checkov", "trivy"]
    check: str
    where: str = Field(description="regular expression; found in what the tool says of the place")
    reason: str = Field(min_length=20)

    def covers(self, finding: Finding) -> bool:
        """Whether it is the reason for this finding."""
        return (self.tool, self.check) == (finding.tool, finding.check) and bool(re.search(self.where, finding.where))


def read(path: Path = FILE) -> tuple[Explained, ...]:
    """All exceptions."""
    return tuple(TypeAdapter(list[Explained]).validate_python(yaml.safe_load(path.read_text())))


def judge(findings: Iterable[Finding], explained: Iterable[Explained]) -> list[str]:
    """Findings that nothing explains, a line each, and exceptions that explain nothing any more."""
    unused = set(explained)
    lines: dict[tuple[str, str, str], list[str]] = {}
    for finding in findings:
        reasons = [each for each in explained if each.covers(finding)]
        unused -= set(reasons)
        if not reasons:
            lines.setdefault((finding.check, finding.title, finding.where), []).append(finding.rendered)
    return [
        f"{check} {title}: {where} ({rendered[0]}{f' and {len(rendered) - 1} more' if rendered[1:] else ''})"
        for (check, title, where), rendered in lines.items()
    ] + [
        f"{each.check} is explained for {each.where!r} and not found there any more" for each in sorted(unused, key=str)
    ]
