"""The gate: may a new version take over from the champion? Its rules (gate.yaml), and the decision with its reasons."""

from __future__ import annotations

from videollava.gate.benchmark import Row, primary
from videollava.gate.decision import Decision, decide
from videollava.gate.pairs import Pair, read_pairs
from videollava.gate.reading import Rules, read_rules
from videollava.gate.rules import Bar, Gate

__all__ = ["Bar", "Decision", "Gate", "Pair", "Row", "Rules", "decide", "primary", "read_pairs", "read_rules"]
