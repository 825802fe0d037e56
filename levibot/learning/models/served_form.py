"""The form in which a fitted model predicts once it is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from levibot.learning.models.onnx_model import OnnxModel


@dataclass(frozen=True, slots=True)
class ServedForm:
    """report: what the export gate found, as JSON values. onnx: None where the model itself is served."""

    report: Mapping[str, Any]
    onnx: OnnxModel | None
