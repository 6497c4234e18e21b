"""The gate: may a new version take over from the champion? Its rules (gate.yaml), and the decision with its reasons."""

from __future__ import annotations

from videollava.gate.decision import Decision, Row, decide, primary, read_pairs
from videollava.gate.reading import Rules, read_rules
from videollava.gate.rules import Bar, Gate

__all__ = ["Bar", "Decision", "Gate", "Row", "Rules", "decide", "primary", "read_pairs", "read_rules"]
