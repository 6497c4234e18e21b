"""What gate.yaml may say: by registered model, what a new version must show before it takes over."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from videollava.params.bounds import Amount, Flag, Name, Number, Section, Share, Words

__all__ = ["DEFAULT", "Bar", "Gate", "schema"]

DEFAULT = "default"  # the entry for models that have none of their own
Rule = Literal["no_worse", "not_shown_worse"]
Points = Annotated[Amount, Field(le=100)]
Level = Annotated[Amount, Field(gt=0, le=0.25)]


class Bar(Section):
    """What one benchmark asks, in points of a hundred; what it leaves out is the model's entry's."""

    minimum: Amount | None = Field(None, description="the least score, in the benchmark's own scale")
    minimum_gain: Number | None = Field(
        None, description="the least gain over the champion; above 0 it must also be more than chance"
    )
    allowed_regression: Points | None = Field(None, description="the most that it may lose")
    minimum_over_blind: Number | None = Field(
        None, description="the least distance over the model without media"
    )
    rule: Rule | None = Field(None, description="what a comparison must show")
    without_comparison: Flag | None = Field(
        None, description="let a version pass where the champion has no answers to the same questions"
    )
    dropped: Flag = Field(
        False, description="it counts no longer, whatever champion and candidate have on it"
    )


class Gate(Section):
    """When a new version of a model may become champion: gains and losses in points of a hundred."""

    benchmarks: dict[Name, Bar] = Field({}, description="by benchmark, what it asks beyond the rest")
    minimum_gain: Number = Field(
        0.0,
        description="the least gain of the mean over all benchmarks; above 0 it must also be more than chance",
    )
    allowed_regression: Points = Field(1.0, description="the most that a benchmark may lose")
    level: Level = Field(
        0.05, description="how often, at most, the whole gate lets a version pass that it should refuse"
    )
    minimum_over_blind: Number = Field(5.0, description="the least distance over the model without media")
    rule: Rule = Field(
        "no_worse",
        description="no_worse: that it lost more than allowed must be excluded at the level; not_shown_worse: only a "
        "loss that chance does not explain refuses, and no level holds",
    )
    without_comparison: Flag = Field(
        False, description="let a version pass where the champion has no answers to the same questions"
    )
    most_unread: Share = Field(
        0.02, description="share of a judge's replies without a readable verdict, above which it is refused"
    )
    approval: Flag = Field(False, description="a second person must agree")
    notify: Words = Field(
        (), description="web addresses that are told, or names of environment variables that hold them"
    )

    def bar(self, benchmark: str) -> Bar:
        """What a benchmark asks, filled up with what holds for all."""
        own = self.benchmarks.get(benchmark, Bar())
        names = ("allowed_regression", "minimum_over_blind", "rule", "without_comparison")
        return own.replace(**{name: getattr(self, name) for name in names if getattr(own, name) is None})


def schema() -> str:
    """The JSON schema of gate.yaml."""
    entry = Gate.model_json_schema(ref_template="#/$defs/{model}")
    kinds = entry.pop("$defs")
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gate.yaml",
        "description": f"By registered model; `{DEFAULT}` for those without an entry.",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Gate"},
        "$defs": {**kinds, "Gate": entry},
    }
    return json.dumps(made, indent=1) + "\n"
